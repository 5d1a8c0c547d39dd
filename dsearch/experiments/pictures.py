"""Image files that a model's call names: found beside the experiment, known by what they hold."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._optional import optional

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ImageFile", "named", "opened", "plain"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")

LARGEST = 2**28
"""Bytes of an image file, at most."""

_NAMES = ("image", "mask", "video", "frames")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageFile:
    """An image file; it is the same image where its name and its bytes are.

    Attributes:
        name: as the experiment calls it.
        sha256: of its bytes.
        path: where it is; None where it was not looked for, as in a run that is only read.
    """

    name: str
    sha256: str
    path: Path | None = field(default=None, compare=False, repr=False)

    @classmethod
    def find(cls, name: str, folder: Path) -> ImageFile:
        """The image of that name beside an experiment, decoded once.

        Raises:
            ValueError: where there is no plain file, or none that can be read as one image.
        """
        path = (folder / Path(name).expanduser()).absolute()
        data = _bytes(name, path)
        _decoded(name, data)
        return cls(name, hashlib.sha256(data).hexdigest(), path)

    def open(self) -> Image:
        """The image, upright and in RGB, as `diffusers.utils.load_image` gives it.

        Raises:
            ValueError: where it is gone, or another one than the experiment was read with.
        """
        data = _bytes(self.name, Path(self.name).absolute() if self.path is None else self.path)
        if (found := hashlib.sha256(data).hexdigest()) != self.sha256:
            raise ValueError(
                f"{self.name} is another image (SHA-256 {found[:12]}..., {self.sha256[:12]}... was meant); put the one "
                "that was meant back, or run it as an experiment of its own"
            )
        return _decoded(self.name, data)


def _bytes(name: str, path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"no image file {name!r} in {path.parent}")
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{name} has {size:,} bytes, and an image at most {LARGEST:,}; make it smaller")
    return path.read_bytes()


def _decoded(name: str, data: bytes) -> Image:
    with optional():
        from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise ValueError(f"it has {frames} frames; give each frame a file")
            return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # of any kind: what is parsed may be any bytes
        raise ValueError(f"{name} is no image that could be read, of {', '.join(FORMATS)} ({error})") from error


def named(name: str, value: Any, folder: Path | None) -> Any:
    """An argument of a call, with `ImageFile` for each file that stands where an image belongs.

    Args:
        name: of the argument.
        value: as YAML gives it: a file is a string, or `{file: NAME, sha256: SUM}`, alone or in lists.
        folder: that of the experiment; None looks for no file and refuses those without a sum.

    Raises:
        ValueError: for a file that is not there, no image, or not the one of the sum.
    """
    if not any(part in name for part in _NAMES):
        return value
    if isinstance(value, list | tuple):
        return [named(name, each, folder) for each in value]
    if isinstance(value, str):
        if folder is None:
            raise ValueError(f"no file {value!r} is known here; give {{file: NAME, sha256: SUM}}")
        return ImageFile.find(value, folder)
    if isinstance(value, Mapping):
        file, sha256 = value.get("file"), value.get("sha256")
        if set(value) - {"file", "sha256"} or not isinstance(file, str):
            raise ValueError(f"{dict(value)!r} is no image; give a file's name, or {{file: NAME, sha256: SUM}}")
        if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
            raise ValueError(f"sha256 is {sha256!r}; it must be the 64 hexadecimal digits of a SHA-256")
        if folder is None or sha256 is None:
            return ImageFile(file, sha256) if sha256 is not None else named(name, file, folder)
        found = ImageFile.find(file, folder)
        if found.sha256 != sha256:
            raise ValueError(f"{file} has the SHA-256 {found.sha256}, and {sha256} was asked for")
        return found
    return value


def opened(value: Any) -> Any:
    """An argument as a pipeline takes it: images in the place of their files."""
    if isinstance(value, ImageFile):
        return value.open()
    return [opened(each) for each in value] if isinstance(value, list | tuple) else value


def plain(value: Any) -> Any:
    """An argument as JSON says it: files by name and sum."""
    if isinstance(value, ImageFile):
        return {"file": value.name, "sha256": value.sha256}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
