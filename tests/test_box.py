"""The model in the box loads offline, keeps its promises, is small, and draws what it is asked for."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import dsearch.box as box

ANIMALS = {"cat", "dog", "horse", "monkey", "rabbit", "butterfly", "panda"}
SIZE_LIMIT = 20e6  # bytes


@pytest.fixture(scope="module")
def pipe():
    import diffusers

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        loaded = diffusers.StableDiffusionPipeline.from_pretrained(box.pipeline_path())
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def clips():
    import transformers

    return {r: transformers.CLIPModel.from_pretrained(box.clip_path(r)).eval() for r in ("guide", "judge")}


def named(clip, tokenizer, images):
    """[N, 64, 64, 3] in [0, 1] -> the subject whose text is nearest to each picture."""
    import torch

    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() * 2 - 1
    ids = tokenizer(list(box.SUBJECTS), padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        picture = clip.visual_projection(clip.vision_model(pixels).pooler_output)
        text = clip.text_projection(clip.text_model(ids).pooler_output)
    cosine = torch.nn.functional.normalize(picture, dim=-1) @ torch.nn.functional.normalize(text, dim=-1).T
    return [box.SUBJECTS[i] for i in cosine.argmax(1)]


def test_importing_the_box_imports_no_network_library():
    code = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("box", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
assert not {"torch", "diffusers", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, box.__file__], check=True)


def test_the_subjects_are_enough_and_include_the_animals():
    assert len(box.SUBJECTS) == len(set(box.SUBJECTS)) >= 67
    assert set(box.SUBJECTS) >= ANIMALS
    assert len(box.DEMO_PROMPTS) >= 8
    assert set(box.DEMO_PROMPTS) <= set(box.SUBJECTS)


def test_an_unknown_clip_is_refused():
    with pytest.raises(ValueError, match="'critic' is not in the box; choose 'guide' or 'judge'"):
        box.clip_path("critic")


def test_the_box_is_small_holds_no_pickles_and_names_its_sources():
    folder = box.pipeline_path().parent
    files = [f for f in folder.rglob("*") if f.is_file() and "__pycache__" not in f.parts]
    assert sum(f.stat().st_size for f in files) <= SIZE_LIMIT
    assert {f.suffix for f in files} <= {".safetensors", ".json", ".md", ".py"}
    sources = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert all(name in sources for name in ("Twemoji", "Noto", "Fluent", "CC BY 4.0", "MIT", "Apache"))


def test_no_configuration_names_a_path():
    configs = box.pipeline_path().parent.rglob("*config.json")
    assert not [f for f in configs if "_name_or_path" in f.read_text(encoding="utf-8")]


def test_every_module_loads_as_float32(pipe, clips):
    import torch

    modules = [pipe.unet, pipe.vae, pipe.text_encoder, *clips.values()]
    assert {p.dtype for m in modules for p in m.parameters()} == {torch.float32}


def test_the_pipeline_is_a_plain_stable_diffusion(pipe):
    import diffusers

    assert type(pipe) is diffusers.StableDiffusionPipeline
    assert pipe.safety_checker is None
    assert (pipe.unet.config.sample_size, pipe.vae_scale_factor) == (16, 4)
    settings = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "epsilon",
    }
    assert type(pipe.scheduler) is diffusers.DDIMScheduler
    assert {k: pipe.scheduler.config[k] for k in settings} == settings


def test_each_known_word_is_one_token_and_an_unknown_one_is_letters(pipe):
    words = {w for s in box.SUBJECTS for w in s.split()}
    words |= {"a", "an", "on", "background", "blue", "flat", "style", ","}
    assert {w: len(pipe.tokenizer(w).input_ids) - 2 for w in words} == dict.fromkeys(words, 1)
    assert len(pipe.tokenizer("zyx").input_ids) - 2 > 1
    assert pipe.tokenizer.model_max_length == pipe.text_encoder.config.max_position_embeddings == 16


def test_the_clips_share_the_words_but_not_the_network(clips):
    from transformers import CLIPTokenizer

    guide, judge = clips["guide"].config.vision_config, clips["judge"].config.vision_config
    assert guide.patch_size != judge.patch_size
    assert guide.hidden_size != judge.hidden_size
    tokens = [CLIPTokenizer.from_pretrained(box.clip_path(r))("a christmas tree").input_ids for r in clips]
    assert tokens[0] == tokens[1]
    for role, config in (("guide", guide), ("judge", judge)):
        processor = json.loads((box.clip_path(role) / "preprocessor_config.json").read_text(encoding="utf-8"))
        assert processor["size"] == {"height": config.image_size, "width": config.image_size}


def test_the_judge_names_most_of_a_small_sample(pipe, clips):
    import numpy as np
    import torch

    prompts = [p for p in box.DEMO_PROMPTS[:8] for _ in range(2)]
    images = pipe(
        prompts,
        num_inference_steps=20,
        guidance_scale=2.5,
        eta=1.0,
        generator=[torch.Generator().manual_seed(i) for i in range(len(prompts))],
        output_type="np",
    ).images
    assert images.shape == (len(prompts), 64, 64, 3)
    assert np.isfinite(images).all()
    right = [a == b for a, b in zip(named(clips["judge"], pipe.tokenizer, images), prompts, strict=True)]
    assert sum(right) >= 0.75 * len(right)


def test_the_preview_shows_what_the_vae_shows_and_ranks_alike(pipe, clips):
    """On pictures in progress as on clean ones; and it is loaded without a warning or a download."""
    import torch
    from diffusers import AutoencoderTiny

    import dsearch
    from dsearch.adapters import StableDiffusion
    from dsearch.rewards import CLIPScore, Compressibility

    tiny = AutoencoderTiny.from_pretrained(box.preview_path())
    denoiser = StableDiffusion(pipe, num_inference_steps=8, guidance_scale=2.5, preview=tiny)
    seen = []
    plain = dsearch.methods.plain(Compressibility(), 24)
    dsearch.search(denoiser, plain, "cat", watch=[lambda step, beams: seen.append(beams.pred.x0[0])])
    for x0 in (seen[3], seen[-1]):
        with torch.no_grad():
            full, quick = denoiser.decode(x0), denoiser.preview(x0)
        assert full.shape == quick.shape and quick.min() >= 0 and quick.max() <= 1
        assert -10 * torch.log10((full - quick).square().mean()) > 25  # dB
        for reward in (Compressibility(), CLIPScore()):
            said = torch.stack([reward(full, ["cat"] * 24), reward(quick, ["cat"] * 24)])
            assert torch.corrcoef(said)[0, 1] > 0.8
