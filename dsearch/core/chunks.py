"""Rows at once: nearly equal slices of the work, halved where memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch

from .plan import positive

__all__ = ["Chunks", "OutOfMemory", "Sizes", "is_out_of_memory"]

T = TypeVar("T")
Kind = Literal["network", "decoder", "reward"]


@dataclass(frozen=True)
class Chunks:
    """The most rows at once through the network, the decoder and the reward: memory and speed, not the result.

    Where memory runs out, a size is halved and stays so; what fitted is in `Result.chunks`.

    Attributes:
        network: rows through the network; None for all.
        decoder: rows through the decoder.
        reward: images into the reward.
        pad: fill the network's and the decoder's chunks up with repeated rows, so that what `torch.compile` made sees
            a single shape.

    Raises:
        ValueError: for sizes below 1, or padding to a size that is None.
    """

    network: int | None = 32
    decoder: int | None = 16
    reward: int | None = 64
    pad: bool = False

    def __post_init__(self) -> None:
        for kind in ("network", "decoder", "reward"):
            if getattr(self, kind) is not None:
                object.__setattr__(self, kind, positive(f"chunks.{kind}", getattr(self, kind)))
        if self.pad and None in (self.network, self.decoder):
            raise ValueError(
                "pad=True fills chunks up to their size; give chunks.network and chunks.decoder as numbers"
            )

    @property
    def block(self) -> int | None:
        """Candidates to hold at once: as many as the largest chunk takes; None for all."""
        sizes = (self.network, self.decoder, self.reward)
        return None if None in sizes else max(size for size in sizes if size is not None)


class OutOfMemory(RuntimeError):
    """Not even one row fits.

    Attributes:
        row: which.
    """

    def __init__(self, kind: Kind, row: int, error: Exception) -> None:
        said = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        super().__init__(
            f"out of memory with chunks.{kind}=1: {said}; use half precision, smaller images, "
            "fewer beams, or offloading (pipe.enable_model_cpu_offload())"
        )
        self.row = row


class Sizes:
    """The chunk sizes of one search, which shrink where memory runs out.

    Attributes:
        now: the sizes in use.
    """

    def __init__(self, chunks: Chunks) -> None:
        self.now = chunks

    def slices(self, rows: int, kind: Kind) -> Iterator[slice]:
        """Nearly equal slices of so many rows, as the sizes are now."""
        parts = -(-rows // (getattr(self.now, kind) or rows))
        return (slice(rows * i // parts, rows * (i + 1) // parts) for i in range(parts))

    def each(self, rows: int, kind: Kind, work: Callable[[slice, int], T]) -> Iterator[T]:
        """The work of nearly equal slices of the rows: a small last one would cost nearly as much as a full one.

        `work` is told its slice, and how many rows to fill it up with. What does not fit into memory is tried again in
        halves, and the size that fits is remembered.

        Raises:
            OutOfMemory: where one row alone does not fit.
        """
        at = 0
        while at < rows:
            size, left = getattr(self.now, kind) or rows, rows - at
            fills = self.now.pad and kind != "reward"
            n = min(size, left) if fills else -(-left // -(-left // size))
            try:
                part = work(slice(at, at + n), size - n if fills else 0)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise OutOfMemory(kind, at, error) from error
                part = None
            if part is None:  # outside the handler: the error's frames held what the work had made
                halved: Any = {kind: (size if fills else n) // 2 or 1}
                self.now = replace(self.now, **halved)
                if torch.cuda.is_available():  # pragma: no cover  # a GPU's cache
                    torch.cuda.empty_cache()
                continue
            yield part
            at += n


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on the CPU torch raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        type(error) is RuntimeError and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    )
