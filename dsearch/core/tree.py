"""Trees: what a program, which decides as it goes, sees of the search of one prompt.

A program is a generator. It yields what it wants next and is answered with nodes:

    def grow(self, tree):
        node, = yield Draw(tree.root)          # pure noise
        while not tree.clean(node):
            node, = yield Draw(node)           # one child, by the reverse kernel

Nodes are light: numbers and who descends from whom. Their samples lie with `dsearch.core.grow`, which asks the network
for the requests of all prompts together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch

from .contract import Rng
from .plan import Bill, TreePlan, positive
from .rng import invert_cdf

__all__ = [
    "Bars",
    "Best",
    "Draw",
    "Node",
    "Noise",
    "Program",
    "Request",
    "Tree",
    "Value",
    "descend",
    "pilot",
    "quantile",
]


@dataclass(eq=False)
class Node:
    """A sample in progress.

    Attributes:
        level: its noise level; -1 for the root of a tree, whose children are pure noise.
        number: its place among the nodes of its level, in the order in which they were asked for.
        parent: None for the root.
        value: an estimate of the final reward; nan until it was asked. Of clean nodes, their reward.
        children: in the order in which they were asked for.
        visits: the program's own count.
        soft: the program's own value, one that is backed up, say.
    """

    level: int
    number: int
    parent: Node | None
    value: float = math.nan
    children: list[Node] = field(default_factory=list, repr=False)
    visits: int = 0
    soft: float = math.nan
    turn: int = field(default=-1, repr=False)
    drawn: int = field(default=0, repr=False)

    def path(self) -> list[Node]:
        """From the pure noise that it descends from to itself."""
        nodes, node = list[Node](), self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def at(self, level: int) -> Node:
        """Its forebear at a level; itself at its own."""
        node = self
        while node.level > level and node.parent is not None:
            node = node.parent
        return node


class Draw(NamedTuple):
    """`n` children of a node by the reverse kernel; of the root, pure noise. Clean ones come with their rewards."""

    node: Node
    n: int = 1


class Noise(NamedTuple):
    """A node noised again to level `to`, below its own: a new child of its forebear at level `to - 1`."""

    node: Node
    to: int


class Value(NamedTuple):
    """The values of nodes that have none; the others keep theirs. Answered by the nodes."""

    nodes: Sequence[Node]


Request = Draw | Noise | Value
"""What a program may ask for."""

Answer = list[Node]


class Tree:
    """The tree of one prompt, and what it may still spend.

    Args:
        plan: the most that it may come to.
        cost: `(level, num_steps) -> Bill`, what the value of one node costs.
        rng: one group's noise, for the program's own draws.

    Attributes:
        num_steps: T; nodes of level T are clean.
        root: above all pure noise.
        levels: the nodes of each, in the order in which they were asked for.
        allowance: the plan's bill. What cannot be paid of it ends the program.
        spent: so far.
    """

    def __init__(self, plan: TreePlan, cost: Callable[[int, int], Bill], rng: Rng) -> None:
        self.plan, self.num_steps, self.allowance, self.spent = plan, plan.num_steps, plan.bill(cost), Bill()
        self.root = Node(-1, 0, None)
        self.levels: list[list[Node]] = [[] for _ in range(plan.num_steps + 1)]
        self._cost, self._rng, self._draws = cost, rng, 0
        self._turns = [0] * (plan.num_steps + 1)

    def clean(self, node: Node) -> bool:
        """Whether a node is an image, whose value is its final reward."""
        return node.level == self.num_steps

    @property
    def leaves(self) -> list[Node]:
        """The clean nodes, in the order in which they were asked for."""
        return self.levels[-1]

    def best(self, keep: int = 1) -> list[Node]:
        """The clean nodes of the highest rewards; of equal ones the first."""
        rewarded = (node for node in self.leaves if not math.isnan(node.value))
        return sorted(rewarded, key=lambda node: -node.value)[:keep]

    def bill(self, *requests: Request) -> Bill:
        """What requests cost: a row for a sample that arrives at a noisy level, a decode and a reward for an image."""
        whole, asked = Bill(), set[Node]()
        for request in requests:
            if isinstance(request, Draw):
                whole = whole.plus(self.arrival(request.node.level + 1), request.n)
            elif isinstance(request, Noise):
                whole = whole.plus(self.arrival(request.to))
            else:
                for node in {*request.nodes} - asked:
                    if math.isnan(node.value):
                        whole = whole.plus(self._cost(node.level, self.num_steps))
                asked |= {*request.nodes}
        return whole

    def arrival(self, level: int) -> Bill:
        """What a sample costs that arrives at a level."""
        return Bill(0, 1, 1) if level == self.num_steps else Bill(1)

    def affords(self, bill: Bill) -> bool:
        """Whether so much may still be spent."""
        return not self.spent.plus(bill).exceeds(self.allowance)

    def uniform(self) -> float:
        """A draw in [0, 1) of the program's own; each is another one."""
        self._draws += 1
        return float(self._rng.under("program").uniform("choice", self._draws, (1, 1)))

    def choose(self, log_p: Sequence[float]) -> int:
        """A draw by log-probabilities, not necessarily normalised."""
        u = torch.tensor([self.uniform()], dtype=torch.float64, device="cpu")
        return int(invert_cdf(torch.tensor(log_p, dtype=torch.float64, device="cpu"), u))

    # ---- for whoever grows it -------------------------------------------------------------------------------------

    def born(self, request: Request) -> tuple[Answer, list[tuple[str, int]]]:
        """The nodes that a request asks for; for each new one, the name and the place of its noise.

        The first node of a level that has children meets the noise of a straight descent; the others have some of
        their own.
        """
        if isinstance(request, Value):
            return list(request.nodes), []
        if isinstance(request, Noise):
            parent = self.root if request.to == 0 else request.node.at(request.to - 1)
            node = self._child(parent, request.to)
            return [node], [(f"again {node.number}", 0)]
        node, names = request.node, []
        if node.turn < 0:
            node.turn = self._turns[node.level]
            self._turns[node.level] += 1
        for _ in range(request.n):
            names.append((f"turn {node.turn}" if node.turn else "", node.drawn))
            node.drawn += 1
        return [self._child(node, node.level + 1) for _ in names], names

    def _child(self, parent: Node, level: int) -> Node:
        node = Node(level, len(self.levels[level]), parent)
        parent.children.append(node)
        self.levels[level].append(node)
        return node


class Program(Protocol):
    """A search that decides as it goes."""

    @property
    def goes_back(self) -> bool:
        """Whether it asks for `Noise`, which the model must then have (`renoise`)."""
        ...

    def grow(self, tree: Tree) -> Generator[Request | Sequence[Request], Answer, None]:
        """Yields requests, one or some at once, and is answered with their nodes in order.

        It ends by itself, or where the tree cannot pay what it asks. By then the tree has an image.
        """
        ...

    def choose(self, tree: Tree, keep: int) -> list[Node]:
        """The clean nodes that are returned, as many as `keep`; `tree.best(keep)`, say."""
        ...


class Best:
    """What most programs return: the best images of the tree."""

    @property
    def goes_back(self) -> bool:
        """Most never do."""
        return False

    def choose(self, tree: Tree, keep: int) -> list[Node]:
        """`keep` clean nodes, best first."""
        return tree.best(keep)


def descend(tree: Tree, node: Node, values: bool = False) -> Generator[Request, Answer, Node]:
    """A plain run from a node to the clean end; with `values`, those of all nodes on the way. Returns its image."""
    while not tree.clean(node):
        (node,) = yield Draw(node)
        if values and 0 < node.level < tree.num_steps:
            yield Value([node])
    return node


def pilot(tree: Tree, runs: int) -> Generator[Request, Answer, list[list[float]]]:
    """Plain runs with their values. Returns those of each level below the clean one, sorted; of level 0 none."""
    for _ in range(runs):
        yield from descend(tree, tree.root, values=True)
    return [sorted(node.value for node in nodes if not math.isnan(node.value)) for nodes in tree.levels[:-1]]


def quantile(values: Sequence[float], q: float) -> float:
    """Of sorted values, linear between neighbours; -inf of none."""
    if not values:
        return -math.inf
    at = q * (len(values) - 1)
    low = math.floor(at)
    high = min(low + 1, len(values) - 1)
    return values[low] if at == low else values[low] + (at - low) * (values[high] - values[low])


@dataclass(frozen=True)
class Bars:
    """What values are held to, level by level: given in units of the reward, or set by plain runs of the same prompt.

    Attributes:
        given: one for all levels or one for each of the T - 1 on the way; None for those of a pilot.
        pass_rate: the share of a pilot's values that reach the bar of their level, in [0, 1].
        pilot: plain runs that set the bars; none are made where these are given.

    Raises:
        ValueError: naming the value and the bound.
    """

    given: float | Sequence[float] | None
    pass_rate: float
    pilot: int

    def __post_init__(self) -> None:
        if self.given is None:
            object.__setattr__(self, "pilot", positive("pilot", self.pilot))
        elif not isinstance(self.given, int | float):
            object.__setattr__(self, "given", tuple(self.given))
        if not 0 <= self.pass_rate <= 1:
            raise ValueError(f"pass_rate={self.pass_rate} is outside [0, 1]")

    @property
    def runs(self) -> int:
        """Of the pilot; 0 where there is none."""
        return self.pilot if self.given is None else 0

    def check(self, num_steps: int) -> None:
        """Raises a ValueError where other levels are named than a run of so many steps has on the way."""
        if isinstance(self.given, tuple) and num_steps > 1 and len(self.given) != num_steps - 1:
            raise ValueError(
                f"bar names {len(self.given)} levels, but there are {num_steps - 1} on the way; give one for each"
            )

    def levels(self, tree: Tree) -> Generator[Request, Answer, list[float]]:
        """Runs the pilot, if there is one. Returns the bar of each level below the clean one."""
        if self.given is None:
            values = yield from pilot(tree, self.runs)
            return [quantile(some, 1 - self.pass_rate) for some in values]
        return [float(self.given)] * tree.num_steps if isinstance(self.given, int | float) else [math.nan, *self.given]
