"""What adapters of latent diffusion pipelines have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._optional import optional
from .._precision import warn_if_emulated
from .._prompts import by_tokenizer, tell
from ..core.contract import Prediction, Rng
from ..core.plan import positive
from ..core.rng import move
from ._kernel import Kernel

__all__ = ["Latent"]


class Latent:
    """Noise, steps and decoders of a pipeline with a VAE; a subclass has the prompts and the network.

    Attributes:
        num_steps: denoising steps.
        pipe: the pipeline, left as it is.
        height: pixels.
        width: pixels.
    """

    num_steps: int
    pipe: Any
    kernel: Kernel
    height: int
    width: int
    _shape: tuple[int, ...]

    def _set_up(self, pipe: Any, num_steps: int, sample_size: Any, height: Any, width: Any, preview: Any) -> None:
        self.num_steps, self.pipe, self._looks = positive("num_inference_steps", num_steps), pipe, preview
        refuse_more_inputs(pipe.unet, pipe.vae.config.latent_channels)
        # Read once: diffusers walks all modules to tell, which would take milliseconds of every step.
        self._device, self._vae_dtype = pipe._execution_device, pipe.vae.dtype
        self._looks_dtype = getattr(preview, "dtype", None)
        for dtype in {pipe.unet.dtype, self._vae_dtype, self._looks_dtype}:
            warn_if_emulated(dtype, self._device)
        scale = pipe.vae_scale_factor
        own_height, own_width = sample_size if isinstance(sample_size, list | tuple) else (sample_size, sample_size)
        self.height = positive("height", own_height * scale if height is None else height)
        self.width = positive("width", own_width * scale if width is None else width)
        if self.height % 8 or self.width % 8:
            raise ValueError(f"height={self.height} and width={self.width} must be multiples of 8")

    def start(self, batch_shape: tuple[int, int], rng: Rng) -> Tensor:
        """Pure noise `[B, K, ...]`, float32."""
        return move(rng.normal("start", 0, (*batch_shape, *self._shape)), self._device) * self.kernel.init_noise_sigma

    def noise(self, step: int, batch_shape: tuple[int, int, int], rng: Rng) -> Tensor:
        """Normals `[B, K, w, ...]`, float32."""
        if self.kernel.eta == 0 and batch_shape[2] > 1:
            raise ValueError(
                f"width={batch_shape[2]} at step {step}: with eta=0 all children are equal; set eta above 0"
            )
        return move(rng.normal("noise", step, (*batch_shape, *self._shape)), self._device)

    def predict(self, x: Tensor, level: int, cond: Any, prompt_index: Tensor) -> Prediction:
        """`[R, ...]` -> the guided output of the network, and the posterior mean that the scheduler reads in it."""
        if level == self.num_steps:
            return Prediction(None, x)
        out = self._network(self.kernel.scale_input(x, level), level, cond, prompt_index)
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
        """`[R, ...]` -> images `[R, 3, H, W]` in [0, 1], float32."""
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

    def release(self) -> None:
        """Hands offloaded modules back, as the pipeline does after a call."""
        self.pipe.maybe_free_model_hooks()

    def cut(self, prompt: str) -> str:
        """What of the prompt no text encoder reads; "" where one reads to its end."""
        return self._split(prompt)[1]

    def _tell_cuts(self, prompts: list[str]) -> None:
        tell(type(self).__name__, prompts, self._split)

    def _split(self, prompt: str) -> tuple[object, str]:
        """What the encoders read, all together, and what none of them does."""
        reads, cuts = zip(
            *(self._split_by(tokenizer, bound, prompt) for tokenizer, bound in self._reach()), strict=True
        )
        return reads, min(cuts, key=len)

    def _split_by(self, tokenizer: Any, bound: int, prompt: str) -> tuple[object, str]:
        # A pipeline may replace a word by several learned tokens (textual inversion).
        convert = getattr(self.pipe, "maybe_convert_prompt", lambda prompt, tokenizer: prompt)
        return by_tokenizer(tokenizer, bound)(convert(prompt, tokenizer))

    def _reach(self) -> list[tuple[Any, int]]:
        """The tokenizers, and how many tokens their encoders read."""
        found = (getattr(self.pipe, name, None) for name in ("tokenizer", "tokenizer_2"))
        return [(tokenizer, tokenizer.model_max_length) for tokenizer in found if tokenizer is not None]

    def _network(self, x: Tensor, level: int, cond: Any, prompt_index: Tensor) -> Tensor:
        raise NotImplementedError

    def _decoded(self, vae: Any, x0: Tensor, dtype: Any) -> Tensor:
        config = vae.config
        latents = x0.to(dtype) / config.scaling_factor + (config.get("shift_factor") or 0)
        image = vae.decode(latents, return_dict=False)[0]
        return self.pipe.image_processor.postprocess(image.float(), output_type="pt")


def guided(out: Tensor, scale: float | None) -> Tensor:
    """Classifier-free guidance of `[2 R, ...]`, without and with the prompt -> `[R, ...]`; None: as it is."""
    out = out.float()
    if scale is None:
        return out
    without, with_ = out.chunk(2)
    return without + scale * (with_ - without)


def refuse_others(pipe: Any, kind: str, known_as: str) -> None:
    """Raises TypeError unless `pipe` is diffusers' pipeline of that name."""
    from .._torchvision import mend

    mend()
    with optional():
        import diffusers

    if not isinstance(pipe, getattr(diffusers, kind)):
        raise TypeError(f"{type(pipe).__name__} is not a {kind} ({known_as})")


def refuse_more_inputs(network: Any, channels: int) -> None:
    """Raises ValueError for a network that wants more than noisy samples of so many channels, a time and a prompt."""
    config = network.config
    if config.in_channels != channels:
        raise ValueError(
            f"this network takes {config.in_channels} channels, but samples have {channels}: it was made for "
            "inpainting, editing or control and wants pictures beside them; load the text-to-image model"
        )
    # Loading one sets it as an attribute, not as an item.
    if (
        getattr(config, "encoder_hid_dim_type", None) == "ip_image_proj"
        or getattr(network, "image_proj", None) is not None
    ):
        raise ValueError(
            "an IP-Adapter is loaded, which wants a picture beside each prompt; call pipe.unload_ip_adapter() first"
        )
    if config.get("class_embed_type") or config.get("num_class_embeds"):
        raise ValueError(
            "this network wants a class beside each prompt, as upscalers and variations do; load the "
            "text-to-image model"
        )


def guidance_embedding(pipe: Any, unet: Any, scale: float, device: Any, dtype: torch.dtype) -> Tensor | None:
    """`[1, E]` for a UNet that was distilled to take its guidance as an input (as LCMs are); None for others."""
    size = unet.config.time_cond_proj_dim
    if size is None:
        return None
    with torch.device("cpu"):  # the pipeline makes more tensors there, on the user's default device
        embedding = pipe.get_guidance_scale_embedding(torch.tensor([scale - 1], device="cpu"), embedding_dim=size)
    return embedding.to(device, dtype)
