"""From YAML, or mappings and lists, to an experiment, or to an error that names the line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import studies
from .._text import read_text
from ..core.plan import Bill
from . import document, pictures
from .experiment import AXES, PILOT, SEEDS, Experiment, ExperimentError, Model, Named, near
from .prompt_sets import prompt_set, read_prompts
from .typed import LARGEST, refuse_odd_number, short

__all__ = ["from_data", "load", "parse"]

THUMBNAIL = 4096
"""Pixels of a thumbnail, at most."""

Place = tuple[Any, ...]


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

    def where(path: Place) -> str:
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

    def __init__(self, where: Callable[[Place], str], folder: Path | None) -> None:
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
            prices = self.mapping(("prices",), data["prices"], (*units, "comparison"), units)
            for unit, price in prices.items():
                self.number(("prices", unit), price, zero=True)
        parts: dict[str, Any] = {**named, **data}
        return Experiment(**parts, where=self.where)

    def model(self, path: Place, given: Any) -> Model:
        if isinstance(given, Model):
            return given
        if isinstance(given, str):
            return Model(given)
        fields = [f.name for f in dataclasses.fields(Model) if f.name not in ("args", "call")]
        given = self.mapping(path, given)
        own = {name: given.pop(name) for name in fields if name in given}
        for name in ("pipeline", "dtype", "device", "preview"):
            if (name == "pipeline" or own.get(name) is not None) and not isinstance(own.get(name, "box"), str):
                self.refuse((*path, name), f"{own[name]!r} is not a string")
        if own.get("steps") is not None:
            self.whole((*path, "steps"), own["steps"], 1)
        dtypes = ("float32", "float16", "bfloat16", "auto")
        if own.get("dtype") not in (None, *dtypes):
            self.refuse((*path, "dtype"), f"{own['dtype']!r}: choose among {', '.join(dtypes)}")
        call = self.mapping((*path, "call"), given.pop("call", {}))
        return Model(**own, args=given, call={name: self.argument((*path, "call", name), call[name]) for name in call})

    def argument(self, path: Place, given: Any) -> Any:
        try:
            return pictures.named(path[-1], given, self.folder)
        except ValueError as error:
            self.refuse(path, str(error))

    def named(self, path: Place, given: Any) -> Named:
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
        said = self.mapping(("prompts",), given, ("file", "set", "first"))
        file, name = said.get("file"), said.get("set")
        if "set" not in said and "file" not in said:
            self.refuse(("prompts",), "file or set is missing; name a file beside the experiment, or a set of prompts")
        if "set" in said and not isinstance(name, str):
            self.refuse(("prompts", "set"), f"{short(name)} is not a name")
        path = None
        if "file" in said:
            if self.folder is None or not isinstance(file, str) or not (self.folder / file).is_file():
                self.refuse(("prompts", "file"), f"no file {file!r} beside the experiment; one prompt a line")
            path = self.folder / file
        try:
            found = tuple(read_prompts(path)) if name is None and path else prompt_set(str(name), path)
        except ValueError as error:
            self.refuse(("prompts", "set" if path is None else "file"), str(error))
        if "first" in said:
            found = found[: self.whole(("prompts", "first"), said["first"], 1)]
        return found

    def sweep(self, path: Place, given: Any) -> Mapping[str, tuple[Any, ...]]:
        sweep = self.mapping(path, given, AXES)
        named = {axis: self.names((*path, axis), sweep[axis]) for axis in AXES[:3] if axis in sweep}
        return named | self.numbers(path, sweep)

    def names(self, path: Place, given: Any) -> tuple[str, ...]:
        found = [given] if isinstance(given, str) else self.sequence(path, given)
        for i, name in enumerate(found):
            if not isinstance(name, str):
                self.refuse((*path, i), f"{short(name)} is not a name; put it in quotes")
        return tuple(found)

    def numbers(self, path: Place, given: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
        """The budgets and seeds of an experiment, or of a sweep, as far as it has them."""
        found: dict[str, tuple[Any, ...]] = {}
        if "seeds" in given:
            found["seeds"] = self.seeds((*path, "seeds"), given["seeds"])
        if "budgets" in given:
            budgets = enumerate(self.sequence((*path, "budgets"), given["budgets"]))
            found["budgets"] = tuple(self.budget((*path, "budgets", i), budget) for i, budget in budgets)
        return found

    def seeds(self, path: Place, given: Any) -> tuple[int, ...]:
        if isinstance(given, int) and not isinstance(given, bool):
            return tuple(range(self.whole(path, given, 1, SEEDS)))
        return tuple(self.whole((*path, i), s, 0) for i, s in enumerate(self.sequence(path, given)))

    def budget(self, path: Place, given: Any) -> Mapping[str, float]:
        budget = self.mapping(path, {} if given is None else given, (*Bill._fields, "seconds"))
        for unit, limit in budget.items():
            if unit == "seconds":
                self.number((*path, unit), limit)
            else:
                self.whole((*path, unit), limit, 1)
        return budget

    def mapping(
        self, path: Place, given: Any, known: Sequence[str] | None = None, needed: Sequence[str] = ()
    ) -> dict[str, Any]:
        if not isinstance(given, Mapping):
            what = f" of {', '.join(known)}" if known else " of names"
            self.refuse(path, f"{short(given)} is not a mapping{what}")
        for key in given:
            if not isinstance(key, str):
                self.refuse((*path, key), f"the name {key!r} is not a string; put it in quotes")
            if known is not None and key not in known:
                self.refuse((*path, key), f"unknown{near(key, known)}")
        for key in needed:
            if key not in given:
                self.refuse(path, f"{key} is missing")
        return dict(given)

    def sequence(self, path: Place, given: Any) -> list[Any]:
        if not isinstance(given, list | tuple):
            self.refuse(path, f"{short(given)} is not a list")
        return list(given)

    def whole(self, path: Place, given: Any, at_least: int, at_most: int = LARGEST) -> int:
        if isinstance(given, bool) or not isinstance(given, int) or not at_least <= given <= at_most:
            limit = f" and at most {at_most:,}" if at_most < LARGEST else ""
            self.refuse(path, f"{short(given)} is not a whole number of at least {at_least}{limit}")
        return given

    def odd_numbers(self, path: Place, given: Any) -> None:
        """Refuses nan, infinity, numbers too large to be meant, and what JSON cannot say: dates, bytes, sets."""
        if isinstance(given, Mapping | list | tuple):
            for key, one in given.items() if isinstance(given, Mapping) else enumerate(given):
                self.odd_numbers((*path, key), one)
        elif not (given is None or isinstance(given, bool | int | float | str | Path | Model)):
            self.refuse(path, f"{short(given)} is no plain data; put it in quotes")
        else:
            try:
                refuse_odd_number(given)
            except ValueError as error:
                self.refuse(path, str(error))

    def number(self, path: Place, given: Any, zero: bool = False) -> None:
        known = isinstance(given, int | float) and not isinstance(given, bool)
        if not known or not (given > 0 or (zero and given == 0)):
            self.refuse(path, f"{short(given)} is not a number {'of at least' if zero else 'above'} 0")

    def refuse(self, path: Place, message: str) -> NoReturn:
        place = ".".join(str(part) for part in path)
        raise ExperimentError(f"{self.where(path)}{place}{': ' if place else ''}{message}")
