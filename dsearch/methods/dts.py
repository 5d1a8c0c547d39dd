"""DTS and DTS*: diffusion tree sampling and search (Jain et al. 2025, arXiv 2506.20701)."""

import math
from collections.abc import Generator
from dataclasses import dataclass

from ..core import potential, selection
from ..core.contract import Reward
from ..core.method import Method, Sized
from ..core.plan import Plan, positive, tree_plan
from ..core.tree import Best, Node, Request, Tree, descend
from ..core.value import posterior_mean

__all__ = ["dts", "dts_star"]


def dts(
    reward: Reward, runs: int = 4, lam: float = 10.0, keep: int = 1, *, spread: float = 1.0, growth: float = 0.7
) -> Method:
    """Samples of p(x) exp(lam r(x)) / Z from a tree of runs, which visits more often what ends better.

    A run goes down the tree, among the children of a node by softmax(lam v), to the first node that has fewer children
    than its cap, ceil(spread N^growth) after N visits (progressive widening). There it draws a new child and goes on
    plainly to an image; all its states become nodes. The reward is then backed up along its path:
    v(x_t) = (1 / lam) log mean over children of exp(lam v(child)), the soft Bellman equation. What is returned are
    draws from the finished tree, which cost nothing, so that several of `keep` may be the same image.

    The paper's form of the widening and its constants were not seen; these are usual ones.

    Args:
        reward: `(images, prompts) -> [N]`.
        runs: M, images made at most; a run that shares its first levels with another does not pay for them again.
        lam: the inverse temperature, in 1 / units of the reward.
        keep: draws to be returned, at most `runs`.
        spread: children after one visit.
        growth: how the cap grows with visits, 0 to 1.

    Raises:
        ValueError: naming the value and the bound.
    """
    if positive("keep", keep) > positive("runs", runs):
        raise ValueError(f"keep={keep} exceeds runs={runs}; return no more draws than there are images")
    return _method("dts", reward, runs, keep, Sampling(*_checked(lam, spread, growth)))


def dts_star(
    reward: Reward,
    runs: int = 4,
    lam: float = 10.0,
    *,
    explore: float = 1.0,
    spread: float = 1.0,
    growth: float = 0.7,
) -> Method:
    """The same tree for the best image: it goes down by v + explore sqrt(log N_parent / N_child), and returns the best.

    Args:
        reward: `(images, prompts) -> [N]`.
        runs: images made at most.
        lam: the inverse temperature of the values that are backed up.
        explore: the weight of children that were visited less, in units of the reward.
        spread: as in `dts`.
        growth: as in `dts`.

    Raises:
        ValueError: naming the value and the bound.
    """
    if not (explore >= 0 and math.isfinite(explore)):
        raise ValueError(f"explore={explore} must be a finite number of at least 0")
    return _method("dts_star", reward, runs, 1, Search(*_checked(lam, spread, growth), explore))


@dataclass(frozen=True)
class Sampling(Best):
    """The tree of `dts`."""

    lam: float
    spread: float
    growth: float

    def grow(self, tree: Tree) -> Generator[Request, list[Node], None]:
        """M runs."""
        for _ in range(tree.plan.size):
            node = tree.root
            while len(node.children) >= self.cap(node) and not tree.clean(node):
                node = self.descend(tree, node)
            self.back_up(tree, (yield from descend(tree, node)))

    def cap(self, node: Node) -> int:
        """Children that a node may have by now."""
        return max(1, math.ceil(self.spread * node.visits**self.growth))

    def descend(self, tree: Tree, node: Node) -> Node:
        """A child by softmax(lam v)."""
        return node.children[tree.choose([self.lam * child.soft for child in node.children])]

    def back_up(self, tree: Tree, leaf: Node) -> None:
        """v = (1 / lam) log mean exp(lam v(child)), from the image to the root."""
        leaf.soft, leaf.visits, node = leaf.value, leaf.visits + 1, leaf.parent
        while node is not None:
            scaled = [self.lam * child.soft for child in node.children]
            top = max(scaled)
            spread = math.fsum(math.exp(v - top) for v in scaled) if math.isfinite(top) else len(scaled)
            node.soft = (top + math.log(spread / len(scaled))) / self.lam
            node.visits += 1
            if node is not tree.root:
                node.value = node.soft
            node = node.parent

    def choose(self, tree: Tree, keep: int) -> list[Node]:
        """Draws from the tree: from the root by softmax(lam v) to an image."""
        drawn = []
        for _ in range(keep):
            node = tree.root
            while node.children:
                node = self.descend(tree, node)
            drawn.append(node)
        return drawn


@dataclass(frozen=True)
class Search(Sampling):
    """The tree of `dts_star`."""

    explore: float

    def descend(self, tree: Tree, node: Node) -> Node:
        """The child of the highest v + c sqrt(log N / n)."""
        log_n = math.log(max(1, node.visits))
        return max(node.children, key=lambda child: child.soft + self.explore * math.sqrt(log_n / child.visits))

    choose = Best.choose


def _checked(lam: float, spread: float, growth: float) -> tuple[float, float, float]:
    if not (lam > 0 and math.isfinite(lam)):
        raise ValueError(f"lam={lam} must be above 0 and finite")
    if not (spread > 0 and math.isfinite(spread)):
        raise ValueError(f"spread={spread} must be above 0 and finite")
    if not 0 <= growth <= 1:
        raise ValueError(f"growth={growth} is outside [0, 1]")
    return lam, spread, growth


def _method(name: str, reward: Reward, runs: int, keep: int, program: Sampling) -> Method:

    def plan(runs: int, num_steps: int) -> Plan:
        return tree_plan(runs, (runs,) * (num_steps + 1), (0,) * num_steps, min(keep, runs))

    return Method(
        plan=Sized(plan, positive("runs", runs)),
        reward=reward,
        value=posterior_mean,
        potential=potential.none,
        select=selection.top_k(),
        name=name,
        program=program,
    ).checked()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return dts(reward, runs=4, lam=2.0, keep=2)
