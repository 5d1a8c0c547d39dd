"""A method is data: a plan and three small functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

from torch import Tensor

from .budget import Budget
from .contract import Beams, Potential, Reward, Rng, Selector, Step
from .engine import Engine
from .plan import Bill, Plan, again
from .tournament import Tournament
from .tree import Program
from .watch import Watcher, Watching

__all__ = ["Expand", "Method", "Rounds", "Sized", "Source", "Value"]


class Value(Protocol):
    """An estimate of the reward a candidate will end with."""

    def __call__(self, children: Beams, level: int, engine: Engine) -> Tensor:
        """Candidates at a level, leaves `[B, N, ...]` -> `[B, N]`."""
        ...

    def cost(self, level: int, num_steps: int) -> Bill:
        """What valuing one candidate at a level costs."""
        ...


class Source(Protocol):
    """Where the rounds of a noise search get their noise from.

    It may also have `ran(beams, lineage)`, which is told after each round of its clean beams and, for each step, of
    `[B, K]` which candidate each survivor was.
    """

    def next(self, rewards: Tensor | None) -> Rng:
        """The final rewards `[B, k]` of the round before (None at first) -> the noise of the next round."""
        ...


@dataclass(frozen=True)
class Rounds:
    """The beams of a plan, run in equal parts one after another: each round is a run from x_T to the clean end.

    Attributes:
        count: how many; the plan's beams are divided among them.
        source: makes the noise source of a search from its rng.
        independent: whether no round's noise depends on another's rewards.
    """

    count: int
    source: Callable[[Rng], Source]
    independent: bool


@dataclass(frozen=True)
class Sized:
    """A plan that has a size, which `Method.within` may change.

    Attributes:
        make: `(size, num_steps) -> Plan`, its bill rising with the size.
        size: 1 or more.
    """

    make: Callable[[int, int], Plan]
    size: int

    def __call__(self, num_steps: int) -> Plan:
        """The plan at its size."""
        return self.make(self.size, num_steps)


Expand = Callable[[Engine, "Method", Plan, int, Beams, Watching, "Tensor | None"], "tuple[Beams, Step, Tensor | None]"]
"""`(engine, method, plan, i, beams, watching, stop) -> (survivors, what step i did, their images at the clean end)`."""


@dataclass(frozen=True)
class Method:
    """A search method: a plan and three small functions, and for some a way of their own to take a step.

    To change one, `dataclasses.replace(method, value=...)`.

    Attributes:
        plan: `num_steps -> Plan`; a `Sized` one where the method can be sized to a budget.
        reward: what is searched for.
        value: how a candidate's final reward is estimated on the way.
        potential: how values become weights.
        select: which candidates live on.
        pool: one group over all prompts, beam k carrying prompt k mod P (the published code's way).
        name: for tables and errors.
        rounds: for noise search, the runs among which the beams are divided.
        expand: how a step draws and chooses; None for all children at once (`dsearch.core.expand`).
        program: for a search that decides as it goes (`dsearch.core.tree`); its plan is the costliest run that it may
            come to, and says how many images are returned.
        watch: what watches every search of it: its rule to stop, say.
        final: how the survivors are ranked at the end; None for by their rewards.
    """

    plan: Callable[[int], Plan]
    reward: Reward
    value: Value
    potential: Potential
    select: Selector
    pool: bool = False
    name: str = "method"
    rounds: Rounds | None = None
    expand: Expand | None = None
    program: Program | None = None
    watch: tuple[Watcher, ...] = ()
    final: Tournament | None = None

    def bill(self, num_steps: int) -> Bill:
        """What a run of `num_steps` will cost a group at most, known before anything is spent.

        A group is a prompt, or the whole pool where `pool` is set. Only methods that stop early or decide as they go
        spend less.
        """
        return self._bill(self.plan(num_steps), self.costs(num_steps))

    def _bill(self, plan: Plan, costs: Callable[[int, int], Bill]) -> Bill:
        asked = 0 if self.final is None else self.final.form.most(plan.keep[-1])
        return plan.bill(costs).plus(Bill(comparisons=asked))

    def cost(self, level: int, num_steps: int) -> Bill:
        """What the value of one candidate that the plan draws at a level costs at most.

        A method that decides as it goes may draw it later, where values may cost more.
        """
        return self.costs(num_steps)(level, num_steps)

    def costs(self, num_steps: int) -> Callable[[int, int], Bill]:
        """`cost` for all levels of a run of `num_steps`, reckoned once."""
        if self.expand is None:
            return self.value.cost
        levels = [self.value.cost(level, num_steps) for level in range(1, num_steps)]
        most = list(accumulate(reversed(levels), lambda *two: Bill(*map(max, *two))))
        return lambda level, _: most[num_steps - 1 - level]

    def refuse_final(self, plan: Plan, prompts: int) -> None:
        """Refuses a final choice that has nothing to choose among.

        Raises:
            ValueError: where the plan ends with a single image, or several prompts share a pool.
        """
        if self.final is None:
            return
        if self.pool and prompts > 1:
            raise ValueError(
                f"a final choice compares images of one prompt, and {self.name} pools {prompts}; give it one"
            )
        if plan.keep[-1] < 2:
            raise ValueError(f"{self.name} ends with 1 image, and a final choice takes 2 or more; let it keep more")

    @property
    def decides(self) -> bool:
        """Whether what it draws depends on what it found, so that it may spend less than its bill."""
        return self.expand is not None or self.program is not None

    def checked(self) -> Method:
        """Itself, after a look at the plan of a single step: bad sizes are refused where a method is made."""
        self.plan(1)
        return self

    def refined(self, cycles: int = 2, back: float = 0.25) -> Method:
        """This method, and then `cycles` times its last part again, from its clean beams noised again.

        A cycle is billed as the part of the descent that it is, and draws noise of its own. Beams that nothing chooses
        among keep the model's law, for the forward kernel and an exact reverse kernel after it do (restarts: Xu et al.
        2023, arXiv 2306.14878). What is returned is the last cycle's, not the best of all.

        Args:
            cycles: after the first descent; 0 is the method itself.
            back: share of the steps that a cycle walks again, in (0, 1]; at 1 it restarts from pure noise.

        Raises:
            ValueError: for a share outside (0, 1]; for a method that goes back already, that decides as it goes, or
                that searches noise in rounds, which restart as it is; when
                planned, where a cycle ends with fewer beams than the descent.
        """
        if self.rounds is not None:
            raise ValueError(f"{self.name} runs in rounds, each from pure noise; raise rounds")
        if self.program is not None:
            raise ValueError(f"{self.name} decides as it goes, and has no last part to go again; raise its size")
        plan = self.plan
        if isinstance(plan, Sized):
            make, size = plan.make, plan.size
            return replace(self, plan=Sized(lambda n, steps: again(make(n, steps), cycles, back), size)).checked()
        return replace(self, plan=lambda steps: again(plan(steps), cycles, back)).checked()

    def within(self, budget: Budget, num_steps: int) -> Method:
        """This method at the largest size whose bill for `num_steps` stays within the budget; all else stays.

        Raises:
            ValueError: where its plan has no size to change, or where even the smallest costs more.
        """
        plan = self.plan
        if not isinstance(plan, Sized):
            raise ValueError(f"the plan of {self.name} has no size; give it plan=Sized(make, size)")
        cost = self.costs(num_steps)
        size = budget.largest(lambda n: self._bill(replace(plan, size=n)(num_steps), cost), self.name)
        return replace(self, plan=replace(plan, size=size))
