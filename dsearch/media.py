"""Videos and sounds as files: GIF by Pillow, MP4 where imageio-ffmpeg is installed, WAV by Python itself."""

from __future__ import annotations

import tempfile
import wave
from io import BytesIO
from pathlib import Path

import torch
from torch import Tensor

from ._optional import optional
from .core.frames import contact_sheet
from .plots import to_pil

__all__ = ["FPS", "SHEET", "gif", "mp4", "still", "wav"]

FPS = 8
"""Frames a second, where nothing says how many: what AnimateDiff and CogVideoX are shown with."""

SHEET = 16
"""Frames on the contact sheet of a video."""


def still(image: Tensor) -> Tensor:
    """A picture `[3, H, W]` as it is, a video `[F, 3, H, W]` as a contact sheet `[3, h, w]` of 16 frames at most."""
    return image if image.dim() == 3 else contact_sheet(image[None], SHEET)[0]


def gif(video: Tensor, fps: float = FPS) -> bytes:
    """`[F, 3, H, W]` in [0, 1] as an animated GIF that repeats; it has 256 colours a frame.

    Raises:
        ValueError: for an fps that is not above 0 and at most 100, the most that the format can say.
    """
    if not 0 < fps <= 100:
        raise ValueError(f"fps={fps} must be above 0 and at most 100")
    first, *others = to_pil(video.clamp(0, 1))
    into = BytesIO()
    first.save(into, "gif", save_all=True, append_images=others, duration=round(1000 / fps), loop=0)
    return into.getvalue()


def mp4(video: Tensor, fps: float = FPS) -> bytes:
    """`[F, 3, H, W]` in [0, 1] as H.264; of an odd height or width the last line is left out.

    Raises:
        ModuleNotFoundError: where imageio-ffmpeg is not installed.
        ValueError: for an fps that is not above 0, and for frames of a single line.
    """
    if not fps > 0:
        raise ValueError(f"fps={fps} must be above 0")
    height, width = (edge // 2 * 2 for edge in video.shape[-2:])
    if not height or not width:
        raise ValueError(f"frames of {tuple(video.shape[-2:])} pixels are too small for H.264, which takes 2 at least")
    with optional():
        import imageio_ffmpeg
    frames = video[..., :height, :width].clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "made.mp4")
        writer = imageio_ffmpeg.write_frames(str(file), (width, height), fps=fps, quality=8, macro_block_size=2)
        writer.send(None)
        for frame in frames:
            writer.send(frame.contiguous().numpy().tobytes())
        writer.close()
        return file.read_bytes()


def wav(sound: Tensor, rate: int) -> bytes:
    """`[C, L]` in [-1, 1] as a WAV file of 16 bits, so many samples a second.

    Raises:
        ValueError: for a rate below 1, and for what is no sound.
    """
    if rate < 1:
        raise ValueError(f"rate={rate} samples a second; a sound has at least 1")
    if sound.dim() != 2 or 0 in sound.shape:
        raise ValueError(f"a sound is [C, L], not {list(sound.shape)}")
    into = BytesIO()
    with wave.open(into, "wb") as file:
        file.setnchannels(len(sound))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(sound.clamp(-1, 1).mul(32767).round().to(torch.int16).T.contiguous().cpu().numpy().tobytes())
    return into.getvalue()
