"""A block for diffusers' modular pipelines: the denoising loop of Stable Diffusion XL, replaced by a search."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..core.contract import Prediction
from ..core.loop import search
from ..core.method import Method
from ..core.rng import move
from ..result import Result
from ._kernel import kernel
from ._latent import Latent, refuse_more_inputs

__all__ = ["search_step"]

_ROWS = ("prompt_embeds", "pooled_prompt_embeds", "add_time_ids")


def search_step(method: Method, *, seed: int = 0, eta: float = 1.0, preview: Any = None, **options: Any) -> Any:
    """A block to put in the place of a modular Stable Diffusion XL pipeline's "denoise" step.

        blocks = StableDiffusionXLAutoBlocks().get_workflow("text2image")
        blocks.sub_blocks["denoise.denoise"] = dsearch.adapters.search_step(method)
        pipe = blocks.init_pipeline()

    Text encoding, guidance (any guider), timesteps and decoding stay the pipeline's; the rows of a step go through its
    own denoiser block. The latents handed on are each prompt's best; the whole `Result` is the output `search`.

    Args:
        method: the method; its reward sees the pipeline's VAE (or the preview) and the prompts.
        seed: of the search's noise, which is keyed by prompt; the pipeline's generator is not used.
        eta: as for `StableDiffusion`.
        preview: likewise.
        **options: others of `dsearch.search`.
    """
    return _block()(method, {"seed": seed, **options}, eta, preview)


class _Parts(Latent):
    """The components and state of a modular pipeline as a denoiser."""

    def __init__(self, parts: Any, state: Any, block: Any, eta: float, preview: Any) -> None:
        latents, vae = state.latents, parts.vae
        refuse_more_inputs(parts.unet, latents.shape[1])
        self.num_steps, self.pipe, self._state, self._block = len(state.timesteps), parts, state, block
        self._looks, self._looks_dtype = preview, getattr(preview, "dtype", None)
        self._device, self._shape = latents.device, tuple(latents.shape[1:])
        self.height, self.width = (side * parts.vae_scale_factor for side in self._shape[1:])
        self.kernel = kernel(parts.scheduler, self.num_steps, self._device, eta)
        self._unet_dtype, self._vae, self._vae_dtype = parts.unet.dtype, vae, vae.dtype
        if vae.dtype == torch.float16 and vae.config.force_upcast:
            self._vae, self._vae_dtype = copy.deepcopy(vae).float(), torch.float32

    def encode(self, prompts: list[str]) -> Any:
        """The pipeline has encoded them: without the prompts, and with them."""
        named = {f"{sign}{name}" for name in _ROWS for sign in ("", "negative_")}
        rows = {name: getattr(self._state, name, None) for name in named}
        return {name: value for name, value in rows.items() if value is not None}

    def predict(self, x: Tensor, level: int, cond: Any, prompt_index: Tensor) -> Prediction:
        """`[R, ...]` -> the output of the pipeline's denoiser block, and the posterior mean read in it."""
        if level == self.num_steps:
            return Prediction(None, x)
        state = copy.copy(self._state)
        state.scaled_latents = self.kernel.scale_input(x, level).to(self._unet_dtype)
        for name, value in cond.items():
            setattr(state, name, value[prompt_index] if len(value) > 1 else value.expand(len(x), *value.shape[1:]))
        if getattr(state, "timestep_cond", None) is not None:
            state.timestep_cond = state.timestep_cond[:1].expand(len(x), -1)
        _, state = self._block(self.pipe, state, i=level, t=self.kernel.timesteps[level])
        out = state.noise_pred.float()
        return Prediction(out, self.kernel.x0(out, level, x))

    def decode(self, x0: Tensor) -> Tensor:
        """`[R, C, h, w]` -> images `[R, 3, H, W]` in [0, 1], float32."""
        return self._decoded(self._vae, x0, self._vae_dtype)

    def _decoded(self, vae: Any, x0: Tensor, dtype: Any) -> Tensor:
        config = vae.config
        if config.get("latents_mean") is None or config.get("latents_std") is None:
            return super()._decoded(vae, x0, dtype)
        spread = (config["latents_mean"], config["latents_std"])
        mean, std = (move(torch.tensor(each, device="cpu"), x0.device).view(1, -1, 1, 1) for each in spread)
        return super()._decoded(vae, x0 * std + mean * config.scaling_factor, dtype)

    def release(self) -> None:
        """A modular pipeline hands its components back by itself."""


@cache
def _block() -> type:
    """Made when it is asked for, so that diffusers is imported then."""
    from diffusers import AutoencoderKL
    from diffusers.modular_pipelines import ModularPipelineBlocks
    from diffusers.modular_pipelines.modular_pipeline_utils import ComponentSpec, InputParam, OutputParam
    from diffusers.modular_pipelines.stable_diffusion_xl.denoise import (
        StableDiffusionXLDenoiseStep,
        StableDiffusionXLLoopDenoiser,
    )

    class SearchStep(ModularPipelineBlocks):  # type: ignore[misc]  # diffusers is Any here
        model_name = "stable-diffusion-xl"

        def __init__(self, method: Method, options: dict[str, Any], eta: float, preview: Any) -> None:
            super().__init__()
            self._settings = method, options, eta, preview
            self._own, self._rows = StableDiffusionXLDenoiseStep(), StableDiffusionXLLoopDenoiser()

        def __deepcopy__(self, memo: Any) -> SearchStep:
            return type(self)(*self._settings)  # a pipeline copies its blocks, which must not copy a reward's network

        @property
        def description(self) -> str:
            return f"Denoises by a search for what the reward likes, with the method {self._settings[0].name}."

        @property
        def expected_components(self) -> list[Any]:
            return [*self._own.expected_components, ComponentSpec("vae", AutoencoderKL)]

        @property
        def inputs(self) -> list[Any]:
            return [*self._own.inputs, InputParam("prompt", required=True)]

        @property
        def intermediate_outputs(self) -> list[Any]:
            outputs = [OutputParam("latents", type_hint=Tensor), OutputParam("search", description="the Result")]
            return outputs

        @torch.no_grad()
        def __call__(self, components: Any, state: Any) -> Any:
            block_state, (method, options, eta, preview) = self.get_block_state(state), self._settings
            prompts = [block_state.prompt] if isinstance(block_state.prompt, str) else list(block_state.prompt)
            if len(block_state.latents) != len(prompts):
                raise ValueError(
                    f"{len(block_state.latents)} latents for {len(prompts)} prompts; set num_images_per_prompt=1, the "
                    "method says how many images survive"
                )
            enable = components.unet.config.time_cond_proj_dim is None
            components.guider.enable() if enable else components.guider.disable()
            denoiser = _Parts(components, block_state, self._rows, eta, preview)
            found = search(denoiser, method, prompts, **options)
            block_state.latents = found.latents[:, 0].to(block_state.latents.dtype)
            block_state.search = Result.of(found)
            self.set_block_state(state, block_state)
            return components, state

    return SearchStep
