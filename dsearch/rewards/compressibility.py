"""How many bytes a picture takes as a JPEG: a reward of DDPO (Black et al. 2023, arXiv 2305.13301)."""

import itertools
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from dsearch.rewards._inputs import check_images, check_prompts
from dsearch.rewards._pictures import to_uint8

from .._optional import optional

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Compressibility", "Incompressibility"]

KILOBYTE = 1_000


@dataclass(frozen=True)
class Compressibility:
    """Minus the kilobytes (1,000 bytes) of each picture's JPEG: images [N, 3, H, W], prompts (unread) -> [N].

    The file is Pillow's for round(255 x): RGB, 4:2:0, `quality`, Huffman tables not optimised. `size`, an
    edge or (H, W), first resizes the 8-bit picture with Pillow's bicubic filter; None keeps its own size.
    Pictures are encoded on `workers` threads (None: the cores this process may use), in order. Scores are
    float32 on the images' device, below 0, and quantised to a byte: ties happen. Raises ValueError for images
    that are not finite or not in [0, 1].
    """

    on_host: ClassVar[bool] = True
    size: int | tuple[int, int] | None = None
    quality: int = 95
    workers: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality={self.quality} is no JPEG quality; choose 1 to 100 (papers use 95)")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers={self.workers}; choose at least 1, or None for the cores at hand")
        height, width = self._shape or (1, 1)
        if min(height, width) < 1:
            raise ValueError(f"size={self.size} is no picture size; give an edge or (H, W) in pixels")

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` -> minus the kilobytes of each, `[N]`."""
        return -self._kilobytes(images, prompts)

    @property
    def _shape(self) -> tuple[int, int] | None:
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    def _kilobytes(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        check_images(images)
        check_prompts(images, prompts)
        counts = torch.tensor(self._bytes(to_uint8(images)), dtype=torch.float64, device="cpu")
        return (counts / KILOBYTE).to(torch.float32).to(images.device)

    def _bytes(self, pixels: "np.ndarray") -> list[int]:
        """uint8 [N, H, W, 3] -> N file sizes; each worker takes one run of neighbours, so the order holds."""
        workers = min(self.workers or _cores(), len(pixels))
        if workers == 1:
            return self._encode(pixels)
        bounds = [len(pixels) * i // workers for i in range(workers + 1)]
        runs = [pixels[a:b] for a, b in itertools.pairwise(bounds)]
        # A pool for each call costs little, and leaves no thread behind for a fork or a pickle to meet.
        with ThreadPoolExecutor(workers, thread_name_prefix="jpeg") as pool:
            return [count for counts in pool.map(self._encode, runs) for count in counts]

    def _encode(self, pixels: "np.ndarray") -> list[int]:
        with optional():
            from PIL import Image

        counts = []
        with _scratch() as file:
            for array in pixels:
                picture = Image.fromarray(array)
                if self._shape is not None:
                    height, width = self._shape
                    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
                file.seek(0)
                picture.save(file, "JPEG", quality=self.quality, subsampling="4:2:0", optimize=False)
                counts.append(file.tell())
        return counts


@dataclass(frozen=True)
class Incompressibility(Compressibility):
    """Plus the kilobytes of each picture's JPEG: Compressibility with the sign turned, above 0."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` -> the kilobytes of each, `[N]`."""
        return self._kilobytes(images, prompts)


def _scratch() -> IO[bytes]:
    """A real file, in memory where the system has such: into a BytesIO Pillow encodes holding the GIL."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("jpeg"), "wb", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def example() -> Compressibility:
    """A cheap instance for the law suite."""
    return Compressibility(workers=2)
