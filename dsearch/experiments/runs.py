"""Runs on disk: an experiment that can be stopped at any moment, continued to the same files, split and merged."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import __version__, distributed
from ..core.budget import Prices
from ..core.chunks import Chunks
from ..core.watch import HeldOut, Thumbnails
from .build import UNKNOWN, Pilot, Workshop
from .experiment import Experiment, ExperimentError, Unit, asks_pilot, described
from .files import dumps, write
from .folder import Run, exchange
from .locks import locked
from .models import device_of, dtype_of
from .reader import from_data
from .units import PARTS, SUMS, THUMBNAILS, plain

__all__ = ["merge", "run"]

NEW = ".overwriting"
"""Where the run is made that takes the place of another."""

MEASURED = {
    "prices": "give the experiment its `prices`",
    "pilots": "run them on machines that are alike, or in one folder",
}
"""What a run measures and writes down, and what to do where shards differ in it."""


def run(
    experiment: Experiment,
    out: str | Path,
    *,
    shard: tuple[int, int] = (1, 1),
    given: Mapping[str, Any] | None = None,
    ranks: distributed.Ranks | None = None,
    progress: bool = False,
    say: Callable[[str], object] = lambda line: None,
    overwrite: bool = False,
) -> Run:
    """Runs what is not there yet of an experiment, and returns the run.

    Killed at any moment and called again, it goes on, and ends with the same records and images, byte for byte on the
    same machine with the same number of threads. What is lost is the unit in progress.

    Args:
        experiment: what to run.
        out: the run's folder.
        shard: (i, n): the i-th of n parts, from 1, on as many machines; with one folder for all of them, the last one
            to finish writes the run's records, with a folder each, `merge` does.
        given: objects for what the experiment calls `given`, by name.
        ranks: the processes that share each search, from `dsearch.distributed.processes`; rank 0 writes.
        progress: a bar for each search.
        say: told of each finished unit, and of each that is damaged and therefore made again.
        overwrite: whether this run takes the place of another one in the folder. That one stays until this one is
            finished; what no run has written stays too.

    Raises:
        ExperimentError: for an experiment that cannot be run, and for a folder that holds another one, or one that
            another process is running.
        SearchError: where a search cannot go on; what was finished before is kept.
    """
    ranks = distributed.Ranks() if ranks is None else ranks
    first = ranks.rank == 0
    i, n = shard
    if not 1 <= i <= n:
        raise ExperimentError(f"shard {i}/{n}: the first number is 1 to {n}")
    out, shop = Path(out), Workshop(experiment, given)
    shop.check()
    if overwrite and (os.path.lexists(out / "run.json") or (out / NEW).exists()):
        return _overwritten(out, experiment, shard, given=given, ranks=ranks, progress=progress, say=say)
    maker = f"{i}-{n}"
    lock = out / f".shard-{maker}" if first else None
    with _made(lock), locked(lock, f"another process is running shard {i}/{n} of {out}", say):
        whole = Run(out, experiment, _about(experiment))
        if first:
            _refuse_others(whole, say)
        mine = whole.units[i - 1 :: n]
        todo = ranks.told([unit for unit in mine if first and not _whole(whole, unit, say)])
        if first and len(todo) < len(mine):
            say(f"{len(mine) - len(todo)} of {len(mine)} searches are there already")
        options = _options(shop, todo[0], out, ranks) if todo else {}
        if first:  # what cannot be loaded has been refused before anything is written
            whole.begin(maker)
        for at, unit in enumerate(todo):
            options = options if at == 0 else _options(shop, unit, out, ranks)
            with _watched(device_of(experiment.models[unit.model])) as spent:
                result = distributed.search(**options, ranks=ranks, progress=progress and first)
            if result is not None:  # on rank 0
                spent["peak_bytes"] = spent["peak_bytes"] if result.peak_bytes is None else result.peak_bytes
                whole.keep(unit, result, spent, maker, getattr(options["denoiser"], "cut", lambda prompt: ""))
                done = f"{len(mine) - len(todo) + at + 1}/{len(mine)}"
                best = float(result.rewards[:, 0].mean())
                say(f"{done} {_title(experiment, unit)}: {unit.objective} {best:.4f}, {spent['seconds']:.1f} s")
        if first and whole.complete:
            whole.finish(maker)
    return whole


@contextmanager
def _made(lock: Path | None) -> Iterator[None]:
    """The folder of a lock, removed again where it was made for what is then refused before it holds a run."""
    if lock is None:
        yield
        return
    folder = lock.parent
    new = not os.path.lexists(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if new and not (folder / "run.json").exists():
            lock.unlink(missing_ok=True)
            with suppress(OSError):  # another shard is there
                folder.rmdir()
        raise


def _whole(whole: Run, unit: Unit, say: Callable[[str], object]) -> bool:
    """Whether a unit is there as it was written; where it is damaged, that is said."""
    said = whole.damage(unit) if whole.has(unit) else ""
    if said:
        say(f"{whole.folder / 'units' / unit.name} is damaged and made again: {said}")
    return said is None


def _overwritten(out: Path, experiment: Experiment, shard: tuple[int, int], **options: Any) -> Run:
    """Runs within the folder of another run, and then puts the new one in its place."""
    first, new = options["ranks"].rank == 0, out / NEW
    if os.path.lexists(out / "run.json"):
        Run.open(out).refuse_links()  # what is no run is not touched
    with ExitStack() as locks:
        if first:
            for file in {*out.glob(".shard-*"), out / ".shard-1-1"}:
                locks.enter_context(locked(file, f"another process is running {out}; wait for it, or stop it"))
            with suppress(ExperimentError):
                if (new / "run.json").exists() and Run.open(new).experiment != experiment:
                    shutil.rmtree(new)  # of an overwriting that was killed
        made = run(experiment, new, shard=shard, **options)
        if first:
            exchange(new, out)
    return replace(made, folder=out)


def merge(folders: Sequence[str | Path], out: str | Path) -> Run:
    """The shards of one experiment, each in a folder of its own, merged into one run.

    Raises:
        ExperimentError: for shards of different experiments, or where a unit is in none of them.
    """
    runs, out = [Run.open(folder) for folder in folders], Path(out)
    if not runs:
        raise ExperimentError("nothing to merge; name the folders of the shards")
    one, measured = runs[0], {name: dict[str, Any]() for name in MEASURED}
    for other in runs:
        _same(one.experiment, other.experiment.as_dict(), other.folder)
        for name, remedy in MEASURED.items():
            for key, found in _read(other.folder / f"{name}.json").items():
                if measured[name].setdefault(key, found) != found:
                    raise ExperimentError(
                        f"{other.folder} has other {name} of {key} than the shards before it; {remedy}"
                    )
    missing = [unit for unit in one.units if not any(run.has(unit) for run in runs)]
    if missing:
        raise ExperimentError(f"no shard has {len(missing)} of {len(one.units)} searches, {missing[0].name} the first")
    merged = Run(out, one.experiment, one.about)
    if os.path.lexists(out / "run.json"):
        _same(one.experiment, Run.open(out).experiment.as_dict(), out)
    sources = {unit: _source(runs, unit) for unit in one.units if not merged.has(unit) or merged.damage(unit)}
    merged.begin("merge")
    for name, known in measured.items():
        if known:
            write(out / f"{name}.json", dumps(known).encode())
    for unit, source in sources.items():
        own = source.folder / "units" / unit.name
        names = [name for name in (*PARTS, THUMBNAILS, SUMS) if (own / name).exists()]
        files = {name: plain(source.folder, f"units/{unit.name}/{name}").read_bytes() for name in names}
        shown = [made for record in source.records_of(unit) for made in (source.image(record), source.video(record))]
        pictures = {f"images/{file.name}": file.read_bytes() for file in shown if file is not None}
        merged.place(unit, files, pictures, "merge")
    merged.finish()
    return merged


def _source(runs: Sequence[Run], unit: Unit) -> Run:
    """The first shard that has a unit as it was written."""
    said = [(run, run.damage(unit)) for run in runs if run.has(unit)]
    for source, damage in said:
        if damage is None:
            return source
    source, damage = said[0]
    raise ExperimentError(
        f"{source.folder / 'units' / unit.name} is damaged ({damage}); dsearch run makes it again in its shard"
    )


def _options(shop: Workshop, unit: Unit, out: Path, ranks: distributed.Ranks) -> dict[str, Any]:
    """The search of a unit, everything it needs loaded, as arguments of `search`."""
    experiment, held_out = shop.experiment, shop.experiment.held_out_from(unit.objective)
    return {
        "denoiser": shop.model(unit.model),
        "method": shop.method(unit, _prices(shop, unit, out, ranks), _pilot(shop, unit, out, ranks)),
        "prompts": [experiment.prompts[p] for p in unit.positions],
        "ids": unit.positions,
        "seed": unit.seed,
        "chunks": Chunks(**dict[str, Any](experiment.chunks)),
        "watch": [
            *([HeldOut({name: shop.reward(name, unit.model) for name in held_out})] if held_out else []),
            *([Thumbnails(experiment.thumbnails)] if experiment.thumbnails else []),
        ],
    }


def _refuse_others(whole: Run, say: Callable[[str], object]) -> None:
    """What is in the folder is of this experiment; where it was made differently, that is said."""
    if not os.path.lexists(whole.folder / "run.json"):
        return
    before = Run.open(whole.folder)
    _same(whole.experiment, before.experiment.as_dict(), whole.folder)
    for name, now in whole.about.items():
        if (was := before.about.get(name, now)) != now:
            say(f"note: {name} was {was} and is now {now}: what is new may differ in its last digits")


def _same(experiment: Experiment, other: Mapping[str, Any], folder: Path) -> None:
    own, other = experiment.as_dict(), from_data(other, str(folder)).as_dict()
    for name, value in own.items():
        if other.get(name) != value:
            raise ExperimentError(
                f"{folder} holds a run of another experiment ({name} differs: {_short(other.get(name))} there, "
                f"{_short(value)} here); choose another folder, or --overwrite where you generate"
            )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _prices(shop: Workshop, unit: Unit, out: Path, ranks: distributed.Ranks) -> Prices | None:
    """What budgets in seconds are turned into plans by."""
    if "seconds" not in shop.experiment.budgets[unit.budget]:
        return None
    if ranks.size > 1 and shop.experiment.prices is None:
        raise ExperimentError("budgets in seconds on several processes need the experiment's `prices`")
    return Prices(*_measured("prices", unit, out, ranks, lambda: shop.prices(unit.model, unit.objective)))


def _pilot(shop: Workshop, unit: Unit, out: Path, ranks: distributed.Ranks) -> Pilot:
    """What the arguments of a method are taken from, where it asks."""
    if not asks_pilot(shop.experiment.methods[unit.method]):
        return UNKNOWN
    return Pilot(*_measured("pilots", unit, out, ranks, lambda: shop.pilot(unit.model, unit.objective)))


def _measured(
    name: str, unit: Unit, out: Path, ranks: distributed.Ranks, make: Callable[[], Sequence[Any]]
) -> Sequence[Any]:
    """Measured once for a model and a objective and written down, so that all searches and shards of a folder agree."""
    key, file, found = f"{unit.model}/{unit.objective}", out / f"{name}.json", None
    if ranks.rank == 0:
        with locked(out / f".{name}"):
            known = _read(file)
            if key not in known:
                known[key] = list(make())
                write(file, dumps(known).encode())
            found = known[key]
    return ranks.told(found)


def _read(file: Path) -> dict[str, Any]:
    if not os.path.lexists(file):
        return {}
    try:
        found = json.loads(plain(file.parent, file.name).read_text(encoding="utf-8"))
    except ValueError as error:
        found = error
    if not isinstance(found, dict):
        raise ExperimentError(f"{file} is damaged ({found}); remove it, and it is measured again")
    return found


def _title(experiment: Experiment, unit: Unit) -> str:
    parts = [unit.method, f"seed {unit.seed}", f"prompts {unit.positions[0]}-{unit.positions[-1]}"]
    if len(experiment.models) > 1:
        parts.insert(0, unit.model)
    if len(experiment.budgets) > 1:
        parts.insert(-2, described(experiment.budgets[unit.budget]))
    return ", ".join(parts)


def _about(experiment: Experiment) -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"dsearch": __version__, "python": platform.python_version()}
    for name in ("torch", "diffusers", "transformers", "numpy", "pillow"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    devices = {name: f"{device_of(model)}, {dtype_of(model)}" for name, model in experiment.models.items()}
    return {"versions": versions, "devices": devices, "threads": torch.get_num_threads()}


@contextmanager
def _watched(device: str) -> Iterator[dict[str, Any]]:
    """Seconds and, but for CUDA, whose own counter a result tells, the process's peak memory where it can be said."""
    spent: dict[str, Any] = {}
    gpu, status = device.startswith("cuda"), Path("/proc/self/status")
    if not gpu:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    yield spent
    spent["seconds"] = round(time.perf_counter() - began, 3)
    spent["peak_bytes"] = None
    if not gpu and status.exists():
        peak = [line.split() for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        spent["peak_bytes"] = int(peak[0][1]) * 1024 if peak else None
