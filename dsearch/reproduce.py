"""The experiments of Li et al. 2025 (arXiv 2503.02039): as published, and every method at equal bills.

Three rewards (compressibility, aesthetic, human preference), DSearch, DSearch-R and SVDD-PM by the flags of the
published README, and these beside best-of-N and SMC, all at the same network rows, with intervals over seeds, rewards
that only watch, and the paper's two kinds of pictures: reward against budget, and images by method.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import methods
from .compare.metrics import interval, paired
from .core.budget import Budget
from .core.contract import Denoiser, Method, Reward
from .core.loop import search
from .core.plan import positive
from .core.result import Result
from .experiments.files import dumps
from .plots import Panel, Series, curves, grid

__all__ = ["ANIMALS", "PUBLISHED", "SMALL", "Experiment", "Flags", "Setting", "run", "table"]

ANIMALS = ("cat", "dog", "horse", "monkey", "rabbit", "butterfly", "panda")
"""The prompts of the published README's compressibility and aesthetic experiments."""

STRENGTH = 4.0  # of SMC, in standard deviations of plain samples' rewards


class Flags(NamedTuple):
    """The published command line's numbers."""

    bs: int = 12
    duplicate_size: int = 5
    w: int = 5
    oversamplerate: int = 5
    bs_r: int = 34
    replacerate: float = 0.03
    svdd_duplicate_size: int = 20

    def methods(self, reward: Reward) -> dict[str, Method]:
        """The published commands: DSearch, DSearch-R and SVDD-PM, each one pool over all prompts."""
        wide: dict[str, Any] = {"duplicate_size": self.duplicate_size, "w": self.w, "search_schedule": "exponential"}
        return {
            "DSearch": methods.published(
                reward, self.bs, oversamplerate=self.oversamplerate, drop_schedule="exponential", **wide
            ),
            "DSearch-R": methods.published(reward, self.bs_r, replacerate=self.replacerate, **wide),
            "SVDD-PM": methods.published(reward, self.bs, self.svdd_duplicate_size),
        }


PUBLISHED = Flags()
"""The flags of the published README; its HPS command has w=6."""

SMALL = Flags(bs=7, duplicate_size=2, w=2, oversamplerate=2, bs_r=14, replacerate=0.08, svdd_duplicate_size=5)
"""The same experiment in small, for the model in the box and two cores."""


@dataclass(frozen=True)
class Experiment:
    """One of the three.

    Attributes:
        reward: what is searched for.
        prompts: a group each.
        flags: of the published commands.
        panel: rewards that only watch.
        unit: of the reward, for tables.
    """

    reward: Reward
    prompts: Sequence[str]
    flags: Flags = PUBLISHED
    panel: Mapping[str, Reward] = field(default_factory=dict)
    unit: str = ""


@dataclass(frozen=True)
class Setting:
    """What is run of each experiment.

    Attributes:
        bills: network rows a prompt, in runs of plain sampling.
        seeds: repetitions, at least 2.
    """

    bills: Sequence[int] = (5, 20)
    seeds: int = 3

    def __post_init__(self) -> None:
        positive("seeds", self.seeds, at_least=2)
        for bill in self.bills:
            positive("bill", bill, at_least=4)  # DSearch-R takes two beams of two children


def at_equal_bills(reward: Reward, spread: float, bill: int, num_steps: int) -> dict[str, Method]:
    """The methods of the paper's comparison, each as large as the rows of `bill` plain runs allow."""
    budget = Budget(model_calls=bill * num_steps)
    beams = max(2, bill // 2)
    made = {
        "best-of-N": methods.best_of_n(reward),
        "SMC": methods.fk(reward, lam=STRENGTH / spread, every=max(1, num_steps // 10)),
        "SVDD-PM": methods.svdd(reward),
        "DSearch": methods.dsearch(reward, beams=bill, budget=bill),
        "DSearch-R": methods.dsearch_r(reward, beams=beams, budget=2 * beams, rate=1 / beams, search="all"),
    }
    return {name: method.within(budget, num_steps) for name, method in made.items()}


def run(
    denoiser: Denoiser,
    experiments: Mapping[str, Experiment],
    setting: Setting,
    out: Path,
    *,
    about: Mapping[str, Any] | None = None,
    say: Callable[[str], object] = print,
    **chunks: Any,
) -> list[dict[str, Any]]:
    """Runs the experiments; writes `results.json`, `curves.png` and `grid_NAME.png` into `out`.

    Args:
        denoiser: the model.
        experiments: by name.
        setting: bills and seeds.
        out: an existing folder.
        about: what to record beside the results.
        say: told of each finished cell.
        chunks: chunk sizes of `search`.

    Returns:
        One row a cell, as in `results.json`: experiment, part ("plain", "equal" or "published"), method, bill, and for
        each seed the mean over the prompts of the reward and of what the panel says of the images returned.
    """
    rows: list[dict[str, Any]] = []
    for experiment in experiments.values():  # what cannot be run is refused before anything is
        for bill in setting.bills:
            at_equal_bills(experiment.reward, 1.0, bill, denoiser.num_steps)
        for method in experiment.flags.methods(experiment.reward).values():
            method.plan(denoiser.num_steps)
    for name, experiment in experiments.items():
        cells = _Cells(denoiser, name, experiment, setting, say, chunks)
        spread = cells.plain()
        for bill in setting.bills:
            for title, method in at_equal_bills(experiment.reward, spread, bill, denoiser.num_steps).items():
                cells.add("equal", title, bill, method)
        for title, method in experiment.flags.methods(experiment.reward).items():
            cells.add("published", title, None, method)
        cells.draw(out / f"grid_{name}.png")
        rows += cells.rows
        record = {**(about or {}), "setting": asdict(setting), "rows": rows}
        (out / "results.json").write_text(dumps(record, indent=1), encoding="utf-8")  # after each, lest all be lost
    _curves(rows, experiments, out / "curves.png")
    return rows


@dataclass
class _Cells:
    denoiser: Denoiser
    name: str
    experiment: Experiment
    setting: Setting
    say: Callable[[str], object]
    chunks: Mapping[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, list[Tensor]] = field(default_factory=dict)

    def plain(self) -> float:
        """Plain samples, several a prompt; the standard deviation of their rewards within a prompt."""
        method = methods.plain(self.experiment.reward, beams=4)
        results = self.add("plain", "plain", 1, method)
        return float(torch.cat([r.rewards for r in results]).std(dim=1).mean().clamp(min=1e-9))

    def add(self, part: str, title: str, bill: int | None, method: Method) -> list[Result]:
        began, results = time.perf_counter(), []
        for seed in range(self.setting.seeds):
            result = search(
                self.denoiser,
                method,
                self.experiment.prompts,
                seed=seed,
                observe=self.experiment.panel or None,
                **self.chunks,
            )
            results.append(result)
        seconds = time.perf_counter() - began
        best = part == "equal"  # a user takes the best image of each prompt; of a pool or of plain samples, all
        images = len(self.experiment.prompts) if best else results[0].rewards.numel()
        rewards = [_mean(result.rewards, best) for result in results]
        self.rows.append(
            {
                **{"experiment": self.name, "part": part, "method": title, "times_plain": bill},
                "rewards": rewards,
                "panel": {k: [_mean(r.observed[k], best) for r in results] for k in self.experiment.panel},
                "prompts_kept": sum(_kept(result) for result in results) / len(results),
                **{unit: spent / images for unit, spent in results[0].spent._asdict().items()},
                "seconds": round(seconds / self.setting.seeds, 2),
            }
        )
        shown = f"{title}, as published" if part == "published" else title
        self.pictures[shown] = _of_each(results[0], self.experiment.prompts)
        reached = interval(torch.tensor(rewards))
        self.say(f"{self.name:16} {part:9} {title:10} {bill or '':>3} {reached} {seconds:6.0f} s")
        return results

    def draw(self, path: Path) -> None:
        """Of each method its first seed at the largest bill; a prompt that a pool has lost stays empty."""
        prompts = list(self.experiment.prompts)[:7]
        grid([row[: len(prompts)] for row in self.pictures.values()], list(self.pictures), prompts, path)


def _mean(scores: Tensor, best: bool) -> float:
    """`[B, K]`, best first -> the mean over the prompts' best, or over all."""
    return float((scores[:, :1] if best else scores).mean())


def _kept(result: Result) -> int:
    """Prompts of which an image was returned."""
    return len({text for group in result.prompts for text in group})


def _of_each(result: Result, prompts: Sequence[str]) -> list[Tensor]:
    """The best image of each prompt; white where there is none."""
    texts = [text for group in result.prompts for text in group]
    images = result.images.flatten(0, 1).float().cpu()
    found: dict[str, Tensor] = {}
    for text, image in zip(texts, images, strict=True):
        found.setdefault(text, image)
    return [found.get(prompt, torch.ones_like(images[0])) for prompt in prompts]


def _curves(rows: Sequence[Mapping[str, Any]], experiments: Mapping[str, Experiment], path: Path) -> None:
    """Reward against rows, and below it what the last of the panel says: over-optimisation is where the two part."""
    above, below = [], []
    for name, experiment in experiments.items():
        own = [row for row in rows if row["experiment"] == name]
        above.append(Panel(f"guided by {name}", "network rows an image", experiment.unit or name, _series(own, None)))
        for watcher in list(experiment.panel)[-1:]:
            title = f"what {watcher} says, which only watches"
            below.append(Panel(title, "network rows an image", watcher, _series(own, watcher)))
    curves([above, below] if len(below) == len(above) else [above], path, log_x=True)


def _series(rows: Sequence[Mapping[str, Any]], watcher: str | None) -> dict[str, Series]:
    """Of each method: the reward against network rows, or what a watcher says of the same images."""
    series: dict[str, Series] = {}
    for title in dict.fromkeys(row["method"] for row in rows if row["part"] == "equal"):
        series[title] = _curve([row for row in rows if (row["part"], row["method"]) == ("equal", title)], watcher)
    for row in rows:
        if row["part"] == "published":
            series[f"{row['method']}, as published"] = _curve([row], watcher)
    return series


def _curve(points: Sequence[Mapping[str, Any]], watcher: str | None) -> Series:
    seen = [row["rewards"] if watcher is None else row["panel"][watcher] for row in points]
    y = [interval(torch.tensor(values)) for values in seen]
    return Series([row["model_calls"] for row in points], [i.mean for i in y], [i.low for i in y], [i.high for i in y])


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `run` as a Markdown table: means over seeds with 95% t intervals, differences paired over seeds."""
    panel = list(dict.fromkeys(name for row in rows for name in row["panel"]))
    head = ["experiment", "method", "bill", "reward", "above best-of-N", *panel]
    head += ["prompts kept", "rows an image", "decodes an image"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        own = torch.tensor(row["rewards"], dtype=torch.float64)
        same = ("experiment", "part", "times_plain")
        base = [r for r in rows if r["method"] == "best-of-N" and all(r[k] == row[k] for k in same)]
        above = ""
        if base and base[0] is not row:
            difference = paired(own, torch.tensor(base[0]["rewards"], dtype=torch.float64))
            above = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
            above += "" if difference.is_clear else " n.s."
        bill = "as published" if row["part"] == "published" else f"{row['times_plain']}×"
        seen = [f"{sum(row['panel'][name]) / len(own):.3f}" if name in row["panel"] else "" for name in panel]
        cells = [row["experiment"], row["method"], bill, str(interval(own)), above, *seen, f"{row['prompts_kept']:.1f}"]
        lines.append("| " + " | ".join([*cells, f"{row['model_calls']:.0f}", f"{row['decodes']:.0f}"]) + " |")
    return "\n".join(lines)
