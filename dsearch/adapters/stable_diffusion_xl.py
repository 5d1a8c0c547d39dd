"""Stable Diffusion XL pipelines of diffusers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..core.rng import move
from ._kernel import kernel, warn_of_clipping
from ._latent import Latent, guidance_embedding, guided, refuse_others
from .velocity import Velocity

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

__all__ = ["StableDiffusionXL"]


class _Condition(NamedTuple):
    text: Tensor  # [P, L, C]
    uncond: Tensor | None
    pooled: Tensor  # [P, C]
    uncond_pooled: Tensor | None


class StableDiffusionXL(Latent):
    """A loaded `StableDiffusionXLPipeline` as a denoiser; the pipeline is not changed.

    Schedulers are those of `StableDiffusion`. A float16 VAE that overflows (`force_upcast`) is copied to float32; the
    pipeline casts it for each call. With one child per step the images equal its own, given the same noise.

    Args:
        pipe: the pipeline, on its device, with its precision, compilation and offloading as you have set them by now.
        num_inference_steps: denoising steps.
        guidance_scale: classifier-free guidance, on above 1; both halves go through the UNet in one call.
        eta: noise of the kernel, 0 to 1, for DDIM and TCD.
        noise: of what `as_flow` made, the kind, as for `AnyPipeline`.
        height: pixels, the pipeline's own size by default; also what the model is told of size and crop.
        width: pixels, likewise.
        negative_prompt: for all prompts.
        preview: a cheap decoder for the values of a search (`madebyollin/taesdxl`), as for `StableDiffusion`.

    Raises:
        TypeError: where `pipe` is not a Stable Diffusion XL pipeline.
        ValueError: for a scheduler, eta or size that cannot work, naming what does.
    """

    pipelines: ClassVar = ("StableDiffusionXLPipeline",)

    def __init__(
        self,
        pipe: StableDiffusionXLPipeline,
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 5.0,
        eta: float | None = None,
        noise: str = "posterior",
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str | None = None,
        preview: Any = None,
    ) -> None:
        refuse_others(pipe, self.pipelines[0], "Stable Diffusion XL")
        self._set_up(pipe, num_inference_steps, pipe.unet.config.sample_size, height, width, preview)
        self.guidance_scale, self.negative_prompt = float(guidance_scale), negative_prompt
        warn_of_clipping(pipe.scheduler)
        flow = isinstance(pipe.unet, Velocity)
        self.kernel = kernel(pipe.scheduler, self.num_steps, self._device, eta, flow, noise)
        self._unet_dtype, scale = pipe.unet.dtype, pipe.vae_scale_factor
        self._shape = (pipe.unet.config.in_channels, self.height // scale, self.width // scale)
        self._embedding = guidance_embedding(pipe, pipe.unet, self.guidance_scale, self._device, self._unet_dtype)
        self._vae = pipe.vae
        if pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast:
            if hasattr(pipe.vae, "_hf_hook"):
                raise ValueError(
                    "this VAE overflows in float16 and is offloaded; call pipe.vae.to(torch.float32) first"
                )
            self._vae, self._vae_dtype = copy.deepcopy(pipe.vae).float(), torch.float32

    @property
    def guided(self) -> bool:
        """Whether each row goes through the UNet with and without its prompt."""
        return self.guidance_scale > 1 and self._embedding is None

    def encode(self, prompts: list[str]) -> _Condition:
        """Prompts -> embeddings of both text encoders, with and (if guided) without the prompt."""
        self._tell_cuts(prompts)
        negative = None if self.negative_prompt is None else [self.negative_prompt] * len(prompts)
        text, uncond, pooled, uncond_pooled = self.pipe.encode_prompt(
            prompt=prompts,
            device=self._device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=self.guided,
            negative_prompt=negative,
        )
        return _Condition(text, uncond if self.guided else None, pooled, uncond_pooled if self.guided else None)

    def decode(self, x0: Tensor) -> Tensor:
        """`[R, C, h, w]` -> images `[R, 3, H, W]` in [0, 1], float32."""
        return self._decoded(self._vae, x0, self._vae_dtype)

    def _network(self, x: Tensor, level: int, cond: _Condition, prompt_index: Tensor) -> Tensor:
        t, x = self.kernel.timesteps[level], x.to(self._unet_dtype)
        text, pooled = cond.text[prompt_index], cond.pooled[prompt_index]
        if cond.uncond is not None and cond.uncond_pooled is not None:
            x = x.repeat(2, 1, 1, 1)
            text = torch.cat([cond.uncond[prompt_index], text])
            pooled = torch.cat([cond.uncond_pooled[prompt_index], pooled])
        size, second = (self.height, self.width), self.pipe.text_encoder_2
        dimension = pooled.shape[-1] if second is None else int(second.config.projection_dim)
        ids = self.pipe._get_add_time_ids(size, (0, 0), size, dtype=text.dtype, text_encoder_projection_dim=dimension)
        more = {} if self._embedding is None else {"timestep_cond": self._embedding.expand(len(x), -1)}
        out = self.pipe.unet(
            x,
            t,
            encoder_hidden_states=text.to(self._unet_dtype),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": move(ids, x.device).repeat(len(x), 1)},
            return_dict=False,
            **more,
        )[0]
        return guided(out, self.guidance_scale if self.guided else None)

    def _decoded(self, vae: Any, x0: Tensor, dtype: Any) -> Tensor:
        config = vae.config
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return super()._decoded(vae, x0, dtype)
        mean, std = (move(torch.tensor(config[name], device="cpu"), x0.device).view(1, -1, 1, 1) for name in _SPREAD)
        return super()._decoded(vae, x0 * std + mean * config.scaling_factor, dtype)


_SPREAD = ("latents_mean", "latents_std")
