"""Images as bytes: what encoders, judges and caches read. None writes into what it is given."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

__all__ = ["content", "of_file", "to_pil", "to_uint8"]


def to_uint8(images: Tensor) -> "np.ndarray":
    """[N, 3, H, W] in [0, 1] -> uint8 [N, H, W, 3] on the host, rounded first: fewer bytes to move."""
    n, _, height, width = images.shape
    pixels = torch.empty((n, height, width, 3), dtype=torch.uint8, device=images.device)
    for row, image in zip(pixels, images.detach(), strict=True):  # a float copy of the whole batch costs more
        row.copy_((image.float() * 255).round_().permute(1, 2, 0))
    return pixels.cpu().numpy()


def to_pil(images: Tensor) -> list[Any]:
    """[N, 3, H, W] in [0, 1] -> N pictures of Pillow's, of 8 bits."""
    from PIL import Image

    return [Image.fromarray(array) for array in to_uint8(images)]


def of_file(path: str | Path) -> Tensor:
    """A picture's file -> `[3, H, W]` in [0, 1].

    Raises:
        FileNotFoundError: where there is none.
    """
    import numpy as np
    from PIL import Image

    if not Path(path).is_file():
        raise FileNotFoundError(f"no picture at {str(path)!r}; give the file of one")
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float() / 255


def content(image: Tensor, text: str) -> bytes:
    """The same 16 bytes for the same pixels, shape, precision and text."""
    pixels = image.detach().cpu().contiguous()
    about = f"{pixels.dtype} {tuple(pixels.shape)} {text}".encode()
    return hashlib.blake2b(about + b"\0" + pixels.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()
