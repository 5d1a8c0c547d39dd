"""What an experiment is: models, prompts, rewards, methods, budgets and seeds, as plain data, read from YAML or Python.

Nothing here loads a model or imports one; `build` makes objects of these words, `runs` runs them.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from .. import studies
from .._text import prompts_of, read_text
from ..core.plan import Bill
from . import document
from .typed import LARGEST, is_attribute, refuse_odd_numbers

__all__ = ["Experiment", "ExperimentError", "Model", "Named", "Unit", "described", "from_data", "load", "parse"]

Path_ = tuple[Any, ...]

SEEDS, THUMBNAIL = 10_000, 4096
"""The most seeds that a number stands for, and pixels of a thumbnail."""

AXES = ("models", "objectives", "methods", "budgets", "seeds")
"""What an experiment, or each of its sweeps, crosses with one another and with the prompts."""

PILOT = {"samples": 16, "prompts": 4, "seed": 10_000}
"""The pilot that is run where an experiment does not say another."""


class ExperimentError(ValueError):
    """An experiment that cannot be run: where (the file and line, where there is one), what, and what to do."""


class Named(NamedTuple):
    """A reward or a method by name, and its arguments.

    Attributes:
        kind: its name in the library, or `module:attribute`.
        args: keyword arguments.
    """

    kind: str
    args: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Model:
    """A model and how it samples.

    Attributes:
        pipeline: "box", a folder of a diffusers pipeline, a hub id (which is downloaded), or `module:attribute`, which
            is called with `args` and returns a denoiser.
        steps: denoising steps; None for 20 of the box and 50 of others. Not for `module:attribute`.
        dtype: of the networks: float32, float16 or bfloat16; None for float16 on a GPU (not the box) and else float32.
        device: None for a GPU where there is one, else the CPU.
        preview: a folder or hub id of an `AutoencoderTiny` for values, or "box"; None for none.
        args: further arguments of the adapter: guidance_scale, eta, height, width, negative_prompt.
    """

    pipeline: str = "box"
    steps: int | None = None
    dtype: str | None = None
    device: str | None = None
    preview: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As a YAML file would say it."""
        own = dataclasses.asdict(self)
        args = own.pop("args")
        return own | args

    @property
    def num_steps(self) -> int | None:
        """Denoising steps, where they are known before the model is made."""
        if is_attribute(self.pipeline):
            return None
        return self.steps or (20 if self.pipeline == "box" else 50)


class Unit(NamedTuple):
    """One search of an experiment: what is finished whole or not at all.

    Attributes:
        index: its place in the experiment, from 0.
        model, objective, method: names in the experiment.
        budget: index among its budgets.
        seed: of the search.
        positions: of its prompts among all prompts; they are the prompts' ids, so that batches do not change the noise.
        name: index and hash: a file name.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which no one misses
    model: str
    objective: str
    method: str
    budget: int
    seed: int
    positions: tuple[int, ...]
    name: str


@dataclass(frozen=True)
class Experiment:
    """Every method under every objective at every budget for every seed, over all prompts, on every model.

    With `sweeps`, each of them does so for its own methods, objectives, budgets, seeds and models. What a sweep does
    not name it takes from the experiment, whose fields then become what all sweeps together name.

    Attributes:
        prompts: a group each.
        rewards: by name.
        methods: by name.
        models: by name; the model in the box by default.
        objectives: names of the rewards that steer, each in searches of its own; the first reward by default.
        held_out: names of the rewards that watch all searches; by default all that do not steer.
        budgets: limits per prompt by unit (model_calls, decodes, reward_calls, seconds), to which every method is
            sized; an empty one takes methods as they are given.
        seeds: repetitions.
        sweeps: parts that are crossed each on its own: names of models, objectives and methods, budgets, and seeds.
        pilot: plain samples from which methods take what they measure: samples per prompt, prompts (the first so many)
            and seed.
        batch: prompts of one search; None for all. It decides what is lost when a run is killed, and, on networks, how
            numbers are rounded.
        chunks: network, decoder and reward: the most rows at once, as `dsearch.Chunks` takes them.
        thumbnails: pixels of the pictures to keep of all candidates at all steps, for the report; 0 keeps none.
        prices: seconds a model_call, decode and reward_call, for budgets in seconds; None measures them once.
        where: lines of the file by path, for errors.

    Raises:
        ExperimentError: naming the place, the value and what would do.
    """

    prompts: tuple[str, ...]
    rewards: Mapping[str, Named]
    methods: Mapping[str, Named]
    models: Mapping[str, Model] = field(default_factory=lambda: {"box": Model()})
    objectives: tuple[str, ...] = ()
    held_out: tuple[str, ...] | None = None
    budgets: tuple[Mapping[str, float], ...] = ({},)
    seeds: tuple[int, ...] = (0,)
    sweeps: tuple[Mapping[str, tuple[Any, ...]], ...] = ()
    pilot: Mapping[str, int] = field(default_factory=lambda: PILOT)
    batch: int | None = None
    chunks: Mapping[str, int] = field(default_factory=dict)
    thumbnails: int = 0
    prices: Mapping[str, float] | None = None
    where: Callable[[Path_], str] = field(default=lambda path: "", compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("prompts", "rewards", "methods", "models", "budgets", "seeds"):
            if not getattr(self, name):
                self.refuse((name,), f"{name}: none given; give at least one")
        prompts: tuple[Any, ...] = self.prompts
        for i, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                self.refuse(("prompts", i), f"prompts: {prompt!r} is not a string; put it in quotes")
            if any("\ud800" <= letter <= "\udfff" for letter in prompt):
                self.refuse(("prompts", i), f"prompts: {prompt!r} is half a character; write it as UTF-8")
        set_ = object.__setattr__
        set_(self, "objectives", tuple(self.objectives) or (next(iter(self.rewards)),))
        set_(self, "pilot", {**PILOT, **self.pilot})
        self._cross()
        if self.held_out is None:
            set_(self, "held_out", tuple(name for name in self.rewards if name not in self.objectives))
        for name in ("objectives", "held_out"):
            for i, reward in enumerate(getattr(self, name)):
                if reward not in self.rewards:
                    self.refuse((name, i), f"{name}: no reward is called {reward!r}{near(reward, self.rewards)}")
        for name in ("objectives", "held_out", "budgets", "seeds"):
            if (at := _twice(getattr(self, name))) is not None:
                said = _short(getattr(self, name)[at])
                self.refuse((name, at), f"{name}.{at}: {said} stands twice; it would be run twice")

    def _cross(self) -> None:
        """Fills the sweeps up from the experiment, and the experiment's own axes from the sweeps."""
        if not self.sweeps:
            return
        known = {"models": self.models, "objectives": self.rewards, "methods": self.methods}
        own = {axis: tuple(getattr(self, axis)) for axis in AXES}
        for i, sweep in enumerate(self.sweeps):
            for axis, names in known.items():
                for j, name in enumerate(sweep.get(axis, ())):
                    if name not in names:
                        self.refuse(("sweeps", i, axis, j), f"sweeps.{i}.{axis}: none is {name!r}{near(name, names)}")
        object.__setattr__(
            self, "sweeps", tuple({axis: tuple(s.get(axis) or own[axis]) for axis in AXES} for s in self.sweeps)
        )
        for name in self.methods:
            if all(name not in sweep["methods"] for sweep in self.sweeps):
                self.refuse(("methods", name), f"methods.{name}: no sweep runs it; name it in one, or take it out")
        for axis in ("objectives", "budgets", "seeds"):
            named = [thing for sweep in self.sweeps for thing in sweep[axis]]
            object.__setattr__(self, axis, tuple(t for i, t in enumerate(named) if t not in named[:i]))

    def refuse(self, path: Path_, message: str) -> NoReturn:
        """Raises an ExperimentError that points at the line of a part."""
        raise ExperimentError(self.where(path) + message)

    def as_dict(self) -> dict[str, Any]:
        """The configuration with all defaults, as JSON says it: what identifies a run."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "where"}
        found["models"] = {name: model.as_dict() for name, model in self.models.items()}
        for name in ("rewards", "methods"):
            found[name] = {key: {"kind": one.kind, **one.args} for key, one in found[name].items()}
        return json.loads(json.dumps(found, default=_refuse_objects))

    def under(self, *objectives: str) -> Experiment:
        """The part of it that some of its objectives steer, with the methods of that part alone."""
        sweeps = self.sweeps or ({axis: tuple(getattr(self, axis)) for axis in AXES},)
        kept = [{**sweep, "objectives": tuple(g for g in sweep["objectives"] if g in objectives)} for sweep in sweeps]
        kept = [sweep for sweep in kept if sweep["objectives"]]
        methods = {name: self.methods[name] for name in self.methods if any(name in sweep["methods"] for sweep in kept)}
        return dataclasses.replace(
            self, objectives=objectives, methods=methods, sweeps=tuple(kept) if self.sweeps else ()
        )

    def held_out_from(self, objective: str) -> tuple[str, ...]:
        """The rewards that watch where `objective` steers."""
        return tuple(name for name in self.held_out or () if name != objective)

    def units(self) -> list[Unit]:
        """All searches, in the order in which they are run and written down."""
        return list(self._units())

    def _units(self) -> Iterator[Unit]:
        config, n = self.as_dict(), len(self.prompts)
        size = n if self.batch is None else self.batch
        parts = -(-n // size)
        batches = [tuple(range(n * i // parts, n * (i + 1) // parts)) for i in range(parts)]
        for index, (cell, positions) in enumerate(product(self.cells(), batches)):
            model, objective, budget, method, seed = cell
            watch = {name: config["rewards"][name] for name in self.held_out_from(objective)}
            key = [config["models"][model], config["rewards"][objective], watch, config["budgets"][budget]]
            key += [config["methods"][method], seed, [(p, self.prompts[p]) for p in positions]]
            key += [self.chunks, self.thumbnails]
            if asks_pilot(self.methods[method]):
                key.append(self.pilot)
            text = json.dumps(key, sort_keys=True).encode()
            name = f"{index:06}-{hashlib.sha256(text).hexdigest()[:12]}"
            yield Unit(index, model, objective, method, budget, seed, positions, name)

    def cells(self) -> list[tuple[str, str, int, str, int]]:
        """What is searched: model, objective, index of the budget, method and seed, each once, model after model."""
        if not self.sweeps:
            budgets = range(len(self.budgets))
            return list(product(self.models, self.objectives, budgets, self.methods, self.seeds))
        cells: dict[tuple[str, str, int, str, int], None] = {}
        for sweep in self.sweeps:
            budgets_ = [self.budgets.index(limits) for limits in sweep["budgets"]]
            axes = sweep["models"], sweep["objectives"], budgets_, sweep["methods"], sweep["seeds"]
            cells |= dict.fromkeys(product(*axes))
        return sorted(cells, key=lambda cell: list(self.models).index(cell[0]))


def load(file: str | Path, **changes: Any) -> Experiment:
    """The experiment of a YAML file; prompts that it names as `{file: NAME}` are read beside it.

    Args:
        file: its path, or the name of one of `dsearch.studies`.
        changes: fields, as YAML has them, in place of the file's.

    Raises:
        ExperimentError: pointing at the line.
        OSError: where the file cannot be read.
    """
    found = studies.path(str(file)) if str(file) in studies.NAMES and not Path(file).exists() else Path(file)
    try:
        text = read_text(found)
    except ValueError as error:
        raise ExperimentError(str(error)) from error
    return parse(text, str(file), found.parent, changes)


def parse(
    text: str, name: str = "experiment", folder: Path | None = None, changes: Mapping[str, Any] | None = None
) -> Experiment:
    """The experiment that a YAML text describes.

    Args:
        text: the YAML.
        name: what errors call it.
        folder: where files of prompts are looked for; None refuses them.
        changes: fields, as YAML has them, in place of the text's.

    Raises:
        ExperimentError: pointing at the line.
    """
    changes = changes or {}
    changed = {(field_,) for field_ in changes}  # as paths: they stand on no line
    try:
        data, lines = document.read(text)
    except document.DocumentError as error:
        raise ExperimentError(f"{name}:{error.line}: {error}" if error.line else f"{name}: {error}") from error
    lines = {path: line for path, line in lines.items() if path[:1] not in changed}

    def where(path: Path_) -> str:
        if path[:1] in changed:
            return f"{name}: "
        while path and path not in lines:
            path = path[:-1]
        return f"{name}:{lines[path]}: " if path in lines else f"{name}: "

    return _Reader(where, folder).experiment({**data, **changes} if isinstance(data, Mapping) else data)


def from_data(data: Any, name: str = "experiment") -> Experiment:
    """The experiment of mappings and lists, as YAML or JSON has them; the inverse of `Experiment.as_dict`.

    Raises:
        ExperimentError: naming the place.
    """
    return _Reader(lambda path: f"{name}: ", None).experiment(data)


class _Reader:
    """Data as YAML gives it -> an Experiment, or an error that names the place."""

    def __init__(self, where: Callable[[Path_], str], folder: Path | None) -> None:
        self.where, self.folder = where, folder

    def experiment(self, data: Any) -> Experiment:
        known = [f.name for f in dataclasses.fields(Experiment) if f.name != "where"]
        data = self.mapping((), data, known, ("prompts", "rewards", "methods"))
        self.odd_numbers((), data)
        named = {
            name: {key: self.named((name, key), value) for key, value in self.mapping((name,), data.pop(name)).items()}
            for name in ("rewards", "methods")
        }
        if "models" in data:
            models = self.mapping(("models",), data["models"])
            data["models"] = {key: self.model(("models", key), value) for key, value in models.items()}
        data["prompts"] = self.prompts(data["prompts"])
        for name in ("objectives", "held_out"):
            if name in data:
                data[name] = self.names((name,), data[name])
        data |= self.numbers((), data)
        if "sweeps" in data:
            sweeps = self.sequence(("sweeps",), data["sweeps"])
            data["sweeps"] = tuple(self.sweep(("sweeps", i), sweep) for i, sweep in enumerate(sweeps))
        if "pilot" in data:
            data["pilot"] = self.mapping(("pilot",), data["pilot"], tuple(PILOT))
            for name, least in (("samples", 3), ("prompts", 1), ("seed", 0)):
                self.whole(("pilot", name), data["pilot"].get(name, least), least)
        if data.get("batch") is not None:
            self.whole(("batch",), data["batch"], 1)
        if "thumbnails" in data:
            self.whole(("thumbnails",), data["thumbnails"], 0, THUMBNAIL)
        if "chunks" in data:
            chunks = self.mapping(("chunks",), data["chunks"], ("network", "decoder", "reward"))
            for name, size in chunks.items():
                self.whole(("chunks", name), size, 1)
        if data.get("prices") is not None:
            units = ("model_call", "decode", "reward_call")
            prices = self.mapping(("prices",), data["prices"], units, units)
            for unit, price in prices.items():
                self.number(("prices", unit), price, zero=True)
        parts: dict[str, Any] = {**named, **data}
        return Experiment(**parts, where=self.where)

    def model(self, path: Path_, given: Any) -> Model:
        if isinstance(given, str):
            return Model(given)
        fields = [f.name for f in dataclasses.fields(Model) if f.name != "args"]
        given = self.mapping(path, given)
        own = {name: given.pop(name) for name in fields if name in given}
        for name in ("pipeline", "dtype", "device", "preview"):
            if (name == "pipeline" or own.get(name) is not None) and not isinstance(own.get(name, "box"), str):
                self.refuse((*path, name), f"{own[name]!r} is not a string")
        if own.get("steps") is not None:
            self.whole((*path, "steps"), own["steps"], 1)
        dtypes = ("float32", "float16", "bfloat16")
        if own.get("dtype") not in (None, *dtypes):
            self.refuse((*path, "dtype"), f"{own['dtype']!r}: choose among {', '.join(dtypes)}")
        return Model(**own, args=given)

    def named(self, path: Path_, given: Any) -> Named:
        if isinstance(given, str):
            return Named(given)
        given = self.mapping(path, given)
        kind = given.pop("kind", None)
        if not isinstance(kind, str):
            self.refuse(path, "say what it is: a name, or a mapping with `kind: NAME`")
        return Named(kind, given)

    def prompts(self, given: Any) -> tuple[Any, ...]:
        if not isinstance(given, Mapping):
            return tuple(self.sequence(("prompts",), given))
        file = self.mapping(("prompts",), given, ("file",), ("file",))["file"]
        if self.folder is None or not isinstance(file, str) or not (self.folder / file).is_file():
            self.refuse(("prompts", "file"), f"no file {file!r} beside the experiment; one prompt a line")
        try:
            return tuple(prompts_of(self.folder / file))
        except ValueError as error:
            self.refuse(("prompts", "file"), str(error))

    def sweep(self, path: Path_, given: Any) -> Mapping[str, tuple[Any, ...]]:
        sweep = self.mapping(path, given, AXES)
        named = {axis: self.names((*path, axis), sweep[axis]) for axis in AXES[:3] if axis in sweep}
        return named | self.numbers(path, sweep)

    def names(self, path: Path_, given: Any) -> tuple[str, ...]:
        found = [given] if isinstance(given, str) else self.sequence(path, given)
        for i, name in enumerate(found):
            if not isinstance(name, str):
                self.refuse((*path, i), f"{_short(name)} is not a name; put it in quotes")
        return tuple(self.once(path, found))

    def once(self, path: Path_, given: Sequence[Any]) -> Sequence[Any]:
        """Refuses a list that holds something twice, which would be run twice."""
        if (at := _twice(given)) is not None:
            self.refuse((*path, at), f"{_short(given[at])} stands twice; it would be run twice")
        return given

    def numbers(self, path: Path_, given: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """The budgets and seeds of an experiment, or of a sweep, as far as it has them."""
        found: dict[str, tuple[Any, ...]] = {}
        if "seeds" in given:
            found["seeds"] = self.seeds((*path, "seeds"), given["seeds"])
        if "budgets" in given:
            budgets = enumerate(self.sequence((*path, "budgets"), given["budgets"]))
            limits = [self.budget((*path, "budgets", i), budget) for i, budget in budgets]
            found["budgets"] = tuple(self.once((*path, "budgets"), limits))
        return found

    def seeds(self, path: Path_, given: Any) -> tuple[int, ...]:
        if isinstance(given, int) and not isinstance(given, bool):
            return tuple(range(self.whole(path, given, 1, SEEDS)))
        seeds = [self.whole((*path, i), s, 0) for i, s in enumerate(self.sequence(path, given))]
        return tuple(self.once(path, seeds))

    def budget(self, path: Path_, given: Any) -> Mapping[str, float]:
        budget = self.mapping(path, {} if given is None else given, (*Bill._fields, "seconds"))
        for unit, limit in budget.items():
            if unit == "seconds":
                self.number((*path, unit), limit)
            else:
                self.whole((*path, unit), limit, 1)
        return budget

    def mapping(
        self, path: Path_, given: Any, known: Sequence[str] | None = None, needed: Sequence[str] = ()
    ) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            what = f" of {', '.join(known)}" if known else " of names"
            self.refuse(path, f"{_short(given)} is not a mapping{what}")
        for key in given:
            if not isinstance(key, str):
                self.refuse((*path, key), f"the name {key!r} is not a string; put it in quotes")
            if known is not None and key not in known:
                self.refuse((*path, key), f"unknown{near(key, known)}")
        for key in needed:
            if key not in given:
                self.refuse(path, f"{key} is missing")
        return dict(given)

    def sequence(self, path: Path_, given: Any) -> list[Any]:
        if not isinstance(given, list | tuple):
            self.refuse(path, f"{_short(given)} is not a list")
        return list(given)

    def whole(self, path: Path_, given: Any, at_least: int, at_most: int = LARGEST) -> int:
        if isinstance(given, bool) or not isinstance(given, int) or not at_least <= given <= at_most:
            limit = f" and at most {at_most:,}" if at_most < LARGEST else ""
            self.refuse(path, f"{_short(given)} is not a whole number of at least {at_least}{limit}")
        return given

    def odd_numbers(self, path: Path_, given: Any) -> None:
        """Refuses nan, infinity, numbers too large to be meant, and what JSON cannot say: dates, bytes, sets."""
        if isinstance(given, Mapping | list | tuple):
            for key, one in given.items() if isinstance(given, Mapping) else enumerate(given):
                self.odd_numbers((*path, key), one)
        elif not (given is None or isinstance(given, bool | int | float | str | Path)):
            self.refuse(path, f"{_short(given)} is no plain data; put it in quotes")
        else:
            try:
                refuse_odd_numbers(given)
            except ValueError as error:
                self.refuse(path, str(error))

    def number(self, path: Path_, given: Any, zero: bool = False) -> None:
        known = isinstance(given, int | float) and not isinstance(given, bool)
        if not known or not (given > 0 or (zero and given == 0)):
            self.refuse(path, f"{_short(given)} is not a number {'of at least' if zero else 'above'} 0")

    def refuse(self, path: Path_, message: str) -> NoReturn:
        place = ".".join(str(part) for part in path)
        raise ExperimentError(f"{self.where(path)}{place}{': ' if place else ''}{message}")


def described(limits: Mapping[str, float]) -> str:
    """A budget in words."""
    return ", ".join(f"{limit:,} {unit.replace('_', ' ')}" for unit, limit in limits.items()) or "as given"


def asks_pilot(named: Named) -> bool:
    """Whether a method takes an argument from the pilot."""
    return any(given == "pilot" or (isinstance(given, Mapping) and "per_std" in given) for given in named.args.values())


def near(word: Any, known: Iterable[str]) -> str:
    """The end of an error: what may have been meant, or what there is."""
    close = difflib.get_close_matches(str(word), list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _twice(given: Sequence[Any]) -> int | None:
    """Where a thing stands that stands before already."""
    seen: set[Any] = set()
    for i, one in enumerate(given):
        key = tuple(sorted(one.items())) if isinstance(one, Mapping) else one
        if key in seen:
            return i
        seen.add(key)
    return None


def _short(value: Any) -> str:
    text = f"a whole number of {value.bit_length()} bits" if type(value) is int and value > 10**40 else repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _refuse_objects(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise ExperimentError(
        f"{_short(value)} is no plain data, so it cannot be written down; name it as 'module:attribute', or hand it to "
        "run(..., given={...}) under its name"
    )
