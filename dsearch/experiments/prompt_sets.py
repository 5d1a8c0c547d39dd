"""Sets of prompts that people compare on: those that may ship, by name, and those that you bring, by their files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .._text import prompts_of, read_text
from ..box import DEMO_PROMPTS, SUBJECTS

__all__ = ["BROUGHT", "SETS", "Brought", "prompt_set", "read_prompts"]

SETS: Mapping[str, tuple[str, ...]] = {
    # The published DSearch script's (Li et al. 2025, arXiv 2503.02039).
    "animals": ("dog", "cat", "panda", "monkey", "rabbit", "butterfly", "horse"),
    # The 45 common animals of DDPO (Black et al. 2023, arXiv 2305.13301; the list is published under the MIT licence).
    "simple_animals": (
        *("cat", "dog", "horse", "monkey", "rabbit", "zebra", "spider", "bird", "sheep", "deer", "cow", "goat", "lion"),
        *("tiger", "bear", "raccoon", "fox", "wolf", "lizard", "beetle", "ant", "butterfly", "fish", "shark", "whale"),
        *("dolphin", "squirrel", "mouse", "rat", "snake", "turtle", "frog", "chicken", "duck", "goose", "bee", "pig"),
        *("turkey", "fly", "llama", "camel", "bat", "gorilla", "hedgehog", "kangaroo"),
    ),
    "box": SUBJECTS,
    "box_demo": DEMO_PROMPTS,
}
"""Sets that ship with the library, by name."""


class Brought(NamedTuple):
    """A set whose file you bring.

    Attributes:
        source: of the file.
        size: its prompts.
    """

    source: str
    size: int


BROUGHT: Mapping[str, Brought] = {
    "drawbench": Brought("the CSV that imagen.research.google links to", 200),
    "partiprompts": Brought("PartiPrompts.tsv of github.com/google-research/parti", 1632),
    "geneval": Brought("prompts/evaluation_metadata.jsonl of github.com/djghosh13/geneval", 553),
    "hpsv2": Brought("one of the four benchmark/*.json of huggingface.co/datasets/zhwang/HPDv2", 800),
}
"""Sets that are known and do not ship, for no licence stands with their prompts or they belong to an evaluation."""

COLUMNS = ("prompt", "prompts", "text", "caption")
"""What a column or a field of prompts is called, in any case; the first of them that a file has is read."""


def prompt_set(name: str, file: Path | None = None) -> tuple[str, ...]:
    """The prompts of a set: one that ships, or one whose file is given.

    Raises:
        ValueError: for a name that is not known, a set that ships and a file together, a set that needs its file, and a
            file that holds another number of prompts than the set has.
    """
    known = ", ".join((*SETS, *BROUGHT))
    if name not in SETS and name not in BROUGHT:
        raise ValueError(f"no set of prompts is called {name!r}; known: {known}")
    if name in SETS:
        if file is not None:
            raise ValueError(f"the set {name!r} ships with the library; leave its file out")
        return SETS[name]
    about = BROUGHT[name]
    if file is None:
        raise ValueError(f"the set {name!r} does not ship; get {about.source}, and say its `file`")
    found = tuple(read_prompts(file))
    if len(found) != about.size:
        raise ValueError(
            f"{file} holds {len(found)} prompts, and the set {name!r} has {about.size}; get {about.source}"
        )
    return found


def read_prompts(file: Path) -> list[str]:
    """The prompts of a file: one a line of a text, the column or field "prompt" of .csv, .tsv and .jsonl, or a .json.

    Raises:
        ValueError: naming the file, for one that holds no prompts or is not what its name says.
        OSError: where it cannot be read.
    """
    if (read := READERS.get(file.suffix.lower())) is None:
        return prompts_of(file)
    try:
        found = [one.strip() for one in read(read_text(file)) if one.strip()]
    except (ValueError, TypeError, KeyError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read as {file.suffix[1:]} of prompts ({error})") from error
    if not found:
        raise ValueError(f"{file} holds no prompt")
    return found


def _table(delimiter: str) -> Callable[[str], list[str]]:
    def read(text: str) -> list[str]:
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        name = _column(rows.fieldnames or [])
        return [row[name] or "" for row in rows]

    return read


def _column(names: Sequence[str]) -> str:
    lower = {name.strip().lower(): name for name in names}
    for column in COLUMNS:
        if column in lower:
            return lower[column]
    raise ValueError(f"no column is called {' or '.join(COLUMNS)}, but {', '.join(names) or 'none'}")


def _of(said: Any) -> str:
    """A prompt, or the prompt of a mapping."""
    text = said[_column(list(said))] if isinstance(said, Mapping) else said
    if not isinstance(text, str):
        raise TypeError(f"{text!r:.40} is no text")
    return text


def _json(text: str) -> list[str]:
    said = json.loads(text)
    if not isinstance(said, list):
        raise TypeError("it is no list")
    return [_of(one) for one in said]


READERS: Mapping[str, Callable[[str], list[str]]] = {
    ".csv": _table(","),
    ".tsv": _table("\t"),
    ".jsonl": lambda text: [_of(json.loads(line)) for line in text.splitlines() if line.strip()],
    ".json": _json,
}
