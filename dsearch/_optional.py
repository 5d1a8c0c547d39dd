"""Libraries that an extra brings: an import that fails says which."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["EXTRAS", "optional"]

EXTRAS = {
    "diffusers": ("diffusers", "transformers", "accelerate"),
    "runs": ("PIL", "matplotlib", "safetensors", "scipy", "tqdm", "yaml"),
    "clip": ("open_clip", "torchvision"),
    "lora": ("peft",),
    "ocr": ("rapidocr", "onnxruntime"),
    "metrics": ("torchmetrics",),
    "video": ("imageio_ffmpeg",),
}
"""What is imported, by the extra of `pyproject.toml` that brings it; where two do, it is named once."""


@contextmanager
def optional() -> Iterator[None]:
    """Around imports of optional libraries.

    Raises:
        ModuleNotFoundError: where one is not installed, with the extra that brings it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        library = (error.name or "").split(".")[0]
        for extra, libraries in EXTRAS.items():
            if library in libraries:
                remedy = f"{library} is not installed; pip install 'dsearch-diffusion[{extra}]'"
                raise ModuleNotFoundError(remedy, name=error.name) from error
        raise
