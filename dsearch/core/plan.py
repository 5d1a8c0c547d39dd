"""Plans and bills: plain integers, known before any tensor exists."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np

__all__ = [
    "Bill",
    "Drop",
    "Plan",
    "Search",
    "TreePlan",
    "again",
    "drop_schedule",
    "dsearch_plan",
    "flip",
    "pruning_plan",
    "search_probability",
    "share",
    "tree_plan",
    "uniform_plan",
]

Drop = Literal["exponential", "linear", "quadratic", "sigmoid", "none"]
"""How beams fall from start to end: the curves of `drop_schedule`."""

Search = Literal["all", "uniform", "linear", "exponential"]
"""How likely a step is to search: the curves of `search_probability`."""

Coins = int | Sequence[float]
T = TypeVar("T")


class Bill(NamedTuple):
    """What a run costs per prompt (or the pool, where a method pools its prompts).

    Attributes:
        model_calls: rows through the network; a guided row counts once.
        decodes: samples decoded, the final ones included.
        reward_calls: images rewarded, the final ones included.
        comparisons: pairs of images that the judge of a final choice is asked about.
    """

    model_calls: int = 0
    decodes: int = 0
    reward_calls: int = 0
    comparisons: int = 0

    def counts(self) -> dict[str, int]:
        """By unit, as it is told: without comparisons where there are none."""
        return {unit: n for unit, n in self._asdict().items() if n or unit != "comparisons"}

    def plus(self, other: Bill, times: int = 1) -> Bill:
        """This bill and `times` the other."""
        return Bill(*(int(a + times * b) for a, b in zip(self, other, strict=True)))

    def exceeds(self, other: Bill) -> bool:
        """True when any unit is above the other bill's."""
        return any(a > b for a, b in zip(self, other, strict=True))


def _at_posterior_mean(level: int, num_steps: int) -> Bill:
    return Bill(0, 1, 1)


@dataclass(frozen=True)
class Plan:
    """How many beams and children at each step: integers only, validated, immutable.

    A plan is a straight descent, one denoising step after another, or with a `route` a list of moves that also go back
    in noise. From level l, a move to l + 1 is a denoising step, and one to j < l noises the beams again (the model's
    `renoise`). A tuple, a level for each child, is an excursion: the children are noised to their levels and come back
    by plain steps to l, where they compete; a child whose level is l itself rests, at no cost but its value's, and at
    the clean end at none.

    A plan may end clean more than once: each time its beams are decoded and rewarded, as many are kept, and a group
    that a watcher stops there goes no further.

    Attributes:
        start: beams at x_T.
        width: children per beam at step i.
        keep: beams alive after step i.
        score: whether the value is asked at step i; where not, all children are kept.
        route: where each move leads; None for the straight descent, to 1, 2, ..., T.

    Raises:
        ValueError: naming the step, the value and the bound.
    """

    start: int
    width: tuple[int, ...]
    keep: tuple[int, ...]
    score: tuple[bool, ...]
    route: tuple[int | tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        for name in ("width", "keep", "score"):  # lists are welcome, but a plan is hashable and does not change
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.width:
            raise ValueError("a plan has at least 1 step")
        if not len(self.width) == len(self.keep) == len(self.score):
            raise ValueError(
                f"width, keep and score name {len(self.width)}, {len(self.keep)} and {len(self.score)} steps; "
                "give each one entry per step"
            )
        # numpy's whole numbers become Python's, so that bills are plain too.
        object.__setattr__(self, "start", positive("start", self.start))
        for name in ("width", "keep"):
            counts = getattr(self, name)
            if not all(type(count) is int and count > 0 for count in counts):
                counts = tuple(positive(f"{name} at step {i}", count) for i, count in enumerate(counts))
                object.__setattr__(self, name, counts)
        for i, (alive, width, keep, score) in enumerate(
            zip(self.alive, self.width, self.keep, self.score, strict=True)
        ):
            if not isinstance(score, bool):
                raise ValueError(f"score at step {i} is {score!r}; it must be True or False")
            if keep > alive * width:
                raise ValueError(f"keep={keep} exceeds {alive * width} children at step {i}; raise width or lower keep")
            if not score and keep != alive * width:
                raise ValueError(
                    f"step {i} is not scored, so it keeps all {alive * width} children, not keep={keep}; "
                    "score it, or keep all"
                )
        if self.route is not None:
            route = tuple(tuple(to) if isinstance(to, list | tuple) else to for to in self.route)
            straight = route == tuple(range(1, len(self.width) + 1))
            object.__setattr__(self, "route", None if straight else _walked(route, self))

    @cached_property
    def reached(self) -> tuple[int, ...]:
        """The level after each move."""
        if self.route is None:
            return tuple(range(1, len(self.width) + 1))
        return tuple(accumulate(self.route, lambda level, to: level if isinstance(to, tuple) else to, initial=0))[1:]

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """The level before each move."""
        return (0, *self.reached[:-1])

    @property
    def num_moves(self) -> int:
        """Denoising steps and moves back, all together."""
        return len(self.width)

    @property
    def num_steps(self) -> int:
        """Denoising steps from x_T to the clean end."""
        return self.reached[-1]

    @cached_property
    def legs(self) -> tuple[int, ...]:
        """For each move, how many moves back there have been, itself among them: each starts a leg."""
        return tuple(accumulate(int(self.goes_back(i)) for i in range(len(self.width))))

    def goes_back(self, i: int) -> bool:
        """Whether move i leads back in noise, be it to come down again at once."""
        return self.away(i) is not None or self.reached[i] < self.levels[i]

    def away(self, i: int) -> tuple[int, ...] | None:
        """The levels to which the children of an excursion are noised; None for any other move."""
        to = None if self.route is None else self.route[i]
        return to if isinstance(to, tuple) else None

    @cached_property
    def alive(self) -> tuple[int, ...]:
        """Beams alive before each step."""
        return (self.start, *self.keep[:-1])

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Candidates of each step, `alive * width`."""
        return tuple(a * w for a, w in zip(self.alive, self.width, strict=True))

    def split(self, parts: int) -> Plan:
        """One of `parts` equal shares of the beams; the clean candidates of a share are all kept.

        Raises:
            ValueError: where the beams of a step do not divide.
        """
        odd = [n for n in (self.start, *self.keep[:-1]) if n % parts]
        if odd:
            raise ValueError(f"{odd[0]} beams do not divide into {parts} rounds; take a multiple")
        keep = (*(k // parts for k in self.keep[:-1]), self.rows[-1] // parts)
        return Plan(self.start // parts, self.width, keep, self.score, self.route)

    @property
    def model_calls(self) -> int:
        """Network rows of a group: x_T's, and every candidate's but the clean ones, which need none."""
        return self.start + sum(self.rows_of(i) for i in range(len(self.width)))

    def rows_of(self, i: int) -> int:
        """Network rows of move i: one for each candidate, but none at the clean end; of an excursion, of its steps."""
        level, away, clean = self.levels[i], self.away(i), self.reached[i] == self.num_steps
        if away is None:
            return 0 if clean else self.rows[i]
        return self.alive[i] * sum(level - to + (not clean) for to in away if to < level)

    def judged(self, i: int) -> int:
        """Candidates whose value, or at the clean end whose reward, move i asks for: none where it does not score."""
        clean, away = self.reached[i] == self.num_steps, self.away(i)
        if not clean and not self.score[i]:
            return 0
        return self.rows[i] if away is None or not clean else self.alive[i] * sum(to < self.num_steps for to in away)

    @property
    def decodes(self) -> int:
        """Decodes of a group when values are posterior means."""
        return self.bill().decodes

    @property
    def reward_calls(self) -> int:
        """Rewarded images of a group when values are posterior means."""
        return self.bill().reward_calls

    def bill(self, cost: Callable[[int, int], Bill] = _at_posterior_mean) -> Bill:
        """The bill of a group, given what the value of one candidate at a level costs.

        The clean candidates are decoded and rewarded once, whether the last step is scored or not.
        """
        judged: dict[int, int] = {}  # by level, which is asked once
        for i, level in enumerate(self.reached):
            judged[level] = judged.get(level, 0) + self.judged(i)
        clean = judged.pop(self.num_steps)
        bill = Bill(self.model_calls, clean, clean)
        at: dict[Bill, int] = {}  # rows by what one costs: most levels cost the same
        for level, count in judged.items():
            if count:
                each = cost(level, self.num_steps)
                at[each] = at.get(each, 0) + count
        for each, count in at.items():
            bill = bill.plus(each, count)
        return bill


@dataclass(frozen=True)
class TreePlan(Plan):
    """The most that a search may come to that decides as it goes: nodes and values by level, and their sums.

    `start`, `alive` and `rows` are its nodes, `width` is 1; make it by `tree_plan`.

    Attributes:
        nodes: that may arrive at each level, `[T + 1]`, at most.
        values: asked at each level but the last, `[T]`, at most.
        calls: network rows at most, where that is less than all levels together may take; None where it is not.
        asked: values at most, likewise.
        size: that of its method, for the program to read.
    """

    nodes: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    size: int = 1
    calls: int | None = None
    asked: int | None = None

    def __post_init__(self) -> None:
        """Nothing: `tree_plan` looks."""

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Nodes that may arrive after each step."""
        return self.nodes[1:]

    @property
    def model_calls(self) -> int:
        """Network rows of a group at most."""
        return sum(self.nodes[:-1]) if self.calls is None else self.calls

    def bill(self, cost: Callable[[int, int], Bill] = _at_posterior_mean) -> Bill:
        """The most that a group costs, given what a value at a level costs."""
        images = self.nodes[-1]
        bill = Bill(self.model_calls, images, images)
        each = {level: cost(level, self.num_steps) for level, count in enumerate(self.values) if count}
        if self.asked is not None and each:
            return bill.plus(Bill(*map(max, *each.values(), Bill())), self.asked)
        for level, one in each.items():
            bill = bill.plus(one, self.values[level])
        return bill


def tree_plan(
    size: int,
    nodes: Sequence[int],
    values: Sequence[int],
    keep: int = 1,
    calls: int | None = None,
    asked: int | None = None,
) -> TreePlan:
    """The plan of a search that decides as it goes and returns `keep` images; see `TreePlan`.

    Raises:
        ValueError: naming the value and the bound.
    """
    nodes = tuple(positive(f"nodes at level {level}", count) for level, count in enumerate(nodes))
    values = tuple(positive(f"values at level {level}", count, at_least=0) for level, count in enumerate(values))
    if len(nodes) < 2 or len(values) != len(nodes) - 1:
        raise ValueError(f"{len(nodes)} levels of nodes and {len(values)} of values; give T + 1 and T")
    keep, size = positive("keep", keep), positive("size", size, at_least=0)
    if keep > nodes[-1]:
        raise ValueError(f"keep={keep} exceeds the {nodes[-1]} images that may be made")
    idle = tuple(count > 0 for count in values[1:])
    width, alive = (1,) * len(values), (*nodes[1:-1], keep)
    return TreePlan(
        nodes[0], width, alive, (*idle, True), nodes=nodes, values=values, size=size, calls=calls, asked=asked
    )


def _walked(route: tuple[Any, ...], plan: Plan) -> tuple[int | tuple[int, ...], ...]:
    """The route, of plain whole numbers.

    Raises:
        ValueError: for one that cannot be walked, naming the move.
    """
    if len(route) != len(plan.width):
        raise ValueError(f"the route has {len(route)} moves, but width names {len(plan.width)}; give each one entry")
    flat = [each for to in route for each in (to if isinstance(to, tuple) else (to,))]
    end = max(positive("a level of the route", each, at_least=0) for each in flat)
    walked, level, ends = list[int | tuple[int, ...]](), 0, set[int]()
    for i, to in enumerate(route):
        if isinstance(to, tuple):
            if len(to) != plan.width[i]:
                raise ValueError(f"move {i} sends {len(to)} children away, but its width is {plan.width[i]}")
            if not min(to) < level or max(to) > level:
                raise ValueError(
                    f"move {i} from level {level} sends its children to levels {to}; some must be below it, and none "
                    "above"
                )
            walked.append(tuple(int(each) for each in to))
        elif to == level or to > level + 1:
            raise ValueError(
                f"move {i} leads from level {level} to {to}; it may lead to {level + 1}, a denoising step, or to a "
                "level below, and is then noised again"
            )
        else:
            walked.append(level := int(to))
        if level == end:
            ends.add(plan.keep[i])
    if level != end:
        raise ValueError(f"the route ends at level {level}, but it has been at {end}; it must end clean")
    if len(ends) > 1:
        raise ValueError(f"the route ends clean with {sorted(ends)} beams; keep as many each time")
    return tuple(walked)


def positive(name: str, value: int, at_least: int = 1) -> int:
    """The value, if it is a whole number of at least `at_least`.

    Raises:
        ValueError: naming the value and the bound.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {at_least}")
    return int(value)


def one_of(name: str, value: str, kinds: object) -> None:
    """Raises a ValueError unless `value` is one of the strings of the Literal `kinds`."""
    if value not in get_args(kinds):
        raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(get_args(kinds))}")


def drop_schedule(kind: Drop, start: int, keep: int, num_steps: int) -> tuple[int, ...]:
    """Beams alive after each of the first `num_steps - 1` steps (Li et al. 2025, section on beam pruning).

    With n = num_steps - 1, B = start, e = keep, i = 0..n-1; truncated to a whole number and floored at `keep`:
    exponential B (e/B)^(i/n), linear B - i (B-e)/n, quadratic e + (B-e) (1-i/n)^2,
    sigmoid B / (1 + exp(-10 ((n-1-i)/n - 1/2))), none B.

    Raises:
        ValueError: for an unknown kind, or where keep exceeds start.
    """
    one_of("drop", kind, Drop)
    big, end, n = positive("beams", start), positive("keep", keep), positive("num_steps", num_steps) - 1
    if end > big:
        raise ValueError(f"keep={end} exceeds beams={big}; start with at least as many beams as you keep")
    curve: dict[str, Callable[[int], float]] = {
        "exponential": lambda i: big * (end / big) ** (i / n),
        "linear": lambda i: big - i * (big - end) / n,
        "quadratic": lambda i: end + (big - end) * (1 - i / n) ** 2,
        "sigmoid": lambda i: big / (1 + math.exp(-10 * ((n - 1 - i) / n - 0.5))),
        "none": lambda i: big,
    }
    return tuple(max(end, int(curve[kind](i))) for i in range(n))


def search_probability(kind: Search, num_steps: int) -> tuple[float, ...]:
    """Probability of searching at each of the first `num_steps - 1` steps (Li et al. 2025).

    With n = num_steps - 1: all 1, uniform 0.7, linear min(1, (i+10)/n), exponential 1 - exp(-3 i/n).
    """
    one_of("search", kind, Search)
    n = positive("num_steps", num_steps) - 1
    curve: dict[str, Callable[[int], float]] = {
        "all": lambda i: 1.0,
        "uniform": lambda i: 0.7,
        "linear": lambda i: min(1.0, (i + 10) / n),
        "exponential": lambda i: 1 - math.exp(-3 * i / n),
    }
    return tuple(curve[kind](i) for i in range(n))


def flip(kind: Search, num_steps: int, coins: Coins) -> tuple[bool, ...]:
    """Which of the first `num_steps - 1` steps search: one coin per step, drawn for every kind, heads below p.

    Args:
        kind: a search schedule.
        num_steps: denoising steps.
        coins: a seed, or the recorded uniforms of a run.

    Raises:
        ValueError: where recorded coins are too few or outside [0, 1).
    """
    p = search_probability(kind, num_steps)
    drawn = _uniforms(coins, len(p)) if isinstance(coins, int | np.integer) else [float(c) for c in coins]
    if len(drawn) < len(p):
        raise ValueError(f"{len(drawn)} coins for {len(p)} steps; record one for each step but the last")
    bad = [c for c in drawn if not 0 <= c < 1]
    if bad:
        raise ValueError(f"coin {bad[0]} is outside [0, 1)")
    return tuple(c < q for c, q in zip(drawn, p, strict=False))


def _uniforms(seed: int, n: int) -> list[float]:
    # Philox is a published algorithm with a fixed stream: the same seed gives the same plan everywhere.
    if seed < 0:
        raise ValueError(f"coins={seed}: a seed is at least 0")
    return [float(u) for u in np.random.Generator(np.random.Philox(key=seed)).random(n)]


def uniform_plan(num_steps: int, beams: int = 1, width: int = 1, search: Sequence[bool] | None = None) -> Plan:
    """`beams` throughout and `width` children per beam at the searching steps; the last, clean step is plain.

    `search` says which of the first `num_steps - 1` steps search; by default all.
    """
    n = positive("num_steps", num_steps) - 1
    on = (True,) * n if search is None else tuple(search)
    positive("width", width)
    return Plan(
        start=beams,
        width=(*(width if s else 1 for s in on), 1),
        keep=(beams,) * num_steps,
        score=(*on, False),
    )


def share(rows_per_step: int, beams: int) -> int:
    """Children per beam that so many rows per step buy.

    Raises:
        ValueError: where they buy none.
    """
    if positive("rows_per_step", rows_per_step) < positive("beams", beams):
        raise ValueError(f"rows_per_step={rows_per_step} is below beams={beams}; raise rows_per_step or lower beams")
    return rows_per_step // beams


def dsearch_plan(
    num_steps: int,
    beams: int,
    keep: int,
    rows_per_step: int,
    drop: Drop | Sequence[int],
    search: Search | Sequence[bool],
    coins: Coins,
    max_width: int | None = None,
) -> Plan:
    """DSearch's own form: where it searches, `rows_per_step // alive` children per beam, then the drop schedule.

    Steps that do not search cost one plain row per beam and drop nothing. The clean step is scored at width 1 and
    prunes to `keep`, for an unlucky last coin would leave beams over. No step exceeds `rows_per_step`. `drop` and
    `search` may also give the beams after, and whether there is a search at, each step but the last; `max_width`
    bounds the children per beam.

    Raises:
        ValueError: for fewer rows per step than beams, more to keep than beams, or a schedule of another length.
    """
    named = drop_schedule(drop if isinstance(drop, str) else "none", beams, keep, num_steps)
    target = named if isinstance(drop, str) else _each("drop", drop, num_steps)
    share(rows_per_step, beams)
    on = flip(search, num_steps, coins) if isinstance(search, str) else _each("search", search, num_steps)
    kept = list(accumulate(zip(on, target, strict=True), _drop, initial=beams))
    most = rows_per_step if max_width is None else positive("max_width", max_width)
    return Plan(
        start=beams,
        width=(*(min(share(rows_per_step, alive), most) if s else 1 for s, alive in zip(on, kept, strict=False)), 1),
        keep=(*kept[1:], keep),
        score=(*on, True),
    )


def _each(name: str, schedule: Sequence[T], num_steps: int) -> tuple[T, ...]:
    if len(schedule) != num_steps - 1:
        raise ValueError(
            f"{name} names {len(schedule)} steps; a run of {num_steps} has {num_steps - 1} before the last"
        )
    return tuple(schedule)


def pruning_plan(num_steps: int, beams: int, drops: Sequence[tuple[float, int]], keep: int = 1) -> Plan:
    """`beams` that never branch, pruned to `n` when a fraction `f` of the steps is done, for each (f, n) of `drops`.

    The network has then seen each of them ceil(f T) times, so that beams 2N, N after 1/4 and N/2 after 1/2 of the
    steps cost N T rows where 4 divides T, from T = 8 on. A fraction that comes before the first step drops after it.
    The clean candidates are scored and pruned to `keep`.

    Raises:
        ValueError: where fractions do not rise within (0, 1), or beams do not fall.
    """
    fractions, sizes = [f for f, _ in drops], [beams, *(n for _, n in drops), keep]
    if fractions != sorted(set(fractions)) or any(not 0 < f < 1 for f in fractions):
        raise ValueError(f"drops at {fractions} of the steps; the fractions must rise within (0, 1)")
    if sizes != sorted(sizes, reverse=True):
        raise ValueError(f"beams fall {sizes}; each number must be at most the one before it")
    idle = positive("num_steps", num_steps) - 1
    at = {min(max(1, math.ceil(f * num_steps - 1e-9) - 1), idle) - 1: n for f, n in drops if idle}
    kept = list(accumulate(range(idle), lambda alive, i: at.get(i, alive), initial=beams))
    return Plan(beams, (1,) * num_steps, (*kept[1:], keep), (*(i in at for i in range(idle)), True))


def again(plan: Plan, cycles: int, back: float, choose: bool = False) -> Plan:
    """A descent whose last part is walked `cycles` times more, each time from the clean beams noised again.

    A cycle goes back by the share `back` of the steps (rounded down, 1 at least). There every beam becomes as many as
    the plan has alive at that level for each one that it ends with, and its steps follow as they were.

    Args:
        plan: a straight descent.
        cycles: 0 or more.
        back: in (0, 1]; 1 goes back to x_T.
        choose: whether the clean beams are also chosen among before they go back (the selector sees them as final).

    Raises:
        ValueError: for a plan that goes back already, or a share outside (0, 1].
    """
    if plan.route is not None:
        raise ValueError("this plan goes back in noise already; give a straight descent")
    if not 0 < back <= 1:
        raise ValueError(f"back={back} is outside (0, 1]; 1 goes back to pure noise")
    end, ends = plan.num_steps, plan.keep[-1]
    to = end - max(1, int(back * end + 1e-9))
    wide = max(1, plan.alive[to] // ends)
    moves = [(wide, ends * wide, False, to)]
    for i in range(to, end):
        n = moves[-1][1] * plan.width[i]
        moves.append((plan.width[i], min(plan.keep[i], n) if plan.score[i] else n, plan.score[i], i + 1))
    first = list(zip(plan.width, plan.keep, plan.score, plan.reached, strict=True))
    walked = [*first, *moves * positive("cycles", cycles, at_least=0)]
    if choose:
        *before, last = walked
        walked = [*((w, k, s or level == end, level) for w, k, s, level in before), last]
    width, keep, score, route = zip(*walked, strict=True)
    return Plan(plan.start, width, keep, score, route)


def _drop(alive: int, step: tuple[bool, int]) -> int:
    searches, target = step
    return min(alive, target) if searches else alive
