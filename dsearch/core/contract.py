"""The types every part of dsearch agrees on: the first file to read.

Axis letters, used in every shape of the library:

- `B` groups that never mix, one per prompt (a single one when a method pools its prompts);
- `K` beams alive in a group, `w` children per beam, `N = K * w` candidates, siblings adjacent;
- `R` flat rows, whatever groups and beams they come from;
- `...` what the model makes of one sample, which the core never opens.

Two counters: a `step` is a transition, 0 the first; a `level` is a noise level, 0 pure noise and `num_steps` clean.
Step `i` leads from level `i` to level `i + 1`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

__all__ = [
    "Beams",
    "Choice",
    "Denoiser",
    "Memory",
    "Parts",
    "Potential",
    "Prediction",
    "Reward",
    "Rng",
    "Scores",
    "Selector",
    "Step",
    "map_tree",
    "own",
    "precise",
    "take",
    "weight_dtype",
]

Memory = Any
"""What a potential remembers of each beam: None, a `[B, K, ...]` tensor, or a (nested) tuple of such tensors."""

Reward = Callable[[Tensor, list[str]], Tensor]
"""`(images [R, 3, H, W] in [0, 1], prompts of the R rows) -> [R]`, higher is better. Any callable will do."""

Tree = TypeVar("Tree")


def map_tree(function: Callable[..., Tensor], *trees: Tree) -> Tree:
    """The function of corresponding leaves: the tensors of (nested) dataclasses, tuples, lists and mappings.

    None, numbers and strings are taken from the first tree as they are.

    Raises:
        TypeError: for anything else, which could not be gathered.
    """
    first: Any = trees[0]
    if isinstance(first, Tensor):
        return function(*trees)  # type: ignore[return-value]
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        fields = [field.name for field in dataclasses.fields(first)]
        parts = {name: map_tree(function, *(getattr(tree, name) for tree in trees)) for name in fields}
        whole: Any = dataclasses.replace(first, **parts)
        return whole
    if isinstance(first, Mapping):
        named: Any = {name: map_tree(function, *(tree[name] for tree in trees)) for name in first}  # type: ignore[index]
        return named
    if isinstance(first, tuple | list):
        leaves: list[Any] = [map_tree(function, *parts) for parts in zip(*trees, strict=True)]
        make: Any = type(first)
        return make(*leaves) if hasattr(first, "_fields") else make(leaves)
    if first is None or isinstance(first, int | float | str):
        return trees[0]
    raise TypeError(
        f"what follows a beam is a tensor, None, or a tuple, list, mapping or dataclass of them, "
        f"not {type(first).__name__}"
    )


def own(tree: Tree) -> Tree:
    """A copy of every tensor, so that whoever else holds the originals cannot reach into what follows."""
    return map_tree(torch.clone, tree)


def take(tree: Tree, index: Tensor) -> Tree:
    """Gather along the beam axis: `[B, N, ...]` leaves and `index [B, K]` -> `[B, K, ...]` leaves.

    `take(take(x, i), j) == take(x, take(i, j))`.
    """
    group = torch.arange(index.shape[0], device=index.device)[:, None]
    return map_tree(lambda leaf: leaf[group, index], tree)


@cache
def weight_dtype(device: torch.device) -> torch.dtype:
    """Of log-weights: float64, or float32 on devices without it (Apple's)."""
    try:
        torch.ones(1, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError) as error:  # Apple's MPS; Intel's integrated GPUs
        if "float64" not in str(error) and "fp64" not in str(error):
            raise
        return torch.float32
    return torch.float64


def precise(values: Tensor) -> Tensor:
    """The values in the precision of weights."""
    return values.to(weight_dtype(values.device))


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
        log_w: `[B, K]` log importance weights (zeros for methods without a potential), `weight_dtype`.
        memory: what the method's potential remembers.
        kl: `[B, K]` nats by which the choices so far moved its path from the pretrained law; nan where unknown.
        prompt_index: `[B, K]` which prompt it has; -1 where it was not drawn, which costs and scores nothing.
        child: `[B, K]` which of the N candidates of the last step it was.
    """

    x: Tensor
    pred: Prediction
    value: Tensor
    log_w: Tensor
    memory: Memory
    kl: Tensor
    prompt_index: Tensor
    child: Tensor

    def take(self, index: Tensor) -> Beams:
        """`index [B, K']` -> the beams it names, every leaf gathered alike."""
        return take(self, index)

    def take_slice(self, beams: range) -> Beams:
        """Neighbouring beams, without a copy."""
        return map_tree(lambda leaf: leaf[:, beams.start : beams.stop], self)

    def beside(self, *others: Beams) -> Beams:
        """These beams, then the others, in one group: every leaf concatenated along K."""
        return map_tree(lambda *leaves: torch.cat(leaves, dim=1), self, *others)


@dataclass(frozen=True)
class Scores:
    """All that choosing may see, `[B, N]` each.

    Attributes:
        value: the candidates' values; -inf for those that were not drawn.
        parent: their parents' values (nan where a parent was never scored).
        log_w: log-weights, the potential's increment included once it has been asked.
        memory: the potential's memory, one entry per candidate.
        level: the noise level reached: 1 after the first denoising step, `num_steps` when clean.
        width: children per beam; `N = K * width`, siblings adjacent.
        num_steps: denoising steps of the run.
        drawn: which candidates were drawn at all; None where all were.
    """

    value: Tensor
    parent: Tensor
    log_w: Tensor
    memory: Memory
    level: int
    width: int
    num_steps: int
    drawn: Tensor | None = None

    @property
    def final(self) -> bool:
        """True at the clean end, where values are final rewards."""
        return self.level == self.num_steps

    def take(self, index: Tensor) -> Scores:
        """The candidates that `index [B, K]` names, as a population of their own (width 1)."""
        return dataclasses.replace(take(self, index), width=1)


@dataclass(frozen=True)
class Choice:
    """Which candidates live on.

    Attributes:
        index: `[B, K']` into the N candidates.
        log_w: `[B, K']` their log-weights from here on.
        kl: `[B, K']` KL in nats of the law of this choice to an indifferent one; None where it is not known.
    """

    index: Tensor
    log_w: Tensor
    kl: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """What one step of a plan did: a denoising step, or a move back in noise.

    Attributes:
        step: 0 for the first.
        alive: beams before it.
        width: children per beam; where a method draws one after another, the most that there could have been.
        values: `[B, N]` of all candidates, -inf for those that were not drawn; None where nothing was scored.
        reached: the noise level after it; None where it is `step + 1`.
    """

    step: int
    alive: int
    width: int
    values: Tensor | None
    reached: int | None = None

    @property
    def level(self) -> int:
        """The noise level reached."""
        return self.step + 1 if self.reached is None else self.reached


class Rng(Protocol):
    """Where all randomness comes from. Keyed, so that what a group draws does not depend on its batch-mates.

    `at` is the step or the level that draws; `shape[0]` is the number of groups.
    """

    def normal(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Standard normals, float32, on the CPU."""
        ...

    def uniform(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Uniforms in [0, 1), float64, on the CPU."""
        ...

    def categorical(self, use: str, at: int, log_p: Tensor, n: int) -> Tensor:
        """`log_p [B, N]`, not necessarily normalised -> `[B, n]` indices drawn with replacement."""
        ...

    def under(self, name: str) -> Rng:
        """A source of its own for a part of a method (a value's rollouts, say)."""
        ...

    def parts(self, total: int) -> Parts:
        """The same noise for the `total` candidates of each group, handed out for a few of them at a time."""
        ...


class Parts(Rng, Protocol):
    """A source whose draws are for some of a step's candidates: what they would meet if all were drawn at once."""

    def seek(self, start: int, count: int) -> None:
        """The next draws are for candidates `start` to `start + count - 1` of each group."""
        ...


class Denoiser(Protocol):
    """A diffusion model as the search sees it. It holds no state of a search.

    A model may also have `release()`, called once when a search ends (to free offloaded modules, say);
    `deterministic(x, pred, step)`, a step without noise that broadcasts like `step`, for deterministic lookahead;
    `preview(x0)`, a cheaper `decode` for values; and `renoise(x, level, to, noise)`, the forward kernel
    q(x_to | x_level) to a noisier level, to < level, for plans that go back: x `[B, K, 1, ...]` and noise
    `[B, K, w, ...]` as `noise` draws it -> `[B, K, w, ...]`. With x_i = a_i x_0 + s_i n it is
    x_j = (a_j / a_i) x_i + sqrt(s_j^2 - (a_j / a_i)^2 s_i^2) z; after it, an exact reverse kernel leads back to the
    model's law.
    """

    num_steps: int

    def encode(self, prompts: list[str]) -> Any:
        """Prompts -> conditions, asked once per search; handed back to `predict`."""
        ...

    def start(self, batch_shape: tuple[int, int], rng: Rng) -> Tensor:
        """Pure noise x_T, `[B, K, ...]` for `batch_shape = (B, K)`."""
        ...

    def noise(self, step: int, batch_shape: tuple[int, int, int], rng: Rng) -> Tensor:
        """The randomness of the reverse kernel of a step, `[B, K, w, ...]` for `batch_shape = (B, K, w)`."""
        ...

    def predict(self, x: Tensor, level: int, cond: Any, prompt_index: Tensor) -> Prediction:
        """Flat rows `x [R, ...]` at a level, `prompt_index [R]` into the conditions -> their prediction.

        At `num_steps` the samples are clean: x comes back as its own x0 and nothing is billed.
        """
        ...

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        """The reverse kernel p(x_{i+1} | x_i).

        x and pred `[B, K, 1, ...]`, noise `[B, K, w, ...]` -> `[B, K, w, ...]`.
        """
        ...

    def decode(self, x0: Tensor) -> Tensor:
        """Flat clean samples `[R, ...]` -> what the reward reads (images `[R, 3, H, W]` in [0, 1])."""
        ...


class Potential(Protocol):
    """The Feynman-Kac weight of a step."""

    def initial(self, batch_shape: tuple[int, int], device: torch.device) -> Memory:
        """The memory of `batch_shape = (B, K)` beams before the first score."""
        ...

    def __call__(self, scores: Scores) -> tuple[Tensor, Memory]:
        """-> the increment of the log-weights `[B, N]`, and the new memory."""
        ...


Selector = Callable[[Scores, int, Rng], Choice]
"""`(scores, keep, rng) -> Choice` of `keep` candidates: it returns indices, never samples."""
