"""What `dsearch.search` returns: the core's result, to be looked at, kept and moved."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from html import escape
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .core.contract import map_tree
from .core.frames import contact_sheet, evenly, is_video
from .core.result import Result as Found
from .media import FPS, SHEET, gif, mp4, wav
from .plots import to_pil

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Result"]

RECORD = "result.json"
"""The file of a folder that says what `save` has written there."""

BY = "dsearch.Result.save"
"""What that file says of itself."""

LIMIT = 350_000
"""Characters of HTML that a result is shown with at most."""

SHOWN = 8
"""Prompts, and images of each, that are shown at most."""


class Result(Found):
    """What a search found; the K survivors of each of the B groups, best first.

    The fields are those of `dsearch.core.result.Result`. A notebook shows the images with their rewards and the bill.
    """

    @classmethod
    def of(cls, found: Found) -> Result:
        """The same result, as this class."""
        return cls(**{field.name: getattr(found, field.name) for field in dataclasses.fields(found)})

    def to(self, device: str | torch.device) -> Result:
        """The same result with every tensor on a device."""
        return map_tree(lambda leaf: leaf.to(device), self)

    def pil(self) -> list[list[Image]]:
        """`pil()[b][k]` is the Pillow image of `images[b, k]`; of a video, a contact sheet of 16 frames at most.

        Raises:
            TypeError: where what was found is neither images nor videos.
        """
        return _pil(self.images)

    def save(
        self, folder: str | Path, *, fps: float = FPS, video: Literal["gif", "mp4"] = "gif", rate: int | None = None
    ) -> list[list[Path]]:
        """Writes a file per image (PNG), video or sound (WAV), and `result.json` with prompts, rewards and the bill.

        Files are named by position, rank and a few words of the prompt, `000-00-cat.png`. What an earlier `save` wrote
        into the folder is replaced; nothing else is.

        Args:
            folder: made if it is not there.
            fps: frames a second, for videos.
            video: what videos are written as; MP4 needs imageio-ffmpeg (the extra `video`).
            rate: samples a second, for sounds, which need it.

        Returns:
            `paths[b][k]` of `images[b, k]`.

        Raises:
            FileExistsError: where another file has one of the names; nothing has been written then.
            TypeError: where what was found is neither images, videos nor sounds, and for sounds without a rate.
            ValueError: for another kind of video.
        """
        from .experiments.files import dumps, write

        suffix, coded = self._coding(fps, video, rate)
        contents = [[coded(made) for made in group] for group in self.images]
        folder = Path(folder)
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is a file; save to a folder")
        paths = [
            [folder / f"{_name(b, k, text)}.{suffix}" for k, text in enumerate(group)]
            for b, group in enumerate(self.prompts)
        ]
        written = _written(folder)
        for path in (folder / RECORD, *chain(*paths)):
            if path not in written and (path.exists() or path.is_symlink()):
                raise FileExistsError(f"no earlier save wrote {path}; save to another folder, or move it away")
        for stale in written - {folder / RECORD, *chain(*paths)}:
            stale.unlink(missing_ok=True)
        images = [
            {"file": paths[b][k].name, "prompt": text, "rank": k, **self._scores(b, k)}
            for b, group in enumerate(self.prompts)
            for k, text in enumerate(group)
        ]
        record = {"by": BY, "images": images, "bill": self.cost.bill.counts()}
        write(folder / RECORD, dumps(record, indent=1).encode())  # first: it says whose the pictures are
        for path, content in zip(chain(*paths), chain(*contents), strict=True):
            write(path, content)
        return paths

    def _coding(self, fps: float, video: str, rate: int | None) -> tuple[str, Callable[[Tensor], bytes]]:
        """The suffix of the files, and what of one `images[b, k]` is in them."""
        if video not in ("gif", "mp4"):
            raise ValueError(f"video={video!r}; choose gif or mp4")
        if _animated(self.images):
            return video, partial(gif if video == "gif" else mp4, fps=fps)
        if _audible(self.images):
            if rate is None:
                raise TypeError("what was found is sound; give its rate, in samples a second: save(folder, rate=44100)")
            return "wav", partial(wav, rate=rate)
        if not _pictorial(self.images):
            raise _unseen(self.images)
        return "png", lambda image: _png(to_pil(image.expand(3, -1, -1)[None].clamp(0, 1))[0])

    def __repr__(self) -> str:
        """Three lines: what was found, the best rewards, and what was spent."""
        best = [f"{_short(group[0], 24)!r} {self.rewards[b, 0]:.4g}" for b, group in enumerate(self.prompts[:4])]
        more = f", and {len(self.prompts) - 4} more" if len(self.prompts) > 4 else ""
        return (
            f"{self._size()}: images {list(self.images.shape)}\n"
            f"  best rewards: {', '.join(best)}{more}\n"
            f"  {self._spent()}"
        )

    def _repr_html_(self) -> str:
        """The best images of the first prompts, their rewards and the bill; pictures as small as the limit asks."""
        page = ""
        for pixels in (256, 128, 64, 32):
            page = self._page(pixels)
            if len(page) <= LIMIT:
                break
        return page

    def _page(self, pixels: int) -> str:
        shown = self.images[:SHOWN, :SHOWN]
        pictures = _pil(shown) if _pictorial(shown) else None
        videos = shown if _animated(shown) else None
        pooled, rows = self._group == "pool", []
        for b, group in enumerate(self.prompts[:SHOWN]):
            cells = []
            for k, text in enumerate(group[:SHOWN]):
                scores = self._scores(b, k)
                said = [f"{scores['reward']:.4g}"]
                said += [f"{_words(name, 40)} {score:.4g}" for name, score in scores.get("held_out", {}).items()]
                said += [_words(text, 24)] if pooled else []
                picture = "" if pictures is None else _img(pictures[b][k], pixels, text)
                picture = picture if videos is None else _moving(videos[b, k], pixels, text)
                cells.append(f"<td style='text-align:center;vertical-align:top'>{picture}{'<br>'.join(said)}</td>")
            title = "" if pooled else _words(group[0], 80)
            rows.append(f"<tr><th style='text-align:left'>{title}</th>{''.join(cells)}</tr>")
        hidden = len(self.prompts) > SHOWN or len(self.prompts[0]) > SHOWN
        about = f"{self._size()}{f'; the first {SHOWN} are shown' if hidden else ''}. {self._spent()}."
        return f"<table>{''.join(rows)}</table><p>{escape(about)}</p>"

    def _scores(self, b: int, k: int) -> dict[str, Any]:
        """What the rewards say of an image."""
        held_out = {name: float(scores[b, k]) for name, scores in self.held_out.items()}
        return {"reward": float(self.rewards[b, k]), **({"held_out": held_out} if held_out else {})}

    def _size(self) -> str:
        groups, kept = self.rewards.shape
        return f"Result of {groups} {self._group}{'s' * (groups != 1)} x {kept} kept"

    @property
    def _group(self) -> str:
        """What a group is: a prompt, or the pool of all."""
        return "prompt" if all(len(set(group)) == 1 for group in self.prompts) else "pool"

    def _spent(self) -> str:
        """What a group cost."""
        units = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in self.cost.bill.counts().items())
        return f"spent per {self._group}: {units}"


def _pictorial(images: Tensor) -> bool:
    """Whether `[B, K, C, H, W]` holds pictures, in grey or RGB."""
    return images.dim() == 5 and images.shape[2] in (1, 3) and images.is_floating_point()


def _animated(images: Tensor) -> bool:
    """Whether `[B, K, F, C, H, W]` holds videos."""
    return images.dim() == 6 and is_video(images.flatten(0, 1))


def _audible(images: Tensor) -> bool:
    """Whether `[B, K, C, L]` holds sounds, of one ear or two."""
    return images.dim() == 4 and images.shape[2] in (1, 2) and images.is_floating_point()


def _unseen(images: Tensor) -> TypeError:
    return TypeError(
        f"what was found is {tuple(images.shape)} {images.dtype}, and images are [B, K, 3, H, W] in [0, 1], videos "
        "[B, K, F, 3, H, W], sounds [B, K, C, L]; result.images holds what the model's decode made"
    )


def _pil(images: Tensor) -> list[list[Image]]:
    if _animated(images):
        return [to_pil(contact_sheet(group, SHEET).clamp(0, 1)) for group in images]
    if not _pictorial(images):
        raise _unseen(images)
    return [to_pil(group.expand(-1, 3, -1, -1).clamp(0, 1)) for group in images]


def _name(b: int, k: int, prompt: str) -> str:
    """A file's name: a prompt adds letters, digits and underscores to it, and nothing that could lead elsewhere."""
    words = "-".join(re.findall(r"\w+", unicodedata.normalize("NFKC", prompt).lower()))[:40]
    return f"{b:03}-{k:02}{'-' * bool(words)}{words}"


def _written(folder: Path) -> set[Path]:
    """The files that an earlier `save` wrote into the folder."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        names = [image["file"] for image in record["images"]] if record["by"] == BY else None
    except (OSError, ValueError, TypeError, KeyError):  # no record of ours
        names = None
    if names is None:
        return set()
    ours = re.compile(r"\d{3,}-\d\d+(-[\w-]+)?\.(png|gif|mp4|wav)")
    return {folder / RECORD, *(folder / name for name in names if ours.fullmatch(name))}


def _png(picture: Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _img(picture: Image, pixels: int, text: str) -> str:
    """An element with the picture in it, at most so many pixels wide and high."""
    small = picture.copy()
    small.thumbnail((pixels, pixels))
    return _shown("png", _png(small), small.width, text)


def _moving(video: Tensor, pixels: int, text: str) -> str:
    """An element with the video in it, 16 frames of it, at most so many pixels wide and high."""
    frames = video[evenly(SHEET, len(video))].float()
    scale = min(1.0, pixels / max(frames.shape[-2:]))
    size = [max(1, round(edge * scale)) for edge in frames.shape[-2:]]
    return _shown("gif", gif(interpolate(frames, size, mode="area")), size[1], text)


def _shown(kind: str, content: bytes, width: int, text: str) -> str:
    coded = base64.b64encode(content).decode()
    style = f"width:{max(128, width)}px;image-rendering:{'auto' if width >= 128 else 'pixelated'}"
    return f"<img src='data:image/{kind};base64,{coded}' alt='{_words(text, 80)}' style='{style}'><br>"


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _words(text: str, longest: int) -> str:
    """Text for a page, where a lone surrogate cannot be sent."""
    return escape(_short(text, longest).encode(errors="replace").decode())
