"""More tiny pipelines: those of UNets, priors and cascades, most of them of the years before transformers."""

from __future__ import annotations

from functools import cache
from typing import Any

import diffusers
import tiny
import torch
from families import (
    FAMILIES,
    STEPS,
    assembled,
    embeds,
    family,
    flow,
    image,
    made,
    mask,
    sd,
    t5,
    vision,
    words,
    xl,
)
from transformers import CLIPTextModelWithProjection

SIDES = {"height": 16, "width": 16}


# ---- Stable Diffusion's ---------------------------------------------------------------------------------------


@family("AltDiffusionPipeline", "StableDiffusionModelEditingPipeline")
def _(kind: str) -> Any:
    return sd(kind), STEPS


@family("AltDiffusionImg2ImgPipeline")
def _(kind: str) -> Any:
    return sd(kind), {"image": image(), "strength": 0.75, **STEPS}


@family("SemanticStableDiffusionPipeline")
def _(kind: str) -> Any:
    return sd(kind), {**SIDES, **STEPS, "guidance_scale": 4.0, "editing_prompt": "dog", "edit_warmup_steps": 1}


@family("StableDiffusionAttendAndExcitePipeline")
def _(kind: str) -> Any:
    return sd(kind), {"token_indices": [1], "max_iter_to_alter": 2, "attn_res": (4, 4), "thresholds": {0: 0.5}, **STEPS}


@family("StableDiffusionPix2PixZeroPipeline")
def _(kind: str) -> Any:
    call = {"source_embeds": embeds(2, 16, 16), "target_embeds": embeds(2, 16, 16, seed=6), **STEPS}
    return sd(kind, inverse_scheduler=diffusers.DDIMInverseScheduler(**tiny.SD_BETAS)), call


@family("StableDiffusionInpaintPipelineLegacy")
def _(kind: str) -> Any:
    return sd(kind), {"image": image(), "mask_image": mask(), "strength": 0.75, **STEPS}


@family("StableDiffusionDepth2ImgPipeline")
def _(kind: str) -> Any:
    return sd(kind, 5), {"image": image(), "depth_map": embeds(1, 16, 16), "strength": 0.75, **STEPS}


@family("StableDiffusionLDM3DPipeline")
def _(kind: str) -> Any:
    return sd(kind, vae=tiny._vae(in_channels=6, out_channels=6)), {"output_type": "np", **STEPS}


@family("StableDiffusionGLIGENTextImagePipeline")
def _(kind: str) -> Any:
    unet = tiny.like(tiny.pipeline().unet, attention_type="gated-text-image")
    from diffusers.pipelines.stable_diffusion import CLIPImageProjection

    torch.manual_seed(17)
    seen = vision()
    parts = {"unet": unet, "image_project": CLIPImageProjection(16), "processor": seen["feature_extractor"], **seen}
    call = {"gligen_phrases": ["a cat"], "gligen_images": [image()], "gligen_boxes": [[0.1, 0.1, 0.5, 0.5]]}
    return sd(kind, **parts), {**call, **STEPS}


def prior_of(**settings: Any) -> Any:
    return made(
        "PriorTransformer",
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "embedding_dim": 16,
            "num_layers": 1,
            "num_embeddings": 16,
            **settings,
        },
    )


def unclip(kind: str, **more: Any) -> Any:
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    unet = tiny.like(
        tiny.pipeline().unet,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=32,
    )
    parts = {"image_normalizer": StableUnCLIPImageNormalizer(embedding_dim=16), "unet": unet}
    return sd(kind, image_noising_scheduler=diffusers.DDPMScheduler(), **parts, **more)


@family("StableUnCLIPPipeline")
def _(kind: str) -> Any:
    (text,) = tiny._texts(CLIPTextModelWithProjection)
    scheduler = diffusers.DDPMScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0
    )
    parts = {"prior_tokenizer": tiny.tokenizer(), "prior_text_encoder": text, "prior": prior_of()}
    return unclip(kind, prior_scheduler=scheduler, **parts), {"prior_num_inference_steps": 2, **SIDES, **STEPS}


@family("StableUnCLIPImg2ImgPipeline")
def _(kind: str) -> Any:
    return unclip(kind, **vision()), {"image": image(), **SIDES, **STEPS}


@family("PaintByExamplePipeline")
def _(kind: str) -> Any:
    from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder
    from transformers import CLIPVisionConfig

    torch.manual_seed(18)
    seen = vision()
    config = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = PaintByExampleImageEncoder(CLIPVisionConfig(**config, image_size=16, patch_size=4), proj_size=16).eval()
    call = {"example_image": image(seed=1), "image": image(), "mask_image": mask(), **SIDES, **STEPS}
    return sd(kind, 9, image_encoder=encoder, feature_extractor=seen["feature_extractor"]), call


@family("MarigoldDepthPipeline", "MarigoldNormalsPipeline", "MarigoldIntrinsicsPipeline")
def _(kind: str) -> Any:
    many = 2 if "Intrinsics" in kind else 1
    unet = tiny.like(tiny.pipeline().unet, in_channels=4 + 4 * many, out_channels=4 * many)
    kinds = {"Depth": "depth", "Normals": "normals", "Intrinsics": "intrinsics"}
    named = next(said for name, said in kinds.items() if name in kind)
    more = {"target_properties": {"target_names": ["albedo", "material"]}} if many == 2 else {}
    pipe = sd(kind, unet=unet, prediction_type=named, use_full_z_range=True, **more)
    return pipe, {"image": image(), "processing_resolution": 0, "match_input_resolution": False, **STEPS}


@family("StableDiffusionControlNetXSPipeline")
def _(kind: str) -> Any:
    unet = tiny.like(tiny.pipeline().unet, layers_per_block=2)
    return sd(kind, unet=unet, controlnet=control_xs()), {"image": image(), **SIDES, **STEPS}


@family("StableDiffusionXLControlNetXSPipeline")
def _(kind: str) -> Any:
    unet = tiny.like(tiny.xl().unet, layers_per_block=2)
    return xl(kind, unet=unet, controlnet=control_xs(32)), {"image": image(), **SIDES, **STEPS}


def control_xs(wide: int = 16) -> Any:
    return made(
        "ControlNetXSAdapter",
        conditioning_embedding_out_channels=(2, 2),
        block_out_channels=(2, 4),
        base_block_out_channels=(8, 16),
        cross_attention_dim=wide,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        num_attention_heads=2,
        sample_size=8,
        max_norm_num_groups=2,
        use_linear_projection=False,
        upcast_attention=False,
        time_embedding_mix=0.95,
        learn_time_embedding=True,
    )


@family("StableDiffusion3ControlNetInpaintingPipeline")
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
        extra_conditioning_channels=1,
    )
    call = {"control_image": image(), "control_mask": mask(), **SIDES, **STEPS}
    return assembled(kind, **tiny.sd3().components, controlnet=net), call


@family("HunyuanDiTControlNetPipeline")
def _(kind: str) -> Any:
    pipe, call = FAMILIES["HunyuanDiTPipeline"]()
    names = ("sample_size", "patch_size", "attention_head_dim", "num_attention_heads", "in_channels", "hidden_size")
    names += ("cross_attention_dim", "cross_attention_dim_t5", "pooled_projection_dim", "text_len", "text_len_t5")
    config = pipe.transformer.config
    net = made("HunyuanDiT2DControlNetModel", **{name: config[name] for name in names}, transformer_num_layers=2)
    return assembled(kind, **pipe.components, controlnet=net), {**call, "control_image": image()}


@family("CogView4ControlPipeline")
def _(kind: str) -> Any:
    pipe, call = FAMILIES["CogView4Pipeline"]()
    settings = {n: v for n, v in pipe.transformer.config.items() if not n.startswith("_")}
    transformer = made("CogView4Transformer2DModel", **{**settings, "in_channels": 8})
    return assembled(kind, **{**pipe.components, "transformer": transformer}), {**call, "control_image": image()}


# ---- Kandinsky, UnCLIP and Würstchen --------------------------------------------------------------------------


@family("KandinskyV22ControlnetPipeline", "KandinskyV22ControlnetImg2ImgPipeline")
def _(kind: str) -> Any:
    pipe, call = FAMILIES["KandinskyV22Pipeline"]()
    settings = {n: v for n, v in pipe.unet.config.items() if not n.startswith("_")}
    unet = made("UNet2DConditionModel", **{**settings, "in_channels": 8, "addition_embed_type": "image_hint"})
    movq = made(
        "VQModel",
        block_out_channels=[32, 32, 32, 32],
        down_block_types=["DownEncoderBlock2D"] * 4,
        in_channels=3,
        latent_channels=4,
        layers_per_block=1,
        norm_type="spatial",
        num_vq_embeddings=12,
        out_channels=3,
        up_block_types=["AttnUpDecoderBlock2D"] * 4,
        vq_embed_dim=4,
    )
    more = {"image": image(64), "strength": 0.75} if "Img2Img" in kind else {}
    call = {**call, **more, "hint": embeds(1, 3, 64, 64)}  # the hint is made eight times smaller
    return assembled(kind, unet=unet, movq=movq, scheduler=pipe.scheduler), call


@family("KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline", "KandinskyPriorPipeline")
def _(kind: str) -> Any:
    (text,) = tiny._texts(CLIPTextModelWithProjection)
    seen = vision()
    scheduler = diffusers.UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=10.0
    )
    parts = {"image_encoder": seen["image_encoder"], "image_processor": seen["feature_extractor"]}
    more = {"image": embeds(1, 16), "strength": 0.75} if "Emb2Emb" in kind else {}
    parts |= {"prior": prior_of(), "text_encoder": text, "tokenizer": tiny.tokenizer(), "scheduler": scheduler}
    return assembled(kind, **parts), {**more, **STEPS}


@family("KandinskyPipeline", "KandinskyImg2ImgPipeline", "KandinskyInpaintPipeline")
def _(kind: str) -> Any:
    from diffusers.pipelines.kandinsky.text_encoder import MultilingualCLIP
    from transformers import XLMRobertaConfig

    torch.manual_seed(19)
    config = XLMRobertaConfig(
        vocab_size=len(tiny.tokenizer()), hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    config.transformerDimensions, config.numDims, config.intermediate_size = 16, 16, 16
    pipe, call = FAMILIES[kind.replace("Kandinsky", "KandinskyV22")]()
    settings = {n: v for n, v in pipe.unet.config.items() if not n.startswith("_")}
    text_image = {"encoder_hid_dim_type": "text_image_proj", "addition_embed_type": "text_image"}
    unet = made("UNet2DConditionModel", **{**settings, **text_image, "encoder_hid_dim": 16})
    parts = {"text_encoder": MultilingualCLIP(config).eval(), "tokenizer": tiny.tokenizer()}
    return assembled(kind, **{**pipe.components, **parts, "unet": unet}), call


@family("Kandinsky3Pipeline", "Kandinsky3Img2ImgPipeline")
def _(kind: str) -> Any:
    unet = made(
        "Kandinsky3UNet",
        time_embedding_dim=4,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,
        block_out_channels=(32, 64),
        cross_attention_dim=4,
        encoder_hid_dim=32,
    )
    movq = FAMILIES["KandinskyV22Pipeline"]()[0].movq
    parts = {"tokenizer": tiny.tokenizer(), "text_encoder": t5(), "movq": movq}
    call = {"image": image(64), "strength": 0.75} if "Img2Img" in kind else SIDES
    return assembled(kind, unet=unet, scheduler=diffusers.DDPMScheduler(), **parts), {**call, **STEPS}


@family("UnCLIPPipeline", "UnCLIPImageVariationPipeline")
def _(kind: str) -> Any:
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    (text,) = tiny._texts(CLIPTextModelWithProjection)
    torch.manual_seed(20)
    project = UnCLIPTextProjModel(clip_embeddings_dim=16, time_embed_dim=32, cross_attention_dim=16).eval()
    decoder = made(
        "UNet2DConditionModel",
        sample_size=8,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(8, 16),
        norm_num_groups=4,
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        resnet_time_scale_shift="scale_shift",
        class_embed_type="identity",
    )

    def larger() -> Any:
        return made(
            "UNet2DModel",
            sample_size=16,
            in_channels=6,
            out_channels=3,
            layers_per_block=1,
            down_block_types=("ResnetDownsampleBlock2D", "ResnetDownsampleBlock2D"),
            up_block_types=("ResnetUpsampleBlock2D", "ResnetUpsampleBlock2D"),
            block_out_channels=(8, 16),
            norm_num_groups=4,
        )

    def scheduler(**settings: Any) -> Any:
        return diffusers.UnCLIPScheduler(num_train_timesteps=1000, **settings)

    parts = {"decoder": decoder, "text_encoder": text, "tokenizer": tiny.tokenizer(), "text_proj": project}
    parts |= {"super_res_first": larger(), "super_res_last": larger()}
    parts |= {
        "decoder_scheduler": scheduler(variance_type="learned_range", prediction_type="epsilon"),
        "super_res_scheduler": scheduler(variance_type="fixed_small_log", prediction_type="epsilon"),
    }
    call: dict[str, Any] = {"decoder_num_inference_steps": 2, "super_res_num_inference_steps": 4}
    if kind == "UnCLIPPipeline":
        sample = scheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0
        )
        return assembled(kind, **parts, prior=prior_of(), prior_scheduler=sample), {
            **call,
            "prior_num_inference_steps": 2,
        }
    return assembled(kind, **parts, **vision()), {**call, "image": image()}


@family("WuerstchenPriorPipeline")
def _(kind: str) -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import WuerstchenPrior

    (text,) = tiny._texts(CLIPTextModelWithProjection)
    torch.manual_seed(21)
    prior = WuerstchenPrior(c_in=2, c=8, depth=2, c_cond=16, c_r=8, nhead=2).eval()
    parts = {"prior": prior, "text_encoder": text, "tokenizer": tiny.tokenizer()}
    call = {"height": 128, "width": 128, "guidance_scale": 4.0, **STEPS}
    return assembled(kind, **parts, scheduler=diffusers.DDPMWuerstchenScheduler()), call


@family("WuerstchenDecoderPipeline")
def _(kind: str) -> Any:
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel, WuerstchenDiffNeXt

    (text,) = tiny._texts(CLIPTextModelWithProjection)
    torch.manual_seed(22)
    vqgan = PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=2, embed_dim=8, latent_channels=4, levels=2).eval()
    decoder = WuerstchenDiffNeXt(
        c_cond=16, c_hidden=[16], nhead=[-1], blocks=[4], level_config=["CT"], clip_embd=16, inject_effnet=[False]
    ).eval()
    parts = {"decoder": decoder, "vqgan": vqgan, "text_encoder": text, "tokenizer": tiny.tokenizer()}
    call = {"image_embeddings": embeds(1, 2, 4, 4), "guidance_scale": 2.0, **STEPS}
    return assembled(kind, **parts, scheduler=diffusers.DDPMWuerstchenScheduler(), latent_dim_scale=4.0), call


# ---- without text ---------------------------------------------------------------------------------------------


@family("PNDMPipeline")
def _(kind: str) -> Any:
    return assembled(kind, unet=tiny.pixels(), scheduler=diffusers.PNDMScheduler(skip_prk_steps=True)), STEPS


@family("LDMPipeline")
def _(kind: str) -> Any:
    return assembled(kind, unet=tiny.pixels(), vqvae=vq(), scheduler=diffusers.DDIMScheduler()), STEPS


@cache
def vq() -> Any:
    return made(
        "VQModel",
        block_out_channels=[32, 32],
        in_channels=3,
        out_channels=3,
        latent_channels=3,
        layers_per_block=1,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )


@family("LDMTextToImagePipeline")
def _(kind: str) -> Any:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    torch.manual_seed(23)
    size = len(tiny.tokenizer())
    config = LDMBertConfig(
        vocab_size=size,
        max_position_embeddings=77,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        head_dim=8,
        d_model=16,
    )
    parts = {"bert": LDMBertModel(config).eval(), "tokenizer": tiny.tokenizer(), "unet": tiny.pipeline().unet}
    call = {**SIDES, "guidance_scale": 2.0, **STEPS}
    return assembled(kind, **parts, vqvae=tiny.pipeline().vae, scheduler=diffusers.DDIMScheduler(**tiny.SD_DDIM)), call


@family("RePaintPipeline")
def _(kind: str) -> Any:
    hole = torch.ones(1, 3, 8, 8)
    hole[..., :4] = 0
    call = {"image": embeds(1, 3, 8, 8).clamp(-1, 1), "mask_image": hole, "jump_length": 2, "jump_n_sample": 2}
    return assembled(kind, unet=tiny.pixels(), scheduler=diffusers.RePaintScheduler()), {**call, **STEPS}


@family("ConsistencyModelPipeline")
def _(kind: str) -> Any:
    scheduler = diffusers.CMStochasticIterativeScheduler(num_train_timesteps=40, sigma_min=0.002, sigma_max=80.0)
    return assembled(kind, unet=tiny.pixels(), scheduler=scheduler), STEPS


@family("DanceDiffusionPipeline")
def _(kind: str) -> Any:
    unet = made(
        "UNet1DModel",
        block_out_channels=(32, 32, 64),
        extra_in_channels=64,
        sample_size=512,
        sample_rate=16_000,
        in_channels=2,
        out_channels=2,
        flip_sin_to_cos=True,
        use_timestep_embedding=False,
        time_embedding_type="fourier",
        mid_block_type="UNetMidBlock1D",
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
        up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
    )
    return assembled(kind, unet=unet, scheduler=diffusers.IPNDMScheduler()), STEPS


# ---- video ----------------------------------------------------------------------------------------------------


@family("I2VGenXLPipeline")
def _(kind: str) -> Any:
    unet = made(
        "I2VGenXLUNet",
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=8,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        num_attention_heads=None,
        norm_num_groups=2,
    )
    call = {
        "image": image(),
        "num_frames": 3,
        "target_fps": 4,
        "guidance_scale": 3.0,
        "clip_skip": None,
        **SIDES,
        **STEPS,
    }
    return sd(kind, unet=unet, **vision()), call


@family("AnimateDiffVideoToVideoControlNetPipeline")
def _(kind: str) -> Any:
    _, call = FAMILIES["AnimateDiffVideoToVideoPipeline"]()
    net = FAMILIES["AnimateDiffControlNetPipeline"]()[0].controlnet
    adapter = FAMILIES["AnimateDiffPipeline"]()[0].motion_adapter
    frames = [image(seed=k) for k in range(4, 8)]
    made = sd(kind, motion_adapter=adapter, controlnet=net)
    return made, {**call, "conditioning_frames": frames}


@family("AnimateDiffSparseControlNetPipeline")
def _(kind: str) -> Any:
    net = made(
        "SparseControlNetModel",
        in_channels=4,
        conditioning_channels=3,
        down_block_types=("DownBlockMotion", "CrossAttnDownBlockMotion"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
        motion_num_attention_heads=2,
        conditioning_embedding_out_channels=(8, 8),
        use_simplified_condition_embedding=False,
    )
    adapter = FAMILIES["AnimateDiffPipeline"]()[0].motion_adapter
    call = {"conditioning_frames": [image()], "num_frames": 4, **SIDES, **STEPS}
    return sd(kind, motion_adapter=adapter, controlnet=net), call


# ---- sound ------------------------------------------------------------------------------------------------------


def vocoder() -> Any:
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    torch.manual_seed(40)
    config = SpeechT5HifiGanConfig(
        model_in_dim=8,
        sampling_rate=16_000,
        upsample_initial_channel=16,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3, 7],
        resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
        normalize_before=False,
    )
    return SpeechT5HifiGan(config).eval()


def mel_vae() -> Any:
    return tiny._vae(in_channels=1, out_channels=1, latent_channels=4)


def clap_text() -> Any:
    from transformers import ClapTextConfig, ClapTextModelWithProjection

    torch.manual_seed(41)
    config = ClapTextConfig(
        vocab_size=len(tiny.tokenizer()),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=16,
        max_position_embeddings=32,
    )
    return ClapTextModelWithProjection(config).eval()


@family("AudioLDMPipeline", "MusicLDMPipeline")
def _(kind: str) -> Any:
    unet = tiny.like(
        tiny.pipeline().unet,
        class_embed_type="simple_projection",
        projection_class_embeddings_input_dim=16,
        class_embeddings_concat=True,
        cross_attention_dim=(8, 16),
    )
    parts = {"vae": mel_vae(), "vocoder": vocoder(), "unet": unet, "tokenizer": tiny.tokenizer()}
    call = {"audio_length_in_s": 0.01, "prompt_embeds": embeds(1, 16), "negative_prompt_embeds": embeds(1, 16, seed=6)}
    text = clap_text()
    scheduler = diffusers.DDIMScheduler(**tiny.SD_DDIM)
    return assembled(kind, text_encoder=text, scheduler=scheduler, **parts), {**call, **STEPS}


@family("StableAudio3Pipeline", "StableAudio3InpaintPipeline", "StableAudio3AudioToAudioPipeline")
def _(kind: str) -> Any:
    from diffusers.pipelines.stable_audio_3 import StableAudio3DurationEmbedder

    torch.manual_seed(42)
    transformer = made(
        "StableAudio3DiTModel",
        io_channels=8,
        embed_dim=16,
        depth=1,
        num_heads=2,
        cond_token_dim=32,
        global_cond_dim=32,
        local_add_cond_dim=9,
        timestep_features_dim=16,
        num_memory_tokens=2,
    )
    vae = made(
        "AutoencoderSAME",
        audio_channels=2,
        patch_size=4,
        encoder_channels=8,
        encoder_c_mults=(2,),
        encoder_strides=(2,),
        encoder_transformer_depths=(1,),
        latent_dim=8,
        dim_heads=8,
        sampling_rate=64,
    )
    parts = {"text_encoder": t5(), "tokenizer": tiny.tokenizer(), "duration_embedder": StableAudio3DurationEmbedder(32)}
    call: dict[str, Any] = {"duration": 1.0}
    call |= {} if kind == "StableAudio3Pipeline" else {"audio": embeds(1, 2, 64).clamp(-1, 1)}
    call |= {"mask_start_seconds": 0.25, "mask_end_seconds": 0.75} if "Inpaint" in kind else {}
    call |= {"init_noise_level": 0.95} if "AudioTo" in kind else {}
    return assembled(
        kind, transformer=transformer, vae=vae, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), **parts
    ), {**call, **STEPS}


# ---- several modalities -----------------------------------------------------------------------------------------


@family("ShapEPipeline", "ShapEImg2ImgPipeline")
def _(kind: str) -> Any:
    from diffusers.pipelines.shap_e import ShapERenderer

    (text,) = tiny._texts(CLIPTextModelWithProjection)
    prior = prior_of(
        num_attention_heads=2,
        attention_head_dim=16,
        embedding_dim=16,
        num_embeddings=32,
        embedding_proj_dim=16,
        time_embed_dim=64,
        clip_embed_dim=32,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        embedding_proj_norm_type="layer" if "Img" in kind else None,
        encoder_hid_proj_type=None,
        added_emb_type=None,
    )
    torch.manual_seed(43)
    renderer = ShapERenderer(
        param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=16, d_hidden=8, n_output=12, background=(0.1, 0.1, 0.1)
    ).eval()
    scheduler = diffusers.HeunDiscreteScheduler(
        beta_schedule="exp",
        num_train_timesteps=1024,
        prediction_type="sample",
        use_karras_sigmas=True,
        clip_sample=True,
    )
    seen = vision()
    parts = {"image_encoder": seen["image_encoder"].vision_model, "image_processor": seen["feature_extractor"]}
    parts |= {"prior": prior, "text_encoder": text, "tokenizer": tiny.tokenizer(), "shap_e_renderer": renderer}
    call = {"frame_size": 8, "output_type": "latent", **STEPS}
    return assembled(kind, scheduler=scheduler, **parts), {**call, **({"image": image()} if "Img" in kind else {})}


@family(
    "VersatileDiffusionTextToImagePipeline",
    "VersatileDiffusionImageVariationPipeline",
    "VersatileDiffusionDualGuidedPipeline",
)
def _(kind: str) -> Any:
    from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import UNetFlatConditionModel

    (text,) = tiny._texts(CLIPTextModelWithProjection)
    torch.manual_seed(44)
    flat = UNetFlatConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlockFlat", "CrossAttnDownBlockFlat"),
        up_block_types=("CrossAttnUpBlockFlat", "UpBlockFlat"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()
    seen = vision()
    parts = {"image_encoder": seen["image_encoder"], "image_feature_extractor": seen["feature_extractor"]}
    parts |= {"text_encoder": text, "tokenizer": tiny.tokenizer(), "text_unet": flat, "vae": tiny.pipeline().vae}
    unet = tiny.like(tiny.pipeline().unet)
    call = {**SIDES, **({} if "Text" in kind else {"image": image()}), **STEPS}
    return assembled(kind, image_unet=unet, scheduler=diffusers.DDIMScheduler(**tiny.SD_DDIM), **parts), call


@family("AudioLDM2Pipeline")
def _(kind: str) -> Any:
    unet = made(
        "AudioLDM2UNet2DConditionModel",
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=([None, 16, 32], [None, 16, 32]),
        attention_head_dim=2,
    )
    call: dict[str, Any] = {"audio_length_in_s": 0.01, **STEPS}
    for sign in ("", "negative_"):
        call[f"{sign}prompt_embeds"] = embeds(1, 7, 32, seed=5 + len(sign))
        call[f"{sign}attention_mask"] = torch.ones(1, 7, dtype=torch.long)
        call[f"{sign}generated_prompt_embeds"] = embeds(1, 3, 16, seed=7 + len(sign))
    parts = {"text_encoder": clap_text(), "text_encoder_2": t5(), "language_model": t5(), "vae": mel_vae()}
    parts |= {"vocoder": vocoder()}
    return assembled(kind, unet=unet, scheduler=diffusers.DDIMScheduler(**tiny.SD_DDIM), **parts), call


@family("LongCatAudioDiTPipeline")
def _(kind: str) -> Any:
    transformer = made(
        "LongCatAudioDiTTransformer", dit_dim=16, dit_depth=1, dit_heads=2, dit_text_dim=32, latent_dim=4
    )
    vae = made(
        "LongCatAudioDiTVae",
        channels=8,
        c_mults=[1, 1],
        strides=[2],
        latent_dim=4,
        encoder_latent_dim=8,
        downsampling_ratio=2,
        sample_rate=64,
    )
    parts = {"vae": vae, "text_encoder": t5(), "tokenizer": tiny.tokenizer()}
    call = {"audio_duration_s": 0.5, **STEPS}
    return assembled(kind, transformer=transformer, scheduler=flow(shift=1.0, invert_sigmas=True), **parts), call


@family("AceStepPipeline")
def _(kind: str) -> Any:
    from diffusers.pipelines.ace_step import AceStepConditionEncoder
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(45)
    small = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 16}
    config = Qwen3Config(vocab_size=len(words()), hidden_size=16, num_hidden_layers=1, **small)
    transformer = made(
        "AceStepTransformer1DModel",
        hidden_size=16,
        num_hidden_layers=2,
        in_channels=24,
        audio_acoustic_hidden_dim=8,
        encoder_hidden_size=16,
        **small,
    )
    encoder = AceStepConditionEncoder(
        hidden_size=16,
        text_hidden_dim=16,
        timbre_hidden_dim=8,
        num_lyric_encoder_hidden_layers=1,
        num_timbre_encoder_hidden_layers=1,
        **small,
    ).eval()
    torch.nn.init.normal_(encoder.silence_latent)
    vae = made(
        "AutoencoderOobleck",
        encoder_hidden_size=6,
        downsampling_ratios=[1, 2],
        decoder_channels=3,
        decoder_input_channels=8,
        audio_channels=2,
        channel_multiples=[2, 4],
        sampling_rate=16,
    )
    parts = {"vae": vae, "text_encoder": Qwen3Model(config).eval(), "tokenizer": words(), "condition_encoder": encoder}
    return assembled(kind, transformer=transformer, scheduler=flow(shift=1.0), **parts), {
        "audio_duration": 1.0,
        **STEPS,
    }
