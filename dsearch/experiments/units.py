"""A finished search on disk: which files it has, and whether they are what was written."""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from .._optional import optional
from ..core.plan import Bill
from .experiment import ExperimentError, Unit

__all__ = [
    "IMAGE",
    "PARTS",
    "SUMS",
    "THUMBNAILS",
    "UNIT",
    "VIDEO",
    "damage",
    "lines",
    "pictures",
    "plain",
    "read",
    "sums",
    "words",
]

PARTS = ("records.jsonl", "timing.json", "trace.safetensors")
"""The files that every unit has."""

THUMBNAILS = "thumbnails.safetensors"
"""Pictures of all candidates, where a unit has them."""

SUMS = "sums.json"
"""Bytes and SHA-256 of a unit's files and images, all but its timing; units of versions 0.1 and 0.2 have none."""

UNIT = re.compile(r"\d{6,}-[0-9a-f]{12}")
"""How the folder of a unit is called."""

IMAGE = re.compile(r"images/(\d{6,})-\d{4,}-\d{4,}\.png")
"""How an image is called: by its unit's index, its group and its rank."""

VIDEO = re.compile(r"images/(\d{6,})-\d{4,}-\d{4,}\.gif")
"""How the video is called whose contact sheet the image is."""

FORMER = {"guide": "objective", "observed": "held_out", "guides": "objectives", "observe": "held_out"}
"""Words of version 0.1, and today's."""


def words(said: Mapping[str, Any]) -> dict[str, Any]:
    """A record or an experiment of any version, in today's words."""
    return {FORMER.get(name, name): value for name, value in said.items()}


def plain(folder: Path, name: str) -> Path:
    """A file within a folder, if it is one: no link leads elsewhere, no device or pipe is read.

    Raises:
        ExperimentError: naming what is in its place, or that it is missing.
    """
    place, parts = folder, name.split("/")
    if not all(parts) or {".", ".."} & set(parts) or "\0" in name:
        raise ExperimentError(f"{name!r} is no name within {folder}")
    for part in parts:
        place = place / part
        try:
            mode = place.lstat().st_mode
        except OSError as error:
            raise ExperimentError(f"{place} is missing ({error.strerror})") from error
        wanted = stat.S_ISREG(mode) if place == folder / name else stat.S_ISDIR(mode)
        if not wanted:
            kind = "a link" if stat.S_ISLNK(mode) else "no plain file" if place == folder / name else "no folder"
            raise ExperimentError(f"{place} is {kind}, which no run writes; remove it")
    return place


def sums(files: Mapping[str, bytes]) -> dict[str, list[Any]]:
    """Bytes and SHA-256 of each."""
    return {name: [len(held), hashlib.sha256(held).hexdigest()] for name, held in files.items()}


def damage(folder: Path, unit: Unit) -> str | None:
    """What is wrong with a unit of a run's folder, in words; None for nothing.

    A unit of an earlier version, which has no sums, is read and its images are decoded instead.
    """
    try:
        own = f"units/{unit.name}"
        records = read(folder, unit)
        _check(unit, records, json.loads(lines(folder, unit, "timing.json")[0]))
        images = {name for record in records for name in pictures(record)}
        if (folder / own / SUMS).exists():
            _summed(folder, own, images)
        else:
            _decoded(folder, own, images)
    except ExperimentError as error:
        return str(error)
    except Exception as error:  # a damaged file can lead to each
        return f"{type(error).__name__}: {error}"
    return None


def read(folder: Path, unit: Unit) -> list[dict[str, Any]]:
    """The records of a unit, one an image."""
    return [words(json.loads(line)) for line in lines(folder, unit, "records.jsonl")]


def pictures(record: Mapping[str, Any]) -> list[Any]:
    """The names of a record's files: its image, and where that is a contact sheet, the video."""
    return [record[kind] for kind in ("image", "video") if record.get(kind) is not None]


def lines(folder: Path, unit: Unit, file: str) -> list[str]:
    """The lines of a text file of a unit."""
    return plain(folder, f"units/{unit.name}/{file}").read_text(encoding="utf-8").splitlines()


def _check(unit: Unit, records: Sequence[dict[str, Any]], timing: Mapping[str, Any]) -> None:
    """Refuses what is no record of the unit.

    Raises:
        KeyError, TypeError, ValueError: for what a record lacks or holds instead.
    """
    if not records:
        raise ValueError("no records")
    numbers, counts = [timing["peak_bytes"]], list[Any]()
    for record in records:
        numbers += [record["reward"], record["log_w"], record["kl"], *record["held_out"].values()]
        counts += [record["rank"], record["ancestor"]]
        counts += [record[kind][of] for kind in ("bill", "planned") for of in Bill().counts()]
        counts += [record[kind].get("comparisons", 0) for kind in ("bill", "planned")]
        own = _its_own(unit, record["image"], IMAGE) and _its_own(unit, record.get("video"), VIDEO)
        if record["position"] not in unit.positions or not own:
            raise ValueError(f"position {record['position']!r}, image {record['image']!r}")
    odd = [n for n in numbers if n is not None and type(n) not in (int, float)]
    odd += [n for n in counts if type(n) is not int] + [n for n in [timing["seconds"]] if type(n) not in (int, float)]
    if odd:
        raise ValueError(f"{odd[0]!r} is no such number")


def _its_own(unit: Unit, image: Any, called: re.Pattern[str]) -> bool:
    """Whether this is how an image of the unit is called; no name leads out of the folder."""
    if image is None:
        return True
    named = called.fullmatch(image) if isinstance(image, str) else None
    return named is not None and int(named[1]) == unit.index


def _summed(folder: Path, own: str, images: set[str]) -> None:
    said = json.loads(plain(folder, f"{own}/{SUMS}").read_text(encoding="utf-8"))
    if not isinstance(said, dict):
        raise ValueError(f"{SUMS} holds no sums")
    needed, may = {"records.jsonl", "trace.safetensors", *images}, {THUMBNAILS}
    if odd := sorted((needed - set(said)) | (set(said) - needed - may)):
        raise ValueError(f"{SUMS} and the records do not agree on {odd[0]!r}")
    if (folder / own / THUMBNAILS).exists() and THUMBNAILS not in said:
        raise ValueError(f"{THUMBNAILS} has no sum")
    for name, known in said.items():
        held = plain(folder, name if name in images else f"{own}/{name}").read_bytes()
        if sums({name: held})[name] != known:
            raise ValueError(f"{name} is not what was written: {len(held)} of {known[0]} bytes, or others")


def _decoded(folder: Path, own: str, images: set[str]) -> None:
    with optional():
        from PIL import Image
        from safetensors.torch import load

    load(plain(folder, f"{own}/trace.safetensors").read_bytes())
    for name in sorted(images):
        with Image.open(BytesIO(plain(folder, name).read_bytes()), formats=["PNG"]) as picture:
            picture.load()
