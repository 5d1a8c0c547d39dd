"""How well people would like a picture: LAION's aesthetic predictor, v2 (Schuhmann 2022)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dsearch._weights import fill, read_weights
from dsearch.rewards._inputs import check_prompts
from dsearch.rewards.clip_score import CLIPScore, tiny

__all__ = ["Aesthetic", "AestheticHead", "load_head"]

SOURCE = "sac+logos+ava1-l14-linearMSE.pth of github.com/christophschuhmann/improved-aesthetic-predictor"
SIZES = (1024, 128, 64, 16, 1)
PLACES = (0, 2, 4, 6, 7)  # of the linear layers among the dropouts of the published network


class AestheticHead(nn.Module):
    """The predictor's five linear layers, dim-1024-128-64-16-1: unit embeddings `[N, dim]` -> `[N]`.

    There is no nonlinearity between them, and what dropout there was in training is not run.
    """

    def __init__(self, dim: int = 768) -> None:
        super().__init__()
        widths = (dim, *SIZES)
        self.layers = nn.ModuleDict(
            {str(p): nn.Linear(a, b) for p, a, b in zip(PLACES, widths, widths[1:], strict=False)}
        )

    def forward(self, embeddings: Tensor) -> Tensor:
        """CLIP embeddings `[N, dim]` -> scores `[N]`."""
        for layer in self.layers.values():
            embeddings = layer(embeddings)
        return embeddings[:, 0]


def load_head(path: str | Path) -> AestheticHead:
    """The MLP alone, from a file as LAION publishes it (or safetensors): what scores CLIP ViT-L/14 embeddings.

    Raises:
        FileNotFoundError: where there is no such file; it says where to get one.
        ValueError: where the file is damaged or holds something else; it names the keys that are expected.
    """
    keys = [f"layers.{place}.{kind}" for place in PLACES for kind in ("weight", "bias")]
    weights = read_weights(path, keys, SOURCE)
    with torch.device("meta"):
        head = AestheticHead(max(1, *weights[keys[0]].shape[1:]))
    return fill(head, weights, path, SOURCE)


class Aesthetic:
    """LAION's aesthetic score of each picture: images `[N, 3, H, W]` in [0, 1], prompts (unread) -> `[N]`.

    The picture's CLIP embedding, of length 1, goes through `head`. With OpenAI's ViT-L/14 and LAION's weights scores
    are about 1 to 10, most pictures between 4 and 7. Images are preprocessed on their device as the CLIP's directory
    says.

    Args:
        clip: directory or hub id of the CLIP, "openai/clip-vit-large-patch14" for LAION's head; or a `CLIPScore` at
            hand, whose model is then shared.
        head: file of the MLP's weights, or an `AestheticHead`.
        device: of the networks; None follows the images.
        dtype: of the CLIP; None is float32. The head is always float32.
        download: whether a hub id may be fetched.

    Raises:
        FileNotFoundError: for a CLIP or a head that is not there.
        ValueError: for a head made for embeddings of another size, and images that are not in [0, 1].
    """

    def __init__(
        self,
        clip: "str | Path | CLIPScore",
        head: str | Path | AestheticHead,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        *,
        download: bool = False,
    ) -> None:
        self.head = head if isinstance(head, AestheticHead) else load_head(head)
        self.clip = clip if isinstance(clip, CLIPScore) else CLIPScore(clip, device, dtype, download=download)
        takes, gives = self.head.layers["0"].in_features, self.clip.dim
        if takes != gives:
            raise ValueError(
                f"the head reads embeddings of {takes} numbers, but this CLIP gives {gives}; LAION's is for ViT-L/14"
            )

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` -> their scores `[N]`, on the images' device."""
        check_prompts(images, prompts)
        embeddings = self.clip.image_embeddings(images)
        return self.head.to(embeddings.device)(embeddings).to(images.device)


def example() -> Aesthetic:
    """A tiny random CLIP and head, made on the spot, for the law suite."""
    clip = tiny(CLIPScore)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Aesthetic(clip, AestheticHead(clip.dim).requires_grad_(False))
