"""A run on disk, to read and to write.

    run.json            the configuration with all defaults, versions, device and threads
    images/             PNG files, named by counters
    units/NAME/         one finished search: records.jsonl, trace.safetensors, timing.json (thumbnails.safetensors)
    records.jsonl       all records in order, one an image; written when all units are there
    timings.jsonl       seconds and peak memory of each unit, which are of one machine and one day

A unit's folder appears whole or not at all, so that a run which was killed goes on with the first unit that is missing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from .._optional import optional
from ..core.result import Result
from .experiment import Experiment, ExperimentError, Unit, from_data
from .files import dumps, write

__all__ = ["Run", "Trace", "clear"]

OURS = ("images", "units", "run.json", "prices.json", "pilots.json", "records.jsonl", "timings.jsonl")

WIDEST = 16383
"""Pixels that a WebP picture can be wide."""


class Trace(NamedTuple):
    """What a unit's search did, step by step.

    Attributes:
        prompts: of its B groups.
        alive: beams before each step.
        width: children per beam at each step.
        values: `[B, N]` of all candidates of a step; None where nothing was scored.
        child: `[B, K]` which of the N candidates each survivor of a step was.
        order: `[B, K]` which of the last survivors each image is, best first.
    """

    prompts: list[str]
    alive: list[int]
    width: list[int]
    values: list[Tensor | None]
    child: list[Tensor]
    order: Tensor


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
        file = folder / "run.json"
        if not file.is_file():
            raise ExperimentError(f"{folder} holds no run (no run.json)")
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ExperimentError(f"{file} is damaged: {error}") from error
        if not isinstance(about, dict) or "experiment" not in about:
            raise ExperimentError(f"{file} describes no experiment: another program or another version wrote it")
        return cls(folder, from_data(about.pop("experiment"), str(file)), about)

    @cached_property
    def units(self) -> list[Unit]:
        """All units of the experiment, in order."""
        return self.experiment.units()

    def has(self, unit: Unit) -> bool:
        """Whether a unit is finished."""
        return (self.folder / "units" / unit.name).is_dir()

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
        return [json.loads(line) for unit in self.finished for line in self.lines(unit, "records.jsonl")]

    def timings(self) -> dict[str, dict[str, Any]]:
        """Seconds and peak memory of the finished units, by name."""
        return {unit.name: json.loads(self.lines(unit, "timing.json")[0]) for unit in self.finished}

    def trace(self, unit: Unit) -> Trace:
        """What the unit's search did."""
        with optional():
            from safetensors import safe_open

        with safe_open(self.folder / "units" / unit.name / "trace.safetensors", "pt") as file:
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
        )

    def thumbnails(self, unit: Unit) -> dict[tuple[int, int], bytes]:
        """By group and step, a WebP picture of the candidates in order, `min(N, 16383 // w)` a row; empty for none."""
        with optional():
            from safetensors import safe_open

        file = self.folder / "units" / unit.name / "thumbnails.safetensors"
        if not file.is_file():
            return {}
        with safe_open(file, "np") as held:
            return {
                (int(b), int(i)): held.get_tensor(name).tobytes()
                for name in held.keys()  # noqa: SIM118
                for b, i in [name.split(".")]
            }

    def lines(self, unit: Unit, file: str) -> list[str]:
        """The lines of a text file of a unit."""
        return (self.folder / "units" / unit.name / file).read_text(encoding="utf-8").splitlines()

    def begin(self, maker: str = "") -> None:
        """Marks the folder as this run's, and removes partial units of a killed writer.

        `maker` is a suffix that is unique to this writer.
        """
        (self.folder / "units").mkdir(parents=True, exist_ok=True)
        if not (self.folder / "run.json").exists():
            config = {"experiment": self.experiment.as_dict(), **self.about}
            write(self.folder / "run.json", dumps(config, indent=1).encode(), maker)
        for left in (self.folder / "units").glob(f".{maker}-*"):
            shutil.rmtree(left)

    def keep(
        self,
        unit: Unit,
        result: Result,
        timing: Mapping[str, Any],
        maker: str,
        cut: Callable[[str], str] = lambda prompt: "",
    ) -> None:
        """Writes a unit down: its images, then, in one go, its folder.

        `maker` is a suffix unique to this writer, `cut` says what of a prompt the model does not read.
        """
        making = self.folder / "units" / f".{maker}-{unit.name}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        records = list(_records(self, unit, result, maker, cut))
        write(making / "records.jsonl", "".join(dumps(record) for record in records).encode())
        write(making / "timing.json", dumps({"unit": unit.name, **timing}).encode())
        write(making / "trace.safetensors", _trace_bytes(result))
        if result.thumbnails:
            write(making / "thumbnails.safetensors", _thumbnail_bytes(result))
        making.rename(self.folder / "units" / unit.name)

    def finish(self, maker: str = "") -> None:
        """All units are there: their records and timings in files of their own."""
        for name, part in (("records.jsonl", "records.jsonl"), ("timings.jsonl", "timing.json")):
            lines = [line + "\n" for unit in self.units for line in self.lines(unit, part)]
            write(self.folder / name, "".join(lines).encode(), maker)


def clear(folder: Path) -> None:
    """Removes a run, and nothing else that lies in its folder."""
    if not (folder / "run.json").is_file():
        return
    for name in OURS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _records(whole: Run, unit: Unit, result: Result, maker: str, cut: Callable[[str], str]) -> Iterator[dict[str, Any]]:
    path, ancestor = result.lineage.path(), result.lineage.ancestor()
    place = {whole.experiment.prompts[position]: position for position in unit.positions}  # where prompts are pooled
    pictures = result.images.dim() == 5 and result.images.shape[2] == 3
    for b, group in enumerate(result.prompts):
        for k, prompt in enumerate(group):
            name = f"images/{unit.index:06}-{b:04}-{k:04}.png" if pictures else None  # no prompt becomes a path
            if name is not None:
                write(whole.folder / name, _png(result.images[b, k]), maker)
            yield {
                "unit": unit.name,
                **{part: getattr(unit, part) for part in ("model", "objective", "method", "budget", "seed")},
                "position": unit.positions[b] if len(result.prompts) == len(unit.positions) else place[prompt],
                "prompt": prompt,
                "cut": cut(prompt),
                "rank": k,
                "image": name,
                "reward": float(result.rewards[b, k]),
                "held_out": {name: float(scores[b, k]) for name, scores in result.held_out.items()},
                "log_w": float(result.log_w[b, k]),
                "kl": None if result.kl is None else float(result.kl[b, k]),
                "ancestor": int(ancestor[b, k]),
                "path": path[b, k].tolist(),
                **{kind: getattr(result.cost, kind)._asdict() for kind in ("bill", "planned")},
            }


def _trace_bytes(result: Result) -> bytes:
    with optional():
        from safetensors.torch import save

    def compact(index: Tensor) -> Tensor:
        return (
            index.to(torch.int16 if index.numel() == 0 or int(index.max()) < 2**15 else torch.int32).cpu().contiguous()
        )

    held = {"order": compact(result.lineage.order)}
    for i, (step, child) in enumerate(zip(result.trace, result.lineage.child, strict=True)):
        held[f"child.{i}"] = compact(child)
        if step.values is not None:
            held[f"values.{i}"] = step.values.float().cpu().contiguous()
    about = {
        "prompts": [" / ".join(dict.fromkeys(group)) for group in result.prompts],
        "alive": [step.alive for step in result.trace],
        "width": [step.width for step in result.trace],
    }
    return save(held, {"trace": json.dumps(about)})


def _thumbnail_bytes(result: Result) -> bytes:
    import numpy as np

    with optional():
        from PIL import Image
        from safetensors.numpy import save

    held = {}
    for i, step in enumerate(result.thumbnails):
        for b, small in enumerate([] if step is None else step):  # [N, 3, h, w]
            into = BytesIO()
            Image.fromarray(_strip(small).numpy()).save(into, "webp", quality=60, method=2)
            held[f"{b}.{i}"] = np.frombuffer(into.getvalue(), dtype=np.uint8)
    return save(held)


def _strip(small: Tensor) -> Tensor:
    """`[N, 3, h, w]` -> `[rows h, columns w, 3]`, in reading order: one row unless a picture cannot be that wide."""
    n, _, _, w = small.shape
    columns = min(n, WIDEST // w)
    rows = -(-n // columns)
    filled = torch.cat([small, small.new_zeros(rows * columns - n, *small.shape[1:])])
    return rearrange(filled, "(r c) k h w -> (r h) (c w) k", c=columns)


def _png(image: Tensor) -> bytes:
    from ..plots import to_pil

    into = BytesIO()
    to_pil(image[None])[0].save(into, "png")
    return into.getvalue()
