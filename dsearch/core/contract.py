"""The types every part of dsearch agrees on: the first file to read.

Axis letters, used in every shape of the library:

- `B` groups that never mix, one a prompt (a single one when a method pools its prompts);
- `K` beams alive in a group, `w` children a beam, `N = K * w` candidates, siblings adjacent;
- `R` flat rows, whatever groups and beams they come from;
- `...` what the model makes of one sample, which the core never opens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .budget import Budget
    from .engine import Engine
    from .plan import Bill, Plan

__all__ = [
    "Beams",
    "Choice",
    "Denoiser",
    "Memory",
    "Method",
    "Potential",
    "Prediction",
    "Reward",
    "Rng",
    "Rounds",
    "Scores",
    "Selector",
    "Share",
    "Source",
    "Value",
    "map_tree",
    "take",
    "wide",
    "wide_dtype",
]

Memory = Any
"""What a potential remembers of a beam: None, a `[B, K, ...]` tensor, or a (nested) tuple of such tensors."""

Reward = Callable[[Tensor, list[str]], Tensor]
"""`(images [R, 3, H, W] in [0, 1], prompts of the R rows) -> [R]`, higher is better. Any callable will do."""

Tree = TypeVar("Tree")


def map_tree(function: Callable[..., Tensor], *trees: Tree) -> Tree:
    """The function of corresponding leaves. A tree is a tensor, None, or a (named) tuple of trees."""
    first: Any = trees[0]
    if first is None:
        return trees[0]
    if isinstance(first, Tensor):
        return function(*trees)  # type: ignore[return-value]
    if isinstance(first, tuple):
        parts: list[Any] = [map_tree(function, *leaves) for leaves in zip(*trees, strict=True)]
        make: Any = type(first)
        return make(*parts) if hasattr(first, "_fields") else make(parts)
    raise TypeError(f"what follows a beam is a tensor, None or a tuple of them, not {type(first).__name__}")


def take(tree: Tree, index: Tensor) -> Tree:
    """Gather along the beam axis: `[B, N, ...]` leaves and `index [B, K]` -> `[B, K, ...]` leaves.

    `take(take(x, i), j) == take(x, take(i, j))`.
    """
    group = torch.arange(index.shape[0], device=index.device)[:, None]
    return map_tree(lambda leaf: leaf[group, index], tree)


@cache
def wide_dtype(device: torch.device) -> torch.dtype:
    """The type of log-weights, and of what is drawn by them: float64, or float32 where the device has no float64."""
    try:
        torch.ones(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError) as error:  # Apple's MPS; Intel's integrated GPUs
        if "float64" not in str(error) and "fp64" not in str(error):
            raise
        return torch.float32
    return torch.float64


def wide(x: Tensor) -> Tensor:
    """The same numbers in the widest type of their device, `wide_dtype`."""
    return x.to(wide_dtype(x.device))


class Prediction(NamedTuple):
    """What the network says of noisy samples.

    Attributes:
        out: the network's own output (after guidance), as the model's `step` wants it.
        x0: the posterior mean E[x_0 | x_t] (Tweedie), in the space that `decode` reads.
    """

    out: Any
    x0: Tensor


@dataclass(frozen=True)
class Beams:
    """The samples in progress; every leaf is `[B, K, ...]` and all are gathered together or none.

    Attributes:
        x: `[B, K, ...]` the noisy samples x_t.
        pred: the network's prediction for each: carried, so that a survivor is never predicted twice.
        value: `[B, K]` its last value, an estimate of the final reward (nan before it was first asked).
        log_w: `[B, K]` log importance weights (zeros for methods without a potential), float64 (`wide_dtype`).
        memory: what the method's potential remembers.
        kl: `[B, K]` nats by which the choices so far moved its path from the pretrained law; nan where unknown.
        prompt: `[B, K]` index of its prompt; -1 where the candidate was not drawn, which costs and scores nothing.
        child: `[B, K]` which of the N candidates of the last step it was.
    """

    x: Tensor
    pred: Prediction
    value: Tensor
    log_w: Tensor
    memory: Memory
    kl: Tensor
    prompt: Tensor
    child: Tensor

    def take(self, index: Tensor) -> Beams:
        """`index [B, K']` -> the beams it names, every leaf gathered alike."""
        return Beams(*(take(leaf, index) for leaf in self._leaves()))

    def take_slice(self, beams: range) -> Beams:
        """Neighbouring beams, without a copy."""
        return Beams(*(map_tree(lambda leaf: leaf[:, beams.start : beams.stop], leaf) for leaf in self._leaves()))

    def beside(self, *others: Beams) -> Beams:
        """These beams, then the others, in one group: every leaf concatenated along K."""
        leaves = zip(self._leaves(), *(other._leaves() for other in others), strict=True)
        return Beams(*(map_tree(lambda *parts: torch.cat(parts, dim=1), *parts) for parts in leaves))

    def _leaves(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


@dataclass(frozen=True)
class Scores:
    """All that choosing may see, `[B, N]` each.

    Attributes:
        value: the candidates' values.
        parent: their parents' values (nan where a parent was never scored).
        log_w: log-weights, the potential's increment included once it has been asked.
        memory: the potential's memory, one entry a candidate.
        step: the noise level reached: 1 after the first denoising step, `num_steps` when clean.
        width: children a beam; `N = K * width`, siblings adjacent.
        num_steps: denoising steps of the run.
    """

    value: Tensor
    parent: Tensor
    log_w: Tensor
    memory: Memory
    step: int
    width: int
    num_steps: int

    @property
    def final(self) -> bool:
        """True at the clean end, where values are final rewards."""
        return self.step == self.num_steps

    def take(self, index: Tensor) -> Scores:
        """The candidates that `index [B, K]` names, as a population of their own (width 1)."""
        value, parent, log_w, memory = take((self.value, self.parent, self.log_w, self.memory), index)
        return Scores(value, parent, log_w, memory, self.step, 1, self.num_steps)


class Choice(NamedTuple):
    """Which candidates live on.

    Attributes:
        index: `[B, K']` into the N candidates.
        log_w: `[B, K']` their log-weights from here on.
        kl: `[B, K']` KL in nats of the law of this choice to an indifferent one; None where it is not known.
    """

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which no one misses
    log_w: Tensor
    kl: Tensor | None = None


class Rng(Protocol):
    """Where all randomness comes from. Keyed, so that what a group draws does not depend on its batch-mates."""

    def normal(self, use: str, step: int, shape: Sequence[int]) -> Tensor:
        """Standard normals, float32, on the CPU; `shape[0]` is the number of groups."""
        ...

    def uniform(self, use: str, step: int, shape: Sequence[int]) -> Tensor:
        """Uniforms in [0, 1), float64, on the CPU; `shape[0]` is the number of groups."""
        ...

    def categorical(self, use: str, step: int, log_p: Tensor, n: int) -> Tensor:
        """`log_p [B, N]`, not necessarily normalised -> `[B, n]` indices drawn with replacement."""
        ...

    def under(self, name: str) -> Rng:
        """A source of its own for a part of a method (a value's rollouts, say)."""
        ...


class Denoiser(Protocol):
    """A diffusion model as the search sees it. It holds no state of a search.

    Step 0 is pure noise and `num_steps` is clean: the reverse kernel of step i leads from level i to level i + 1.
    A model may also have `release()`, called once when a search ends (to free offloaded modules, say), and
    `deterministic(x, pred, step)`, a step without noise that broadcasts like `step`, for deterministic lookahead.
    """

    num_steps: int

    def encode(self, prompts: list[str]) -> Any:
        """Prompts -> conditions, asked once a search; handed back to `predict`."""
        ...

    def start(self, lead: tuple[int, int], rng: Rng) -> Tensor:
        """Pure noise x_T, `[B, K, ...]` for `lead = (B, K)`."""
        ...

    def noise(self, step: int, lead: tuple[int, int, int], rng: Rng) -> Tensor:
        """The randomness of the reverse kernel of step `step`, `[B, K, w, ...]` for `lead = (B, K, w)`."""
        ...

    def predict(self, x: Tensor, step: int, cond: Any, prompt: Tensor) -> Prediction:
        """Flat rows `x [R, ...]` at level `step`, `prompt [R]` into the conditions -> their prediction.

        At `num_steps` the samples are clean: x comes back as its own x0 and nothing is billed.
        """
        ...

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        """The reverse kernel: x and pred `[B, K, 1, ...]`, noise `[B, K, w, ...]` -> `[B, K, w, ...]`."""
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Flat clean samples `[R, ...]` -> what the reward reads (images `[R, 3, H, W]` in [0, 1])."""
        ...


class Value(Protocol):
    """An estimate of the reward a candidate will end with."""

    def __call__(self, children: Beams, step: int, engine: Engine) -> Tensor:
        """Candidates at level `step`, leaves `[B, N, ...]` -> `[B, N]`."""
        ...

    def cost(self, step: int, num_steps: int) -> Bill:
        """What valuing one candidate at level `step` costs."""
        ...


class Potential(Protocol):
    """The Feynman-Kac weight of a step."""

    def initial(self, lead: tuple[int, int], device: torch.device) -> Memory:
        """The memory of `lead = (B, K)` beams before the first score."""
        ...

    def __call__(self, scores: Scores) -> tuple[Tensor, Memory]:
        """-> the increment of the log-weights `[B, N]`, and the new memory."""
        ...


Selector = Callable[[Scores, int, Rng], Choice]
"""`(scores, keep, rng) -> Choice` of `keep` candidates: it returns indices, never samples."""


class Source(Protocol):
    """Where the rounds of a noise search get their noise from."""

    def next(self, rewards: Tensor | None) -> Rng:
        """The final rewards `[B, k]` of the round before (None at first) -> the noise of the next round."""
        ...


class Share(Protocol):
    """One process of several that run the same search together, each with a part of the candidates.

    All call the same functions in the same order, and all go on with the same results.
    """

    rank: int
    size: int

    def gather(self, tree: Tree, total: int) -> Tree:
        """Leaves `[B, n, ...]`, the rank's own part (`part`) of `total` -> `[B, total, ...]`, all parts in order."""
        ...

    def exchange(self, tree: Tree, own: Tensor) -> Tree:
        """Leaves `[B, K, ...]`, of which the rank has those that `own [B, K]` marks -> the same with all of them."""
        ...

    def total(self, bill: Bill) -> Bill:
        """What all processes spent together."""
        ...


class Rounds(NamedTuple):
    """The beams of a plan, run in equal parts one after another: each round is a run from x_T to the clean end.

    Attributes:
        count: how many; the plan's beams are divided among them.
        source: makes the noise source of a search from its rng.
        independent: whether no round's noise depends on another's rewards.
    """

    count: int  # type: ignore[assignment]  # hides tuple.count, which no one misses
    source: Callable[[Rng], Source]
    independent: bool


class Method(NamedTuple):
    """A search method: a plan and three small functions, and for some a way of their own to spend the plan.

    Attributes:
        plan: `num_steps -> Plan`.
        reward: what is searched for.
        value: how a candidate's final reward is estimated on the way.
        potential: how values become weights.
        select: which candidates live on.
        pool: one group over all prompts, beam k carrying prompt k mod P (the published code's way).
        name: for tables and errors.
        sized: the same method at another size, 1 or more, its bill rising with it: what `within` searches through.
        rounds: for noise search, the runs among which the beams are divided.
        enough: for a rollover budget: `Scores -> [B, N]`, whether a beam that drew such a child draws no more. The
            best child lives on, what is left of the width is spent at later steps, and `select` is not asked.
    """

    plan: Callable[[int], Plan]
    reward: Reward
    value: Value
    potential: Potential
    select: Selector
    pool: bool = False
    name: str = "method"
    sized: Callable[[int], Method] | None = None
    rounds: Rounds | None = None
    enough: Callable[[Scores], Tensor] | None = None

    def bill(self, num_steps: int) -> Bill:
        """What a run of `num_steps` will cost a group at most, known before anything is spent.

        A group is a prompt, or the whole pool where `pool` is set. Only methods that stop early spend less.
        """
        return self.plan(num_steps).bill(self.value.cost)

    def checked(self) -> Method:
        """Itself, after a look at the plan of a single step: bad sizes are refused where a method is made."""
        self.plan(1)
        return self

    def within(self, budget: Budget, num_steps: int) -> Method:
        """This method at the largest size whose bill for `num_steps` stays within the budget.

        Raises:
            ValueError: where it has no size to change, or where even the smallest costs more.
        """
        if self.sized is None:
            raise ValueError(f"{self.name} does not say how it is sized; give it sized=, a function of a whole number")
        return budget.largest(self.sized, num_steps)
