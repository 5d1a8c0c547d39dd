"""Rewards of pictures, asked of videos: frame by frame."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dsearch.core.contract import Reward
from dsearch.core.frames import evenly
from dsearch.core.plan import positive
from dsearch.rewards._inputs import check_prompts
from dsearch.rewards.combine import _asked as asked
from dsearch.rewards.compressibility import Compressibility

__all__ = ["Framewise"]

_REDUCED: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda scores: scores.mean(dim=1),
    "min": lambda scores: scores.amin(dim=1),
    "max": lambda scores: scores.amax(dim=1),
}


@dataclass(frozen=True)
class Framewise:
    """A reward of pictures on the frames of videos `[N, F, 3, H, W]`; pictures `[N, 3, H, W]` are videos of one frame.

        reward = Framewise(CLIPScore(), frames=4)

    Args:
        reward: of pictures; it is asked once, for the frames of all videos.
        frames: how many frames to look at, evenly spread from the first to the last; None for all.
        reduce: what a video scores, of its frames' scores: their "mean", "min" or "max".

    Raises:
        ValueError: for frames below 1, or another reduce.
    """

    reward: Reward
    frames: int | None = None
    reduce: Literal["mean", "min", "max"] = "mean"

    def __post_init__(self) -> None:
        if self.frames is not None:
            object.__setattr__(self, "frames", positive("frames", self.frames))
        if self.reduce not in _REDUCED:
            raise ValueError(f"reduce={self.reduce!r}; choose {', '.join(_REDUCED)}")

    @property
    def on_host(self) -> bool:
        """Whether the reward works beside an accelerator: as the one that is asked."""
        return getattr(self.reward, "on_host", False)

    def __call__(self, videos: Tensor, prompts: list[str]) -> Tensor:
        """Videos `[N, F, 3, H, W]` -> `[N]`.

        Raises:
            ValueError: for what is neither videos nor pictures, and where the reward returns another number of scores.
        """
        if videos.ndim not in (4, 5) or videos.shape[-3] != 3 or 0 in videos.shape:
            raise ValueError(f"videos are {list(videos.shape)}; this reward reads [N, F, 3, H, W], N and F at least 1")
        check_prompts(videos, prompts)
        videos = videos[:, None] if videos.ndim == 4 else videos
        seen = videos if self.frames is None else videos[:, evenly(self.frames, videos.shape[1])]
        said = asked(self.reward, seen.flatten(0, 1), [text for text in prompts for _ in range(seen.shape[1])])
        return _REDUCED[self.reduce](said.unflatten(0, seen.shape[:2]))


def example() -> Framewise:
    """A cheap instance for the law suite."""
    return Framewise(Compressibility(workers=1), frames=2)
