"""Stable Diffusion v1 and v2 pipelines of diffusers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ._kernel import kernel, warn_of_clipping
from ._latent import Latent, guidance_embedding, guided, refuse_others
from .velocity import Velocity

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

__all__ = ["StableDiffusion"]


class StableDiffusion(Latent):
    """A loaded `StableDiffusionPipeline` (v1.5, or v2 with v-prediction) as a denoiser; the pipeline is not changed.

    The reverse kernel is the scheduler's own step, for schedulers that draw noise and remember no step: DDIM with `eta`
    (Song et al. 2021, equation 16; eta 1 is the ancestral sampler), Euler ancestral, DDPM, LCM, TCD, and
    SDE-DPM-Solver++ of order 1. One with PNDM, as v1.5 is published, gets a DDIM made from its configuration. Networks
    run in their own precision, the scheduler and the latents in float32. The safety checker is not run. With one child
    a step the images equal the pipeline's own, given the same noise.

    Args:
        pipe: the pipeline, on its device, with its precision, compilation and offloading as you have set them by now.
        num_inference_steps: denoising steps.
        guidance_scale: classifier-free guidance, on above 1; both halves go through the UNet in one call.
        eta: noise of the kernel, 0 to 1, for DDIM and TCD; at 0 all children are equal, and only width 1 makes sense.
        noise: of what `as_flow` made, the kind, as for `AnyPipeline`.
        height: pixels, the pipeline's own size by default.
        width: pixels, likewise.
        negative_prompt: for all prompts.
        preview: a cheap decoder for the values of a search, whose final images the VAE decodes and ranks: an
            `AutoencoderTiny` of diffusers (`madebyollin/taesd` for v1.5, `dsearch.box.preview_path()` for the box), on
            its device and in its precision, or any function from latents `[R, C, h, w]` to images `[R, 3, H, W]` in
            [0, 1].

    Raises:
        TypeError: where `pipe` is not a Stable Diffusion pipeline.
        ValueError: for a scheduler, eta or size that cannot work, naming what does.
    """

    pipelines: ClassVar = ("StableDiffusionPipeline",)

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        eta: float | None = None,
        noise: str = "posterior",
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str | None = None,
        preview: Any = None,
    ) -> None:
        refuse_others(pipe, self.pipelines[0], "Stable Diffusion v1 or v2")
        self._set_up(pipe, num_inference_steps, pipe.unet.config.sample_size, height, width, preview)
        self.guidance_scale, self.negative_prompt = float(guidance_scale), negative_prompt
        warn_of_clipping(pipe.scheduler)
        flow = isinstance(pipe.unet, Velocity)
        self.kernel = kernel(pipe.scheduler, self.num_steps, self._device, eta, flow, noise)
        self._unet_dtype = pipe.unet.dtype
        self._shape = (
            pipe.unet.config.in_channels,
            self.height // pipe.vae_scale_factor,
            self.width // pipe.vae_scale_factor,
        )
        self._embedding = guidance_embedding(pipe, pipe.unet, self.guidance_scale, self._device, self._unet_dtype)

    @property
    def guided(self) -> bool:
        """Whether each row goes through the UNet with and without its prompt."""
        return self.guidance_scale > 1 and self._embedding is None

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor | None]:
        """Prompts -> text embeddings `[P, L, C]` with and (if guided) without the prompt."""
        self._tell_cuts(prompts)
        negative = None if self.negative_prompt is None else [self.negative_prompt] * len(prompts)
        return self.pipe.encode_prompt(
            prompt=prompts,
            device=self._device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=self.guided,
            negative_prompt=negative,
        )

    def _network(self, x: Tensor, level: int, cond: tuple[Tensor, Tensor | None], prompt_index: Tensor) -> Tensor:
        t = self.kernel.timesteps[level]  # a tensor: an int would make torch.compile recompile
        text, uncond = cond
        x, embeds = x.to(self._unet_dtype), text[prompt_index]
        if self.guided and uncond is not None:
            x, embeds = x.repeat(2, 1, 1, 1), torch.cat([uncond[prompt_index], embeds])
        embeds, more = embeds.to(self._unet_dtype), {}
        if self._embedding is not None:
            more["timestep_cond"] = self._embedding.expand(len(x), -1)
        out = self.pipe.unet(x, t, encoder_hidden_states=embeds, return_dict=False, **more)[0]
        return guided(out, self.guidance_scale if self.guided else None)
