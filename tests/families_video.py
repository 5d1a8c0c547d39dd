"""More tiny pipelines: those of recent transformers, for pictures, videos and sounds."""

from __future__ import annotations

import sys
from typing import Any

import diffusers
import tiny
import torch
from families import (
    CLIP9,
    FAMILIES,
    QWEN,
    STEPS,
    WAN,
    assembled,
    embeds,
    family,
    flow,
    image,
    made,
    mask,
    qwen_transformer,
    qwen_vae,
    qwen_vl,
    t5,
    vision,
    wan,
    wan_transformer,
    wan_vae,
    words,
)

SIDES = {"height": 16, "width": 16}


def settings_of(model: Any, **changed: Any) -> dict[str, Any]:
    """What a model was made of."""
    return {**{n: v for n, v in model.config.items() if not n.startswith("_")}, **changed}


def like(model: Any, kind: str = "", **changed: Any) -> Any:
    """A model with other settings."""
    return made(kind or type(model).__name__, **settings_of(model, **changed))


def unpictured(kind: str, **changed: Any) -> None:
    """Constants of a pipeline's module, which are made for pictures of a megapixel."""
    vars(sys.modules[getattr(diffusers, kind).__module__]).update(changed)


def frames(count: int = 9) -> list[Any]:
    return [image(seed=k) for k in range(count)]


# ---- of Qwen, Z-Image and FLUX ----------------------------------------------------------------------------------


@family("QwenImageEditPipeline", "QwenImageEditInpaintPipeline", "QwenImageEditPlusPipeline")
def _(kind: str) -> Any:
    unpictured(kind, calculate_dimensions=lambda area, ratio: (16, 16, None)[: 2 if "Plus" in kind else 3])
    more = {"mask_image": mask(), "strength": 0.75} if "Inpaint" in kind else {}
    parts = {"transformer": qwen_transformer(), "vae": qwen_vae(), "scheduler": flow()}
    return assembled(kind, **parts), {**QWEN, "image": image(), **more}


@family("ZImageControlNetPipeline", "ZImageControlNetInpaintPipeline")
def _(kind: str) -> Any:
    pipe, call = FAMILIES["ZImagePipeline"]()
    names = ("all_patch_size", "all_f_patch_size", "dim", "n_refiner_layers", "n_heads", "n_kv_heads", "norm_eps")
    net = made(
        "ZImageControlNetModel",
        control_layers_places=[0],
        control_refiner_layers_places=[0],
        control_in_dim=9 if "Inpaint" in kind else 4,
        add_control_noise_refiner="control_noise_refiner" if "Inpaint" in kind else None,
        qk_norm=True,
        **{name: pipe.transformer.config[name] for name in names},
    )
    call = {**call, "control_image": image()}
    call |= {"image": image(seed=1), "mask_image": mask()} if "Inpaint" in kind else {}
    return assembled(kind, **pipe.components, controlnet=net), call


@family("Flux2KleinInpaintPipeline", "Flux2KleinKVPipeline")
def _(kind: str) -> Any:
    pipe, call = FAMILIES["Flux2KleinPipeline"]()
    if "Inpaint" in kind:
        call = {**call, "image": image(), "mask_image": mask(), "strength": 0.75}
    else:
        del call["guidance_scale"]
        call |= {"image": image(64)}
    return assembled(kind, **pipe.components), call


@family("VisualClozeGenerationPipeline")
def _(kind: str) -> Any:
    pipe = tiny.flux()
    transformer = like(pipe.transformer, in_channels=16 * 2 + 4 * 4, out_channels=16)
    call = {"task_prompt": "a", "content_prompt": "b", "image": [[image(), image(seed=1)], [image(seed=2), None]]}
    return assembled(kind, **{**pipe.components, "transformer": transformer}, resolution=16), {
        **call,
        "max_sequence_length": 16,
        **STEPS,
    }


@family("LongCatImagePipeline", "LongCatImageEditPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "LongCatImageTransformer2DModel",
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
    )
    call: dict[str, Any] = {"negative_prompt": "dog", "guidance_scale": 2.0, **STEPS}
    call |= {"image": image()} if "Edit" in kind else {**SIDES, "enable_prompt_rewrite": False}
    if "Edit" in kind:
        unpictured(kind, calculate_dimensions=lambda area, ratio: (16, 16))
    vae = tiny._vae(latent_channels=16, scaling_factor=0.4, shift_factor=0.1)
    parts = {"vae": vae, "text_encoder": qwen_vl(), "tokenizer": words(), "text_processor": processor()}
    return assembled(kind, transformer=transformer, scheduler=flow(), **parts), call


def processor() -> Any:
    """Pictures for a Qwen: its own processor wants torchvision, for videos."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    made = Unchecked()
    made.image_processor = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28)
    return made


@family("HunyuanImagePipeline")
def _(kind: str) -> Any:
    transformer = made(
        "HunyuanImageTransformer2DModel",
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        text_embed_dim=32,
        text_embed_2_dim=32,
        rope_axes_dim=(4, 4),
    )
    vae = made(
        "AutoencoderKLHunyuanImage",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=16,
        scaling_factor=0.75,
    )
    call = {**SIDES, **STEPS}
    for sign in ("", "negative_"):
        for tail in ("", "_2"):
            call[f"{sign}prompt_embeds{tail}"] = embeds(1, 7, 32, seed=5 + len(sign))
            call[f"{sign}prompt_embeds_mask{tail}"] = torch.ones(1, 7, dtype=torch.long)
    guider = diffusers.ClassifierFreeGuidance()
    return assembled(kind, transformer=transformer, vae=vae, scheduler=flow(), guider=guider, ocr_guider=guider), call


@family("PRXPipeline", "PRXPixelPipeline")
def _(kind: str) -> Any:
    pixels = "Pixel" in kind
    transformer = made(
        "PRXTransformer2DModel",
        patch_size=2,
        in_channels=3 if pixels else 4,
        context_in_dim=32,
        hidden_size=8,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[2, 2],
    )
    parts = {"text_encoder": t5(), "tokenizer": tiny.tokenizer(), "scheduler": flow()}
    parts |= {} if pixels else {"vae": tiny.flux().vae}
    call = {"prompt_embeds": embeds(1, 7, 32), "negative_prompt_embeds": embeds(1, 7, 32, seed=6)}
    call |= {f"{sign}prompt_attention_mask": torch.ones(1, 7, dtype=torch.bool) for sign in ("", "negative_")}
    call |= {**SIDES, "use_resolution_binning": False, "negative_prompt": None, **STEPS}
    return assembled(kind, transformer=transformer, **parts), call


@family("BriaFiboPipeline", "BriaFiboEditPipeline")
def _(kind: str) -> Any:
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    transformer = made(
        "BriaFiboTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=64,
        text_encoder_dim=32,
        pooled_projection_dim=None,
        axes_dims_rope=[0, 4, 4],
    )
    torch.manual_seed(30)
    config = SmolLM3Config(
        vocab_size=128_256,  # an empty prompt is one token of a number in the code
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    parts = {"text_encoder": SmolLM3ForCausalLM(config).eval(), "tokenizer": words(), "scheduler": flow()}
    vae = wan_vae()
    call = {**SIDES, "max_sequence_length": 64, **STEPS}
    call |= {"image": image(), "_auto_resize": False} if "Edit" in kind else {}
    return assembled(kind, transformer=transformer, vae=vae, **parts), call


# ---- of Wan -----------------------------------------------------------------------------------------------------


@family("ChronoEditPipeline")
def _(kind: str) -> Any:
    seen = vision()
    transformer = wan_transformer("ChronoEditTransformer3DModel", in_channels=36, image_dim=16)
    parts = {"image_encoder": seen["image_encoder"], "image_processor": seen["feature_extractor"]}
    call = {**CLIP9, "num_frames": 5, "image": image(), **WAN}
    return wan(kind, transformer=transformer, **parts), call


@family(
    "SkyReelsV2DiffusionForcingPipeline",
    "SkyReelsV2DiffusionForcingImageToVideoPipeline",
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
)
def _(kind: str) -> Any:
    transformer = wan_transformer("SkyReelsV2Transformer3DModel", num_frame_per_block=1, inject_sample_info=True)
    scheduler = diffusers.UniPCMultistepScheduler(
        flow_shift=8.0, use_flow_sigmas=True, prediction_type="flow_prediction"
    )
    more = {"image": image()} if "Image" in kind else {}
    if "VideoToVideo" in kind:
        more = {"video": frames(), "num_frames": 17, "overlap_history": 9, "base_num_frames": 17}
    return wan(kind, scheduler, transformer=transformer), {**CLIP9, **more, **WAN}


@family("WanAnimatePipeline")
def _(kind: str) -> Any:
    seen = vision()
    transformer = wan_transformer(
        "WanAnimateTransformer3DModel",
        in_channels=36,
        latent_channels=16,
        image_dim=16,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
        motion_encoder_size=16,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=1,
    )
    parts = {"image_encoder": seen["image_encoder"], "image_processor": seen["feature_extractor"]}
    call = {"image": image(), "pose_video": frames(), "face_video": frames(), "segment_frame_length": 9}
    return wan(kind, transformer=transformer, **parts), {**call, **SIDES, **WAN, **STEPS}


@family("AnyFlowPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "AnyFlowTransformer3DModel",
        **{
            n: v
            for n, v in settings_of(wan_transformer()).items()
            if n not in ("qk_norm", "added_kv_proj_dim", "pos_embed_seq_len")
        },
    )
    return wan(kind, diffusers.FlowMapEulerDiscreteScheduler(), transformer=transformer), {**CLIP9, **WAN}


@family("SanaVideoPipeline", "SanaImageToVideoPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "SanaVideoTransformer3DModel",
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        sample_size=8,
        rope_max_seq_len=32,
    )
    call: dict[str, Any] = {
        "frames": 9,
        "height": 32,
        "width": 32,
        "use_resolution_binning": False,
        "negative_prompt": None,
        **STEPS,
    }
    call["complex_human_instruction"] = []
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds"] = embeds(1, 7, 16, seed=5 + len(sign))
        call[f"{sign}prompt_attention_mask"] = torch.ones(1, 7, dtype=torch.long)
    call |= {"image": image()} if "Image" in kind else {}
    return assembled(kind, transformer=transformer, vae=wan_vae(), scheduler=flow()), call


@family("LTXI2VLongMultiPromptPipeline")
def _(kind: str) -> Any:
    pipe, _ = FAMILIES["LTXPipeline"]()
    call = {"height": 32, "width": 32, "num_frames": 9, "guidance_scale": 2.0, "max_sequence_length": 16, **STEPS}
    return assembled(kind, **pipe.components), call


# ---- of Hunyuan -------------------------------------------------------------------------------------------------


@family("HunyuanSkyreelsImageToVideoPipeline", "HunyuanVideoImageToVideoPipeline")
def _(kind: str) -> Any:
    pipe, call = FAMILIES["HunyuanVideoPipeline"]()
    channels = (
        {"in_channels": 8}
        if "Skyreels" in kind
        else {"in_channels": 2 * 4 + 1, "image_condition_type": "latent_concat"}
    )
    transformer = like(pipe.transformer, **channels, guidance_embeds="Skyreels" in kind)
    call = {**call, "image": image()}
    return assembled(kind, **{**pipe.components, "transformer": transformer}), call


@family("HunyuanVideo15Pipeline", "HunyuanVideo15ImageToVideoPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "HunyuanVideo15Transformer3DModel",
        in_channels=9,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_refiner_layers=1,
        text_embed_dim=16,
        text_embed_2_dim=32,
        image_embed_dim=16,
        rope_axes_dim=(2, 2, 4),
        target_size=16,
        task_type="i2v" if "Image" in kind else "t2v",
    )
    vae = made(
        "AutoencoderKLHunyuanVideo15",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16, 16),
        layers_per_block=1,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    call: dict[str, Any] = {"num_frames": 9, **STEPS}
    for sign in ("", "negative_"):
        for tail, wide in (("", 16), ("_2", 32)):
            call[f"{sign}prompt_embeds{tail}"] = embeds(1, 7, wide, seed=5 + len(sign))
            call[f"{sign}prompt_embeds_mask{tail}"] = torch.ones(1, 7)
    call |= {"image": image()} if "Image" in kind else SIDES
    parts = {"guider": diffusers.ClassifierFreeGuidance(), "scheduler": flow()}
    return assembled(kind, transformer=transformer, vae=vae, **parts, **(vision() if "Image" in kind else {})), call


# ---- of Cosmos, EasyAnimate, Kandinsky 5, Motif -----------------------------------------------------------------


@family("Cosmos2TextToImagePipeline", "Cosmos2VideoToWorldPipeline", "Cosmos2_5_PredictBasePipeline")
def _(kind: str) -> Any:
    world = "Text" not in kind
    transformer = made(
        "CosmosTransformer3DModel",
        in_channels=17 if world else 16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        mlp_ratio=2,
        text_embed_dim=32,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        concat_padding_mask=False,  # which torchvision resizes
        extra_pos_embed_type="learnable",
    )
    call = {**SIDES, **WAN, **STEPS, **({"num_frames": 9} if world else {})}
    call |= {"image": image()} if kind == "Cosmos2VideoToWorldPipeline" else {}
    unpictured(kind, CosmosSafetyChecker=Unchecked)
    parts = {"vae": wan_vae(), "text_encoder": t5(), "tokenizer": tiny.tokenizer()}
    scheduler = (
        diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
        if "2_5" in kind
        else diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    )
    return assembled(kind, transformer=transformer, **parts, scheduler=scheduler, safety_checker=Unchecked()), call


class Unchecked(torch.nn.Module):
    """In the place of a safety checker, whose models are gigabytes."""

    device, dtype = torch.device("cpu"), torch.float32

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


@family("EasyAnimatePipeline", "EasyAnimateControlPipeline", "EasyAnimateInpaintPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "EasyAnimateTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels={"EasyAnimatePipeline": 4, "EasyAnimateControlPipeline": 8}.get(kind, 9),
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=16,
        num_layers=1,
        mmdit_layers=1,
        sample_width=16,
        sample_height=16,
        patch_size=2,
    )
    vae = made(
        "AutoencoderKLMagvit",
        in_channels=3,
        out_channels=3,
        down_block_types=(
            "SpatialDownBlock3D",
            "SpatialTemporalDownBlock3D",
            "SpatialTemporalDownBlock3D",
            "SpatialTemporalDownBlock3D",
        ),
        up_block_types=(
            "SpatialUpBlock3D",
            "SpatialTemporalUpBlock3D",
            "SpatialTemporalUpBlock3D",
            "SpatialTemporalUpBlock3D",
        ),
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )
    call: dict[str, Any] = {"num_frames": 5, **SIDES, **STEPS}
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds"] = embeds(1, 7, 16, seed=5 + len(sign))
        call[f"{sign}prompt_attention_mask"] = torch.ones(1, 7)
    clip = embeds(1, 3, 5, 16, 16).sigmoid()
    call |= {"control_video": clip} if "Control" in kind else {}
    call |= (
        {"video": clip, "mask_video": torch.ones(1, 1, 5, 16, 16) * 255, "strength": 0.75} if "Inpaint" in kind else {}
    )
    return assembled(kind, transformer=transformer, vae=vae, scheduler=flow()), call


@family("Kandinsky5T2IPipeline", "Kandinsky5T2VPipeline", "Kandinsky5I2VPipeline", "Kandinsky5I2IPipeline")
def _(kind: str) -> Any:
    video = kind.endswith("VPipeline")
    transformer = made(
        "Kandinsky5Transformer3DModel",
        in_visual_dim=4,
        in_text_dim=16,
        in_text_dim2=16,
        time_dim=16,
        out_visual_dim=4,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=32,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(2, 2, 4),
        visual_cond="I2" in kind or video,
    )
    eighth = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    still = tiny._vae(**eighth, block_out_channels=(8, 8, 8, 8), scaling_factor=0.4)
    vae = FAMILIES["HunyuanVideoPipeline"]()[0].vae if video else still
    call: dict[str, Any] = {**SIDES, **STEPS}
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds_qwen"] = embeds(1, 7, 16, seed=5 + len(sign))
        call[f"{sign}prompt_embeds_clip"] = embeds(1, 16, seed=7 + len(sign))
        call[f"{sign}prompt_cu_seqlens"] = torch.tensor([0, 7], dtype=torch.int32)
    call |= {"num_frames": 33 if "I2V" in kind else 5} if video else {}
    call |= {"image": image()} if "I2" in kind and "T2I" not in kind else {}
    pipe = assembled(kind, transformer=transformer, vae=vae, scheduler=flow())
    pipe.resolutions = [(16, 16)]
    return pipe, call


@family("MotifVideoPipeline", "MotifVideoImage2VideoPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "MotifVideoTransformer3DModel",
        in_channels=33,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_decoder_layers=1,
        patch_size=2,
        text_embed_dim=32,
        rope_axes_dim=(2, 2, 4),
        image_embed_dim=16 if "Image" in kind else None,
    )
    call: dict[str, Any] = {**CLIP9}
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds"] = embeds(1, 7, 32, seed=5 + len(sign))
        call[f"{sign}prompt_attention_mask"] = torch.ones(1, 7)
    call |= {"image": image()} if "Image" in kind else {}
    parts = {"guider": diffusers.ClassifierFreeGuidance(), "scheduler": flow()}
    return assembled(kind, transformer=transformer, vae=wan_vae(), **parts), call


# ---- others -----------------------------------------------------------------------------------------------------


@family("Krea2Pipeline")
def _(kind: str) -> Any:
    transformer = made(
        "Krea2Transformer2DModel",
        in_channels=16,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=16,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=2,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 2, 2),
    )
    call = {**SIDES, "guidance_scale": 2.0, **STEPS}
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds"] = embeds(1, 7, 2, 16, seed=5 + len(sign))
        call[f"{sign}prompt_embeds_mask"] = torch.ones(1, 7, dtype=torch.bool)
    return assembled(kind, transformer=transformer, vae=qwen_vae(), scheduler=flow()), call


@family("NucleusMoEImagePipeline")
def _(kind: str) -> Any:
    transformer = made(
        "NucleusMoEImageTransformer2DModel",
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 2, 2),
        num_experts=2,
        moe_intermediate_dim=16,
        capacity_factors=[2.0, 2.0],
    )
    call = {**SIDES, "guidance_scale": 2.0, **STEPS}
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds"] = embeds(1, 7, 16, seed=5 + len(sign))
        call[f"{sign}prompt_embeds_mask"] = torch.ones(1, 7, dtype=torch.long)
    return assembled(kind, transformer=transformer, vae=qwen_vae(), scheduler=flow()), call


@family("ErnieImagePipeline")
def _(kind: str) -> Any:
    transformer = made(
        "ErnieImageTransformer2DModel",
        hidden_size=16,
        num_attention_heads=2,
        num_layers=1,
        ffn_hidden_size=16,
        in_channels=16,
        out_channels=16,
        text_in_dim=16,
        rope_axes_dim=(4, 2, 2),
    )
    call = {
        "prompt_embeds": [embeds(7, 16)],
        "negative_prompt_embeds": [embeds(7, 16, seed=6)],
        "negative_prompt": None,
    }
    vae = FAMILIES["Flux2Pipeline"]()[0].vae
    return assembled(kind, transformer=transformer, vae=vae, scheduler=flow()), {
        **call,
        **SIDES,
        "use_pe": False,
        **STEPS,
    }


@family("GlmImagePipeline")
def _(kind: str) -> Any:
    transformer = made(
        "GlmImageTransformer2DModel",
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=32,
        time_embed_dim=16,
        condition_dim=4,
        prior_vq_quantizer_codebook_size=16,
    )
    vae = tiny._vae(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    call = {
        "prompt_embeds": embeds(1, 7, 32),
        "negative_prompt_embeds": embeds(1, 7, 32, seed=6),
        "prior_token_ids": torch.arange(16)[None],
        "height": 16,
        "width": 16,
        **STEPS,
    }
    return assembled(kind, transformer=transformer, vae=vae, scheduler=flow()), call


@family("JoyImageEditPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "JoyImageEditTransformer3DModel",
        patch_size=[1, 2, 2],
        in_channels=16,
        hidden_size=32,
        num_attention_heads=2,
        text_dim=16,
        num_layers=1,
        rope_dim_list=[4, 6, 6],
    )
    call = {**SIDES, "image": image(), "guidance_scale": 2.0, **STEPS}
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds"] = embeds(1, 7, 16, seed=5 + len(sign))
        call[f"{sign}prompt_embeds_mask"] = torch.ones(1, 7, dtype=torch.long)
    parts = {"text_encoder": qwen_vl(), "tokenizer": words()}
    from diffusers.pipelines.joyimage import image_processor

    image_processor.BUCKETS[1024] = [(16, 16)]
    return assembled(kind, transformer=transformer, vae=wan_vae(), scheduler=flow(), **parts), call


@family("HunyuanImageRefinerPipeline")
def _(kind: str) -> Any:
    pipe, call = FAMILIES["HunyuanImagePipeline"]()
    transformer = like(
        pipe.transformer,
        in_channels=16,
        out_channels=8,
        patch_size=(1, 1, 1),
        rope_axes_dim=(2, 2, 4),
        text_embed_2_dim=None,
    )
    vae = made(
        "AutoencoderKLHunyuanImageRefiner",
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16, 16, 16),
        layers_per_block=1,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    )
    call = {name: value for name, value in call.items() if not name.endswith("_2")}
    guider = diffusers.ClassifierFreeGuidance()
    return assembled(kind, transformer=transformer, vae=vae, scheduler=flow(), guider=guider), {
        **call,
        "image": image(),
    }


@family("HeliosPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "HeliosTransformer3DModel",
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=32,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        rope_dim=(4, 4, 4),
    )
    scheduler = diffusers.HeliosScheduler(stages=1, stage_range=[0, 1], scheduler_type="euler")
    call = {"height": 32, "width": 32, "num_frames": 33, "history_sizes": [16, 2, 1], **WAN, **STEPS}
    return wan(kind, scheduler, transformer=transformer), call


@family("DreamLitePipeline", "DreamLiteMobilePipeline")
def _(kind: str) -> Any:
    unet = made(
        "DreamLiteUNetModel",
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DreamLiteCrossAttnNoSelfAttnDownBlock2D", "DreamLiteCrossAttnDownBlock2D"),
        up_block_types=("DreamLiteCrossAttnUpBlock2D", "DreamLiteCrossAttnNoSelfAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    parts = {"text_encoder": qwen_vl(), "tokenizer": words(), "vae": tiny.flux().vae}
    return assembled(kind, unet=unet, scheduler=flow(), **parts), {**SIDES, **STEPS}


@family("ZImageOmniPipeline")
def _(kind: str) -> Any:
    pipe, call = FAMILIES["ZImagePipeline"]()
    transformer = like(pipe.transformer, siglip_feat_dim=16)
    call = {**call, "prompt_embeds": [[embeds(7, 16)]], "negative_prompt_embeds": [[embeds(5, 16, seed=6)]]}
    return assembled(kind, **{**pipe.components, "transformer": transformer}), call
