"""What every reward asks of its inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dsearch.core.contract import Reward

TOLERANCE = 1e-3  # a quarter of a grey level of 255: too little to change a rounded pixel


def check_images(images: Tensor, *, wait: bool = True) -> None:
    """Raises a ValueError unless images are floats [N, 3, H, W], N >= 1, finite and in [0, 1].

    Clamping instead would hide a picture left in [-1, 1] or a broken decoder, and still score it. Reading values
    from an accelerator stalls it: a reward that stays on the device asks with `wait=False`, and then the values are
    checked on the CPU only (a NaN comes out as a NaN score, which the engine refuses).
    """
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape or not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype} {list(images.shape)}; a reward reads floats [N, 3, H, W] in [0, 1], N >= 1"
        )
    if not wait and images.device.type != "cpu":
        return
    low, high = torch.stack(torch.aminmax(images.detach())).tolist()  # one wait for the device
    if low != low:  # aminmax passes NaN on
        rows = images.detach().flatten(1).isnan().any(1).nonzero().flatten().tolist()
        raise ValueError(f"images {rows[:8]} of {len(images)} hold NaN; the model or its decoder overflowed")
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(
            f"images span [{low:.4g}, {high:.4g}], outside [0, 1]; map [-1, 1] with images / 2 + 0.5, "
            "then clamp what the decoder overshoots"
        )


def check_prompts(images: Tensor, prompts: Sequence[str]) -> None:
    """Raises a ValueError unless there is one prompt for each image."""
    if isinstance(prompts, str) or len(prompts) != len(images):
        got = "one string" if isinstance(prompts, str) else f"{len(prompts)} prompts"
        raise ValueError(f"{got} for {len(images)} images; pass a list with one prompt for each image")


def asked(reward: Reward, images: Tensor, prompts: list[str]) -> Tensor:
    """What a reward says of pictures of its own, on their device; one number per image, or the name of who errs."""
    said = torch.as_tensor(reward(images.clone(), prompts[:]), device=images.device).clone()
    if said.shape != (len(images),):
        name = getattr(reward, "__name__", type(reward).__name__)
        raise ValueError(
            f"{name} returned shape {tuple(said.shape)} for {len(images)} images; return one number per image"
        )
    return said
