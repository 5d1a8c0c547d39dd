"""Figures that others have published, to hold a comparison against where its setting is theirs.

A figure is shown only beside a comparison on the same model under the same objective in the same unit, always with what
still differs; nothing here is a result of this library.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ..experiments.experiment import Model, Named

__all__ = ["ANCHORS", "Anchor", "differing", "matching"]

SD15 = "Stable Diffusion v1.5"
PSP = "Guimaraes and Perona 2026, arXiv 2607.21591"
SVDD = "Li et al. 2024, arXiv 2408.08252"
GENEVAL = "GenEval's 553 prompts, searched for ImageReward, 4 times the compute of one image"
WIDE = "M = 20 children, 512x512"


class Anchor(NamedTuple):
    """Published figures of one measure.

    Attributes:
        source: whose they are.
        model: of which pipeline.
        objective: kind of the reward that steers: compressibility, aesthetic or imagereward.
        measure: what the figures say; that of the objective is drawn.
        statistic: over images: "mean", "median", or what else.
        steps: denoising steps; None where it is not stated with the figures.
        setting: what else it depends on.
        values: by method.
    """

    source: str
    model: str
    objective: str
    measure: str
    statistic: str
    steps: int | None
    setting: str
    values: Mapping[str, float]

    def says(self, name: str, objective: str) -> bool:
        """Whether the figures are of a reward that a comparison calls `name`, where it searches for `objective`."""
        return self.drawn if name == objective else _plain(name) == _plain(self.measure)

    def of(self, method: str) -> float | None:
        """The figure of the method of that name; None where there is none."""
        return next((value for name, value in self.values.items() if _plain(name) == _plain(method)), None)

    @property
    def drawn(self) -> bool:
        """Whether the figures are levels of the objective's reward."""
        return _plain(self.measure) == self.objective


def _genevals(measure: str, *figures: float) -> Anchor:
    names = ("base", "best-of-4", "FK", "DSearch", "SVDD", "RBF", "BFS", "PSP")
    values = dict(zip(names, figures, strict=True))
    return Anchor(PSP, SD15, "imagereward", measure, "mean", 64, GENEVAL, values)


ANCHORS = (
    _genevals("ImageReward", -0.159, 0.655, 0.640, 0.783, 0.731, 0.670, 0.820, 0.827),
    _genevals("HPS", 0.257, 0.273, 0.261, 0.275, 0.272, 0.274, 0.263, 0.278),
    _genevals("GenEval", 0.434, 0.542, 0.531, 0.506, 0.489, 0.520, 0.564, 0.574),
    Anchor(
        "an independent reproduction of PSP",
        SD15,
        "imagereward",
        "value-final rank correlation",
        "Spearman",
        64,
        "48 prompts, 5 seed windows, deterministic steps",
        {"step 8": 0.323, "step 16": 0.659, "step 32": 0.898},
    ),
    Anchor(
        "an independent reproduction of PSP",
        SD15,
        "imagereward",
        "PSP above best-of-4",
        "mean",
        64,
        "48 prompts, 5 seed windows, deterministic steps, 256 forward passes; 95% of ImageReward's is 0.058 to 0.262",
        {"ImageReward": 0.160, "CLIP": 0.002, "GenEval": -0.004},
    ),
    Anchor(
        SVDD,
        SD15,
        "compressibility",
        "compressibility",
        "median",
        None,
        f"{WIDE}, minus kilobytes at JPEG quality 95",
        {"base": -101.4, "best-of-N": -71.2, "SMC": -57.1, "SVDD": -49.7},
    ),
    Anchor(
        SVDD,
        SD15,
        "aesthetic",
        "aesthetic",
        "median",
        None,
        WIDE,
        {"base": 5.66, "best-of-N": 6.11, "SMC": 5.99, "SVDD": 6.12},
    ),
)
"""Published reference results, by source."""


def matching(model: Model, name: str, objective: Named) -> list[Anchor]:
    """The figures for this model and objective, which the experiment calls `name`; none where units may differ."""
    if not _is_sd15(model.pipeline) or any(model.args.get(side, 512) != 512 for side in ("height", "width")):
        return []
    kind = _plain(objective.kind.rpartition(":")[2])
    if kind == "compressibility" and (
        objective.args.get("quality", 95) != 95 or objective.args.get("size") not in (None, 512)
    ):
        return []
    kinds = {kind, "imagereward"} if _plain(name) == "imagereward" else {kind}
    return [anchor for anchor in ANCHORS if anchor.objective in kinds]


def differing(anchor: Anchor, model: Model) -> str:
    """What of the setting is not the comparison's, in words."""
    parts = []
    if anchor.steps is None:
        parts.append(f"steps not stated there, {model.num_steps} here")
    elif anchor.steps != model.num_steps:
        parts.append(f"{anchor.steps} steps there, {model.num_steps} here")
    if anchor.statistic == "median":
        parts.append("medians there, means here")
    return "; ".join([*parts, "its own prompts, seeds and sizes of methods"])


def _is_sd15(pipeline: str) -> bool:
    """By the id or the folder's name, a folder of the hub's cache included."""
    known = {"stablediffusionv15", "stablediffusion15", "sdv15", "sd15"}
    return any(_plain(part) in known for part in re.split(r"[/\\]|--", pipeline))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
