"""Stable Diffusion 3 pipelines of diffusers: flow matching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ._kernel import kernel
from ._latent import Latent, guided, refuse_others, shift

if TYPE_CHECKING:
    from diffusers import StableDiffusion3Pipeline

__all__ = ["StableDiffusion3"]


_T5_TOKENS = 256  # the pipeline's default


class _Condition(NamedTuple):
    text: Tensor  # [P, L, C], without the prompt first where guided
    pooled: Tensor  # [P, C], likewise


class StableDiffusion3(Latent):
    """A loaded `StableDiffusion3Pipeline` as a denoiser, sampled as an SDE; the pipeline is not changed.

    Its flow is an ODE, which leaves nothing to search, so steps draw noise and keep its marginals: `eta` 1 draws
    as much as the posterior q(x' | x, x_0) has (Song et al. 2021, equation 16, in the flow's notation), 0 is the
    pipeline's own ODE. A scheduler with `stochastic_sampling=True` makes its own step, which draws all noise anew.

    Args:
        pipe: the pipeline, on its device, with its precision, compilation and offloading as you have set them by now.
        num_inference_steps: denoising steps.
        guidance_scale: classifier-free guidance, on above 1; both halves go through the transformer in one call.
        eta: strength of the noise, by default that of the kind's source (`posterior`: 1); 0 is the pipeline's own ODE.
        noise: `posterior`, `cps`, `flow-sde`, `dance` or `full`, as for `AnyPipeline`.
        height: pixels, the pipeline's own size by default.
        width: pixels, likewise.
        negative_prompt: for all prompts.
        preview: a cheap decoder for the values of a search (`madebyollin/taesd3`), as for `StableDiffusion`.

    Raises:
        TypeError: where `pipe` is not a Stable Diffusion 3 pipeline.
        ValueError: for a scheduler, eta or size that cannot work, naming what does.
    """

    pipelines: ClassVar = ("StableDiffusion3Pipeline",)
    _unit = 16  # a latent is 8 pixels, a patch 2 latents

    def __init__(
        self,
        pipe: StableDiffusion3Pipeline,
        *,
        num_inference_steps: int = 28,
        guidance_scale: float = 7.0,
        eta: float | None = None,
        noise: str = "posterior",
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str | None = None,
        preview: Any = None,
    ) -> None:
        refuse_others(pipe, self.pipelines[0], "Stable Diffusion 3 or 3.5")
        self._unit = pipe.vae_scale_factor * pipe.patch_size
        self._set_up(pipe, num_inference_steps, pipe.default_sample_size, height, width, preview)
        self.guidance_scale, self.negative_prompt = float(guidance_scale), negative_prompt
        config, scale = pipe.transformer.config, pipe.vae_scale_factor
        self._dtype = pipe.transformer.dtype
        self._shape = (config.in_channels, self.height // scale, self.width // scale)
        tokens = (self._shape[1] // config.patch_size) * (self._shape[2] // config.patch_size)
        spacing = {"mu": shift(pipe, tokens, 1.16)} if pipe.scheduler.config.get("use_dynamic_shifting") else {}
        self.kernel = kernel(pipe.scheduler, self.num_steps, self._device, eta, flow=True, noise=noise, **spacing)

    @property
    def guided(self) -> bool:
        """Whether each row goes through the transformer with and without its prompt."""
        return self.guidance_scale > 1

    def encode(self, prompts: list[str]) -> tuple[_Condition, _Condition | None]:
        """Prompts -> embeddings of the text encoders with, and (if guided) without the prompt."""
        self._tell_cuts(prompts)
        negative = None if self.negative_prompt is None else [self.negative_prompt] * len(prompts)
        text, uncond, pooled, uncond_pooled = self.pipe.encode_prompt(
            prompt=prompts,
            prompt_2=None,
            prompt_3=None,
            device=self._device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=self.guided,
            negative_prompt=negative,
            max_sequence_length=_T5_TOKENS,
        )
        return _Condition(text, pooled), _Condition(uncond, uncond_pooled) if self.guided else None

    def _reach(self) -> list[tuple[Any, int]]:
        pipe = self.pipe
        both = [(tokenizer, pipe.tokenizer_max_length) for tokenizer in (pipe.tokenizer, pipe.tokenizer_2)]
        return [*both, *([] if pipe.text_encoder_3 is None else [(pipe.tokenizer_3, _T5_TOKENS)])]

    def _network(
        self, x: Tensor, level: int, cond: tuple[_Condition, _Condition | None], prompt_index: Tensor
    ) -> Tensor:
        with_, without = cond
        x, text, pooled = x.to(self._dtype), with_.text[prompt_index], with_.pooled[prompt_index]
        if without is not None:
            x = x.repeat(2, 1, 1, 1)
            text, pooled = (
                torch.cat([without.text[prompt_index], text]),
                torch.cat([without.pooled[prompt_index], pooled]),
            )
        out = self.pipe.transformer(
            hidden_states=x,
            timestep=self.kernel.timesteps[level].expand(len(x)),
            encoder_hidden_states=text.to(self._dtype),
            pooled_projections=pooled.to(self._dtype),
            return_dict=False,
        )[0]
        return guided(out, self.guidance_scale if self.guided else None)
