"""A run in the folder layout that GenEval's evaluation reads (Ghosh et al. 2023, arXiv 2310.11513).

    OUT/00000/metadata.jsonl        what GenEval is to look for, a line of its own metadata
    OUT/00000/samples/00000.png     the best image of a seed; of `plain`, where nothing chooses, all images

A folder is a prompt of the run, by its position.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._text import read_text
from .experiment import ExperimentError, described, near
from .files import dumps
from .folder import Run

__all__ = ["export_geneval"]


def export_geneval(
    run: Run,
    out: str | Path,
    metadata: str | Path,
    *,
    method: str | None = None,
    objective: str | None = None,
    model: str | None = None,
    budget: int | None = None,
) -> int:
    """Copies the images of one method into folders that GenEval's `evaluate_images.py` reads.

    Args:
        run: whose images.
        out: a new folder.
        metadata: GenEval's `evaluation_metadata.jsonl`, or lines of its kind for other prompts: without it every image
            would count as correct.
        method: its name in the experiment; needed where there are several.
        objective: likewise.
        model: likewise.
        budget: index among its budgets, from 0; likewise.

    Returns:
        How many images there are.

    Raises:
        ExperimentError: for a choice that is not known or not made, a folder that is not empty, metadata without a
            prompt of the run, and a run without images of that choice.
    """
    experiment, out = run.experiment, Path(out)
    said = _metadata(Path(metadata))
    if missing := [prompt for prompt in experiment.prompts if prompt not in said]:
        raise ExperimentError(f"{metadata} says nothing of {len(missing)} prompts, {missing[0]!r} the first")
    chosen = (
        _one("model", model, list(experiment.models)),
        _one("objective", objective, list(experiment.objectives)),
        _one("method", method, list(experiment.methods)),
        _budget(budget, [described(limits) for limits in experiment.budgets]),
    )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExperimentError(f"{out} is there already; export to a new folder")
    plain = experiment.methods[chosen[2]].kind == "plain"
    counts: dict[int, int] = {}
    units = [unit for unit in run.finished if (unit.model, unit.objective, unit.method, unit.budget) == chosen]
    for unit in units:
        records = sorted(run.records_of(unit), key=lambda record: (record["position"], record["rank"]))
        seen = set[int]()
        for record in records:
            place = record["position"]
            if (place in seen and not plain) or (image := run.image(record)) is None:
                continue
            seen.add(place)
            folder = out / f"{place:05}"
            if place not in counts:
                (folder / "samples").mkdir(parents=True)
                (folder / "metadata.jsonl").write_text(dumps(said[experiment.prompts[place]]), encoding="utf-8")
            shutil.copyfile(image, folder / "samples" / f"{counts.get(place, 0):05}.png")
            counts[place] = counts.get(place, 0) + 1
    if not counts:
        raise ExperimentError(f"{run.folder} holds no images of {', '.join(map(str, chosen[:3]))} yet")
    return sum(counts.values())


def _metadata(file: Path) -> dict[str, Any]:
    """Lines of metadata by their prompts."""
    found: dict[str, Any] = {}
    if not file.is_file():
        raise ExperimentError(f"no metadata at {file}; GenEval has prompts/evaluation_metadata.jsonl")
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if line.strip():
            try:
                said = json.loads(line)
                found[said["prompt"]] = {"tag": said["tag"], "include": said["include"], **said}
            except (ValueError, TypeError, KeyError) as error:
                raise ExperimentError(
                    f"{file}:{number}: no metadata of GenEval's with tag, include, prompt ({error})"
                ) from error
    return found


def _one(what: str, given: str | None, known: Sequence[str]) -> str:
    if given is None and len(known) > 1:
        raise ExperimentError(f"the run has several {what}s; choose one with {what}: {', '.join(known)}")
    if given is not None and given not in known:
        raise ExperimentError(f"no {what} of the run is called {given!r}{near(given, known)}")
    return known[0] if given is None else given


def _budget(given: int | None, known: Sequence[str]) -> int:
    names = ", ".join(f"{i}: {said}" for i, said in enumerate(known))
    if given is None and len(known) > 1:
        raise ExperimentError(f"the run has several budgets; choose one by its number: {names}")
    if given is not None and not 0 <= given < len(known):
        raise ExperimentError(f"budget {given} is none of the run's; choose one of {names}")
    return given or 0
