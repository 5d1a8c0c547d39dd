"""Tiny pipelines with random weights, made offline in a second, and noise that was recorded."""

from __future__ import annotations

import copy
import os
import string
from collections.abc import Sequence
from functools import cache
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Stable Diffusion's own noise schedule."""

SD_DDIM = {**SD_BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
"""Stable Diffusion v1.5's settings, as a DDIM."""


def tokenizer() -> CLIPTokenizer:
    """Letters, digits and a few signs, one token each."""
    letters = string.ascii_lowercase + string.digits + "-,."
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=16)


@cache
def _parts() -> dict[str, Any]:
    torch.manual_seed(0)
    tokens = tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=16,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        mid_block_add_attention=False,
    )
    parts = {"text_encoder": CLIPTextModel(text), "unet": unet, "vae": vae}
    return {"tokenizer": tokens, **{name: part.eval() for name, part in parts.items()}}


def like(unet: UNet2DConditionModel, **changes: Any) -> UNet2DConditionModel:
    """A network with other settings and random weights of its own."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    torch.manual_seed(1)
    return UNet2DConditionModel(**{**config, **changes}).eval()


def pipeline(scheduler: Any = None, dtype: torch.dtype = torch.float32, **settings: Any) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline of 16x16 pictures and 8x8 latents, always with the same random weights.

    `settings` go to a DDIM scheduler with Stable Diffusion's own defaults.
    """
    scheduler = scheduler or DDIMScheduler(**{**SD_DDIM, **settings})
    parts = _parts()
    if dtype != torch.float32:  # a module is cast in place, and these are shared
        modules = {name: copy.deepcopy(part) for name, part in parts.items() if name != "tokenizer"}
        parts = {**parts, **{name: torch.nn.Module.to(part, dtype) for name, part in modules.items()}}
    pipe = StableDiffusionPipeline(
        **parts,
        scheduler=DDIMScheduler(**SD_DDIM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.scheduler = scheduler  # set, as users do: the constructor would mend what it finds odd
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _texts(*kinds: Any) -> list[Any]:
    config = _parts()["text_encoder"].config  # before the seed: making the parts draws too
    torch.manual_seed(3)
    return [kind(config).eval() for kind in kinds]


def _vae(**settings: Any) -> AutoencoderKL:
    config = {name: value for name, value in _parts()["vae"].config.items() if not name.startswith("_")}
    torch.manual_seed(4)
    return AutoencoderKL(**{**config, **settings}).eval()


def xl(scheduler: Any = None, **vae: Any) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL, 16x16 pictures."""
    one, two = _texts(CLIPTextModel, CLIPTextModelWithProjection)
    unet = like(
        _parts()["unet"],
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=16 + 6 * 8,
    )
    pipe = StableDiffusionXLPipeline(
        vae=_vae(**vae),
        text_encoder=one,
        text_encoder_2=two,
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet,
        scheduler=DDIMScheduler(**SD_DDIM),
        add_watermarker=False,
    )
    pipe.scheduler = scheduler or pipe.scheduler
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sd3(**scheduler: Any) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3 without its T5, 16x16 pictures."""
    one, two = _texts(CLIPTextModelWithProjection, CLIPTextModelWithProjection)
    torch.manual_seed(5)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=32,
    ).eval()
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}),
        vae=_vae(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=one,
        tokenizer=tokenizer(),
        text_encoder_2=two,
        tokenizer_2=tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def flux(guidance: bool = True, **scheduler: Any) -> FluxPipeline:
    """FLUX.1, 16x16 pictures; its second tokenizer is CLIP's, which a random T5 does not mind."""
    (clip,) = _texts(CLIPTextModel)
    torch.manual_seed(6)
    size = len(tokenizer())
    t5 = T5EncoderModel(T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance,
    ).eval()
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(**{"use_dynamic_shifting": True, **scheduler}),
        vae=_vae(scaling_factor=0.4, shift_factor=0.1),
        text_encoder=clip,
        tokenizer=tokenizer(),
        text_encoder_2=t5,
        tokenizer_2=tokenizer(),
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pixels(classes: int | None = None) -> UNet2DModel:
    """A network for 8x8 pixels."""
    torch.manual_seed(7)
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    ).eval()


def contrast(images: Tensor, prompts: list[str]) -> Tensor:
    """A smooth reward without ties: left against right and top against bottom, in unlike measure, `[R]`."""
    height, width = images.shape[-2:]
    down = torch.linspace(-1, 1, height)[:, None] * torch.tensor([3.0, 1.0, -2.0])[:, None, None]
    across = torch.linspace(-1, 1, width) * torch.tensor([1.0, -2.0, 1.5])[:, None, None]
    return 100 * (images.double() * (down + across)).mean(dim=(1, 2, 3))


class Recorded:
    """A noise source that plays back: `start [B, K, ...]`, and one `[B, K, w, ...]` a step."""

    def __init__(self, start: Tensor, noise: Sequence[Tensor]) -> None:
        self.start, self.noise = start, list(noise)
        self.asked: list[tuple[str, int]] = []

    def normal(self, use: str, step: int, shape: Sequence[int]) -> Tensor:
        self.asked.append((use, step))
        drawn = self.start if use == "start" else self.noise[step]
        assert drawn.shape == tuple(shape), f"{use} at step {step}: {tuple(shape)} asked of {tuple(drawn.shape)}"
        return drawn

    def uniform(self, use: str, step: int, shape: Sequence[int]) -> Tensor:
        raise AssertionError(f"no uniforms were recorded, but {use} at step {step} asks for {tuple(shape)}")

    def categorical(self, use: str, step: int, log_p: Tensor, n: int) -> Tensor:
        raise AssertionError(f"no draws were recorded, but {use} at step {step} asks for {n}")

    def under(self, name: str) -> Recorded:
        raise AssertionError(f"nothing was recorded under {name}")
