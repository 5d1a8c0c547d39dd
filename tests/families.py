"""Tiny pipelines of many families, made of their configuration classes without a download.

`FAMILIES[name]()` is the pipeline and the arguments of a call, prompt apart. Text encoders that would need a
tokenizer of their own are left out, and embeddings given in their place.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import diffusers
import numpy as np
import tiny
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    T5Config,
    T5EncoderModel,
)

Family = Callable[[], tuple[Any, dict[str, Any]]]
FAMILIES: dict[str, Family] = {}
STEPS = {"num_inference_steps": 4}
FLOW = {"shift": 3.0}


def family(*names: str) -> Callable[[Callable[[str], tuple[Any, dict[str, Any]]]], Any]:
    """Registers how pipelines of these classes are made."""

    def put(make: Callable[[str], tuple[Any, dict[str, Any]]]) -> Any:
        FAMILIES.update({name: partial(make, name) for name in names})
        return make

    return put


# ---- parts --------------------------------------------------------------------------------------------------


def made(kind: str, /, **settings: Any) -> Any:
    """A model of diffusers with random weights, the same in every run."""
    torch.manual_seed(11)
    model = getattr(diffusers, kind)(**settings).eval()
    for _, weight in model.named_parameters():  # what is made zero would make a part that does nothing
        if not weight.any() and weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.02)
    return model


def assembled(kind: str, /, **parts: Any) -> Any:
    """A pipeline of the parts that it takes; what is missing is None."""
    parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters
    if "PAG" in kind and hasattr(parts.get("transformer"), "config"):
        parts["pag_applied_layers"] = ["blocks.0"]
    needed = {n for n, p in parameters.items() if n != "self" and p.default is p.empty and p.kind != p.VAR_KEYWORD}
    pipe = getattr(diffusers, kind)(**{**dict.fromkeys(needed), **{n: v for n, v in parts.items() if n in parameters}})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image(size: int = 16, seed: int = 0) -> Image.Image:
    """A picture of noise."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def mask(size: int = 16) -> Image.Image:
    """The left half."""
    values = np.zeros((size, size), np.uint8)
    values[:, : size // 2] = 255
    return Image.fromarray(values)


def embeds(*shape: int, seed: int = 5) -> Tensor:
    """Random numbers in the place of a text encoder's."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@cache
def t5() -> T5EncoderModel:
    """32 wide."""
    torch.manual_seed(12)
    size = len(tiny.tokenizer())
    return T5EncoderModel(T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()


SIGNS = ("<pad>", "<s>", "</s>", "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<image>")
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for part in m['content'] %}{{ part['text'] if part['type'] == 'text' else '<|image_pad|>' }}{% endfor %}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@cache
def words() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, for texts of any length and chats."""
    letters = sorted(ByteLevel.alphabet())
    model = BPE({word: k for k, word in enumerate((*SIGNS, *letters))}, [], byte_fallback=False)
    tokens = Tokenizer(model)
    tokens.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokens.add_special_tokens(list(SIGNS))
    pad, begin, end, *more = SIGNS
    made = PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token=pad, bos_token=begin, eos_token=end)
    made.chat_template = CHAT
    made.add_special_tokens({"additional_special_tokens": more})
    return made


@cache
def qwen_vl() -> Qwen2_5_VLForConditionalGeneration:
    """A language model that sees, 16 wide."""
    torch.manual_seed(16)
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": len(words()),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]},
    }
    seen = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 16,
        "fullatt_block_indexes": [1],
    }
    place = {sign: words().convert_tokens_to_ids(sign) for sign in SIGNS}
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=seen,
        image_token_id=place["<|image_pad|>"],
        video_token_id=place["<|video_pad|>"],
        vision_start_token_id=place["<|vision_start|>"],
        vision_end_token_id=place["<|vision_end|>"],
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def vision(**settings: Any) -> dict[str, Any]:
    """An image encoder and its preprocessing."""
    torch.manual_seed(13)
    config = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(**{**config, "image_size": 16, "patch_size": 4, "projection_dim": 16, **settings})
    ).eval()
    size = {"height": 16, "width": 16}
    return {
        "image_encoder": model,
        "feature_extractor": CLIPImageProcessorPil(crop_size=size, size={"shortest_edge": 16}),
    }


def flow(**settings: Any) -> Any:
    """The scheduler of flow models."""
    return diffusers.FlowMatchEulerDiscreteScheduler(**{**FLOW, **settings})


# ---- Stable Diffusion ---------------------------------------------------------------------------------------


def sd(kind: str, channels: int = 4, **more: Any) -> Any:
    """A pipeline of the parts of Stable Diffusion."""
    pipe = tiny.pipeline()
    parts = {**pipe.components, **more}
    if channels != 4:
        parts["unet"] = tiny.like(pipe.unet, in_channels=channels)
    made = assembled(kind, **parts, requires_safety_checker=False)
    made.scheduler = parts["scheduler"]
    return made


def controlnet(**settings: Any) -> Any:
    return made(
        "ControlNetModel",
        **{
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "in_channels": 4,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "conditioning_embedding_out_channels": (8, 8),
            "cross_attention_dim": 16,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            **settings,
        },
    )


@family(
    "StableDiffusionPipeline",
    "StableDiffusionPAGPipeline",
    "LatentConsistencyModelPipeline",
    "StableDiffusionPipelineSafe",
)
def _(kind: str) -> Any:
    more: dict[str, Any] = {}
    if kind == "LatentConsistencyModelPipeline":
        more = {
            "scheduler": diffusers.LCMScheduler(**tiny.SD_BETAS),
            "unet": tiny.like(tiny.pipeline().unet, time_cond_proj_dim=8),
        }
    return sd(kind, **more), STEPS


@family(
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionPAGImg2ImgPipeline",
    "LatentConsistencyModelImg2ImgPipeline",
    "CycleDiffusionPipeline",
)
def _(kind: str) -> Any:
    more: dict[str, Any] = {}
    call: dict[str, Any] = {"image": image(), "strength": 0.75, **STEPS}
    if kind == "LatentConsistencyModelImg2ImgPipeline":
        more = {
            "scheduler": diffusers.LCMScheduler(**tiny.SD_BETAS),
            "unet": tiny.like(tiny.pipeline().unet, time_cond_proj_dim=8),
        }
    if kind == "CycleDiffusionPipeline":
        call["source_prompt"] = "dog"
    return sd(kind, **more), call


@family("StableDiffusionInpaintPipeline", "StableDiffusionPAGInpaintPipeline")
def _(kind: str) -> Any:
    return sd(kind), {"image": image(), "mask_image": mask(), "height": 16, "width": 16, "strength": 0.75, **STEPS}


@family("StableDiffusionControlNetPipeline", "StableDiffusionControlNetPAGPipeline")
def _(kind: str) -> Any:
    return sd(kind, controlnet=controlnet()), {"image": image(), "height": 16, "width": 16, **STEPS}


@family("StableDiffusionControlNetImg2ImgPipeline")
def _(kind: str) -> Any:
    return sd(kind, controlnet=controlnet()), {
        "image": image(),
        "control_image": image(seed=1),
        "strength": 0.75,
        "height": 16,
        "width": 16,
        **STEPS,
    }


@family("StableDiffusionControlNetInpaintPipeline", "StableDiffusionControlNetPAGInpaintPipeline")
def _(kind: str) -> Any:
    call = {
        "image": image(),
        "control_image": image(seed=1),
        "mask_image": mask(),
        "height": 16,
        "width": 16,
        "strength": 1.0,
    }
    return sd(kind, controlnet=controlnet()), {**call, **STEPS}


@family("StableDiffusionInstructPix2PixPipeline")
def _(kind: str) -> Any:
    return sd(kind, 8), {"image": image(), "image_guidance_scale": 1.5, **STEPS}


@family("StableDiffusionUpscalePipeline")
def _(kind: str) -> Any:
    unet = tiny.like(tiny.pipeline().unet, in_channels=7, num_class_embeds=1000)
    low = diffusers.DDPMScheduler()
    return sd(kind, unet=unet, low_res_scheduler=low, max_noise_level=350), {
        "image": image(8),
        "noise_level": 20,
        **STEPS,
    }


@family("StableDiffusionImageVariationPipeline")
def _(kind: str) -> Any:
    return sd(kind, **vision()), {"image": image(), "height": 16, "width": 16, **STEPS}


@family("StableDiffusionGLIGENPipeline")
def _(kind: str) -> Any:
    unet = tiny.like(tiny.pipeline().unet, attention_type="gated")
    return sd(kind, unet=unet), {"gligen_phrases": ["a cat"], "gligen_boxes": [[0.1, 0.1, 0.5, 0.5]], **STEPS}


@family("StableDiffusionPanoramaPipeline", "StableDiffusionSAGPipeline")
def _(kind: str) -> Any:
    return sd(kind), {"height": 16, "width": 16, **STEPS}


@family("StableDiffusionAdapterPipeline")
def _(kind: str) -> Any:
    adapter = made("T2IAdapter", in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    unet = tiny.like(
        tiny.pipeline().unet,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return sd(kind, adapter=adapter, unet=unet), {"image": image(), "height": 16, "width": 16, **STEPS}


def animated(kind: str, **more: Any) -> Any:
    adapter = made(
        "MotionAdapter",
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )
    return sd(kind, motion_adapter=adapter, **more)


@family("AnimateDiffPipeline", "AnimateDiffPAGPipeline")
def _(kind: str) -> Any:
    return animated(kind), {"num_frames": 4, "height": 16, "width": 16, **STEPS}


@family("AnimateDiffVideoToVideoPipeline")
def _(kind: str) -> Any:
    return animated(kind), {
        "video": [image(seed=k) for k in range(4)],
        "height": 16,
        "width": 16,
        "strength": 0.75,
        **STEPS,
    }


@family("AnimateDiffControlNetPipeline")
def _(kind: str) -> Any:
    frames = [image(seed=k) for k in range(4)]
    return animated(kind, controlnet=controlnet()), {
        "num_frames": 4,
        "conditioning_frames": frames,
        "height": 16,
        "width": 16,
        **STEPS,
    }


@family("PIAPipeline")
def _(kind: str) -> Any:
    unet = tiny.like(tiny.pipeline().unet, in_channels=9)
    return animated(kind, unet=unet), {"image": image(), "num_frames": 4, "height": 16, "width": 16, **STEPS}


# ---- Stable Diffusion XL ------------------------------------------------------------------------------------


def xl(kind: str, channels: int = 4, **more: Any) -> Any:
    pipe = tiny.xl()
    parts = {**pipe.components, **more}
    if channels != 4:
        parts["unet"] = tiny.like(pipe.unet, in_channels=channels)
    return assembled(kind, **parts, add_watermarker=False)


def xl_controlnet(kind: str = "ControlNetModel", **more: Any) -> Any:
    settings = {
        "cross_attention_dim": 32,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 16 + 6 * 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "in_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "conditioning_embedding_out_channels": (8, 8),
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    return made(kind, **{**settings, **more})


@family("StableDiffusionXLPipeline", "StableDiffusionXLPAGPipeline")
def _(kind: str) -> Any:
    return xl(kind), STEPS


@family("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLPAGImg2ImgPipeline")
def _(kind: str) -> Any:
    return xl(kind), {"image": image(), "strength": 0.75, **STEPS}


@family("StableDiffusionXLInpaintPipeline", "StableDiffusionXLPAGInpaintPipeline")
def _(kind: str) -> Any:
    return xl(kind), {"image": image(), "mask_image": mask(), "height": 16, "width": 16, "strength": 0.75, **STEPS}


@family("StableDiffusionXLInstructPix2PixPipeline")
def _(kind: str) -> Any:
    return xl(kind, 8), {"image": image(), **STEPS}


@family("StableDiffusionXLControlNetPipeline", "StableDiffusionXLControlNetPAGPipeline")
def _(kind: str) -> Any:
    return xl(kind, controlnet=xl_controlnet()), {"image": image(), "height": 16, "width": 16, **STEPS}


@family("StableDiffusionXLControlNetImg2ImgPipeline", "StableDiffusionXLControlNetPAGImg2ImgPipeline")
def _(kind: str) -> Any:
    call = {"image": image(), "control_image": image(seed=1), "strength": 0.75, "height": 16, "width": 16}
    return xl(kind, controlnet=xl_controlnet()), {**call, **STEPS}


@family("StableDiffusionXLControlNetInpaintPipeline")
def _(kind: str) -> Any:
    call = {
        "image": image(),
        "control_image": image(seed=1),
        "mask_image": mask(),
        "strength": 0.75,
        "height": 16,
        "width": 16,
    }
    return xl(kind, controlnet=xl_controlnet()), {**call, **STEPS}


@family("StableDiffusionXLAdapterPipeline")
def _(kind: str) -> Any:
    adapter = made("T2IAdapter", in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2)
    unet = tiny.like(
        tiny.xl().unet,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    return xl(kind, adapter=adapter, unet=unet), {"image": image(), "height": 16, "width": 16, **STEPS}


@family("AnimateDiffSDXLPipeline")
def _(kind: str) -> Any:
    adapter = made(
        "MotionAdapter",
        block_out_channels=(8, 16),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
        use_motion_mid_block=False,
    )
    return xl(kind, motion_adapter=adapter), {"num_frames": 4, "height": 16, "width": 16, **STEPS}


# ---- Stable Diffusion 3 -------------------------------------------------------------------------------------


@family("StableDiffusion3Pipeline", "StableDiffusion3PAGPipeline")
def _(kind: str) -> Any:
    return assembled(kind, **tiny.sd3().components), {**STEPS, **({"pag_scale": 0.7} if "PAG" in kind else {})}


@family("StableDiffusion3Img2ImgPipeline", "StableDiffusion3PAGImg2ImgPipeline")
def _(kind: str) -> Any:
    return assembled(kind, **tiny.sd3().components), {
        "image": image(),
        "strength": 0.75,
        "height": 16,
        "width": 16,
        **STEPS,
    }


@family("StableDiffusion3InpaintPipeline")
def _(kind: str) -> Any:
    call = {"image": image(), "mask_image": mask(), "height": 16, "width": 16, "strength": 0.75, **STEPS}
    return assembled(kind, **tiny.sd3().components), call


@family("StableDiffusion3ControlNetPipeline")
def _(kind: str) -> Any:
    net = made(
        "SD3ControlNetModel",
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
    )
    return assembled(kind, **tiny.sd3().components, controlnet=net), {
        "control_image": image(),
        "height": 16,
        "width": 16,
        **STEPS,
    }


# ---- FLUX ---------------------------------------------------------------------------------------------------

SMALL = {"height": 16, "width": 16, "max_sequence_length": 16, **STEPS}


def flux(kind: str, channels: int = 16, **more: Any) -> Any:
    parts = {**tiny.flux().components, **more}
    if channels != 16:
        config = {n: v for n, v in parts["transformer"].config.items() if not n.startswith("_")}
        parts["transformer"] = made("FluxTransformer2DModel", **{**config, "in_channels": channels, "out_channels": 16})
    return assembled(kind, **parts)


@family("FluxPipeline")
def _(kind: str) -> Any:
    return flux(kind), SMALL


@family("FluxImg2ImgPipeline")
def _(kind: str) -> Any:
    return flux(kind), {"image": image(), "strength": 0.75, **SMALL}


@family("FluxInpaintPipeline")
def _(kind: str) -> Any:
    return flux(kind), {"image": image(), "mask_image": mask(), "strength": 0.75, **SMALL}


@family("FluxControlPipeline")
def _(kind: str) -> Any:
    return flux(kind, 32), {"control_image": image(), **SMALL}


@family("FluxControlImg2ImgPipeline")
def _(kind: str) -> Any:
    return flux(kind, 32), {"image": image(), "control_image": image(seed=1), "strength": 0.75, **SMALL}


@family("FluxControlInpaintPipeline")
def _(kind: str) -> Any:
    return flux(kind, 32), {
        "image": image(),
        "control_image": image(seed=1),
        "mask_image": mask(),
        "strength": 0.75,
        **SMALL,
    }


@family("FluxFillPipeline")
def _(kind: str) -> Any:
    return flux(kind, 16 * 2 + 4 * 4), {"image": image(), "mask_image": mask(), **SMALL}


@family("FluxKontextPipeline")
def _(kind: str) -> Any:
    return flux(kind), {"image": image(), "_auto_resize": False, "max_area": 256, **SMALL}


@family("FluxKontextInpaintPipeline")
def _(kind: str) -> Any:
    return flux(kind), {
        "image": image(),
        "mask_image": mask(),
        "strength": 0.75,
        "_auto_resize": False,
        "max_area": 256,
        **SMALL,
    }


def flux_controlnet() -> Any:
    return made(
        "FluxControlNetModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
    )


@family("FluxControlNetPipeline")
def _(kind: str) -> Any:
    return flux(kind, controlnet=flux_controlnet()), {"control_image": image(), **SMALL}


@family("FluxControlNetImg2ImgPipeline")
def _(kind: str) -> Any:
    return flux(kind, controlnet=flux_controlnet()), {
        "image": image(),
        "control_image": image(seed=1),
        "strength": 0.75,
        **SMALL,
    }


@family("FluxControlNetInpaintPipeline")
def _(kind: str) -> Any:
    call = {"image": image(), "control_image": image(seed=1), "mask_image": mask(), "strength": 0.75}
    return flux(kind, controlnet=flux_controlnet()), {**call, **SMALL}


@family("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "ChromaTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
    )
    vae = tiny.flux().vae
    call = dict(SMALL)
    if "Img2Img" in kind or "Inpaint" in kind:
        call |= {"image": image(), "strength": 0.75}
    if "Inpaint" in kind:
        call |= {"mask_image": mask()}
    return assembled(
        kind, transformer=transformer, vae=vae, text_encoder=t5(), tokenizer=tiny.tokenizer(), scheduler=flow()
    ), call


@family("Flux2Pipeline", "Flux2KleinPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "Flux2Transformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 4, 4],
        timestep_guidance_channels=16,
    )
    vae = made(
        "AutoencoderKLFlux2",
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    call = {"prompt_embeds": embeds(1, 7, 32), "height": 16, "width": 16, **STEPS}
    if "Klein" in kind:
        call["guidance_scale"] = 1.0
    return assembled(kind, transformer=transformer, vae=vae, scheduler=flow()), call


# ---- other text to image ------------------------------------------------------------------------------------


def qwen_vae() -> Any:
    return made(
        "AutoencoderKLQwenImage",
        base_dim=12,
        z_dim=4,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def qwen_transformer(kind: str = "QwenImageTransformer2DModel", **more: Any) -> Any:
    settings = {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 1,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "axes_dims_rope": (8, 4, 4),
    }
    return made(kind, **{**settings, **more})


QWEN = {
    "prompt_embeds": embeds(1, 7, 16),
    "prompt_embeds_mask": torch.ones(1, 7, dtype=torch.long),
    "negative_prompt_embeds": embeds(1, 7, 16, seed=6),
    "negative_prompt_embeds_mask": torch.ones(1, 7, dtype=torch.long),
    "true_cfg_scale": 2.0,
    "height": 16,
    "width": 16,
    **STEPS,
}


@family("QwenImagePipeline")
def _(kind: str) -> Any:
    return assembled(kind, transformer=qwen_transformer(), vae=qwen_vae(), scheduler=flow()), QWEN


@family("QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline", "QwenImageEditPlusPipeline")
def _(kind: str) -> Any:
    call = {**QWEN, "image": image()}
    if "Img2Img" in kind or "Inpaint" in kind:
        call["strength"] = 0.75
    if "Inpaint" in kind:
        call["mask_image"] = mask()
    if "EditPlus" in kind:  # it resizes its images to a megapixel
        sys.modules[getattr(diffusers, kind).__module__].VAE_IMAGE_SIZE = 32 * 32
    return assembled(kind, transformer=qwen_transformer(), vae=qwen_vae(), scheduler=flow()), call


@family("QwenImageControlNetPipeline")
def _(kind: str) -> Any:
    net = qwen_transformer("QwenImageControlNetModel")
    return assembled(kind, transformer=qwen_transformer(), vae=qwen_vae(), scheduler=flow(), controlnet=net), {
        **QWEN,
        "control_image": image(),
    }


@family("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "ZImageTransformer2DModel",
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        norm_eps=1e-5,
        qk_norm=True,
        cap_feat_dim=16,
        rope_theta=256.0,
        t_scale=1000.0,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    call: dict[str, Any] = {
        "prompt_embeds": [embeds(7, 16)],
        "negative_prompt_embeds": [embeds(5, 16, seed=6)],
        "height": 16,
        "width": 16,
        "guidance_scale": 2.0,
        **STEPS,
    }
    if kind != "ZImagePipeline":
        call |= {"image": image(), "strength": 0.75}
    if "Inpaint" in kind:
        call["mask_image"] = mask()
    return assembled(kind, transformer=transformer, vae=tiny.flux().vae, scheduler=flow()), call


@family("PixArtAlphaPipeline", "PixArtSigmaPipeline", "PixArtSigmaPAGPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "PixArtTransformer2DModel",
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    scheduler = diffusers.DDIMScheduler(**tiny.SD_DDIM)
    call = {
        "height": 16,
        "width": 16,
        "use_resolution_binning": False,
        "clean_caption": False,
        "max_sequence_length": 16,
        **STEPS,
    }
    parts = {
        "transformer": transformer,
        "vae": tiny.pipeline().vae,
        "text_encoder": t5(),
        "tokenizer": tiny.tokenizer(),
    }
    return assembled(kind, **parts, scheduler=scheduler), call


def sana(kind: str = "SanaTransformer2DModel", **more: Any) -> Any:
    settings = {
        "patch_size": 1,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 4,
        "cross_attention_dim": 8,
        "caption_channels": 16,
        "sample_size": 8,
    }
    return made(kind, **{**settings, **more})


def dc() -> Any:
    return made(
        "AutoencoderDC",
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.4,
    )


@family("SanaPipeline", "SanaPAGPipeline")
def _(kind: str) -> Any:
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "prompt_attention_mask": torch.ones(1, 7),
        "negative_prompt_embeds": embeds(1, 7, 16, seed=6),
        "negative_prompt_attention_mask": torch.ones(1, 7),
        "negative_prompt": None,
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
        **STEPS,
    }
    return assembled(kind, transformer=sana(), vae=dc(), scheduler=flow()), call


@family("SanaSprintPipeline")
def _(kind: str) -> Any:
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "prompt_attention_mask": torch.ones(1, 7),
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
        "num_inference_steps": 2,
    }
    return assembled(kind, transformer=sana(guidance_embeds=True), vae=dc(), scheduler=diffusers.SCMScheduler()), call


@family("AuraFlowPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "AuraFlowTransformer2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=32,
        out_channels=4,
        pos_embed_max_size=64,
    )
    parts = {"text_encoder": t5(), "tokenizer": tiny.tokenizer(), "vae": tiny.pipeline().vae}
    return assembled(kind, transformer=transformer, scheduler=flow(), **parts), {"height": 16, "width": 16, **STEPS}


@family("Lumina2Pipeline")
def _(kind: str) -> Any:
    transformer = made(
        "Lumina2Transformer2DModel",
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=8,
        num_layers=1,
        num_attention_heads=1,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        scaling_factor=1.0,
        axes_dim_rope=[4, 2, 2],
        cap_feat_dim=16,
    )
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "prompt_attention_mask": torch.ones(1, 7, dtype=torch.bool),
        "negative_prompt_embeds": embeds(1, 7, 16, seed=6),
        "negative_prompt_attention_mask": torch.ones(1, 7, dtype=torch.bool),
        "height": 16,
        "width": 16,
        **STEPS,
    }
    return assembled(kind, transformer=transformer, vae=tiny.flux().vae, scheduler=flow()), call


@family("CogView4Pipeline", "CogView3PlusPipeline")
def _(kind: str) -> Any:
    name = "CogView4Transformer2DModel" if "4" in kind else "CogView3PlusTransformer2DModel"
    more = {} if "4" in kind else {"pos_embed_max_size": 8}
    transformer = made(
        name,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=4,
        out_channels=4,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
        sample_size=8,
        **more,
    )
    call = {
        "prompt_embeds": embeds(1, 16, 32),
        "negative_prompt_embeds": embeds(1, 16, 32, seed=6),
        "height": 16,
        "width": 16,
        **STEPS,
    }
    scheduler = (
        flow(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75)
        if "4" in kind
        else diffusers.CogVideoXDDIMScheduler()
    )
    return assembled(kind, transformer=transformer, vae=tiny.pipeline().vae, scheduler=scheduler), call


@family("HunyuanDiTPipeline", "HunyuanDiTPAGPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "HunyuanDiT2DModel",
        sample_size=8,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        in_channels=4,
        cross_attention_dim=32,
        cross_attention_dim_t5=32,
        pooled_projection_dim=16,
        hidden_size=24,
        activation_fn="gelu-approximate",
        text_len=7,
        text_len_t5=7,
    )
    call: dict[str, Any] = {"height": 16, "width": 16, "use_resolution_binning": False, **STEPS}
    for sign in ("", "negative_"):
        for tail in ("", "_2"):
            call[f"{sign}prompt_embeds{tail}"] = embeds(1, 7, 32)
            call[f"{sign}prompt_attention_mask{tail}"] = torch.ones(1, 7, dtype=torch.long)
    return assembled(kind, transformer=transformer, vae=tiny.pipeline().vae, scheduler=diffusers.DDPMScheduler()), call


@family("BriaPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "BriaTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    parts = {"text_encoder": t5(), "tokenizer": tiny.tokenizer(), "vae": tiny.flux().vae}
    return assembled(kind, transformer=transformer, scheduler=flow(), **parts), {
        "height": 16,
        "width": 16,
        "max_sequence_length": 16,
        **STEPS,
    }


@family("DiTPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "DiTTransformer2DModel",
        sample_size=8,
        num_layers=1,
        patch_size=4,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1001,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    return assembled(kind, transformer=transformer, vae=tiny.pipeline().vae, scheduler=diffusers.DDIMScheduler()), {
        "class_labels": [1],
        **STEPS,
    }


@family("DDPMPipeline", "DDIMPipeline")
def _(kind: str) -> Any:
    scheduler = getattr(diffusers, kind.replace("Pipeline", "Scheduler"))()
    return assembled(kind, unet=tiny.pixels(), scheduler=scheduler), STEPS


@family(
    "KandinskyV22Pipeline",
    "KandinskyV22Img2ImgPipeline",
    "KandinskyV22InpaintPipeline",
    "KandinskyV22ControlnetPipeline",
)
def _(kind: str) -> Any:
    channels = 9 if "Inpaint" in kind else 8 if "Control" in kind else 4
    hint = {"addition_embed_type": "image_hint"} if "Control" in kind else {"addition_embed_type": "image"}
    unet = made(
        "UNet2DConditionModel",
        sample_size=8,
        in_channels=channels,
        out_channels=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        encoder_hid_dim=16,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        **hint,
    )
    movq = made(
        "VQModel",
        block_out_channels=[32, 32],
        down_block_types=["DownEncoderBlock2D"] * 2,
        in_channels=3,
        latent_channels=4,
        layers_per_block=1,
        norm_type="spatial",
        num_vq_embeddings=12,
        out_channels=3,
        up_block_types=["AttnUpDecoderBlock2D"] * 2,
        vq_embed_dim=4,
    )
    call = {
        "image_embeds": embeds(1, 16),
        "negative_image_embeds": embeds(1, 16, seed=6),
        "height": 64,
        "width": 64,
        **STEPS,
    }
    if "Img2Img" in kind or "Inpaint" in kind:
        call["image"] = image(64)
    if "Img2Img" in kind:
        call["strength"] = 0.75
    if "Inpaint" in kind:
        call["mask_image"] = np.asarray(mask(64)).astype(np.float32) / 255
    if "Control" in kind:
        call["hint"] = embeds(1, 3, 64, 64)
    return assembled(kind, unet=unet, movq=movq, scheduler=diffusers.DDIMScheduler(**tiny.SD_DDIM)), call


@family("IFPipeline", "IFImg2ImgPipeline", "IFInpaintingPipeline")
def _(kind: str) -> Any:
    unet = made(
        "UNet2DConditionModel",
        sample_size=8,
        layers_per_block=1,
        block_out_channels=[8, 16],
        norm_num_groups=4,
        in_channels=3,
        out_channels=6,
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        cross_attention_dim=32,
        encoder_hid_dim=32,
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        class_embed_type=None,
        time_embedding_act_fn="gelu",
        resnet_skip_time_act=True,
    )
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,
        prediction_type="epsilon",
        variance_type="learned_range",
    )
    call: dict[str, Any] = {**STEPS}
    if kind == "IFPipeline":
        call |= {"height": 8, "width": 8}
    else:
        call |= {"image": image(64), "strength": 0.75}
    if "Inpaint" in kind:
        call["mask_image"] = mask(64)
    if kind != "IFPipeline":
        unet.register_to_config(sample_size=8)
    parts = {"tokenizer": tiny.tokenizer(), "text_encoder": t5(), "unet": unet, "scheduler": scheduler}
    return assembled(kind, **parts, requires_safety_checker=False), call


@family("StableCascadeDecoderPipeline")
def _(kind: str) -> Any:
    (text,) = tiny._texts(CLIPTextModelWithProjection)
    decoder = made(
        "StableCascadeUNet",
        in_channels=4,
        out_channels=4,
        conditioning_dim=16,
        block_out_channels=[8, 8, 16, 16],
        num_attention_heads=[-1, -1, 2, 2],
        down_num_layers_per_block=[1, 1, 1, 1],
        up_num_layers_per_block=[1, 1, 1, 1],
        down_blocks_repeat_mappers=[1, 1, 1, 1],
        up_blocks_repeat_mappers=[1, 1, 1, 1],
        block_types_per_layer=[["SDCascadeResBlock", "SDCascadeTimestepBlock"]] * 2
        + [["SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"]] * 2,
        switch_level=None,
        clip_text_pooled_in_channels=16,
        dropout=[0.0] * 4,
        effnet_in_channels=4,
        pixel_mapper_in_channels=3,
        timestep_ratio_embedding_dim=16,
    )
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    torch.manual_seed(14)
    vqgan = PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2, embed_dim=8, latent_channels=4, levels=2).eval()
    parts = {"decoder": decoder, "vqgan": vqgan, "text_encoder": text, "tokenizer": tiny.tokenizer()}
    call = {"image_embeddings": embeds(1, 4, 2, 2), "guidance_scale": 2.0, **STEPS}
    return assembled(kind, **parts, scheduler=diffusers.DDPMWuerstchenScheduler()), call


@family("StableCascadePriorPipeline")
def _(kind: str) -> Any:
    (text,) = tiny._texts(CLIPTextModelWithProjection)
    prior = made(
        "StableCascadeUNet",
        in_channels=16,
        out_channels=16,
        conditioning_dim=16,
        block_out_channels=[8, 16],
        num_attention_heads=[2, 2],
        down_num_layers_per_block=[1, 1],
        up_num_layers_per_block=[1, 1],
        down_blocks_repeat_mappers=[1, 1],
        up_blocks_repeat_mappers=[1, 1],
        block_types_per_layer=[["SDCascadeResBlock", "SDCascadeTimestepBlock"]] * 2,
        switch_level=[False],
        clip_text_in_channels=16,
        clip_text_pooled_in_channels=16,
        clip_image_in_channels=16,
        clip_seq=2,
        dropout=[0.1, 0.1],
        timestep_ratio_embedding_dim=16,
    )
    parts = {"prior": prior, "text_encoder": text, "tokenizer": tiny.tokenizer()}
    return assembled(kind, **parts, scheduler=diffusers.DDPMWuerstchenScheduler()), {
        "height": 64,
        "width": 64,
        "guidance_scale": 2.0,
        "num_inference_steps": 4,
    }


# ---- video --------------------------------------------------------------------------------------------------

WAN = {"prompt_embeds": embeds(1, 7, 32), "negative_prompt_embeds": embeds(1, 7, 32, seed=6)}
CLIP9 = {"height": 16, "width": 16, "num_frames": 9, **STEPS}


def wan_transformer(kind: str = "WanTransformer3DModel", **more: Any) -> Any:
    settings = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": 32,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 1,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    }
    return made(kind, **{**settings, **more})


def wan_vae() -> Any:
    return made(
        "AutoencoderKLWan",
        base_dim=3,
        z_dim=16,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )


def wan(kind: str, scheduler: Any = None, **more: Any) -> Any:
    parts = {"vae": wan_vae(), "transformer": wan_transformer(), "text_encoder": t5(), "tokenizer": tiny.tokenizer()}
    return assembled(kind, **{**parts, **more}, scheduler=scheduler or flow())


@family("WanPipeline")
def _(kind: str) -> Any:
    return wan(kind), {**CLIP9, **WAN}


@family("WanVideoToVideoPipeline")
def _(kind: str) -> Any:
    scheduler = diffusers.UniPCMultistepScheduler(
        flow_shift=3.0, prediction_type="flow_prediction", use_flow_sigmas=True
    )
    call = {n: v for n, v in CLIP9.items() if n != "num_frames"}
    return wan(kind, scheduler), {**call, "video": [image(seed=k) for k in range(9)], "strength": 0.75, **WAN}


@family("WanImageToVideoPipeline")
def _(kind: str) -> Any:
    return wan(kind, transformer=wan_transformer(in_channels=36)), {**CLIP9, "image": image(), **WAN}


@family("WanVACEPipeline")
def _(kind: str) -> Any:
    transformer = wan_transformer("WanVACETransformer3DModel", num_layers=2, vace_layers=[0], vace_in_channels=96)
    video, masks = [image(seed=k) for k in range(9)], [mask() for _ in range(9)]
    return wan(kind, transformer=transformer), {**CLIP9, "video": video, "mask": masks, **WAN}


@family("SkyReelsV2Pipeline", "SkyReelsV2ImageToVideoPipeline")
def _(kind: str) -> Any:
    channels = 36 if "Image" in kind else 16
    transformer = wan_transformer(
        "SkyReelsV2Transformer3DModel",
        in_channels=channels,
        num_frame_per_block=1,
        inject_sample_info=False,
        image_dim=16 if "Image" in kind else None,
    )
    call: dict[str, Any] = {**CLIP9, **WAN}
    if "Image" in kind:
        call["image"] = image()
    scheduler = diffusers.UniPCMultistepScheduler(
        flow_shift=8.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    seen = vision()
    parts = {"image_encoder": seen["image_encoder"], "image_processor": seen["feature_extractor"]}
    return wan(kind, scheduler, transformer=transformer, **parts), call


def ltx(kind: str) -> Any:
    transformer = made(
        "LTXVideoTransformer3DModel",
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=4,
        attention_head_dim=8,
        cross_attention_dim=32,
        num_layers=1,
        caption_channels=32,
    )
    vae = made(
        "AutoencoderKLLTXVideo",
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        spatio_temporal_scaling=(True, True, False, False),
        decoder_spatio_temporal_scaling=(True, True, False, False),
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
    )
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    return assembled(
        kind, transformer=transformer, vae=vae, text_encoder=t5(), tokenizer=tiny.tokenizer(), scheduler=flow()
    )


@family("LTXPipeline")
def _(kind: str) -> Any:
    return ltx(kind), {**CLIP9, "height": 32, "width": 32, "max_sequence_length": 16}


@family("LTXImageToVideoPipeline", "LTXConditionPipeline")
def _(kind: str) -> Any:
    return ltx(kind), {**CLIP9, "height": 32, "width": 32, "image": image(32), "max_sequence_length": 16}


def cog(kind: str, channels: int = 4) -> Any:
    transformer = made(
        "CogVideoXTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=channels == 8,
        use_learned_positional_embeddings=False,
    )
    vae = made(
        "AutoencoderKLCogVideoX",
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    parts = {"text_encoder": t5(), "tokenizer": tiny.tokenizer(), "scheduler": diffusers.DDIMScheduler()}
    return assembled(kind, transformer=transformer, vae=vae, **parts)


@family("CogVideoXPipeline")
def _(kind: str) -> Any:
    return cog(kind), {**CLIP9, "max_sequence_length": 16}


@family("CogVideoXImageToVideoPipeline")
def _(kind: str) -> Any:
    return cog(kind, 8), {**CLIP9, "image": image(), "max_sequence_length": 16}


@family("CogVideoXVideoToVideoPipeline")
def _(kind: str) -> Any:
    call = {n: v for n, v in CLIP9.items() if n != "num_frames"}
    return cog(kind), {**call, "video": [image(seed=k) for k in range(9)], "strength": 0.75, "max_sequence_length": 16}


@family("HunyuanVideoPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "HunyuanVideoTransformer3DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )
    vae = made(
        "AutoencoderKLHunyuanVideo",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    )
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "prompt_attention_mask": torch.ones(1, 7),
        "pooled_prompt_embeds": embeds(1, 8),
        **CLIP9,
    }
    return assembled(kind, transformer=transformer, vae=vae, scheduler=flow()), call


@family("MochiPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "MochiTransformer3DModel",
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=16,
        in_channels=12,
        qk_norm="rms_norm",
        text_embed_dim=32,
        time_embed_dim=4,
        activation_fn="swiglu",
        max_sequence_length=16,
    )
    vae = made(
        "AutoencoderKLMochi",
        latent_channels=12,
        out_channels=3,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
    )
    parts = {
        "text_encoder": t5(),
        "tokenizer": tiny.tokenizer(),
        "scheduler": flow(shift=1.0, invert_sigmas=True),
    }
    return assembled(kind, transformer=transformer, vae=vae, **parts), {
        **CLIP9,
        "num_frames": 7,
        "max_sequence_length": 16,
    }


@family("StableVideoDiffusionPipeline")
def _(kind: str) -> Any:
    unet = made(
        "UNetSpatioTemporalConditionModel",
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=8,
        in_channels=8,
        out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        cross_attention_dim=16,
        num_attention_heads=8,
        projection_class_embeddings_input_dim=96,
        addition_time_embed_dim=32,
    )
    vae = made(
        "AutoencoderKLTemporalDecoder",
        block_out_channels=[32, 64],
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 2,
        latent_channels=4,
    )
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        num_train_timesteps=1000,
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    call = {"image": image(), "num_frames": 2, "height": 16, "width": 16, "fps": 2, "max_guidance_scale": 2.5, **STEPS}
    return assembled(kind, unet=unet, vae=vae, scheduler=scheduler, **vision(image_size=224, patch_size=32)), call


@family("TextToVideoSDPipeline", "VideoToVideoSDPipeline")
def _(kind: str) -> Any:
    unet = made(
        "UNet3DConditionModel",
        block_out_channels=(8, 8),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=2,
    )
    call: dict[str, Any] = {"num_frames": 3, "height": 16, "width": 16, **STEPS}
    if kind.startswith("Video"):
        call = {"video": [image(seed=k) for k in range(3)], "strength": 0.75, **STEPS}
    return sd(kind, unet=unet), call


# ---- more of the same parts ---------------------------------------------------------------------------------


def dit_sd3(channels: int) -> dict[str, Any]:
    """The parts of Stable Diffusion 3 with latents of so many channels."""
    settings = {n: v for n, v in tiny.sd3().transformer.config.items() if not n.startswith("_")}
    transformer = made("SD3Transformer2DModel", **{**settings, "in_channels": channels, "out_channels": channels})
    vae = tiny._vae(scaling_factor=1.5, shift_factor=0.06, latent_channels=channels)
    return {**tiny.sd3().components, "transformer": transformer, "vae": vae}


@family("StableDiffusion3InpaintPipeline")
def _(kind: str) -> Any:
    call = {"image": image(), "mask_image": mask(), "height": 16, "width": 16, "strength": 0.75, **STEPS}
    return assembled(kind, **dit_sd3(16)), call


@family(
    "StableDiffusionXLControlNetUnionPipeline",
    "StableDiffusionXLControlNetUnionImg2ImgPipeline",
    "StableDiffusionXLControlNetUnionInpaintPipeline",
)
def _(kind: str) -> Any:
    net = xl_controlnet(
        "ControlNetUnionModel", num_trans_channel=8, num_trans_head=2, num_trans_layer=1, num_proj_channel=8
    )
    call: dict[str, Any] = {"control_image": image(seed=1), "control_mode": 0, "height": 16, "width": 16, **STEPS}
    if "Img2Img" in kind or "Inpaint" in kind:
        call |= {"image": image(), "strength": 0.75}
    if "Inpaint" in kind:
        call["mask_image"] = mask()
    return xl(kind, controlnet=net), call


@family("StableDiffusionLatentUpscalePipeline")
def _(kind: str) -> Any:
    unet = tiny.like(tiny.pipeline().unet, in_channels=8, out_channels=5, time_cond_proj_dim=16 + 128)
    scheduler = diffusers.EulerDiscreteScheduler(**tiny.SD_BETAS)
    return sd(kind, unet=unet, scheduler=scheduler), {"image": image(16), **STEPS}


@family("StableDiffusionDiffEditPipeline")
def _(kind: str) -> Any:
    call = {
        "mask_image": embeds(1, 8, 8).clamp(0, 1).round(),
        "image_latents": embeds(1, 4, 4, 8, 8),
        "inpaint_strength": 1.0,
    }
    inverse = diffusers.DDIMInverseScheduler(**tiny.SD_BETAS)
    return sd(kind, inverse_scheduler=inverse), {**call, **STEPS}


@family("LDMSuperResolutionPipeline")
def _(kind: str) -> Any:
    unet = made(
        "UNet2DModel",
        block_out_channels=(32, 64),
        layers_per_block=1,
        sample_size=16,
        in_channels=6,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    vqvae = made(
        "VQModel",
        block_out_channels=[32, 32],
        in_channels=3,
        out_channels=3,
        latent_channels=3,
        layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )
    return assembled(kind, unet=unet, vqvae=vqvae, scheduler=diffusers.DDIMScheduler()), {"image": image(32), **STEPS}


@family("QwenImageControlNetInpaintPipeline")
def _(kind: str) -> Any:
    net = qwen_transformer("QwenImageControlNetModel", extra_condition_channels=4)
    call = {**QWEN, "control_image": image(), "control_mask": mask()}
    return assembled(kind, transformer=qwen_transformer(), vae=qwen_vae(), scheduler=flow(), controlnet=net), call


@family("QwenImageLayeredPipeline")
def _(kind: str) -> Any:
    vae = made(
        "AutoencoderKLQwenImage",
        base_dim=12,
        z_dim=8,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 8,
        latents_std=[1.0] * 8,
        input_channels=4,
    )
    sys.modules[getattr(diffusers, kind).__module__].calculate_dimensions = lambda area, ratio: (16, 16)
    call = {"image": image().convert("RGBA"), "layers": 2, "negative_prompt": "dog", "true_cfg_scale": 2.0, **STEPS}
    transformer = qwen_transformer(in_channels=32, out_channels=8, use_additional_t_cond=True)
    parts = {"text_encoder": qwen_vl(), "tokenizer": words(), "scheduler": flow()}
    return assembled(kind, transformer=transformer, vae=vae, **parts), call


@family("SanaControlNetPipeline")
def _(kind: str) -> Any:
    net = made(
        "SanaControlNetModel",
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=4,
        num_cross_attention_heads=2,
        cross_attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=16,
        sample_size=8,
    )
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "prompt_attention_mask": torch.ones(1, 7),
        "negative_prompt_embeds": embeds(1, 7, 16, seed=6),
        "negative_prompt_attention_mask": torch.ones(1, 7),
        "negative_prompt": None,
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
        "control_image": image(32),
        **STEPS,
    }
    return assembled(kind, transformer=sana(), vae=dc(), scheduler=flow(), controlnet=net), call


@family("SanaSprintImg2ImgPipeline")
def _(kind: str) -> Any:
    call = {
        "prompt_embeds": embeds(1, 7, 16),
        "prompt_attention_mask": torch.ones(1, 7),
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
        "num_inference_steps": 2,
        "image": image(32),
        "strength": 1.0,
    }
    return assembled(kind, transformer=sana(guidance_embeds=True), vae=dc(), scheduler=diffusers.SCMScheduler()), call


@family("ChromaInpaintPipeline")
def _(kind: str) -> Any:
    pipe, call = FAMILIES["ChromaImg2ImgPipeline"]()
    pipe.transformer.register_to_config(guidance_embeds=False)
    return assembled(kind, **pipe.components), {**call, "mask_image": mask()}


@family("LattePipeline")
def _(kind: str) -> Any:
    transformer = made(
        "LatteTransformer3DModel",
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=3,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=24,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    parts = {
        "vae": tiny.pipeline().vae,
        "text_encoder": t5(),
        "tokenizer": tiny.tokenizer(),
        "scheduler": diffusers.DDIMScheduler(),
    }
    call = {"height": 16, "width": 16, "video_length": 1, "clean_caption": False, **STEPS}
    return assembled(kind, transformer=transformer, **parts), call


@family("AllegroPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "AllegroTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=32,
    )
    vae = made(
        "AutoencoderKLAllegro",
        in_channels=3,
        out_channels=3,
        down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    vae.enable_tiling()
    vae.kernel, vae.stride = (8, 16, 16), (4, 8, 8)  # what is smaller than a tile is not decoded
    parts = {"text_encoder": t5(), "tokenizer": tiny.tokenizer(), "scheduler": diffusers.DDIMScheduler()}
    call = {"num_frames": 8, "height": 16, "width": 16, "clean_caption": False, "max_sequence_length": 16, **STEPS}
    return assembled(kind, transformer=transformer, vae=vae, **parts), call


@family("LucyEditPipeline")
def _(kind: str) -> Any:
    call = {n: v for n, v in CLIP9.items()}
    return wan(kind, transformer=wan_transformer(in_channels=32)), {
        **call,
        "video": [image(seed=k) for k in range(9)],
        **WAN,
    }


@family("CogVideoXFunControlPipeline")
def _(kind: str) -> Any:
    call = {n: v for n, v in CLIP9.items() if n != "num_frames"}
    pipe = cog("CogVideoXPipeline")
    settings = {n: v for n, v in pipe.transformer.config.items() if not n.startswith("_")}
    transformer = made("CogVideoXTransformer3DModel", **{**settings, "in_channels": 8})
    parts = {**pipe.components, "transformer": transformer}
    return assembled(kind, **parts), {
        **call,
        "control_video": [image(seed=k) for k in range(9)],
        "max_sequence_length": 16,
    }


@family("StableAudioPipeline")
def _(kind: str) -> Any:
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    torch.manual_seed(15)
    transformer = made(
        "StableAudioDiTModel",
        sample_size=4,
        in_channels=3,
        num_layers=1,
        attention_head_dim=4,
        num_key_value_attention_heads=2,
        out_channels=3,
        cross_attention_dim=4,
        time_proj_dim=8,
        global_states_input_dim=8,
        cross_attention_input_dim=4,
        num_attention_heads=4,
    )
    vae = made(
        "AutoencoderOobleck",
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=3,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=4,
    )
    projection = StableAudioProjectionModel(text_encoder_dim=32, conditioning_dim=4, min_value=0, max_value=32).eval()
    scheduler = diffusers.EDMEulerScheduler(
        sigma_min=0.3, sigma_max=500, prediction_type="v_prediction", sigma_data=1.0
    )
    parts = {
        "transformer": transformer,
        "vae": vae,
        "projection_model": projection,
        "text_encoder": t5(),
        "tokenizer": tiny.tokenizer(),
    }
    return assembled(kind, **parts, scheduler=scheduler), {"audio_end_in_s": 1.0, **STEPS}


@family("IFSuperResolutionPipeline", "IFImg2ImgSuperResolutionPipeline", "IFInpaintingSuperResolutionPipeline")
def _(kind: str) -> Any:
    unet = made(
        "UNet2DConditionModel",
        sample_size=32,
        layers_per_block=[1, 2],
        block_out_channels=[8, 16],
        norm_num_groups=4,
        in_channels=6,
        out_channels=6,
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        cross_attention_dim=32,
        encoder_hid_dim=32,
        attention_head_dim=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        cross_attention_norm="group_norm",
        resnet_time_scale_shift="scale_shift",
        act_fn="gelu",
        class_embed_type="timestep",
        time_embedding_act_fn="gelu",
        mid_block_scale_factor=1.414,
        class_embeddings_concat=False,
        resnet_skip_time_act=True,
    )
    settings = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"}
    scheduler = diffusers.DDPMScheduler(
        **settings,
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=1.0,
        variance_type="learned_range",
    )
    noising = diffusers.DDPMScheduler(**settings)
    call: dict[str, Any] = {"image": image(16), **STEPS}
    if "Img2Img" in kind or "Inpaint" in kind:
        call |= {"original_image": image(32), "strength": 0.75}
    if "Inpaint" in kind:
        call["mask_image"] = mask(32)
    if kind == "IFSuperResolutionPipeline":
        call |= {"height": 32, "width": 32}
    parts = {
        "tokenizer": tiny.tokenizer(),
        "text_encoder": t5(),
        "unet": unet,
        "scheduler": scheduler,
        "image_noising_scheduler": noising,
    }
    return assembled(kind, **parts, requires_safety_checker=False), call


@family("OvisImagePipeline")
def _(kind: str) -> Any:
    transformer = made(
        "OvisImageTransformer2DModel",
        patch_size=1,
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
    )
    call = {
        "prompt_embeds": embeds(1, 7, 32),
        "negative_prompt_embeds": embeds(1, 7, 32, seed=6),
        "negative_prompt": None,
        "height": 16,
        "width": 16,
        **STEPS,
    }
    return assembled(kind, transformer=transformer, vae=tiny.flux().vae, scheduler=flow()), call


@family("LuminaPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "LuminaNextDiT2DModel",
        sample_size=4,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        learn_sigma=True,
        qk_norm=True,
        cross_attention_dim=32,
        scaling_factor=1.0,
    )
    call = {
        "prompt_embeds": embeds(1, 7, 32),
        "prompt_attention_mask": torch.ones(1, 7),
        "negative_prompt_embeds": embeds(1, 7, 32, seed=6),
        "negative_prompt_attention_mask": torch.ones(1, 7),
        "height": 32,
        "width": 32,
        "clean_caption": False,
        **STEPS,
    }
    return assembled(kind, transformer=transformer, vae=tiny.pipeline().vae, scheduler=flow()), call


@family("HiDreamImagePipeline")
def _(kind: str) -> Any:
    transformer = made(
        "HiDreamImageTransformer2DModel",
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_channels=[32, 16],
        text_emb_dim=64,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
    )
    call: dict[str, Any] = {"height": 16, "width": 16, **STEPS}
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds_t5"] = embeds(1, 16, 32)
        call[f"{sign}prompt_embeds_llama3"] = embeds(2, 1, 16, 16)
        call[f"pooled_{sign}prompt_embeds".replace("pooled_negative", "negative_pooled")] = embeds(1, 64)
    pipe = assembled(kind, transformer=transformer, vae=tiny.flux().vae, scheduler=flow())
    pipe.default_sample_size = 8  # to whose area it brings every call
    return pipe, call


import families_classic  # noqa: E402, F401  # they register more
import families_video  # noqa: E402, F401
