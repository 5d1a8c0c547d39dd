"""Grows the trees of all prompts together: their programs' requests are packed by level into full chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .contract import Beams, Parts, Prediction, Rng, Step, map_tree, weight_dtype
from .engine import Engine
from .errors import Interrupted, SearchError
from .method import Method
from .plan import Plan, TreePlan
from .rng import KeyedRng, invert_cdf, move
from .tree import Draw, Node, Noise, Program, Request, Tree, Value
from .watch import Watching

__all__ = ["Forest", "Grown", "Rows", "grow"]

Valued = Callable[[Beams, int, Engine], Tensor]


@dataclass(frozen=True)
class Grown:
    """What trees came to.

    Attributes:
        beams: `[B, K]` the clean nodes that the programs chose, whose values are final rewards.
        images: `[B, K, ...]` theirs.
        trace: one `Step` per level; `alive` and the values are those of the nodes there, -inf where a tree has fewer.
        lineage: for each level `[B, N]`, every node, by its number.
        parent: for each level `[B, N]`, the number of each node's parent, at the level before; -1 where there is none.
    """

    beams: Beams
    images: Tensor
    trace: list[Step]
    lineage: list[Tensor]
    parent: list[Tensor]


class Rows:
    """The noise of rows that have nothing in common: row r of one group draws from a source of its own.

    Each source is one group's. A draw has shape `[1, R m, ...]`, m entries for each row.
    """

    def __init__(self, sources: Sequence[Rng]) -> None:
        self._sources = sources

    def normal(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Standard normals, float32, on the CPU."""
        return self._each(lambda rng, own: rng.normal(use, at, own), shape)

    def uniform(self, use: str, at: int, shape: Sequence[int]) -> Tensor:
        """Uniforms in [0, 1), float64, on the CPU."""
        return self._each(lambda rng, own: rng.uniform(use, at, own), shape)

    def categorical(self, use: str, at: int, log_p: Tensor, n: int) -> Tensor:
        """`log_p [1, N]` -> `[1, n]` indices; n must be a multiple of the rows."""
        return invert_cdf(log_p, move(self.uniform(use, at, (1, n)), log_p.device))

    def under(self, name: str) -> Rows:
        """A source of its own, row by row."""
        return Rows([source.under(name) for source in self._sources])

    def parts(self, total: int) -> Parts:
        """Rows are not drawn in parts."""
        raise NotImplementedError

    def _each(self, draw: Callable[[Rng, tuple[int, ...]], Tensor], shape: Sequence[int]) -> Tensor:
        many, rest = divmod(shape[1], len(self._sources))
        if shape[0] != 1 or rest:
            raise ValueError(f"noise {tuple(shape)} asked for {len(self._sources)} rows; ask for [1, rows, ...]")
        return torch.cat([draw(source, (1, many, *shape[2:])) for source in self._sources], dim=1)


class Forest:
    """The trees of a search with their samples, which stay until it ends: memory grows with the nodes.

    Args:
        engine: asks the network; its pool is on, for rows of one group carry any prompts.
        value: of nodes on the way.
        sources: one group's noise for each prompt.
        trees: one for each prompt.
    """

    def __init__(self, engine: Engine, value: Valued, sources: Sequence[KeyedRng], trees: Sequence[Tree]) -> None:
        self.engine, self.value, self.sources, self.trees = engine, value, sources, trees
        self.held: dict[Node, tuple[Tensor, Prediction]] = {}
        self.images: dict[Node, Tensor] = {}
        self.dtype = torch.float32

    def grow(self, programs: Sequence[Program]) -> None:
        """Runs the programs in lockstep, until each has ended or cannot pay what it asks."""
        running = {b: program.grow(self.trees[b]) for b, program in enumerate(programs)}
        answers: dict[int, Any] = dict.fromkeys(running)
        while running:
            asked: dict[int, list[Request]] = {}
            for b, program in list(running.items()):
                try:
                    said = program.send(answers[b])
                except StopIteration:
                    del running[b]
                    continue
                requests: list[Request] = [said] if isinstance(said, Draw | Noise | Value) else list(said)
                bill = self.trees[b].bill(*requests)
                if not self.trees[b].affords(bill):
                    program.close()
                    del running[b]
                    continue
                self.trees[b].spent = self.trees[b].spent.plus(bill)
                asked[b] = requests
            answers = self._answered(asked)

    def _answered(self, asked: dict[int, list[Request]]) -> dict[int, list[Node]]:
        """What the programs get; all that is asked at one level goes through the network together."""
        answers = dict[int, list[Node]]()
        arrivals, unvalued = dict[tuple[int, int], list[_Row]](), dict[int, dict[Node, int]]()
        for b, requests in asked.items():
            answers[b] = []
            for request in requests:
                nodes, noise = self.trees[b].born(request)
                answers[b] += nodes
                if isinstance(request, Value):
                    for node in nodes:
                        if math.isnan(node.value):
                            unvalued.setdefault(node.level, {})[node] = b
                    continue
                for node, (name, place) in zip(nodes, noise, strict=True):
                    source = self.sources[b].under(name) if name else self.sources[b]
                    parts = source.parts(place + 1)
                    parts.seek(place, 1)
                    arrivals.setdefault((request.node.level, node.level), []).append(_Row(b, node, request.node, parts))
        for (level, to), rows in sorted(arrivals.items()):
            self._arrive(rows, to, self._made(rows, level, to))
        for level, whose in sorted(unvalued.items()):
            self._valued(whose, level)
        return answers

    def _made(self, rows: list[_Row], level: int, to: int) -> Tensor:
        """`[1, R, ...]` new samples at level `to`, drawn from others at a level."""
        denoiser, rng, count = self.engine.denoiser, Rows([row.noise for row in rows]), len(rows)
        if level < 0:
            return denoiser.start((1, count), rng)
        x, pred = map_tree(lambda leaf: leaf[:, :, None], self._gathered([row.source for row in rows]))
        back = to < level
        noise = denoiser.noise(to if back else level, (1, count, 1), rng)
        made: Tensor = (
            denoiser.renoise(x, level, to, noise)  # type: ignore[attr-defined]
            if back
            else denoiser.step(x, pred, level, noise)
        )
        return made.flatten(1, 2)

    def _arrive(self, rows: list[_Row], level: int, x: Tensor) -> None:
        """Predicts new samples `[1, R, ...]`; clean ones are decoded and rewarded."""
        prompt_index = self._prompts([row.group for row in rows], x.device)
        pred = self.engine.predict(x, prompt_index, level)
        for r, row in enumerate(rows):
            self.held[row.node] = map_tree(lambda leaf, r=r: leaf[0, r], (x, pred))
        if level == self.engine.denoiser.num_steps:
            images, rewards = self.engine.finish(pred.x0, prompt_index)
            self.images |= {row.node: images[0, r] for r, row in enumerate(rows)}
            self._note(rewards, [row.node for row in rows])

    def _valued(self, whose: dict[Node, int], level: int) -> None:
        """Asks the value of nodes at a level; the noise of its rollouts is each node's own."""
        nodes, groups = list(whose), list(whose.values())
        x, pred = self._gathered(nodes)
        beams = _beams(x, pred, self._prompts(groups, x.device))
        rng = Rows([self.sources[b].under(f"value {node.number}") for node, b in whose.items()])
        with self.engine.drawing(rng):
            values = self.value(self.engine.copied(beams), level, self.engine)
        if values.shape != beams.prompt_index.shape:
            raise ValueError(
                f"the value returned shape {tuple(values.shape)} for candidates {tuple(beams.prompt_index.shape)} at "
                f"level {level}; return one number per candidate"
            )
        self._note(values, nodes)

    def _note(self, values: Tensor, nodes: list[Node]) -> None:
        self.dtype = values.dtype
        for node, value in zip(nodes, values[0].tolist(), strict=True):
            node.value = value

    def _gathered(self, nodes: Sequence[Node]) -> tuple[Tensor, Prediction]:
        """`[1, R, ...]` samples and their predictions."""
        return map_tree(lambda *leaves: torch.stack(leaves)[None], *(self.held[node] for node in nodes))

    def _prompts(self, groups: Sequence[int], device: torch.device) -> Tensor:
        index = move(torch.tensor([groups], device="cpu"), device)
        self.engine.knows(index, groups)
        return index

    # ---- what is returned -----------------------------------------------------------------------------------------

    def chosen(self, nodes: Sequence[Sequence[Node]]) -> tuple[Beams, Tensor]:
        """Clean nodes, as many of each tree -> beams `[B, K]` and their images."""
        parts = [self._gathered(some) for some in nodes]
        x, pred = map_tree(lambda *leaves: torch.cat(leaves), *parts)
        group = torch.arange(len(nodes), device=x.device)[:, None].expand(x.shape[:2])
        numbers = torch.tensor([[node.number for node in some] for some in nodes], device=x.device)
        rewards = torch.tensor([[node.value for node in some] for some in nodes], dtype=self.dtype, device=x.device)
        images = torch.stack([torch.stack([self.images[node] for node in some]) for some in nodes])
        return replace(_beams(x, pred, group), value=rewards, child=numbers), images

    def traced(self, watching: Watching) -> tuple[list[Step], list[Tensor], list[Tensor]]:
        """Level by level what there is: steps, the nodes' numbers `[B, N]` and those of their parents."""
        trace, lineage, parents = list[Step](), list[Tensor](), list[Tensor]()
        for level in range(1, self.engine.denoiser.num_steps + 1):
            nodes = [tree.levels[level] for tree in self.trees]
            before, count = (max(len(tree.levels[at]) for tree in self.trees) for at in (level - 1, level))
            filled = partial(_filled, count=count, device=self.held[nodes[0][0]][0].device)
            values = filled([[node.value for node in some] for some in nodes], -math.inf, self.dtype)
            drawn = filled([[True] * len(some) for some in nodes], False, torch.bool)
            valued = bool((drawn & ~values.isnan()).any())
            trace.append(Step(level - 1, before, 1, values if valued else None))
            lineage.append(torch.arange(count, device=drawn.device).repeat(len(nodes), 1))
            parents.append(filled([[n.parent.number for n in some if n.parent] for some in nodes], -1, torch.long))
            if valued and watching.sees_candidates:
                self._show(nodes, trace[-1], drawn, watching)
        return trace, lineage, parents

    def _show(self, nodes: list[list[Node]], step: Step, drawn: Tensor, watching: Watching) -> None:
        """Tells who watches candidates of all nodes of a level."""
        values, some = step.values, next(node for row in nodes for node in row)
        assert values is not None
        padded = [row + [some] * (drawn.shape[1] - len(row)) for row in nodes]
        x, pred = map_tree(lambda *leaves: torch.cat(leaves), *(self._gathered(row) for row in padded))
        group = torch.arange(len(nodes), device=x.device)[:, None]
        beams = replace(_beams(x, pred, torch.where(drawn, group, -1)), value=values)
        clean = step.level == self.engine.denoiser.num_steps
        images = torch.stack([torch.stack([self.images[n] for n in row]) for row in padded]) if clean else None
        self.engine.ragged = True
        watching.candidates(beams, values, step.level, self.engine, images)
        watching.stopped(step, beams, self.engine)  # all nodes live on


class _Row(NamedTuple):
    """A node that arrives: of which prompt, drawn from which other node, with which noise."""

    group: int
    node: Node
    source: Node
    noise: Rng


def _filled(rows: list[list[Any]], empty: float, dtype: torch.dtype, count: int, device: torch.device) -> Tensor:
    return torch.tensor([row + [empty] * (count - len(row)) for row in rows], dtype=dtype, device=device)


def _beams(x: Tensor, pred: Prediction, prompt_index: Tensor) -> Beams:
    """Samples `[B, N, ...]` with all that beams have, of which a tree knows nothing."""
    shape, device = prompt_index.shape, x.device
    nothing = torch.zeros(shape, dtype=weight_dtype(device), device=device)
    unknown = torch.full(shape, torch.nan, dtype=torch.float32, device=device)
    numbers = torch.arange(shape[1], device=device).repeat(shape[0], 1)
    return Beams(x, pred, unknown, nothing, None, torch.full_like(nothing, torch.nan), prompt_index, numbers)


def grow(engine: Engine, method: Method, plan: Plan, groups: int, watching: Watching) -> Grown:
    """Grows a tree for each prompt, and chooses what is returned.

    Raises:
        RuntimeError: where a program ends before its tree has as many images as its plan keeps.
    """
    rng, num_steps, program = engine.rng, plan.num_steps, method.program
    assert program is not None and isinstance(rng, KeyedRng) and isinstance(plan, TreePlan)
    sources = [replace(rng, ids=(key,)) for key in rng.ids]
    trees = [Tree(plan, method.value.cost, source) for source in sources]
    forest = Forest(engine, method.value, sources, trees)
    try:
        forest.grow([program] * groups)
    except (SearchError, KeyboardInterrupt) as error:
        if not all(tree.best() for tree in trees):
            raise
        beams, _ = forest.chosen([tree.best() for tree in trees])
        if isinstance(error, SearchError):
            error.beams, error.reached = beams, num_steps
            raise
        raise Interrupted(beams, num_steps) from error
    keep = plan.keep[-1]
    nodes = [program.choose(tree, keep) for tree in trees]
    if any(len(some) != keep for some in nodes):
        raise RuntimeError(
            f"{method.name} ended with {min(map(len, nodes))} images of a prompt, but its plan keeps {keep}"
        )
    beams, images = forest.chosen(nodes)
    trace, lineage, parents = forest.traced(watching)
    return Grown(beams, images, trace, lineage, parents)
