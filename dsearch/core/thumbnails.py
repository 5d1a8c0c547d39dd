"""Small pictures of every candidate at every scored step: what a search saw when it chose."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .contract import Beams, Value
from .engine import Engine
from .plan import Bill, positive

__all__ = ["Pictured", "Shelf"]


class Shelf:
    """Keeps the thumbnails of one search.

    Args:
        size: pixels of the longer edge; smaller pictures are kept as they are.

    """

    def __init__(self, size: int) -> None:
        self.size = positive("thumbnails", size)
        self._steps: dict[int, Tensor] = {}

    def put(self, step: int, child: Tensor, small: Tensor) -> None:
        """Thumbnails `[B, n, 3, h, w]` of the candidates `child [B, n]` at a noise level."""
        child, held = child.cpu(), self._steps.get(step)
        total = int(child.max()) + 1
        if held is None or held.shape[1] < total:
            full = small.new_zeros(len(small), total, *small.shape[2:])
            if held is not None:
                full[:, : held.shape[1]] = held
            self._steps[step] = held = full
        held[torch.arange(len(child))[:, None], child] = small

    def of(self, step: int, total: int) -> Tensor | None:
        """`[B, total, 3, h, w]` uint8 of all candidates at a level, blank where none was drawn; None for none."""
        held = self._steps.get(step)
        return None if held is None else F.pad(held, (*(0,) * 7, total - held.shape[1]))

    def small(self, images: Tensor) -> Tensor:
        """Images `[R, 3, H, W]` in [0, 1] -> `[R, 3, h, w]` uint8 on the CPU."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"thumbnails are of images [R, 3, H, W], but the model decodes to {tuple(images.shape)}")
        scale = self.size / max(images.shape[-2:])
        if scale < 1:
            size = [max(1, round(edge * scale)) for edge in images.shape[-2:]]
            images = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
        return images.clamp(0, 1).mul(255).round().to(torch.uint8).cpu()


class Pictured:
    """A value that shows the shelf each candidate's posterior mean before it says what it is worth.

    Decoding them is counted as what watches is, and not in the bill.
    """

    def __init__(self, value: Value, shelf: Shelf) -> None:
        self.value, self.shelf = value, shelf

    def __call__(self, children: Beams, step: int, engine: Engine) -> Tensor:
        """Candidates `[B, N, ...]` -> what the value says, `[B, N]`."""
        small = engine.show(children.pred.x0, children.prompt, step, self.shelf.small)
        self.shelf.put(step, children.child, small)
        return self.value(children, step, engine)

    def cost(self, step: int, num_steps: int) -> Bill:
        """The value's own."""
        return self.value.cost(step, num_steps)
