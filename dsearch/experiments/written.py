"""What is written down of a finished search: its records, its trace, its pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .._optional import optional
from ..core.frames import is_video
from ..core.result import Result
from ..media import gif, still
from ..plots import to_pil
from .experiment import Experiment, Unit

__all__ = ["WIDEST", "images", "records", "thumbnail_bytes", "trace_bytes", "videos", "written"]

WIDEST = 16383
"""Pixels that a WebP picture can be wide."""


def images(unit: Unit, result: Result) -> dict[tuple[int, int], str]:
    """How the picture of each group and rank is called, where samples are pictures; no prompt becomes a path.

    That of a video is its contact sheet.
    """
    pictorial = result.images.dim() == 5 and result.images.shape[2] == 3
    return _called(unit, result, "png") if pictorial or is_video(result.images.flatten(0, 1)) else {}


def videos(unit: Unit, result: Result) -> dict[tuple[int, int], str]:
    """How the video of each group and rank is called, where samples are videos."""
    return _called(unit, result, "gif") if is_video(result.images.flatten(0, 1)) else {}


def _called(unit: Unit, result: Result, suffix: str) -> dict[tuple[int, int], str]:
    b, k = result.images.shape[:2]
    return {(i, j): f"images/{unit.index:06}-{i:04}-{j:04}.{suffix}" for i in range(b) for j in range(k)}


def written(unit: Unit, result: Result) -> dict[str, bytes]:
    """The files of a result's pictures and videos, by name."""
    files = {name: _png(still(result.images[place])) for place, name in images(unit, result).items()}
    return files | {name: gif(result.images[place]) for place, name in videos(unit, result).items()}


def records(experiment: Experiment, unit: Unit, result: Result, cut: Callable[[str], str]) -> Iterator[dict[str, Any]]:
    """One an image; `cut` says what of a prompt the model does not read."""
    path, ancestor, names = result.lineage.path(), result.lineage.ancestor(), images(unit, result)
    animated = videos(unit, result)
    place = {experiment.prompts[position]: position for position in unit.positions}  # where prompts are pooled
    for b, group in enumerate(result.prompts):
        for k, prompt in enumerate(group):
            yield {
                "unit": unit.name,
                **{part: getattr(unit, part) for part in ("model", "objective", "method", "budget", "seed")},
                "position": unit.positions[b] if len(result.prompts) == len(unit.positions) else place[prompt],
                "prompt": prompt,
                "cut": cut(prompt),
                "rank": k,
                "image": names.get((b, k)),
                **({"video": animated[b, k]} if animated else {}),
                "reward": float(result.rewards[b, k]),
                "held_out": {name: float(scores[b, k]) for name, scores in result.held_out.items()},
                "log_w": float(result.log_w[b, k]),
                "kl": None if result.kl is None else float(result.kl[b, k]),
                "ancestor": int(ancestor[b, k]),
                **_judged(result, b),
                "path": path[b, k].tolist(),
                **{kind: getattr(result.cost, kind).counts() for kind in ("bill", "planned")},
            }


def _judged(result: Result, b: int) -> dict[str, Any]:
    """What a final choice asked of a group, and how often it had no winner."""
    if result.final is None:
        return {}
    return {"judged": {"comparisons": int(result.final.comparisons[b]), "ties": int(result.final.ties[b])}}


def trace_bytes(result: Result) -> bytes:
    """What the search did, step by step, as safetensors."""
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
        if result.lineage.parent is not None:
            held[f"parent.{i}"] = compact(result.lineage.parent[i])
    about = {
        "prompts": [" / ".join(dict.fromkeys(group)) for group in result.prompts],
        "alive": [step.alive for step in result.trace],
        "width": [step.width for step in result.trace],
    }
    if any(step.reached is not None for step in result.trace):
        about["reached"] = [step.level for step in result.trace]
    return save(held, {"trace": json.dumps(about)})


def thumbnail_bytes(result: Result) -> bytes:
    """Pictures of all candidates, a WebP strip a group and step, as safetensors."""
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
    into = BytesIO()
    to_pil(image[None])[0].save(into, "png")
    return into.getvalue()
