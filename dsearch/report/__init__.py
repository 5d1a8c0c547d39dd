"""A run as one page of HTML that explains what its searches did, and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from ..experiments.files import dumps, publish
from ..experiments.folder import Run
from ._data import overview, searches
from ._ladder import Part, escaped, fitted

__all__ = ["LIMIT", "report"]

LIMIT = 25_000_000
"""Bytes of a page at most."""

SCRIPTS = ("words", "figures", "tree", "lineage", "page")
"""Files beside this one that are the page's script, in order."""


def report(run: Run, out: Path | None = None, *, limit: int = LIMIT) -> Path:
    """Writes a run's report, of what is finished, and returns where: a page with all its data, styles and script.

    Pictures are as the run holds them where the page then stays within the limit. Where it would not, they are made
    smaller or left out, and the page says what was reduced.

    Args:
        run: finished or not.
        out: the file; by default `report.html` in the run's folder.
        limit: bytes of the page.

    Raises:
        OSError: where the run's files cannot be read or the page cannot be written.
    """
    out = run.folder / "report.html" if out is None else Path(out)
    publish(out, page(run, limit).encode("ascii"))
    return out


def page(run: Run, limit: int = LIMIT) -> str:
    """The report's HTML, in ASCII: every other letter of it is escaped."""
    found = searches(run.refuse_damage())
    data = overview(run, found)
    shell = len(_filled(data, [], run)) + 2000  # what was reduced is still to be said
    parts, reduced = fitted(run, found, limit - shell - 100 * len(found))
    return _filled({**data, "reduced": reduced, "limit": limit}, parts, run)


def _filled(data: Mapping[str, object], parts: Sequence[Part | None], run: Run) -> str:
    style = _beside("page.css")
    script = "".join(["'use strict';\n{\n", *(_beside(f"{name}.js") for name in SCRIPTS), "}\n"])
    blocks = {"data": escaped(dumps(data))}
    for n, part in enumerate(parts):
        if part is not None:
            blocks[f"images-{n}"], blocks[f"lineage-{n}"] = part.images, part.lineage
    said = {
        "policy": f"default-src 'none'; img-src data: blob:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        "title": html.escape(run.folder.resolve().name),
        "style": style,
        "script": script,
        "blocks": "\n".join(
            f'<script type="application/json" id="{name}">{text}</script>' for name, text in blocks.items()
        ),
    }
    filled = re.sub(r"\{\{(\w+)\}\}", lambda place: said[place[1]], _beside("page.html"))
    return filled.encode("ascii", "xmlcharrefreplace").decode()


def _beside(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a policy calls a text by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
