"""A run on disk, to read and to write.

    run.json            the configuration with all defaults, versions, device and threads
    images/             PNG files, named by counters; of videos, contact sheets, and GIF files beside them
    units/NAME/         one finished search: records.jsonl, trace.safetensors, timing.json, sums.json
                        (thumbnails.safetensors)
    records.jsonl       all records in order, one an image; written when all units are there
    timings.jsonl       seconds and peak memory of each unit, which are of one machine and one day

A unit's folder appears whole or not at all, so that a run which was killed goes on with the first unit that is missing.
Its sums say what was written, so that what is damaged since is known. Nothing is read but plain files within the folder
that are called as a run calls them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from .._optional import optional
from ..core.result import Lineage, Result
from .experiment import Experiment, ExperimentError, Unit
from .files import dumps, settle, write
from .reader import from_data
from .units import IMAGE, PARTS, SUMS, THUMBNAILS, UNIT, VIDEO, damage, lines, plain, read, sums, words
from .written import records, thumbnail_bytes, trace_bytes, written

__all__ = ["FORMAT", "Run", "Trace", "exchange"]

FORMAT = 1
"""Of run.json and what lies beside it; those of versions 0.1 and 0.2 name none and are read too."""

OURS = ("prices.json", "pilots.json", "records.jsonl", "timings.jsonl")


class Trace(NamedTuple):
    """What a unit's search did, step by step.

    Attributes:
        prompts: of its B groups.
        alive: beams before each step.
        width: children per beam at each step.
        values: `[B, N]` of all candidates of a step; None where nothing was scored.
        child: `[B, K]` which of the N candidates each survivor of a step was.
        order: `[B, K]` which of the last survivors each image is, best first.
        reached: the level after each step, of a plan that goes back in noise; None for a straight descent.
        parent: `[B, N]` which beam each candidate of a step came from, of a tree, -1 where there is none; else None.
    """

    prompts: list[str]
    alive: list[int]
    width: list[int]
    values: list[Tensor | None]
    child: list[Tensor]
    order: Tensor
    reached: list[int] | None = None
    parent: list[Tensor] | None = None

    @property
    def lineage(self) -> Lineage:
        """Who descends from whom."""
        parent = None if self.parent is None else tuple(self.parent)
        return Lineage(tuple(self.child), tuple(self.width), self.order, parent)


@dataclass(frozen=True)
class Run:
    """A run's folder, finished or not, to read.

    Attributes:
        folder: where it is.
        experiment: what is run.
        about: versions, device and threads.
    """

    folder: Path
    experiment: Experiment
    about: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run of a folder.

        Raises:
            ExperimentError: where there is none, or its run.json is damaged or of another program.
        """
        folder = Path(folder)
        if not (folder / "run.json").exists():
            raise ExperimentError(f"{folder} holds no run (no run.json)")
        file = plain(folder, "run.json")
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ExperimentError(f"{file} is damaged: {error}") from error
        if not isinstance(about, dict) or not isinstance(about.get("experiment"), dict):
            raise ExperimentError(f"{file} describes no experiment: another program wrote it, or it is damaged")
        form = about.pop("format", 0)
        if type(form) is not int or not 0 <= form <= FORMAT:
            raise ExperimentError(f"{file} has format {form!r}, and this version reads 0 to {FORMAT}; update dsearch")
        return cls(folder, from_data(words(about.pop("experiment")), str(file)), about)

    @cached_property
    def units(self) -> list[Unit]:
        """All units of the experiment, in order."""
        return self.experiment.units()

    def has(self, unit: Unit) -> bool:
        """Whether a unit is finished; what it holds may be damaged since."""
        return (self.folder / "units" / unit.name).is_dir()

    def damage(self, unit: Unit) -> str | None:
        """What is wrong with a finished unit; None for nothing."""
        return damage(self.folder, unit)

    def damages(self) -> dict[str, str]:
        """What is wrong with each finished unit that is damaged, by name."""
        found = {unit.name: self.damage(unit) for unit in self.finished}
        return {name: said for name, said in found.items() if said is not None}

    def refuse_damage(self) -> Run:
        """Itself, where all that is finished is as it was written.

        Raises:
            ExperimentError: naming what is not, and the remedy.
        """
        if found := self.damages():
            name, said = next(iter(found.items()))
            raise ExperimentError(
                f"{self.folder / 'units' / name} is damaged ({said}), {len(found)} of {len(self.finished)} searches in "
                "all; dsearch run makes them again, dsearch check names each"
            )
        return self

    @property
    def finished(self) -> list[Unit]:
        """The units that are there."""
        return [unit for unit in self.units if self.has(unit)]

    @property
    def complete(self) -> bool:
        """Whether all are."""
        return len(self.finished) == len(self.units)

    def records(self) -> list[dict[str, Any]]:
        """One record an image of the finished units, in order."""
        return [record for unit in self.finished for record in self.records_of(unit)]

    def records_of(self, unit: Unit) -> list[dict[str, Any]]:
        """One record an image of a unit."""
        return read(self.folder, unit)

    def image(self, record: Mapping[str, Any]) -> Path | None:
        """The file of a record's image; None where samples are no pictures.

        Raises:
            ExperimentError: for a name that is none of a run's, and where no plain file is called so.
        """
        return self._file(record["image"], IMAGE)

    def video(self, record: Mapping[str, Any]) -> Path | None:
        """The file of a record's video, whose contact sheet its image is; None where samples are no videos.

        Raises:
            ExperimentError: as `image`.
        """
        return self._file(record.get("video"), VIDEO)

    def _file(self, name: Any, called: re.Pattern[str]) -> Path | None:
        if name is not None and not (isinstance(name, str) and called.fullmatch(name)):
            raise ExperimentError(f"{self.folder}: a record calls its image {name!r}, as no run does")
        return None if name is None else plain(self.folder, name)

    def timings(self) -> dict[str, dict[str, Any]]:
        """Seconds and peak memory of the finished units, by name."""
        return {unit.name: self.timing(unit) for unit in self.finished}

    def timing(self, unit: Unit) -> dict[str, Any]:
        """Seconds and peak memory of a unit."""
        return json.loads(self.lines(unit, "timing.json")[0])

    def trace(self, unit: Unit) -> Trace:
        """What the unit's search did."""
        with optional():
            from safetensors import safe_open

        with safe_open(plain(self.folder, f"units/{unit.name}/trace.safetensors"), "pt") as file:
            about = json.loads(file.metadata()["trace"])
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        steps = range(len(about["alive"]))
        return Trace(
            about["prompts"],
            about["alive"],
            about["width"],
            [held.get(f"values.{i}") for i in steps],
            [held[f"child.{i}"].long() for i in steps],
            held["order"].long(),
            about.get("reached"),
            [held[f"parent.{i}"].long() for i in steps] if "parent.0" in held else None,
        )

    def thumbnails(self, unit: Unit) -> dict[tuple[int, int], bytes]:
        """By group and step, a WebP picture of the candidates in order, `min(N, 16383 // w)` a row; empty for none."""
        with optional():
            from safetensors import safe_open

        name = f"units/{unit.name}/{THUMBNAILS}"
        if not (self.folder / name).exists():
            return {}
        with safe_open(plain(self.folder, name), "np") as held:
            return {
                (int(b), int(i)): held.get_tensor(name).tobytes()
                for name in held.keys()  # noqa: SIM118
                for b, i in [name.split(".")]
            }

    def lines(self, unit: Unit, file: str) -> list[str]:
        """The lines of a text file of a unit."""
        return lines(self.folder, unit, file)

    def refuse_links(self) -> None:
        """Refuses links in the place of the folders that a run writes to and removes from.

        Raises:
            ExperimentError: naming the link.
        """
        for folder in (self.folder / "units", self.folder / "images"):
            if folder.is_symlink():
                raise ExperimentError(f"{folder} is a link, which no run writes; remove it")

    def begin(self, maker: str = "") -> None:
        """Marks the folder as this run's, and removes partial units of a killed writer.

        `maker` is a suffix that is unique to this writer.
        """
        self.refuse_links()
        units = self.folder / "units"
        units.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "run.json").exists():
            config = {"format": FORMAT, "experiment": self.experiment.as_dict(), **self.about}
            write(self.folder / "run.json", dumps(config, indent=1).encode(), maker)
        for left in units.glob(f".{maker}-*"):
            _remove(left)
        for file in (self.folder / "images").glob(f".*.{maker or 'making'}"):
            file.unlink()

    def keep(
        self,
        unit: Unit,
        result: Result,
        timing: Mapping[str, Any],
        maker: str,
        cut: Callable[[str], str] = lambda prompt: "",
    ) -> None:
        """Writes a unit down: its images, then, in one go, its folder. A damaged one gives way; a whole one stays.

        `maker` is a suffix unique to this writer, `cut` says what of a prompt the model does not read. Where it cannot
        be written, nothing of it is left.
        """
        pictures = written(unit, result)
        said = "".join(dumps(record) for record in records(self.experiment, unit, result, cut))
        held = {"records.jsonl": said.encode(), "trace.safetensors": trace_bytes(result)}
        if result.thumbnails:
            held[THUMBNAILS] = thumbnail_bytes(result)
        files = {
            **held,
            "timing.json": dumps({"unit": unit.name, **timing}).encode(),
            SUMS: dumps(sums({**held, **pictures})).encode(),
        }
        self.place(unit, files, pictures, maker)

    def place(self, unit: Unit, files: Mapping[str, bytes], pictures: Mapping[str, bytes], maker: str) -> None:
        """Puts a unit's files and images where they belong, whole or not at all."""
        making = self.folder / "units" / f".{maker}-{unit.name}"
        there = {name for name in pictures if (self.folder / name).exists()}
        _remove(making)
        making.mkdir(parents=True)
        try:
            for name, content in pictures.items():
                write(self.folder / name, content, maker)
            for name, content in files.items():
                write(making / name, content)
            self._settle(making, unit)
        except OSError:  # a full disk, say
            _remove(making)
            for name in set(pictures) - there:
                (self.folder / name).unlink(missing_ok=True)
            raise
        settle(making.parent)

    def _settle(self, making: Path, unit: Unit) -> None:
        """A unit that is made gets its name, unless another writer's is there and whole: that holds the same."""
        place, aside = self.folder / "units" / unit.name, making.with_name(f"{making.name}.damaged")
        if os.path.lexists(place) and self.damage(unit) is not None:
            place.rename(aside)
        try:
            making.rename(place)
        except OSError:
            if not self.has(unit) or self.damage(unit) is not None:
                raise
            _remove(making)
        _remove(aside)

    def finish(self, maker: str = "") -> None:
        """All units are there: their records and timings in files of their own."""
        for name, part in (("records.jsonl", "records.jsonl"), ("timings.jsonl", "timing.json")):
            content = "".join(line + "\n" for unit in self.units for line in self.lines(unit, part)).encode()
            file = self.folder / name
            if file.is_symlink() or not file.is_file() or file.read_bytes() != content:
                write(file, content, maker)


def exchange(new: Path, old: Path) -> None:
    """Puts a run in the place of another: what that has written goes, and what else lies in its folder stays.

    Neither `units` nor `images` is a link (`Run.refuse_links`).
    """
    for unit in (old / "units").glob("*"):
        if not UNIT.fullmatch(unit.name):
            continue
        if unit.is_symlink():  # it goes, and not what lies where it leads
            unit.unlink()
        else:
            for name in (*PARTS, THUMBNAILS, SUMS):
                (unit / name).unlink(missing_ok=True)
            with suppress(OSError):  # it holds what no run has written
                unit.rmdir()
    for image in (old / "images").glob("*"):
        if IMAGE.fullmatch(f"images/{image.name}") or VIDEO.fullmatch(f"images/{image.name}"):
            image.unlink()
    for name in ("run.json", *OURS):
        (old / name).unlink(missing_ok=True)
        if (new / name).exists():
            (new / name).rename(old / name)
    for name in ("images", "units"):
        for held in (new / name).glob("[0-9]*"):
            (old / name).mkdir(exist_ok=True)
            held.rename(old / name / held.name)
    for name in ("images", "units"):
        with suppress(OSError):
            (old / name).rmdir()
    _remove(new)


def _remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
