"""FLUX.1 pipelines of diffusers: flow matching over packed latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ._kernel import kernel
from ._latent import Latent, refuse_others, shift

if TYPE_CHECKING:
    from diffusers import FluxPipeline

__all__ = ["Flux"]


class _Condition(NamedTuple):
    text: Tensor  # [P, L, C]
    pooled: Tensor  # [P, C]
    text_ids: Tensor  # [L, 3]
    image_ids: Tensor  # [tokens, 3]


class Flux(Latent):
    """A loaded `FluxPipeline` as a denoiser, sampled as an SDE like `StableDiffusion3`; the pipeline is not changed.

    Args:
        pipe: the pipeline, on its device, with its precision, compilation and offloading as you have set them by now.
        num_inference_steps: denoising steps.
        guidance_scale: what the model is told of it; without effect on those that were not distilled for it (schnell).
        eta: strength of the noise, by default that of the kind's source (`posterior`: 1); 0 is the pipeline's own ODE.
        noise: `posterior`, `cps`, `flow-sde`, `dance` or `full`, as for `AnyPipeline`.
        height: pixels, the pipeline's own size by default.
        width: pixels, likewise.
        max_sequence_length: tokens of the T5 encoder.
        preview: a cheap decoder for the values of a search (`madebyollin/taef1`), as for `StableDiffusion`.

    Raises:
        TypeError: where `pipe` is not a Flux pipeline.
        ValueError: for a scheduler, eta or size that cannot work, naming what does.
    """

    pipelines: ClassVar = ("FluxPipeline",)

    def __init__(
        self,
        pipe: FluxPipeline,
        *,
        num_inference_steps: int = 28,
        guidance_scale: float = 3.5,
        eta: float | None = None,
        noise: str = "posterior",
        height: int | None = None,
        width: int | None = None,
        max_sequence_length: int = 512,
        preview: Any = None,
    ) -> None:
        refuse_others(pipe, self.pipelines[0], "FLUX.1")
        self._unit = pipe.vae_scale_factor * 2  # latents are packed two by two
        self._set_up(pipe, num_inference_steps, pipe.default_sample_size, height, width, preview)
        self.guidance_scale, self.max_sequence_length = float(guidance_scale), max_sequence_length
        self._dtype, self._tokens = pipe.transformer.dtype, (self.height // self._unit, self.width // self._unit)
        count = self._tokens[0] * self._tokens[1]
        self._shape = (count, pipe.transformer.config.in_channels)  # noise is drawn packed: packing permutes normals
        spacing: dict[str, Any] = {"mu": shift(pipe, count, 1.15)}
        if not pipe.scheduler.config.get("use_flow_sigmas"):
            spacing["sigmas"] = np.linspace(1.0, 1 / self.num_steps, self.num_steps)
        self.kernel = kernel(pipe.scheduler, self.num_steps, self._device, eta, flow=True, noise=noise, **spacing)

    def encode(self, prompts: list[str]) -> _Condition:
        """Prompts -> embeddings of both text encoders."""
        self._tell_cuts(prompts)
        text, pooled, ids = self.pipe.encode_prompt(
            prompt=prompts,
            prompt_2=None,
            device=self._device,
            num_images_per_prompt=1,
            max_sequence_length=self.max_sequence_length,
        )
        places = self.pipe._prepare_latent_image_ids(1, *self._tokens, self._device, text.dtype)
        return _Condition(text, pooled, ids, places)

    def _channels(self, pipe: Any) -> int:
        return 4 * pipe.vae.config.latent_channels  # packed two by two

    def _reach(self) -> list[tuple[Any, int]]:
        pipe = self.pipe
        return [(pipe.tokenizer, pipe.tokenizer_max_length), (pipe.tokenizer_2, self.max_sequence_length)]

    def _network(self, x: Tensor, level: int, cond: _Condition, prompt_index: Tensor) -> Tensor:
        transformer, t = self.pipe.transformer, self.kernel.timesteps[level]
        guidance = None
        if transformer.config.guidance_embeds:
            guidance = torch.full([len(x)], self.guidance_scale, device=x.device, dtype=torch.float32)
        return transformer(
            hidden_states=x.to(self._dtype),
            timestep=t.expand(len(x)).to(self._dtype) / 1000,
            guidance=guidance,
            pooled_projections=cond.pooled[prompt_index],
            encoder_hidden_states=cond.text[prompt_index],
            txt_ids=cond.text_ids,
            img_ids=cond.image_ids,
            return_dict=False,
        )[0].float()

    def _decoded(self, vae: Any, x0: Tensor, dtype: Any) -> Tensor:
        return super()._decoded(
            vae, self.pipe._unpack_latents(x0, self.height, self.width, self.pipe.vae_scale_factor), dtype
        )
