"""Pictures of a search: image grids and curves. Pillow and matplotlib are imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from .core.plan import Plan

__all__ = ["Panel", "Series", "curves", "from_png", "grid", "plan_picture", "to_pil"]

DPI = 130


def to_pil(images: Tensor) -> list[Image]:
    """Images `[N, 3, H, W]` in [0, 1] -> N Pillow images, 8 bits a channel, rounded."""
    from PIL import Image

    bytes_ = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in bytes_]


def from_png(file: Path) -> Tensor:
    """A picture's file -> `[3, H, W]` in [0, 1]."""
    import numpy as np
    from PIL import Image

    with Image.open(file) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


def grid(cells: Sequence[Sequence[Tensor]], rows: Sequence[str], columns: Sequence[str], path: Path) -> None:
    """A labelled grid of pictures `[3, H, W]` in [0, 1]: `cells[row][column]`, written as a PNG."""
    plt = _pyplot()
    pixels = max(cells[0][0].shape[-2:])
    inch = min(max(1.15, pixels / DPI), 2.0)  # small pictures are enlarged, large ones keep about 256 pixels
    smooth = "antialiased" if pixels > inch * DPI else "nearest"
    size = (inch * len(columns) + 1.1, inch * len(rows) + 0.5)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False)
    for r, row in enumerate(rows):
        for c, column in enumerate(columns):
            axis = axes[r][c]
            axis.imshow(cells[r][c].permute(1, 2, 0).cpu(), interpolation=smooth, vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if r == 0:
                axis.set_title(_literal(column), fontsize=8)
            if c == 0:
                axis.set_ylabel(_literal(row), fontsize=8, rotation=0, ha="right", va="center", labelpad=6)
    figure.tight_layout(pad=0.4, w_pad=0.15, h_pad=0.15)
    _save(figure, path)


class Series(NamedTuple):
    """A curve with a band, or (with one point) a marker with error bars; all of one length.

    Attributes:
        x: where.
        y: the mean.
        low: lower end of its interval.
        high: upper end of its interval.
        x_interval: `(low, high)` of x, for a marker.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    x_interval: tuple[float, float] | None = None


class Panel(NamedTuple):
    """One axes of a figure: a title, axis labels, and a series a name."""

    title: str
    x: str
    y: str
    series: Mapping[str, Series]


def curves(panels: Sequence[Sequence[Panel]], path: Path, log_x: bool = False) -> None:
    """Rows of panels, one colour a name throughout, written as a PNG; `log_x` doubles from tick to tick."""
    plt = _pyplot()
    names = list(dict.fromkeys(name for row in panels for panel in row for name in panel.series))
    many = len(names) > 10  # more than the default colours
    shades = plt.get_cmap("tab20").colors
    colour = {name: shades[i % 20] if many else f"C{i}" for i, name in enumerate(names)}
    figure, axes = plt.subplots(
        len(panels),
        len(panels[0]),
        figsize=(5 * len(panels[0]), 3.5 * len(panels) + 0.6),
        squeeze=False,
        layout="constrained",
    )
    handles: dict[str, Any] = {}
    for row, line in zip(panels, axes, strict=True):
        for panel, axis in zip(row, line, strict=True):
            for name, series in panel.series.items():
                _draw(axis, series, name, colour[name], band=not many)
            axis.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
            axis.grid(alpha=0.25)
            handles.update(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
            if log_x:
                axis.set_xscale("log", base=2)
                axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
            elif any(len(series.x) > 1 for series in panel.series.values()):  # steps are whole
                axis.xaxis.get_major_locator().set_params(integer=True)
    # One legend below all panels: in a panel it would cover the curves.
    ordered = [name for name in names if name in handles]
    columns = max(1, 2 * len(panels[0]))
    figure.legend([handles[n] for n in ordered], ordered, loc="outside lower center", ncols=columns, fontsize=8)
    _save(figure, path)


def plan_picture(plans: Mapping[str, Plan], path: Path) -> None:
    """Beams b(t), children w(t) and rows of each step, a line a method (like the paper's figure of its schedules)."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.5))
    for name, plan in plans.items():
        for axis, counts in zip(axes, (plan.alive, plan.width, plan.rows), strict=True):
            axis.step(range(plan.num_steps), counts, where="mid", label=name)
    for axis, label in zip(axes, ("beams alive", "children a beam", "rows"), strict=True):
        axis.set(xlabel="step (0 is pure noise)", ylabel=label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    _save(figure, path)


def _draw(axis, series: Series, name: str, colour, band: bool = True) -> None:  # type: ignore[no-untyped-def]
    if len(series.x) > 1:
        axis.plot(series.x, series.y, label=name, color=colour)
        if band:  # a dozen bands would hide one another
            axis.fill_between(series.x, series.low, series.high, color=colour, alpha=0.2, lw=0)
        return
    x, y = series.x[0], series.y[0]
    across = series.x_interval or (x, x)
    axis.errorbar(
        x,
        y,
        xerr=[[x - across[0]], [across[1] - x]],
        yerr=[[y - series.low[0]], [series.high[0] - y]],
        fmt="o",
        color=colour,
        label=name,
        capsize=3,
    )


def _pyplot():  # type: ignore[no-untyped-def]
    import matplotlib

    matplotlib.use("agg")  # files only: no window, no display needed
    import matplotlib.pyplot as plt

    return plt


def _literal(text: str) -> str:
    """A label is text, line by line of at most 24 letters: matplotlib would read dollar signs as mathematics."""
    lines = (line if len(line) <= 24 else line[:23] + "…" for line in text.split("\n"))
    return "\n".join(lines).replace("$", r"\$")


def _save(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    figure.savefig(path, dpi=DPI)
    _pyplot().close(figure)
