"""A pipeline's call, left where its loop begins; its turns and tail can then run in any order and number."""

from __future__ import annotations

import copy
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ._rows import Growth, alike, by_length, growth, joined
from ._source import ANSWER, ITEM, Asked, Left, Returned, Source, read
from ._tables import Levels

__all__ = [
    "Draws",
    "Frame",
    "Layout",
    "Replay",
    "Step",
    "capture",
    "copied_pipe",
    "fresh",
    "schedulers",
    "seeded",
    "tensors",
]

_SHARED = threading.RLock()
"""Held where what all threads share is changed for a while: the global generator, a network's attention processors."""

_KEPT = 4
"""Numbers of rows, or sets of prompts, whose variables are kept."""


class Draws(TorchFunctionMode):
    """Sees what `torch.randn` draws within, and puts a constant in the place of the draw that is chosen."""

    def __init__(self, chosen: int | None = None, constant: float = 0.0) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self._chosen, self._constant = chosen, constant

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is torch.randn:
            if len(self.seen) == self._chosen:
                made = torch.full_like(made, self._constant)
            self.seen.append(made)
        return made


@dataclass(frozen=True)
class Frame:
    """A call that was left at its loop.

    Attributes:
        pipe: the copy of the pipeline that ran it, with schedulers of its own.
        values: its variables.
        own: what it set on the copy.
        items: what its loop iterates over, one a turn.
        processors: by component, the attention processors that it set before its loop.
    """

    pipe: Any
    values: dict[str, Any]
    own: dict[str, Any]
    items: list[Any]
    processors: dict[str, dict[str, Any]]


def schedulers(pipe: Any) -> dict[str, Any]:
    """A pipeline's schedulers by name."""
    return {name: part for name, part in pipe.components.items() if hasattr(part, "step") and hasattr(part, "config")}


def copied_pipe(pipe: Any, exchanged: Mapping[str, Any]) -> Any:
    """A copy that shares all components but the schedulers; what a call sets on it stays in it."""
    copied = copy.copy(pipe)
    for name, scheduler in {**schedulers(pipe), **exchanged}.items():
        object.__setattr__(copied, name, copy.deepcopy(scheduler))
    for name, value in vars(pipe).items():
        if name.startswith("_") and type(value) in (dict, list):
            object.__setattr__(copied, name, copy.copy(value))
    object.__setattr__(copied, "_progress_bar_config", {"disable": True})
    object.__setattr__(copied, "maybe_free_model_hooks", lambda: None)  # modules are handed back when a search ends
    return copied


def capture(pipe: Any, call: Mapping[str, Any], exchanged: Mapping[str, Any] | None = None) -> Frame:
    """Runs a copy of the pipeline up to its loop; its components are shared, but for schedulers.

    Args:
        pipe: the pipeline.
        call: the arguments of the call.
        exchanged: schedulers that take the place of the pipeline's own.

    Raises:
        TypeError: where the source of the pipeline is not understood.
        RuntimeError: where the call ends without its loop.
    """
    source, copied = read(type(pipe)), copied_pipe(pipe, exchanged or {})
    before, came, set_to = dict(vars(copied)), None, _processors(pipe)
    try:
        source.prepare(copied, **call)
    except Left as left:
        came = left
    finally:
        now = _processors(pipe)
        _set_processors(pipe, set_to, now)
    if came is None:
        raise RuntimeError(f"{type(pipe).__name__} returned before its loop; check the arguments {sorted(call)}")
    for code in source.around:
        turns = len(list(eval(code, {**source.names, **came.frame})))
        if turns != 1:
            raise TypeError(
                f"the loop of {type(pipe).__name__} is inside another of {turns} turns (chunks of a video, windows, "
                "stages); ask for so few frames or pictures that it is 1"
            )
    values = {name: _Silent() if _is_bar(value) else value for name, value in came.frame.items()}
    own = {name: value for name, value in vars(copied).items() if value is not before.get(name)}
    return Frame(copied, values, own, came.items, _changed(set_to, now))


class Step(NamedTuple):
    """What a turn wanted to step.

    Attributes:
        place: which of the places of the loop that step.
        out: the (guided) output of the network, as the scheduler gets it.
        sample: the sample, as the scheduler gets it; `state` itself in most pipelines.
        needs: what the rest of the turn reads of it.
        arguments: of the scheduler's step, by name.
    """

    place: int
    out: Tensor
    sample: Tensor
    needs: dict[str, Any]
    arguments: dict[str, Any]


class Layout(NamedTuple):
    """How the variables of a call, and what it sets on the pipeline, grow with rows."""

    values: dict[str, Growth]
    own: dict[str, Growth]

    @staticmethod
    def of(one: Frame, two: Frame) -> Layout:
        """From a call of one row and one of two."""
        return Layout(_grows(one.values, two.values), _grows(one.own, two.own))


class Replay:
    """The turns of calls that were left at their loop, of one row each, run with as many rows as are asked.

    Args:
        frames: the calls, of one pipeline and the same arguments but for the prompt.
        layout: how they grow with rows; None where a call makes one sample only, and rows go one by one.

    Attributes:
        lock: held while a piece of the call runs: its pipeline and scheduler stand at one level at a time.
    """

    def __init__(self, frames: Sequence[Frame], layout: Layout | None) -> None:
        self.frames, self.layout, self.lock = frames, layout, threading.RLock()
        self.pipe, self.items = frames[0].pipe, frames[0].items
        self.source: Source = read(type(self.pipe))
        self.levels = Levels(self.scheduler, self.items)
        self._spaces: dict[tuple[int, ...], _Space] = {}

    @property
    def scheduler(self) -> Any:
        """The scheduler that the loop steps, as the call had set it."""
        return getattr(self.pipe, self.source.schedulers[0])

    @property
    def indexed(self) -> bool:
        """Whether rows of several calls can be named by an index on the device: no list grows with them."""
        if self.layout is None:
            return False
        read = [how for name, how in self.layout.values.items() if name in self.source.reads]
        return not any(map(by_length, [*read, *self.layout.own.values()]))

    def together(self) -> bool:
        """Whether rows of different calls can go through the network in one."""
        read = [(self.source.reads, [f.values for f in self.frames], self.layout.values)] if self.layout else []
        return bool(read) and all(
            alike([values.get(name) for values in held], how.get(name)) for names, held, how in read for name in names
        )

    def turn(self, x: Tensor, level: int, rows: Sequence[int] | Tensor) -> Step:
        """`x [R, ...]` at a level, `rows [R]` naming their calls -> what the scheduler would be given."""
        with self.lock:
            return self._turn(x, level, rows)

    def _turn(self, x: Tensor, level: int, rows: Sequence[int] | Tensor) -> Step:
        source = self.source
        first, named = (0, rows) if isinstance(rows, Tensor) else (rows[0], tuple(rows))
        space = self._space(named, source.reads)
        given = x.clone()
        space[source.state], space[ITEM] = given, self.items[level]
        for name in set(source.schedulers):
            self.levels.stand(getattr(self.pipe, name), level)
        with self._as_left(first):
            try:
                exec(source.turn, space)
            except Asked as asked:
                scheduler = getattr(self.pipe, source.schedulers[asked.place])
                arguments = bound(scheduler, asked)
                needs = {name: space[name] for name in source.needs[asked.place] if name in space}
                sample = arguments["sample"]
                return Step(asked.place, arguments["model_output"], x if sample is given else sample, needs, arguments)
        raise KeyboardInterrupt("the pipeline was interrupted: its loop took no step")

    def rest(self, made: Tensor, needs: Mapping[str, Any], place: int, level: int, rows: int, quiet: bool) -> Tensor:
        """What the rest of a turn makes of the step's result: the state `[R, ...]`; `quiet` without callbacks."""
        source = self.source
        with self.lock:
            space = self._space((0,) * rows, source.rest_reads)
            space.update(needs)
            space[ITEM], space[ANSWER] = self.items[level], Answer(made)
            if quiet:
                space.update({name: None for name in ("callback", "callback_on_step_end") if name in space})
            try:
                exec(source.rest[place], space)
            except Asked:
                raise TypeError(f"{type(self.pipe).__name__} steps twice in a turn of its loop") from None
            return space[source.state]

    def tail(self, x: Tensor, **changed: Any) -> Any:
        """What the pipeline returns for clean states `[R, ...]`, with some variables of the call changed."""
        with self.lock:
            return self._tail(x, changed)

    def _tail(self, x: Tensor, changed: Mapping[str, Any]) -> Any:
        source = self.source
        space = self._space((0,) * len(x), source.tail_reads)
        space = {name: copy.copy(v) if type(v) in (dict, list, set) else v for name, v in space.items()}
        space.update({source.state: x.clone(), ITEM: self.items[-1]}, **changed)
        space.update(dict.fromkeys(source.late, x))  # LCM's tail reads the second of a step's answers
        with self._as_left(0):
            try:
                exec(source.tail, space)
            except Returned as returned:
                return returned.value
        raise TypeError(f"{type(self.pipe).__name__} returns nothing after its loop")

    def _space(self, rows: tuple[int, ...] | Tensor, names: frozenset[str]) -> dict[str, Any]:
        """The variables of a call of these rows; those of `names` that grow have grown."""
        if isinstance(rows, Tensor):  # on the device: which rows they are is not asked, for the answer would be awaited
            frame = self.frames[0]
            space = _Space({**self.source.names, **frame.values}, {}, set())
        else:
            key = rows if len(self.frames) > 1 else (len(rows),)
            frame, known = self.frames[rows[0]], self._spaces.pop(key, None)
            space = known or _Space({**self.source.names, **frame.values}, {}, set())
            self._spaces[key] = space  # the last one used comes last
            if len(self._spaces) > _KEPT:
                del self._spaces[next(iter(self._spaces))]
        if self.layout is not None:
            for name in self.layout.values.keys() & (names - space.grown):
                held = [frame.values[name] for frame in self.frames]
                space.values[name] = joined(held, self.layout.values[name], rows)
                space.grown.add(name)
            for name in self.layout.own.keys() - space.own.keys():
                space.own[name] = joined([f.own[name] for f in self.frames], self.layout.own[name], rows)
        for name, value in {**frame.own, **space.own}.items():
            if name != "_interrupt":  # which a callback sets
                object.__setattr__(self.pipe, name, value)
        return {**space.values, "self": self.pipe}

    @contextmanager
    def _as_left(self, row: int) -> Iterator[None]:
        """Within, attention processors are those that the call had set."""
        leased = self.frames[row].processors
        if not leased:
            yield
            return
        with _SHARED:
            before = _processors(self.pipe)
            _set_processors(self.pipe, leased, before)
            try:
                yield
            finally:
                _set_processors(self.pipe, before, {**before, **leased})


class _Space(NamedTuple):
    """The variables of a call of some rows, and which have grown."""

    values: dict[str, Any]
    own: dict[str, Any]
    grown: set[str]


class Answer:
    """A scheduler's answer, by name or by place, alike in all."""

    def __init__(self, made: Tensor) -> None:
        self.prev_sample = self.pred_original_sample = self.denoised = made

    def __getitem__(self, place: int) -> Tensor:
        return self.prev_sample

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.prev_sample, self.prev_sample))


def bound(scheduler: Any, asked: Asked) -> dict[str, Any]:
    """The arguments of a step by name."""
    arguments = _signature(type(scheduler).step).bind(scheduler, *asked.given, **asked.named).arguments
    return {name: value for name, value in arguments.items() if name != "self"}


@cache
def _signature(step: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(step)


class _Silent:
    """In the place of a progress bar."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def _is_bar(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "tqdm"


def _grows(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Growth]:
    found = {name: growth(value, two[name]) for name, value in one.items() if name in two}
    return {name: how for name, how in found.items() if how is not None}


def _processors(pipe: Any) -> dict[str, dict[str, Any]]:
    """By component, the attention processors that it has; PAG and its like set some for the time of a call."""
    if not _leases(type(pipe)):  # type: ignore[arg-type]
        return {}
    parts = {name: part for name, part in pipe.components.items() if hasattr(part, "set_attn_processor")}
    return {name: dict(part.attn_processors) for name, part in parts.items()}


@cache
def _leases(kind: Any) -> bool:
    """Whether the source of a pipeline speaks of processors; looking for them walks over whole networks."""
    modules = {base.__module__ for base in kind.__mro__}
    ours = [name for name in modules if not name.startswith(_FOR_ALL)]
    return any("attn_proc" in _text(name) for name in ours)


def _text(module: str) -> str:
    try:
        return inspect.getsource(sys.modules[module])
    except (OSError, TypeError, KeyError):
        return "attn_proc"  # it cannot be read, so they are looked for


_FOR_ALL = ("builtins", "typing", "diffusers.loaders", "diffusers.pipelines.pipeline_utils", "diffusers.configuration")
"""What all pipelines are made of: processors that these set are the user's, and stay."""


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    return {n: held for n, held in now.items() if any(held[k] is not before[n].get(k) for k in held)}


def _set_processors(pipe: Any, to: Mapping[str, dict[str, Any]], now: Mapping[str, Any]) -> None:
    for name in _changed({n: to.get(n, {}) for n in now}, now):
        if name in to:
            getattr(pipe, name).set_attn_processor(dict(to[name]))


def tensors(made: Any) -> Tensor:
    """A pipeline's pictures, videos or sounds, as float32 tensors with the channels before the sides."""
    if isinstance(made, Tensor):
        channels_first = made.ndim == 5 and made.shape[1] == 3 != made.shape[2]  # some say [R, 3, F, H, W]
        return made.float().transpose(1, 2) if channels_first else made.float()
    if isinstance(made, np.ndarray):
        values = torch.from_numpy(made).float()
        return values.movedim(-1, -3) if values.ndim >= 4 else values
    if isinstance(made, list | tuple):
        return torch.stack([tensors(each) for each in made])
    pixels = np.asarray(made)  # a PIL picture
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels.copy()).movedim(-1, -3).float() / 255


@contextmanager
def seeded(device: Any) -> Iterator[None]:
    """Within, global generators are at seed 0; after it, where they were."""
    with _SHARED, torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(0)
        yield


def fresh(generator: Any) -> torch.Generator:
    """A generator that draws what this one is about to; by default, that of seed 0."""
    if generator is None:
        return torch.Generator("cpu").manual_seed(0)
    made = torch.Generator(generator.device)
    made.set_state(generator.get_state())
    return made
