"""Stable Diffusion v1.5's true architecture, with random weights: `make test-slow`."""

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

import dsearch
from dsearch.adapters import StableDiffusion


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    tokens = tiny.tokenizer()
    tokens.model_max_length = 77
    special = {f"{name}_token_id": getattr(tokens, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = CLIPTextConfig(  # CLIP ViT-L/14's text half
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        projection_dim=768,
        **special,
    )
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
        sample_size=512,
    )
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # the rest are v1.5's by default
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=tokens,
        unet=unet.eval(),
        scheduler=PNDMScheduler(**tiny.SD_BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.slow
def test_the_parts_are_as_large_as_the_published_ones(pipe):
    counts = [sum(p.numel() for p in m.parameters()) for m in (pipe.unet, pipe.vae, pipe.text_encoder)]
    assert counts == [859_520_964, 83_653_863, 123_060_480]


@pytest.mark.slow
def test_width_one_equals_the_pipeline_bit_for_bit(pipe):
    torch.set_num_threads(2)
    prompts, steps, side = ["a cat", "an owl"], 2, 64
    denoiser = StableDiffusion(pipe, num_inference_steps=steps, height=side, width=side)
    generator = torch.Generator().manual_seed(5)
    start, *noise = (torch.randn(2, 4, 8, 8, generator=generator)[:, None] for _ in range(steps + 1))
    recorded = tiny.Recorded(start, [each[:, :, None] for each in noise])
    result = dsearch.search(denoiser, dsearch.methods.plain(tiny.contrast, 1), prompts, rng=recorded)

    pipe.scheduler = DDIMScheduler(**tiny.SD_DDIM)
    generator = torch.Generator().manual_seed(5)
    own = pipe(
        prompts,
        num_inference_steps=steps,
        eta=1.0,
        generator=generator,
        height=side,
        width=side,
        output_type="pt",
    ).images
    assert torch.equal(result.images[:, 0], own)


@pytest.mark.slow
def test_a_search_keeps_its_bill(pipe):
    torch.set_num_threads(2)
    denoiser = StableDiffusion(pipe, num_inference_steps=3, height=64, width=64)
    method = dsearch.methods.dsearch(tiny.contrast, beams=2, rows_per_step=4, search="all")
    result = dsearch.search(denoiser, method, ["a cat"], seed=0)
    assert result.cost.bill == result.cost.planned == method.bill(3)
    assert result.images.shape == (1, 1, 3, 64, 64)
