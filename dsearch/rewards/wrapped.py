"""Rewards made of what is at hand: of callables on Pillow's pictures, and of videos by rewards of pictures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dsearch.core.contract import Reward
from dsearch.core.frames import evenly
from dsearch.core.plan import one_of, positive
from dsearch.rewards._inputs import asked, check_images, check_prompts
from dsearch.rewards._pictures import to_pil

__all__ = ["OnPIL", "PerFrame", "on_pil", "per_frame"]

OfFrames = Literal["mean", "min", "max"]
"""What of its frames' rewards is a video's."""


@dataclass(frozen=True)
class OnPIL:
    """A callable on Pillow's pictures as a reward; `on_pil(score)` makes one."""

    on_host: ClassVar[bool] = True
    score: Callable[..., Any]
    prompts: bool = False

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Images `[N, 3, H, W]` in [0, 1] -> what the callable says of each, `[N]`.

        Raises:
            TypeError: where it says what is no number.
            ValueError: for images that are not in [0, 1].
        """
        check_prompts(images, prompts)
        check_images(images)
        pairs = zip(to_pil(images), prompts, strict=True)
        said = [self.score(picture, prompt) if self.prompts else self.score(picture) for picture, prompt in pairs]
        return torch.tensor([_number(self.score, one) for one in said], dtype=torch.float32, device=images.device)


def on_pil(score: Callable[..., Any], prompts: bool = False) -> OnPIL:
    """A reward of any callable on Pillow's pictures: of 8 bits, RGB, one at a time.

    Args:
        score: `score(picture) -> number`, higher is better.
        prompts: whether it is `score(picture, prompt)`.

    Raises:
        TypeError: for what cannot be called.
    """
    if not callable(score):
        raise TypeError(f"{score!r} cannot be called; give a function of a picture, as on_pil(lambda picture: ...)")
    return OnPIL(score, prompts)


@dataclass(frozen=True)
class PerFrame:
    """A reward of pictures, asked of every frame of a video; `per_frame(reward)` makes one."""

    reward: Reward
    over: OfFrames
    frames: int | None
    chunk: int

    @property
    def on_host(self) -> bool:
        """Whether the reward works beside an accelerator: as the one that is asked."""
        return getattr(self.reward, "on_host", False)

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """Videos `[N, F, 3, H, W]` -> what is made of their frames' rewards, `[N]`.

        A picture, of `[N, 3, H, W]`, is a video of one frame.

        Raises:
            ValueError: for other shapes, and where the reward gives not one number per frame.
        """
        videos = images[:, None] if images.dim() == 4 else images
        check_prompts(videos, prompts)
        if videos.dim() != 5 or videos.shape[2] != 3 or 0 in videos.shape:
            raise ValueError(f"videos are {list(images.shape)}; a reward of frames reads [N, F, 3, H, W], N and F >= 1")
        if self.frames is not None:
            videos = videos[:, evenly(self.frames, videos.shape[1])]
        frames = videos.shape[1]
        said = [
            self._asked(videos, prompts, range(i, i + self.chunk)) for i in range(0, len(prompts) * frames, self.chunk)
        ]
        each = torch.cat(said).view(len(videos), frames)
        return each.mean(dim=1) if self.over == "mean" else getattr(each, f"a{self.over}")(dim=1)

    def _asked(self, videos: Tensor, prompts: list[str], rows: range) -> Tensor:
        """What is said of some of the frames, counted through all videos."""
        places = [divmod(row, videos.shape[1]) for row in rows if row < len(videos) * videos.shape[1]]
        pictures = torch.stack([videos[n, f] for n, f in places])
        said = asked(self.reward, pictures, [prompts[n] for n, _ in places])
        return said if said.is_floating_point() else said.float()


def per_frame(reward: Reward, over: OfFrames = "mean", frames: int | None = None, chunk: int = 16) -> PerFrame:
    """A reward of videos from one of pictures.

    Args:
        reward: of pictures.
        over: what of its frames' rewards is a video's: "mean", "max", or "min", which one bad frame decides.
        frames: how many it looks at, evenly spread from the first to the last; None for all.
        chunk: frames that the reward is asked about at once, whatever videos they are of: memory, not the result.

    Raises:
        ValueError: for another `over`, or frames or a chunk below 1.
    """
    one_of("over", over, OfFrames)
    return PerFrame(reward, over, None if frames is None else positive("frames", frames), positive("chunk", chunk))


def _number(score: Callable[..., Any], said: Any) -> float:
    try:
        return float(said)
    except (TypeError, ValueError) as error:
        name = getattr(score, "__name__", type(score).__name__)
        raise TypeError(
            f"{name} returned {type(said).__name__} {said!r:.60} for a picture; return one number"
        ) from error


def example() -> PerFrame:
    """A cheap instance for the law suite."""
    return per_frame(on_pil(lambda picture: picture.resize((1, 1)).getpixel((0, 0))[0]), chunk=3)
