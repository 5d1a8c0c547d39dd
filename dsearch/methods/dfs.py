"""DFS: depth-first search with backtracking (Zhang et al. 2025, arXiv 2505.23614)."""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, positive, tree_plan
from ..core.tree import Bars, Best, Draw, Node, Noise, Request, Tree
from ..core.tree import Value as Ask
from ..core.value import posterior_mean

__all__ = ["dfs"]


def dfs(
    reward: Reward,
    back: int = 2,
    depth: float = 0.5,
    *,
    bar: float | Sequence[float] | None = None,
    pass_rate: float = 0.5,
    pilot: int = 2,
    start: float = 0.25,
    value: Value = posterior_mean,
) -> Method:
    """One sample that goes back in noise wherever its value is below a bar, and tries again from there.

    At each level from `start` on, where v(x_i) < bar_i and it may still go back, x_i is noised again to `depth` of the
    run above (to fresh noise where that is the beginning) and comes down anew. Where it may go back no more, it goes on
    with the best that it has had at the level.

    Bars in units of the reward fit one reward and one model. Without them, plain runs of the same prompt come first
    (`pilot`, in the bill, and their images are returned where they are the best): bar_i is the value at level i that a
    share of `pass_rate` of them reaches. The authors' code judges x_i and goes on with x_{i+1}, whose value it does
    not know; here each is judged by its own.

    Args:
        reward: `(images, prompts) -> [N]`.
        back: b, how often it may go back.
        depth: how far, as a share of the run, in (0, 1].
        bar: one for all levels or one for each of the T - 1 levels on the way; None for those of a pilot.
        pass_rate: in [0, 1].
        pilot: plain runs that set the bars; none where `bar` is given.
        start: the first level that is judged, as a share of the run.
        value: how the final reward is estimated.

    Raises:
        ValueError: naming the value and the bound.
    """
    bars = Bars(bar, pass_rate, pilot)
    runs = bars.runs
    for name, share in (("depth", depth), ("start", start)):
        if not 0 <= share <= 1 or (name == "depth" and share == 0):
            raise ValueError(f"{name}={share} is outside {'(0' if name == 'depth' else '[0'}, 1]")

    def plan(back: int, num_steps: int) -> Plan:
        bars.check(num_steps)
        first, far = _levels(num_steps, start, depth)
        nodes = [runs + 1 + back] * num_steps + [runs + 1]
        values = [0 if level == 0 else runs + (1 + back) * (level >= first) for level in range(num_steps)]
        more = back * (min(far, num_steps - 1) + 1)  # rows of the ways back, and as many values at most
        again = max(0, num_steps - first)  # levels that are judged
        asked = sum(values) - back * again + back * min(min(far, num_steps - 1) + 1, again)
        return tree_plan(back, nodes, values, calls=(runs + 1) * num_steps + more, asked=asked)

    return Method(
        plan=Sized(plan, positive("back", back, at_least=0)),
        reward=reward,
        value=value,
        potential=potential.none,
        select=selection.top_k(),
        name="dfs",
        program=DepthFirst(bars, start, depth),
    ).checked()


def _levels(num_steps: int, start: float, depth: float) -> tuple[int, int]:
    """The first level that is judged, at least 1, and how many levels it goes back, at least 1."""
    return max(1, math.ceil(start * num_steps)), max(1, math.ceil(depth * num_steps))


@dataclass(frozen=True)
class DepthFirst(Best):
    """The program of `dfs`."""

    bars: Bars
    start: float
    depth: float

    @property
    def goes_back(self) -> bool:
        """In noise."""
        return True

    def grow(self, tree: Tree) -> Generator[Request, list[Node], None]:
        """The pilot, then one way down with so many ways back."""
        bars = yield from self.bars.levels(tree)
        first, depth = _levels(tree.num_steps, self.start, self.depth)
        left = tree.plan.size
        tried: list[list[Node]] = [[] for _ in range(tree.num_steps)]
        (node,) = yield Draw(tree.root)
        while not tree.clean(node):
            if node.level >= first:
                yield Ask([node])
                tried[node.level].append(node)
                if not node.value >= bars[node.level]:
                    if left:
                        left -= 1
                        to = max(0, node.level - depth)
                        (node,) = yield Noise(node, to) if to else Draw(tree.root)
                        continue
                    node = max(tried[node.level], key=lambda one: one.value)
            (node,) = yield Draw(node)


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return dfs(reward, back=3)
