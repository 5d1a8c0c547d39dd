"""Pictures of a search: image grids and curves. Pillow and matplotlib are imported when one is drawn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ._optional import optional

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from .core.plan import Plan

__all__ = ["Panel", "Series", "curves", "from_png", "grid", "plan_picture", "spread", "to_pil"]

DPI = 130

GAP = 0.08
"""Inches between the parts of a grid."""

MOST = 60_000
"""Pixels that a picture is high or wide at most; the renderer takes 65,535."""

OWN = "DejaVu Sans"
"""The font that comes with matplotlib."""


def to_pil(images: Tensor) -> list[Image]:
    """Images `[N, 3, H, W]` in [0, 1] -> N Pillow images, 8 bits a channel, rounded."""
    with optional():
        from PIL import Image

    bytes_ = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in bytes_]


def from_png(file: Path) -> Tensor:
    """A picture's file -> `[3, H, W]` in [0, 1]."""
    import numpy as np

    with optional():
        from PIL import Image

    with Image.open(file) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


def grid(cells: Sequence[Sequence[Tensor]], rows: Sequence[str], columns: Sequence[str], path: Path) -> None:
    """A labelled grid of pictures `[3, H, W]` in [0, 1]: `cells[row][column]`, written as a PNG.

    Where it would be more than 60,000 pixels high or wide, all of it is made smaller.
    """
    pixels = max(cells[0][0].shape[-2:])
    inch = min(max(1.15, pixels / DPI), 2.0)  # small pictures are enlarged, large ones keep about 256 pixels
    figure = _figure(figsize=(1, 1), dpi=DPI)
    beside = [figure.text(0, 0, _literal(row), fontsize=8, ha="right", va="center") for row in rows]
    above = [figure.text(0, 0, _literal(column), fontsize=8, ha="center", va="bottom") for column in columns]
    left, across, high, below = 0.0, inch + GAP / 4, inch + GAP / 4, 0.0
    for row in _sizes(figure, beside):
        left, high = max(left, row[0]), max(high, row[1] + GAP)
    for column in _sizes(figure, above):
        across, below = max(across, column[0] + GAP), max(below, column[1])
    left, top = left + 2 * GAP, below + 2 * GAP
    width, height = left + across * len(columns) + GAP, top + high * len(rows) + GAP
    figure.set_size_inches(width, height)
    for r, text in enumerate(beside):
        text.set_position(((left - GAP) / width, 1 - (top + high * (r + 0.5)) / height))
    for c, text in enumerate(above):
        text.set_position(((left + across * (c + 0.5)) / width, 1 - (top - GAP / 2) / height))
    sheet = _sheet(cells, pixels, round(pixels * across / inch), round(pixels * high / inch))
    place = (left / width, GAP / height, across * len(columns) / width, high * len(rows) / height)
    axis = figure.add_axes(place)
    axis.imshow(sheet, aspect="auto", interpolation="antialiased" if pixels > inch * DPI else "nearest")
    axis.set_axis_off()
    _save(figure, path, min(DPI, MOST / max(width, height)))


def _sheet(cells: Sequence[Sequence[Tensor]], pixels: int, across: int, high: int) -> Any:
    """`[rows high, columns across, 3]` of 8 bits: each picture in the middle of its place, as large as the largest."""
    sheet = torch.full((high * len(cells), across * len(cells[0]), 3), 255, dtype=torch.uint8, device="cpu")
    for r, line in enumerate(cells):
        for c, picture in enumerate(line):
            scale = pixels / max(picture.shape[-2:])
            if scale != 1:
                picture = torch.nn.functional.interpolate(picture[None], scale_factor=scale, mode="nearest")[0]
            h, w = picture.shape[-2:]
            y, x = r * high + (high - h) // 2, c * across + (across - w) // 2
            sheet[y : y + h, x : x + w] = picture.mul(255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu()
    return sheet.numpy()


def _sizes(figure, texts: Sequence[Any]) -> list[tuple[float, float]]:  # type: ignore[no-untyped-def]
    """Width and height of texts in inches, in the fonts that draw them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    _dress(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    with _quiet():
        boxes = [text.get_window_extent(renderer) for text in texts]
    return [(box.width / figure.dpi, box.height / figure.dpi) for box in boxes]


class Series(NamedTuple):
    """A curve with a band, or (with one point) a marker with error bars; all of one length.

    Attributes:
        x: where.
        y: the mean.
        low: lower end of its interval.
        high: upper end of its interval.
        x_interval: `(low, high)` of x, for a marker.
        x_intervals: `(low, high)` of each x: the points are markers with error bars both ways, growing along the curve.
        said: what stands beside each point, "" for nothing.
    """

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    x_interval: tuple[float, float] | None = None
    x_intervals: Sequence[tuple[float, float]] | None = None
    said: Sequence[str] = ()


class Panel(NamedTuple):
    """One axes of a figure: a title, axis labels, and a series a name.

    Attributes:
        title, x, y: what stands above, below and beside.
        series: by name.
        levels: dashed lines across, by what is written beside them.
        front: points of the Pareto front, from left to right: ringed, and joined by what they bound.
        ticks: what stands where on the x axis; empty for the usual numbers.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, Series]
    levels: Mapping[str, float] = {}
    front: Sequence[tuple[float, float]] = ()
    ticks: Mapping[float, str] = {}


def curves(
    panels: Sequence[Sequence[Panel | None]], path: Path, log_x: bool = False, names: Sequence[str] = ()
) -> None:
    """Rows of panels, one colour a name throughout, written as a PNG.

    Args:
        panels: rows of equal length; None leaves a gap.
        path: of the PNG.
        log_x: x doubles from tick to tick.
        names: whose colours are settled first, so that several figures share them.
    """
    shown = dict.fromkeys(name for row in panels for panel in row if panel for name in panel.series)
    names = list(dict.fromkeys([*names, *shown]))
    many = len(names) > 10  # more than the default colours
    figure = _figure(figsize=(5 * len(panels[0]), 3.5 * len(panels) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), len(panels[0]), squeeze=False)
    colour = {name: _shades()[i % 20] if many else f"C{i}" for i, name in enumerate(names)}
    handles: dict[str, Any] = {}
    for row, line in zip(panels, axes, strict=True):
        for panel, axis in zip(row, line, strict=True):
            if panel is None:
                axis.set_axis_off()
                continue
            for name, series in panel.series.items():
                handles[name] = _draw(axis, series, colour[name], band=not many)
                for x, y, said in zip(series.x, series.y, series.said, strict=False):
                    axis.annotate(said, (x, y), (4, 4), textcoords="offset points", fontsize=6.5, color=colour[name])
            handles.update(_refer(axis, panel))
            axis.set(title=_plain(panel.title), xlabel=_plain(panel.x), ylabel=_plain(panel.y))
            axis.grid(alpha=0.25)
            _tick(axis, panel, log_x)
    # One legend below all panels: in a panel it would cover the curves.
    columns = max(1, 2 * len(panels[0]))
    ordered = [*(name for name in names if name in shown), *(name for name in handles if name not in shown)]
    # A label that began with an underscore would be left out.
    labels = [_plain(f" {name}" if name.startswith("_") else name) for name in ordered]
    figure.legend([handles[n] for n in ordered], labels, loc="outside lower center", ncols=columns, fontsize=8)
    _save(figure, path)


def plan_picture(plans: Mapping[str, Plan], path: Path) -> None:
    """Beams b(t), children w(t) and rows of each step, a line per method (like the paper's figure of its schedules)."""
    figure = _figure(figsize=(13, 3.5))
    axes = figure.subplots(1, 3)
    for name, plan in plans.items():
        for axis, counts in zip(axes, (plan.alive, plan.width, plan.rows), strict=True):
            axis.step(range(plan.num_moves), counts, where="mid", label=name)
    for axis, label in zip(axes, ("beams alive", "children per beam", "rows"), strict=True):
        axis.set(xlabel="step (0 is pure noise)", ylabel=label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    _save(figure, path)


def _draw(axis, series: Series, colour, band: bool = True):  # type: ignore[no-untyped-def]
    """Draws a series; returns what stands for it in a legend."""
    if series.x_intervals is not None:
        axis.plot(series.x, series.y, color=colour, lw=0.8, alpha=0.6)
        points = zip(series.x, series.y, series.low, series.high, series.x_intervals, strict=True)
        crosses = [_cross(axis, *point, colour, size=4.5 + 2 * i) for i, point in enumerate(points)]
        return crosses[0]
    if len(series.x) > 1:
        few = len(series.x) <= 12
        (line,) = axis.plot(series.x, series.y, color=colour, marker="o" if few else None, ms=3.5)
        if band:  # a dozen bands would hide one another
            axis.fill_between(series.x, series.low, series.high, color=colour, alpha=0.13, lw=0)
            for edge in (series.low, series.high):
                axis.plot(series.x, edge, color=colour, lw=0.6, alpha=0.6)
        return line
    x = series.x[0]
    return _cross(axis, x, series.y[0], series.low[0], series.high[0], series.x_interval or (x, x), colour)


def _cross(axis, x, y, low, high, across, colour, size: float = 6):  # type: ignore[no-untyped-def]
    xerr, yerr = [[x - across[0]], [across[1] - x]], [[y - low], [high - y]]
    return axis.errorbar(x, y, xerr=xerr, yerr=yerr, fmt="o", ms=size, color=colour, capsize=3, lw=1)


def _tick(axis, panel: Panel, log_x: bool) -> None:  # type: ignore[no-untyped-def]
    steps = any(len(s.x) > 1 and all(float(x).is_integer() for x in s.x) for s in panel.series.values())
    if log_x:
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    elif steps:  # which are whole
        axis.xaxis.get_major_locator().set_params(integer=True)
    if panel.ticks:
        axis.set_xticks(list(panel.ticks), [_plain(text) for text in panel.ticks.values()])
        axis.minorticks_off()


def _refer(axis, panel: Panel) -> dict[str, Any]:  # type: ignore[no-untyped-def]
    """Draws what the curves are held against, lines across and the front; returns what goes into the legend."""
    for level in panel.levels.values():
        axis.axhline(level, color="0.35", ls="--", lw=0.9)
    low, high = axis.get_ylim()
    named = sorted(panel.levels.items(), key=lambda pair: pair[1])
    heights = spread([(level - low) / (high - low) for _, level in named])
    for (name, level), height in zip(named, heights, strict=True):  # beside the panel, where no curve is
        ends = {"xy": (1, level), "xycoords": ("axes fraction", "data")}
        text = {"xytext": (1.03, height), "textcoords": "axes fraction", "fontsize": 7, "va": "center"}
        axis.annotate(_plain(name), **ends, **text, arrowprops={"arrowstyle": "-", "color": "0.35", "lw": 0.5})
    if not panel.front:
        return {}
    look = {"color": "0.2", "ls": ":", "lw": 1.4, "marker": "o", "mfc": "none", "ms": 12, "mew": 1.2}
    (line,) = axis.plot(*zip(*panel.front, strict=True), drawstyle="steps-pre", zorder=1, **look)
    return {"Pareto front": line}


def _figure(**options: Any) -> Any:
    """A figure that is only ever written to a file: no window, and pyplot's state stays the user's."""
    with optional():
        from matplotlib.figure import Figure

    return Figure(**options)


def _shades() -> Any:
    import matplotlib

    twenty: Any = matplotlib.colormaps["tab20"]
    return twenty.colors


def _literal(text: str) -> str:
    """A label, line by line of at most 24 letters."""
    return _plain("\n".join(line if len(line) <= 24 else line[:23] + "…" for line in text.split("\n")))


def spread(heights: Sequence[float], apart: float = 0.05) -> list[float]:
    """Ascending heights in [0, 1] -> the same or near, so far apart that a line of text fits between them."""
    rising = list(accumulate(heights, lambda below, own: max(own, below + apart)))
    falling = accumulate(reversed(rising), lambda above, own: min(own, above - apart), initial=1.0 + apart)
    return list(falling)[:0:-1]


def _plain(text: str) -> str:
    """Text as it is: matplotlib would read dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _save(figure, path: Path, dpi: float = DPI) -> None:  # type: ignore[no-untyped-def]
    _dress(figure)
    with _quiet():
        figure.savefig(path, dpi=dpi)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a warning for each letter that no font has, which `_dress` says once."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _dress(figure) -> None:  # type: ignore[no-untyped-def]
    """Gives each text of a figure fonts that have its letters; where there is none here, that is said."""
    from matplotlib.text import Text

    lacking: set[str] = set()
    for text in figure.findobj(Text):
        fonts, without = _fonts("".join(sorted(set(text.get_text()))))
        lacking |= without
        if len(fonts) > 1:
            text.set_fontfamily(fonts)
    if lacking:
        letters = "".join(sorted(lacking)[:5])
        warnings.warn(
            f"no font here draws {letters!r}: the picture shows boxes; install one that does, as Noto Sans CJK or Noto "
            "Emoji (packages fonts-noto-cjk, fonts-noto-extra), and remove matplotlib's font cache",
            stacklevel=4,
        )


@lru_cache(maxsize=4096)
def _fonts(letters: str) -> tuple[list[str], set[str]]:
    """Families of fonts that together draw these letters, matplotlib's own first, and the letters that none has."""
    from matplotlib.font_manager import fontManager

    wanted, families = {letter for letter in letters if letter.isprintable()} - _letters_of(OWN), [OWN]
    names = sorted({entry.name for entry in fontManager.ttflist}, key=lambda name: ("CJK" not in name, name))
    for name in names if wanted else ():
        if name != OWN and not name.startswith("Last Resort") and (has := wanted & _letters_of(name)):
            families.append(name)
            wanted -= has
            if not wanted:
                break
    return families, wanted


@lru_cache(maxsize=512)
def _letters_of(family: str) -> frozenset[str]:
    """The letters that matplotlib can draw of a family; none of a font of coloured bitmaps."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(next(entry.fname for entry in fontManager.ttflist if entry.name == family))
        font.set_size(10, 72)
        return frozenset(map(chr, font.get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()
