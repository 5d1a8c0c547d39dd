"""Runs held against one another: methods by budgets by seeds over prompts, as a table, curves, fronts and grids.

Every number has a 95% interval and every difference is paired. Seeds are the repetitions, prompts are what was asked:
`over_seeds` speaks of these prompts, `over_prompts` of others like them, and the table says where the two disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..experiments.files import write
from ..experiments.folder import Run
from .anchors import Anchor, differing, matching
from .areas import Area, area_under, areas_of
from .cells import Found
from .drawing import draw
from .embedded import Embedded
from .intervals import Estimate, jackknife, over_prompts, over_seeds
from .metrics import Interval
from .ranks import rank_correlation
from .rows import Row, row_of
from .scores import Pairs
from .words import flat, notes_of, written

__all__ = [
    "Area",
    "Comparison",
    "Estimate",
    "Pairs",
    "Row",
    "area_under",
    "compare",
    "jackknife",
    "over_prompts",
    "over_seeds",
    "rank_correlation",
]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found.

    Attributes:
        baseline: the method that the others are paired with.
        rows: of the table.
        notes: what the table must not be read without.
        anchors: published figures that match, each with its objective's name and what differs, by model.
        correlations: of values on the way with final rewards, by model, objective and method, then by step, from 0.
        files: what was written.
        areas: what methods reach over all their budgets.
    """

    baseline: str
    rows: Sequence[Row]
    notes: Sequence[str]
    anchors: Mapping[str, Sequence[tuple[str, Anchor, str]]]
    correlations: Mapping[tuple[str, str, str], Mapping[int, Interval]] = field(default_factory=dict)
    files: Sequence[Path] = ()
    areas: Sequence[Area] = ()

    def table(self) -> str:
        """Everything but the pictures, as Markdown."""
        return written(self.rows, self.anchors, self.notes, self.areas)

    def csv(self) -> str:
        """The rows as comma-separated values, all numbers in full."""
        return flat(self.rows)


def compare(
    runs: Sequence[Run],
    out: Path,
    *,
    baseline: str | None = None,
    embed: str | Any | None = None,
    anchors: bool = True,
    say: Callable[[str], object] = print,
) -> Comparison:
    """Writes `table.md`, `table.csv` and the plots of the field into `out`.

    What counts is what a user is left with: the best image of a prompt, and for `plain`, where nothing chooses, the
    mean over its images. Runs of several folders are read as one; of a search that lies in two, the first counts.

    Args:
        runs: of the same prompts.
        out: a folder, made where it is missing.
        baseline: the method to pair with; by default the first best_of_n, or else the first.
        embed: the reward whose `image_embeddings` measure diversity, a CLIPScore by its name or an object; by default
            the first CLIPScore that never steers. Nothing that a run names is imported or downloaded for it.
        anchors: whether published figures are shown where the setting is theirs.
        say: told the table and the files.

    Raises:
        ExperimentError: for runs that do not fit one another, or have too few seeds to say anything.
    """
    found = Found([run.refuse_damage() for run in runs])
    base = found.baseline(baseline)
    keys = list(found.ready)
    embedded = Embedded(found, embed)
    rows = [row_of(found, key, base, embedded) for key in keys]
    beside = _anchored(found, rows) if anchors else {}
    areas = areas_of(found, rows, base)
    notes = notes_of(found, rows, base, embedded, areas)
    out.mkdir(parents=True, exist_ok=True)
    correlations, files = draw(found, rows, beside, out)
    result = Comparison(base, rows, notes, beside, correlations, [out / "table.md", out / "table.csv", *files], areas)
    for file, text in zip(result.files, (result.table(), result.csv()), strict=False):
        write(file, text.encode())
    say(result.table())
    say(", ".join(map(str, result.files)))
    return result


def _anchored(found: Found, rows: Sequence[Row]) -> dict[str, list[tuple[str, Anchor, str]]]:
    """By model, the published figures whose setting is a objective's."""
    anchored: dict[str, list[tuple[str, Anchor, str]]] = {}
    for name, objective in dict.fromkeys((row.model, row.objective) for row in rows):
        model = found.models[name]
        for anchor in matching(model, objective, found.rewards[objective]):
            anchored.setdefault(name, []).append((objective, anchor, differing(anchor, model)))
    return anchored
