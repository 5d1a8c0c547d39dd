"""Measures of picture quality of pyiqa as rewards."""

from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from dsearch._torchvision import mend
from dsearch.rewards._inputs import check_images, check_prompts

__all__ = ["PyIQA"]

WEIGHTLESS = ("entropy", "piqe")
"""Measures that pyiqa computes without weights."""


class PyIQA:
    """A measure of pyiqa as a reward: images `[N, 3, H, W]` in [0, 1], prompts (unread) -> `[N]`, higher is better.

    Measures without a reference will do; one of which less is better (piqe, niqe, brisque) is negated. Pictures are
    asked about one at a time, so that no score depends on batch-mates. pyiqa is for noncommercial use alone (PolyForm
    Noncommercial 1.0.0), and brings some 120 packages: no extra installs it, `pip install pyiqa` does.

    Args:
        name: as `pyiqa.list_models("NR")` has it.
        device: of the measure; None follows the images.
        download: whether pyiqa may fetch weights, from wherever it has them; without, only entropy and piqe, which have
            none, can be made.

    Raises:
        ModuleNotFoundError: without pyiqa.
        ValueError: for a name that is not known, a measure that compares with a reference, one that needs a download
            that is not allowed, and images that are not in [0, 1].
    """

    def __init__(self, name: str, device: str | torch.device | None = None, *, download: bool = False) -> None:
        if not download and name not in WEIGHTLESS:
            raise ValueError(
                f"pyiqa fetches the weights of {name!r} itself; give download=True, or one of {', '.join(WEIGHTLESS)}"
            )
        self.device = None if device is None else torch.device(device)
        self.name, self._measure = name, _made(name, self.device)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` -> what the measure says of each, `[N]`, on the images' device."""
        check_prompts(images, prompts)
        check_images(images)
        if self.device is None:
            self._measure.to(images.device)
        rows = images.detach().float().clamp(0, 1)  # pyiqa refuses what a decoder overshoots
        said = [self._asked(rows[row : row + 1]) for row in range(len(rows))]
        sign = -1.0 if self._measure.lower_better else 1.0
        return sign * torch.tensor(said, dtype=torch.float32, device=images.device)

    def _asked(self, image: Tensor) -> float:
        said = self._measure(image)
        said = said[0] if isinstance(said, tuple) else said
        if said.numel() != 1:
            raise ValueError(f"{self.name} returned shape {list(said.shape)} for one picture; a reward is one number")
        return float(said)


def _made(name: str, device: torch.device | None) -> Any:
    mend()
    try:
        import pyiqa
    except ModuleNotFoundError as error:
        if error.name != "pyiqa":
            raise
        raise ModuleNotFoundError("pyiqa is not installed; pip install pyiqa", name="pyiqa") from error
    known = pyiqa.list_models("NR")
    if name not in known:
        if name in pyiqa.list_models("FR"):
            raise ValueError(f"{name} compares with a reference picture, which a search has not; choose another")
        near = get_close_matches(name, known, 1)
        raise ValueError(
            f"pyiqa has no {name!r}; {f'did you mean {near[0]}?' if near else 'pyiqa.list_models() names what it has'}"
        )
    measure = pyiqa.create_metric(name, device=device or torch.device("cpu"))
    with suppress(AttributeError):
        measure.eval()
    return measure


def example() -> PyIQA:
    """A measure without weights, for the law suite."""
    return PyIQA("entropy")
