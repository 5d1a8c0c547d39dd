"""Pictures for a page of bounded size: as the run holds them where they fit, else smaller, and the page says so."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import groupby
from typing import Any, Literal, NamedTuple

from .._optional import optional
from ..compare.reading import reading
from ..experiments.files import dumps
from ..experiments.folder import Run
from ..experiments.written import WIDEST
from ..media import FPS
from ._data import Search, lineage

__all__ = ["LADDER", "Rung", "fitted"]

SAMPLED = 8
"""Searches, and steps of each, that are encoded to guess how large all of them will be."""


Size = tuple[int, int]
"""Width and height in pixels."""


class Coding(NamedTuple):
    """WebP of this quality, with at most so many pixels along the longer edge (None for as many as there are)."""

    pixels: int | None
    quality: int


class Rung(NamedTuple):
    """How the pictures of a page are coded; None keeps them as they are in the run.

    Attributes:
        images: the final ones.
        thumbnails: of candidates; `pixels` are those of one.
        whose: the candidates with thumbnails: all, those kept, or none.
    """

    images: Coding | None = None
    thumbnails: Coding | None = None
    whose: Literal["all", "kept", "none"] = "all"

    def said(self) -> list[str]:
        """What it reduces, a sentence each."""
        return [
            *([f"Final images are re-encoded ({_words(self.images)})."] if self.images else []),
            *([f"Thumbnails are re-encoded ({_words(self.thumbnails)})."] if self.thumbnails else []),
            *(["Dropped candidates have no thumbnails."] if self.whose == "kept" else []),
            *(["Thumbnails are left out."] if self.whose == "none" else []),
        ]


LADDER = (
    Rung(),
    Rung(Coding(None, 85)),
    Rung(Coding(512, 80), Coding(64, 45)),
    Rung(Coding(384, 75), Coding(48, 40)),
    Rung(Coding(256, 75), Coding(32, 35)),
    Rung(Coding(256, 75), Coding(24, 30)),
    Rung(Coding(256, 75), Coding(64, 45), "kept"),
    Rung(Coding(256, 75), Coding(32, 35), "kept"),
    Rung(Coding(192, 60), None, "none"),
    Rung(Coding(96, 50), None, "none"),
)
"""From what a run holds to what always fits, one rung after another."""


def _words(coding: Coding) -> str:
    edge = "" if coding.pixels is None else f", at most {coding.pixels} pixels"
    return f"WebP, quality {coding.quality}{edge}"


class Part(NamedTuple):
    """A search's JSON texts: its images, its lineage; and the bytes of strips that were left out to guess faster."""

    images: str
    lineage: str
    more: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.images) + len(self.lineage) + self.more


def fitted(run: Run, found: Sequence[Search], room: int) -> tuple[list[Part | None], list[str]]:
    """The searches' parts of a page, within `room` bytes, and what was reduced for that, a sentence each.

    The first rung of the ladder that fits is taken; where none does, searches of the last seeds and prompts are left
    out (None).
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for rung in LADDER:
            last = rung is LADDER[-1]
            if not last and _guess(run, found, rung, pool.map) > room:
                continue
            parts = [part for _, part in sorted(_parts(run, found, rung, pool.map))]
            if sum(part.size for part in parts) <= room:
                return list(parts), rung.said()
    return _cut(run, found, parts, room)


def _cut(run: Run, found: Sequence[Search], parts: Sequence[Part], room: int) -> tuple[list[Part | None], list[str]]:
    seeds = list(run.experiment.seeds)
    order = sorted(
        range(len(parts)), key=lambda n: (seeds.index(found[n].unit.seed), found[n].positions, found[n].unit.index)
    )
    held: list[Part | None] = [None] * len(parts)
    for n in order:
        if (room := room - parts[n].size) < 0:
            break
        held[n] = parts[n]
    there = sum(part is not None for part in held)
    return held, [*LADDER[-1].said(), f"Images and lineages are those of {there} of {len(parts)} searches."]


def _guess(run: Run, found: Sequence[Search], rung: Rung, each: Callable[..., Any]) -> float:
    """Bytes that a rung comes to, from a few searches spread over all."""
    some = found[:: -(-len(found) // SAMPLED)] if found else []
    sizes = [part.size for _, part in _parts(run, some, rung, each, SAMPLED)]
    return sum(sizes) / max(1, len(sizes)) * len(found)


def _parts(
    run: Run, found: Sequence[Search], rung: Rung, each: Callable[..., Any], most: int | None = None
) -> Iterator[tuple[int, Part]]:
    """Parts of searches, numbered; with `most` only about so many strips of each are encoded, and counted for all."""
    numbered = list(enumerate(found))
    for unit, group in groupby(numbered, key=lambda entry: entry[1].unit):
        with reading(run, unit):
            strips = {} if rung.whose == "none" else run.thumbnails(unit)
            for n, search in group:
                own = {i: strip for (b, i), strip in strips.items() if b == search.group}
                some = dict(list(own.items())[:: -(-len(own) // most)]) if most and own else own
                drawn = _drawn(search, some, rung, each)
                coded = sum(len(sheet) for sheet, *_ in drawn["strips"].values())
                urls = list(each(lambda record: _image(run, record, rung.images), search.records))
                more = round(coded * (len(own) / max(1, len(some)) - 1))
                yield n, Part(escaped(dumps(urls)), escaped(dumps({**lineage(search), **drawn})), more)


def escaped(text: str) -> str:
    """A JSON text that may stand within a script element, where nothing may look like its end."""
    return text.strip().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _drawn(search: Search, strips: dict[int, bytes], rung: Rung, each: Callable[..., Any]) -> dict[str, Any]:
    """A thumbnail's size, and by step their sheet, which candidates are on it (None for all), and how many a row."""
    if not strips:
        return {"tile": None, "strips": {}}
    fewest = min(strips, key=lambda i: search.tiles[i])
    tile = _tile(_open(strips[fewest]).size, search.tiles[fewest])
    held = {i: _kept(search, i) if rung.whose == "kept" else None for i in strips}
    coded = each(lambda i: _sheet(strips[i], tile, search.tiles[i], rung.thumbnails, held[i]), strips)
    sheets = zip(strips, coded, strict=True)
    return {
        "tile": tile,
        "strips": {
            str(i): [_base64(sheet), held[i], _columns(tile, len(held[i] or range(search.tiles[i])))]
            for i, sheet in sheets
        },
    }


def _kept(search: Search, step: int) -> list[int]:
    return sorted(set(search.trace.child[step][search.group].tolist()))


def _columns(tile: Size, count: int) -> int:
    """Thumbnails in a row, as `Run.thumbnails` lays them out."""
    return min(count, WIDEST // tile[0])


def _tile(sheet: Size, count: int) -> Size:
    """The size of each of `count` thumbnails on a sheet: one row of them, or else rows as wide as can be."""
    for width in (sheet[0] // count, *range(1, sheet[0] + 1)):
        if width and sheet[0] == width * (columns := _columns((width, 0), count)):
            rows = -(-count // columns)
            if sheet[1] % rows == 0:
                return width, sheet[1] // rows
    raise ValueError(f"a sheet of {sheet[0]} x {sheet[1]} pixels holds no {count} thumbnails")


def _sheet(stored: bytes, tile: Size, count: int, coding: Coding | None, held: Sequence[int] | None) -> bytes:
    """A sheet of `count` thumbnails with those `held` alone, coded; as it is where that is no larger."""
    if coding is None and held is None:
        return stored
    sheet = _open(stored).convert("RGB")
    if held is not None:
        sheet = _picked(sheet, tile, count, held)
    coding = coding or Coding(None, 60)
    across, down = sheet.width // tile[0], sheet.height // tile[1]
    small = _size(tile, coding.pixels)
    made = _webp(sheet.resize((across * small[0], down * small[1])), coding.quality)
    return stored if held is None and len(stored) <= len(made) else made


def _picked(sheet: Any, tile: Size, count: int, held: Sequence[int]) -> Any:
    """A sheet of some of the thumbnails."""
    with optional():
        from PIL import Image

    (w, h), before, after = tile, _columns(tile, count), _columns(tile, len(held))
    picked = Image.new("RGB", (after * w, -(-len(held) // after) * h))
    for at, j in enumerate(held):
        x, y = j % before * w, j // before * h
        picked.paste(sheet.crop((x, y, x + w, y + h)), (at % after * w, at // after * h))
    return picked


def _image(run: Run, record: Mapping[str, Any], coding: Coding | None) -> str | None:
    """The data URL of a record's image, or of its video; None where there is none."""
    file = run.video(record) or run.image(record)
    if file is None:
        return None
    stored = file.read_bytes()
    if coding is not None:
        made = _coded(_open(stored), coding)
        if len(made) < len(stored):
            return f"data:image/webp;base64,{_base64(made)}"
    return f"data:image/{file.suffix[1:]};base64,{_base64(stored)}"


def _coded(picture: Any, coding: Coding) -> bytes:
    """A picture, or all frames of a video."""
    with optional():
        from PIL import ImageSequence

    size = _size(picture.size, coding.pixels)
    frames = [frame.convert("RGB").resize(size) for frame in ImageSequence.Iterator(picture)]
    if len(frames) == 1:
        return _webp(frames[0], coding.quality)
    into = BytesIO()
    pause = picture.info.get("duration", round(1000 / FPS))
    frames[0].save(
        into, "webp", save_all=True, append_images=frames[1:], duration=pause, loop=0, quality=coding.quality, method=2
    )
    return into.getvalue()


def _size(size: Size, pixels: int | None) -> Size:
    scale = 1.0 if pixels is None else min(1.0, pixels / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _open(stored: bytes) -> Any:
    with optional():
        from PIL import Image

    return Image.open(BytesIO(stored))


def _webp(picture: Any, quality: int) -> bytes:
    into = BytesIO()
    picture.save(into, "webp", quality=quality, method=2)
    return into.getvalue()


def _base64(stored: bytes) -> str:
    return base64.b64encode(stored).decode()
