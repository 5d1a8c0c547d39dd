"""The demonstration: every method at one bill, under two guides, watched by a judge that never steers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import methods
from .compare.metrics import Interval, interval
from .core.contract import Beams, Denoiser, Method, Reward
from .core.loop import search
from .core.plan import Bill, largest, positive
from .core.steps import Step
from .experiments.files import dumps
from .plots import Panel, Series, curves, grid

if TYPE_CHECKING:
    from .rewards.clip_score import CLIPScore

__all__ = ["Judge", "Setting", "at_one_bill", "run"]

TITLES = {"plain": "plain", "best_of_n": "best-of-N", "svdd": "SVDD", "dsearch": "DSearch", "dsearch_r": "DSearch-R"}


@dataclass(frozen=True)
class Setting:
    """What the demonstration runs.

    Attributes:
        prompts: searched together, each on its own.
        seeds: independent repetitions, over which the intervals are taken: at least 2.
        n: images that plain sampling draws at the common bill: at least 2.
    """

    prompts: Sequence[str]
    seeds: int = 7
    n: int = 8

    def __post_init__(self) -> None:
        positive("seeds", self.seeds, at_least=2)
        positive("n", self.n, at_least=2)
        if not self.prompts:
            raise ValueError("no prompts; give at least one")


def at_one_bill(reward: Reward, n: int, num_steps: int) -> dict[str, Method]:
    """The five methods, each as large as the network rows of n plain images allow.

    DSearch-R takes half the beams of best-of-N, so that two children of each fill the bill.
    """
    if num_steps < 4:
        raise ValueError(f"{num_steps} steps are too few to compare schedules; take at least 4")
    half = max(2, n // 2)
    limit = methods.plain(reward, n).bill(num_steps).model_calls

    def fit(make: Callable[[int], Method], at_least: int = 1) -> Method:
        return make(largest(lambda size: make(size).bill(num_steps).model_calls, limit, at_least))

    return {
        "plain": methods.plain(reward, n),
        "best_of_n": methods.best_of_n(reward, n),
        "svdd": fit(lambda width: methods.svdd(reward, width)),
        "dsearch": fit(lambda budget: methods.dsearch(reward, beams=n, keep=1, budget=budget), n),
        "dsearch_r": fit(
            lambda budget: methods.dsearch_r(reward, beams=half, budget=budget, rate=1 / half, search="all"), half
        ),
    }


@dataclass(frozen=True)
class Judge:
    """A CLIP that never steers: the cosine to the prompt, and how often the prompt is the first of all classes."""

    score: CLIPScore
    classes: Sequence[str]

    def __call__(self, images: Tensor, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """`[N, 3, H, W]`, N prompts -> cosines `[N]`, and `[N]` 1 where the prompt is the nearest class."""
        classes = list(dict.fromkeys([*self.classes, *prompts]))
        cosine = self.score.image_embeddings(images) @ self.score.text_embeddings(classes).T
        own = torch.tensor([classes.index(prompt) for prompt in prompts], device=cosine.device)
        return cosine.gather(1, own[:, None])[:, 0].cpu(), (cosine.argmax(1) == own).float().cpu()


@dataclass
class Cell:
    """One method under one guide: a number a seed, and the pictures of the first seed."""

    bill: Bill
    seconds: float = 0.0
    reward: list[Tensor] = field(default_factory=list)
    cosine: list[Tensor] = field(default_factory=list)
    top1: list[Tensor] = field(default_factory=list)
    trend: list[Tensor] = field(default_factory=list)
    pictures: list[Tensor] = field(default_factory=list)


def run(
    denoiser: Denoiser,
    guides: Mapping[str, Reward],
    setting: Setting,
    out: Path,
    *,
    judge: Judge | None = None,
    about: Mapping[str, Any] | None = None,
    say: Callable[[str], object] = print,
    **chunks: Any,
) -> list[dict[str, Any]]:
    """Search under every guide with every method; write `grid.png`, `trend.png` and `results.json` into `out`.

    Args:
        denoiser: the model.
        guides: the rewards that steer, by name.
        setting: prompts, seeds and size.
        out: an existing folder.
        judge: watches, never steers.
        about: what to record beside the results.
        say: told of each finished cell.
        chunks: chunk sizes of `search`.

    Returns:
        One row a method and guide, as in `results.json`.
    """
    cells: dict[tuple[str, str], Cell] = {}
    for guide, reward in guides.items():
        for name, method in at_one_bill(reward, setting.n, denoiser.num_steps).items():
            cells[guide, name] = cell = Cell(method.bill(denoiser.num_steps))
            for seed in range(setting.seeds):
                _one(cell, denoiser, method, setting, seed, judge, chunks)
            say(f"{guide:16} {TITLES[name]:10} {interval(torch.stack(cell.reward))}  {cell.seconds:6.1f} s")
    rows = [_row(guide, name, cells) for guide, name in cells]
    (out / "results.json").write_text(dumps({**(about or {}), "rows": rows}, indent=1), encoding="utf-8")
    _draw(cells, guides, setting, out)
    return rows


def _one(
    cell: Cell,
    denoiser: Denoiser,
    method: Method,
    setting: Setting,
    seed: int,
    judge: Judge | None,
    chunks: Mapping[str, Any],
) -> None:
    chooses, trend, looking = any(method.plan(denoiser.num_steps).score), [], 0.0

    def watch(step: Step, beams: Beams) -> None:
        nonlocal looking
        began = time.perf_counter()
        trend.append(beams.value.max(dim=1).values.mean() if chooses else _looked(denoiser, method, setting, beams))
        looking += time.perf_counter() - began

    began = time.perf_counter()
    result = search(denoiser, method, setting.prompts, seed=seed, callback=watch, **chunks)
    cell.seconds += time.perf_counter() - began - looking
    # What a user is left with: the best image of each prompt; where nothing chooses, any of them.
    k = 1 if chooses else result.rewards.shape[1]
    images, rewards = result.images[:, :k].flatten(0, 1), result.rewards[:, :k]
    cell.reward.append(rewards.mean().cpu())
    cell.trend.append(torch.stack([*trend[:-1], rewards.mean()]).cpu())
    if seed == 0:
        first = (result.lineage.ancestor() == 0).int().argmax(1).tolist()  # not the best one, where nothing chooses
        at = [0] * len(first) if chooses else first
        cell.pictures = [group[k].cpu() for group, k in zip(result.images, at, strict=True)]
    if judge is not None:
        cosine, top1 = judge(images, [prompt for group in result.prompts for prompt in group[:k]])
        cell.cosine.append(cosine.mean())
        cell.top1.append(top1.mean())


def _looked(denoiser: Denoiser, method: Method, setting: Setting, beams: Beams) -> Tensor:
    """The mean reward of the posterior means, looked at without steering: neither billed nor timed."""
    groups = zip(beams.pred.x0, setting.prompts, strict=True)
    return torch.cat([method.reward(denoiser.decode(x0), [prompt] * len(x0)) for x0, prompt in groups]).mean()


def _row(guide: str, name: str, cells: Mapping[tuple[str, str], Cell]) -> dict[str, Any]:
    cell = cells[guide, name]
    own = torch.stack(cell.reward)
    row: dict[str, Any] = {
        "guide": guide,
        "method": name,
        "reward": interval(own)._asdict(),
        "above_plain": interval(own - torch.stack(cells[guide, "plain"].reward))._asdict(),
        "above_best_of_n": interval(own - torch.stack(cells[guide, "best_of_n"].reward))._asdict(),
        **cell.bill._asdict(),
        "seconds": round(cell.seconds / len(cell.reward), 3),
    }
    if cell.cosine:
        row["judge_cosine"] = interval(torch.stack(cell.cosine))._asdict()
        row["judge_top1"] = interval(torch.stack(cell.top1))._asdict()
    return row


def _draw(cells: Mapping[tuple[str, str], Cell], guides: Mapping[str, Reward], setting: Setting, out: Path) -> None:
    pictures = [[picture for guide in guides for picture in cells[guide, name].pictures] for name in TITLES]
    columns = [f"{prompt}\n{guide}" for guide in guides for prompt in setting.prompts]
    grid(pictures, list(TITLES.values()), columns, out / "grid.png")
    panels = []
    for guide in guides:
        own = {TITLES[name]: cell for (of, name), cell in cells.items() if of == guide}
        row = [Panel(f"guided by {guide}", "step (0 is pure noise)", f"{guide}, estimated", _trends(own))]
        if all(cell.cosine for cell in own.values()):
            row.append(Panel("what the judge says", f"{guide} reached", "judge: cosine to the prompt", _spread(own)))
        panels.append(row)
    curves(panels, out / "trend.png")


def _trends(cells: Mapping[str, Cell]) -> dict[str, Series]:
    series = {}
    for name, cell in cells.items():
        trend = torch.stack(cell.trend)  # [seeds, T]
        known = ~trend.isnan().any(0)
        bands = [interval(at) for at in trend[:, known].T]
        x = (known.nonzero().flatten() + 1).tolist()
        series[name] = Series(x, [b.mean for b in bands], [b.low for b in bands], [b.high for b in bands])
    return series


def _spread(cells: Mapping[str, Cell]) -> dict[str, Series]:
    series = {}
    for name, cell in cells.items():
        x, y = interval(torch.stack(cell.reward)), interval(torch.stack(cell.cosine))
        series[name] = Series([x.mean], [y.mean], [y.low], [y.high], (x.low, x.high))
    return series


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `run` as a Markdown table."""
    head = ["guide", "method", "reward", "above plain", "above best-of-N", "judge cosine", "judge top-1"]
    head += ["model calls", "decodes", "reward calls", "s a seed"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [row["guide"], TITLES[row["method"]], str(Interval(**row["reward"]))]
        cells += ["" if row["method"] == than else _above(row[f"above_{than}"]) for than in ("plain", "best_of_n")]
        cells += [str(Interval(**row[key])) if key in row else "" for key in ("judge_cosine", "judge_top1")]
        cells += [f"{row[unit]:,}" for unit in Bill._fields]
        lines.append("| " + " | ".join([*cells, f"{row['seconds']:.1f}"]) + " |")
    return (
        "\n".join(lines)
        + "\n\nMeans over the seeds with 95% t intervals; n.s.: the interval of a difference reaches 0."
    )


def _above(difference: Mapping[str, float]) -> str:
    interval = Interval(**difference)
    return f"{interval} n.s." if interval.low <= 0 <= interval.high else str(interval)
