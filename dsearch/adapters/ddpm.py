"""Diffusion in pixels: `DDPMPipeline`, `DDIMPipeline`, or a `UNet2DModel` with a scheduler."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from .._precision import warn_if_emulated
from ..core.contract import Prediction, Rng
from ..core.plan import positive
from ..core.rng import move
from ._kernel import kernel

__all__ = ["DDPM"]


class DDPM:
    """A `UNet2DModel` that denoises pixels, unconditional or told a class, as a denoiser; nothing of it is changed.

    The prompts of a class-conditional model are class numbers as text, "0" to `num_class_embeds - 1`; an unconditional
    model knows the empty prompt alone. With one child per step images equal the pipeline's, given the same noise.

    Args:
        model: a `DDPMPipeline`, a `DDIMPipeline`, or the `UNet2DModel` itself.
        scheduler: its scheduler; a pipeline brings its own.
        num_inference_steps: denoising steps.
        eta: noise of the kernel, 0 to 1, for a DDIM.

    Raises:
        TypeError: for another model, or a UNet without a scheduler.
        ValueError: for a scheduler, eta or network that cannot work; when encoding, for prompts that the model does
            not know.
    """

    pipelines: ClassVar = ("DDPMPipeline", "DDIMPipeline")

    def __init__(self, model: Any, scheduler: Any = None, *, num_inference_steps: int = 50, eta: float = 1.0) -> None:
        unet = getattr(model, "unet", model)
        scheduler = getattr(model, "scheduler", None) if scheduler is None else scheduler
        if type(unet).__name__ != "UNet2DModel":
            raise TypeError(
                f"{type(unet).__name__} is not a UNet2DModel, or a pipeline of one (DDPM or DDIM in pixels)"
            )
        if scheduler is None:
            raise TypeError("a UNet2DModel comes without a scheduler; pass scheduler=diffusers.DDPMScheduler(), say")
        self.model, self.unet = model, unet
        self.num_steps = positive("num_inference_steps", num_inference_steps)
        self._device = getattr(model, "_execution_device", unet.device)
        self._dtype = unet.dtype
        warn_if_emulated(unet.dtype, self._device)
        if unet.config.in_channels != unet.config.out_channels:
            raise ValueError(
                f"this UNet takes {unet.config.in_channels} channels and predicts {unet.config.out_channels}: it "
                "learned variances, or wants pictures beside the noise; take one that predicts what it takes"
            )
        self.kernel = kernel(scheduler, self.num_steps, self._device, eta)
        size = unet.config.sample_size
        height, width = size if isinstance(size, list | tuple) else (size, size)
        self._shape = (unet.config.in_channels, height, width)

    def encode(self, prompts: list[str]) -> Tensor | None:
        """Class numbers as text -> `[P]` classes; None for an unconditional model."""
        classes = self.unet.config.num_class_embeds
        if classes is None:
            if any(prompts):
                raise ValueError(f"prompts={prompts}: this model is unconditional; its only prompt is ''")
            return None
        known = {str(i): i for i in range(classes)}
        if unknown := [prompt for prompt in prompts if prompt not in known]:
            raise ValueError(f"prompts={unknown}: this model knows the classes '0' to '{classes - 1}'")
        return torch.tensor([known[prompt] for prompt in prompts], device=self._device)

    def start(self, batch_shape: tuple[int, int], rng: Rng) -> Tensor:
        """Pure noise `[B, K, C, H, W]`, float32."""
        return move(rng.normal("start", 0, (*batch_shape, *self._shape)), self._device) * self.kernel.init_noise_sigma

    def noise(self, step: int, batch_shape: tuple[int, int, int], rng: Rng) -> Tensor:
        """Normals `[B, K, w, C, H, W]`, float32."""
        if self.kernel.eta == 0 and batch_shape[2] > 1:
            raise ValueError(
                f"width={batch_shape[2]} at step {step}: with eta=0 all children are equal; set eta above 0"
            )
        return move(rng.normal("noise", step, (*batch_shape, *self._shape)), self._device)

    def predict(self, x: Tensor, level: int, cond: Tensor | None, prompt_index: Tensor) -> Prediction:
        """`[R, C, H, W]` -> the output of the UNet, and the posterior mean that the scheduler reads in it."""
        if level == self.num_steps:
            return Prediction(None, x)
        seen = self.kernel.scale_input(x, level).to(self._dtype)
        labels = None if cond is None else cond[prompt_index]
        out = self.unet(seen, self.kernel.timesteps[level], class_labels=labels, return_dict=False)[0].float()
        return Prediction(out, self.kernel.x0(out, level, x))

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        """One scheduler step; parents `[B, K, 1, ...]` meet their children's noise `[B, K, w, ...]` by broadcasting."""
        return self.kernel.step(pred.out, step, x, noise).expand_as(noise)

    def deterministic(self, x: Tensor, pred: Prediction, step: int) -> Tensor:
        """The scheduler's step without noise, for deterministic lookahead; broadcasts like `step`."""
        return self.kernel.deterministic(pred.out, step, x)

    def renoise(self, x: Tensor, level: int, to: int, noise: Tensor) -> Tensor:
        """The scheduler's forward kernel q(x_to | x_level); broadcasts like `step`."""
        return self.kernel.renoise(x, level, to, noise)

    def decode(self, x0: Tensor) -> Tensor:
        """Pixels `[R, C, H, W]` in [-1, 1] -> `[R, C, H, W]` in [0, 1], float32."""
        return (x0.float() / 2 + 0.5).clamp(0, 1)

    def release(self) -> None:
        """Hands offloaded modules back, as the pipeline does after a call."""
        getattr(self.model, "maybe_free_model_hooks", lambda: None)()
