"""Videos `[N, F, 3, H, W]` as pictures: which of their frames to look at, and sheets of them."""

from __future__ import annotations

import math

from einops import rearrange
from torch import Tensor

__all__ = ["contact_sheet", "evenly", "is_video"]


def evenly(count: int, of: int) -> list[int]:
    """At most `count` of `of` places, evenly spread from the first to the last; the middle one for a single one."""
    if count >= of:
        return list(range(of))
    if count == 1:
        return [of // 2]
    return [round(k * (of - 1) / (count - 1)) for k in range(count)]


def is_video(images: Tensor) -> bool:
    """Whether rows are videos, `[N, F, 3, H, W]`."""
    return images.dim() == 5 and images.shape[-3] == 3 and images.is_floating_point()


def contact_sheet(videos: Tensor, frames: int) -> Tensor:
    """`[N, F, 3, H, W]` -> `[N, 3, rows H, columns W]`: at most so many frames in reading order, as square as can be.

    Places that are left over are black.
    """
    shown = videos[:, evenly(frames, videos.shape[1])]
    columns = math.ceil(math.sqrt(shown.shape[1]))
    rows = -(-shown.shape[1] // columns)
    sheet = shown.new_zeros(len(shown), rows * columns, *shown.shape[2:])
    sheet[:, : shown.shape[1]] = shown
    return rearrange(sheet, "n (r c) k h w -> n k (r h) (c w)", c=columns)
