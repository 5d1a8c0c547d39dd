"""Verifier-Threshold (arXiv 2512.08985), and rollover budget forcing as its authors' code has it (2503.19385)."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, positive, tree_plan
from ..core.tree import Bars, Best, Draw, Node, Request, Tree
from ..core.tree import Value as Ask
from ..core.value import posterior_mean

__all__ = ["threshold"]

Bar = Literal["parent", "best"]


def threshold(
    reward: Reward,
    width: int = 2,
    *,
    bar: float | Sequence[float] | Bar | None = None,
    pass_rate: float = 0.5,
    pilot: int = 2,
    starts: int = 1,
    spend_all: bool = False,
    value: Value = posterior_mean,
) -> Method:
    """One sample that draws children one by one until one is above a bar; then the run goes on with that.

    What is left of a step's `width` is carried forward. Where no child reaches the bar, the best goes on: what the
    paper does then was not seen. The clean step takes one child.

    bar="parent" is `rbf` for one beam. RBF as its authors' code has it, which differs from their paper, is
    `threshold(reward, width, bar="best", starts=25, spend_all=True)`: x_T is the best of 25, the bar is the best value
    so far, and what is left is spent on clean children, of which the best is returned (a posterior mean in theirs).

    Args:
        reward: `(images, prompts) -> [N]`.
        width: children per step on average, at most.
        bar: one number for all levels, one for each of the T - 1 levels on the way, "parent" (the parent's value) or
            "best" (the best value so far); None for those of a pilot, as `dfs` sets them.
        pass_rate: of a pilot, the share whose values reach the bar, in [0, 1].
        pilot: plain runs that set the bars, in the bill; none where `bar` is given.
        starts: x_T's, of which the best by value is taken.
        spend_all: draws what is left at the clean step.
        value: how the final reward is estimated.

    Raises:
        ValueError: naming the value and the bound.
    """
    if isinstance(bar, str) and bar not in get_args(Bar):
        raise ValueError(f"bar={bar!r} is not known; give numbers, or one of {', '.join(get_args(Bar))}")
    rule = bar if isinstance(bar, str) else None
    bars = Bars(math.inf if isinstance(bar, str) else bar, pass_rate, pilot)
    runs, starts = bars.runs, positive("starts", starts)

    def plan(width: int, num_steps: int) -> Plan:
        bars.check(num_steps)
        idle = num_steps - 1
        reach = [1 + (width - 1) * level for level in range(1, num_steps)]  # a level gets all that is left, or less
        nodes = [runs + starts, *(runs + n for n in reach), runs + 1 + spend_all * (width - 1) * idle]
        first = starts * (starts > 1)  # values of x_T
        calls, asked = runs + starts + (runs + width) * idle, first + (runs + width) * idle
        return tree_plan(width, nodes, [first, *(runs + n for n in reach)], calls=calls, asked=asked)

    return Method(
        plan=Sized(plan, positive("width", width)),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.best_child,
        name="threshold",
        program=OneByOne(bars, rule, starts, spend_all),
    ).checked()


@dataclass(frozen=True)
class OneByOne(Best):
    """The program of `threshold`."""

    bars: Bars
    rule: str | None
    starts: int
    spend_all: bool

    def grow(self, tree: Tree) -> Generator[Request, list[Node], None]:
        """The pilot, then one way down."""
        bars = yield from self.bars.levels(tree)
        nodes = yield Draw(tree.root, self.starts)
        if self.starts > 1:
            yield Ask(nodes)
        node, left = max(nodes, key=_value), 0
        best = _value(node)
        while node.level < tree.num_steps - 1:
            left, tried = left + tree.plan.size, list[Node]()
            while left and not (tried and self._passes(tried[-1], node, best, bars)):
                (child,) = yield Draw(node)
                yield Ask([child])
                tried.append(child)
                left -= 1
            node = max(tried, key=_value)
            best = max(best, node.value)
        yield Draw(node, 1 + left * self.spend_all)

    def _passes(self, child: Node, parent: Node, best: float, bars: list[float]) -> bool:
        if self.rule == "parent":
            return not child.value <= parent.value  # of a parent without a value any child will do
        return child.value > best if self.rule == "best" else child.value >= bars[child.level]


def _value(node: Node) -> float:
    """The value; -inf where it was not asked."""
    return -math.inf if math.isnan(node.value) else node.value


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return threshold(reward, width=3)
