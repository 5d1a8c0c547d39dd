"""Stable Diffusion v1 and v2 pipelines of diffusers."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._torchvision import mend
from ..core.contract import Prediction, Rng
from ..core.plan import positive
from ..core.rng import move

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

__all__ = ["StableDiffusion"]

_SHARED_WITH_PNDM = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "set_alpha_to_one"),
    *("prediction_type", "timestep_spacing", "steps_offset"),
)


class StableDiffusion:
    """A loaded `StableDiffusionPipeline` (v1.5, or v2 with v-prediction) as a denoiser; the pipeline is not changed.

    The reverse kernel is the step of a `DDIMScheduler` with `eta` (Song et al. 2021, equation 16; eta 1 is the
    ancestral sampler). A pipeline with a DDIM keeps its settings; one with PNDM, as v1.5 is published, gets a DDIM
    made from its configuration. Networks run in their own precision, the scheduler and the latents in float32. The
    safety checker is not run. With one child a step the images equal the pipeline's own, given the same noise.

    Args:
        pipe: the pipeline, on its device, with its precision, compilation and offloading as you have set them by now.
        num_inference_steps: denoising steps.
        guidance_scale: classifier-free guidance, on above 1; both halves go through the UNet in one call.
        eta: noise of the kernel, 0 to 1; at 0 all children are equal, so that only width 1 makes sense.
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

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        eta: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        negative_prompt: str | None = None,
        preview: Any = None,
    ) -> None:
        _refuse_other_pipelines(pipe)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta={eta} is outside [0, 1]; above 1 the kernel has no real mean")
        self.num_steps = positive("num_inference_steps", num_inference_steps)
        self.pipe, self.eta, self.guidance_scale = pipe, float(eta), float(guidance_scale)
        self.negative_prompt, self._looks = negative_prompt, preview
        # Read once: diffusers walks all modules to tell, which would take milliseconds of every step.
        self._device, self._unet_dtype, self._vae_dtype = pipe._execution_device, pipe.unet.dtype, pipe.vae.dtype
        self._looks_dtype = getattr(preview, "dtype", None)
        self.scheduler = _ddim(pipe.scheduler)
        self.scheduler.set_timesteps(self.num_steps, device=self._device)
        self._refuse_infinite_start()
        scale, size = pipe.vae_scale_factor, pipe.unet.config.sample_size
        own_height, own_width = size if isinstance(size, list | tuple) else (size, size)
        self.height = positive("height", own_height * scale if height is None else height)
        self.width = positive("width", own_width * scale if width is None else width)
        if self.height % 8 or self.width % 8:
            raise ValueError(f"height={self.height} and width={self.width} must be multiples of 8")
        self._shape = (pipe.unet.config.in_channels, self.height // scale, self.width // scale)
        self._steps: list[int] = self.scheduler.timesteps.tolist()

    @property
    def guided(self) -> bool:
        """Whether each row goes through the UNet with and without its prompt."""
        return self.guidance_scale > 1

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor | None]:
        """Prompts -> text embeddings `[P, L, C]` with and (if guided) without the prompt."""
        negative = None if self.negative_prompt is None else [self.negative_prompt] * len(prompts)
        return self.pipe.encode_prompt(
            prompt=prompts,
            device=self._device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=self.guided,
            negative_prompt=negative,
        )

    def start(self, lead: tuple[int, int], rng: Rng) -> Tensor:
        """Pure noise `[B, K, C, h, w]`, float32."""
        noise = move(rng.normal("start", 0, (*lead, *self._shape)), self._device)
        return noise * self.scheduler.init_noise_sigma

    def noise(self, step: int, lead: tuple[int, int, int], rng: Rng) -> Tensor:
        """Normals `[B, K, w, C, h, w]`, float32."""
        if self.eta == 0 and lead[2] > 1:
            raise ValueError(f"width={lead[2]} at step {step}: with eta=0 all children are equal; set eta above 0")
        return move(rng.normal("noise", step, (*lead, *self._shape)), self._device)

    def predict(self, x: Tensor, step: int, cond: tuple[Tensor, Tensor | None], prompt: Tensor) -> Prediction:
        """`[R, C, h, w]` -> the guided output of the UNet, and the scheduler's `pred_original_sample`."""
        if step == self.num_steps:
            return Prediction(None, x)
        t = self._steps[step]
        out = self._unet(self.scheduler.scale_model_input(x, t), step, cond, prompt)
        return Prediction(out, self.scheduler.step(out, t, x).pred_original_sample)

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        """One scheduler step; parents `[B, K, 1, ...]` meet their children's noise `[B, K, w, ...]` by broadcasting."""
        children = self.scheduler.step(pred.out, self._steps[step], x, eta=self.eta, variance_noise=noise)
        return children.prev_sample.expand_as(noise)

    def deterministic(self, x: Tensor, pred: Prediction, step: int) -> Tensor:
        """The scheduler's step with eta 0, for deterministic lookahead; broadcasts like `step`."""
        return self.scheduler.step(pred.out, self._steps[step], x, eta=0.0).prev_sample

    def decode(self, x0: Tensor) -> Tensor:
        """`[R, C, h, w]` -> images `[R, 3, H, W]` in [0, 1], float32."""
        return self._decoded(self.pipe.vae, x0, self._vae_dtype)

    def preview(self, x0: Tensor) -> Tensor:
        """The same by the cheap decoder; by the VAE where none was given."""
        if self._looks is None:
            return self.decode(x0)
        if hasattr(self._looks, "decode"):
            images = self._decoded(self._looks, x0, self._looks_dtype)
        else:
            images = self._looks(x0)
        if images.shape != (len(x0), 3, self.height, self.width):
            raise ValueError(
                f"preview made {tuple(images.shape)} of {tuple(x0.shape)}; it must give one {self.height}x{self.width} "
                "RGB image a latent"
            )
        return images

    def _decoded(self, vae: Any, x0: Tensor, dtype: Any) -> Tensor:
        latents = x0.to(dtype) / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0)
        image = vae.decode(latents, return_dict=False)[0]
        return self.pipe.image_processor.postprocess(image.float(), output_type="pt")

    def release(self) -> None:
        """Hands offloaded modules back, as the pipeline does after a call."""
        self.pipe.maybe_free_model_hooks()

    def _unet(self, x: Tensor, step: int, cond: tuple[Tensor, Tensor | None], prompt: Tensor) -> Tensor:
        unet, t = self.pipe.unet, self.scheduler.timesteps[step]  # a tensor: an int would make torch.compile recompile
        text, uncond = cond
        x, embeds = x.to(self._unet_dtype), text[prompt]
        if uncond is not None:
            x, embeds = x.repeat(2, 1, 1, 1), torch.cat([uncond[prompt], embeds])
        out = unet(x, t, encoder_hidden_states=embeds.to(self._unet_dtype), return_dict=False)[0].float()
        if uncond is None:
            return out
        without, with_ = out.chunk(2)
        return without + self.guidance_scale * (with_ - without)

    def _refuse_infinite_start(self) -> None:
        config, first = self.scheduler.config, int(self.scheduler.timesteps[0])
        if config.prediction_type == "epsilon" and self.scheduler.alphas_cumprod[first] == 0:
            raise ValueError(
                "this scheduler has zero signal at the first step, where a model that predicts epsilon says nothing of "
                "x_0; set rescale_betas_zero_snr=False, or use a v-prediction model"
            )


def _refuse_other_pipelines(pipe: Any) -> None:
    mend()
    from diffusers import StableDiffusionPipeline

    if not isinstance(pipe, StableDiffusionPipeline):
        raise TypeError(f"{type(pipe).__name__} is not a StableDiffusionPipeline (Stable Diffusion v1 or v2)")
    if pipe.unet.config.time_cond_proj_dim is not None:
        raise ValueError(
            "this UNet was distilled to take its guidance as an input (as LCMs are), which DDIM steps do not give it; "
            "use the model it was distilled from"
        )


def _ddim(scheduler: Any) -> DDIMScheduler:
    """A DDIM of our own, so that the pipeline's scheduler is not touched."""
    from diffusers import DDIMScheduler, PNDMScheduler

    if isinstance(scheduler, DDIMScheduler):
        if scheduler.config.clip_sample or scheduler.config.thresholding:
            warnings.warn(
                "this DDIMScheduler clips its samples (clip_sample or thresholding), which is meant for pixels and "
                "distorts latents; build it with clip_sample=False, thresholding=False",
                stacklevel=3,
            )
        return copy.deepcopy(scheduler)
    if isinstance(scheduler, PNDMScheduler):
        return DDIMScheduler(**{name: scheduler.config[name] for name in _SHARED_WITH_PNDM}, clip_sample=False)
    raise ValueError(
        f"{type(scheduler).__name__} is not supported: a search needs children that differ and a posterior mean. "
        "For a model trained with a DDPM's noise schedule, set "
        "pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)"
    )
