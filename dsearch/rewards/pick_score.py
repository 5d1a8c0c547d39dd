"""What people pick, given the prompt: PickScore (Kirstain et al. 2023, arXiv 2305.01569)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from dsearch.rewards.clip_score import CLIPScore, tiny

__all__ = ["PickScore"]


class PickScore(CLIPScore):
    """PickScore of each picture for its prompt: images `[N, 3, H, W]` in [0, 1], prompts -> `[N]`.

    A `CLIPScore` under the CLIP ViT-H/14 that was fine-tuned on Pick-a-Pic, times its learned scale (about 100), as its
    authors give it: most pictures score 18 to 24. `path` is a directory with the weights of
    "yuvalkirstain/PickScore_v1" and the tokenizer and preprocessor of "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", which
    that hub id does not hold itself. Arguments and errors are those of `CLIPScore`, but `path` must be given.
    """

    def __init__(
        self,
        path: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        *,
        download: bool = False,
        text_cache: int = 1024,
    ) -> None:
        super().__init__(path, device, dtype, download=download, text_cache=text_cache)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` and their prompts -> the preference score of each pair, `[N]`."""
        return super().__call__(images, prompts) * self._model.logit_scale.exp().float().to(images.device)


def example() -> PickScore:
    """A tiny random CLIP, made on the spot, for the law suite."""
    return tiny(PickScore)
