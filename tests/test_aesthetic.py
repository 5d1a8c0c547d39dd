"""LAION's aesthetic score against the published weights and scores, and against a plain product of matrices."""

import json
import os
from pathlib import Path

import pytest
import torch

from dsearch.rewards import Aesthetic, AestheticHead, CLIPScore, PickScore
from dsearch.rewards.aesthetic import PLACES, load_head
from dsearch.rewards.clip_score import tiny

IMAGES = torch.rand(5, 3, 40, 36, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a", "b", "a", "", "c"]


@pytest.mark.shared
@pytest.mark.skipif("DSEARCH_SHARED" not in os.environ, reason="DSEARCH_SHARED names no folder")
def test_the_published_head_gives_its_published_scores():
    folder = Path(os.environ["DSEARCH_SHARED"])
    expected = json.loads((folder / "golden" / "aesthetic_mlp.json").read_text())["scores"]
    i = torch.arange(768, dtype=torch.float64)
    rows = torch.stack([torch.sin(0.37 * (k + 1) * (i + 1)) for k in range(4)])
    head = load_head(folder / "weights" / "sac+logos+ava1-l14-linearMSE.pth")
    assert head((rows / rows.norm(dim=1, keepdim=True)).float()).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(3)
    torch.save(AestheticHead(16).state_dict(), tmp_path / "head.pth")
    return tmp_path / "head.pth"


def test_the_score_is_the_products_of_the_embedding(file):
    clip = tiny(CLIPScore)
    weights, x = torch.load(file, weights_only=True), clip.image_embeddings(IMAGES)
    for place in PLACES:
        x = x @ weights[f"layers.{place}.weight"].T + weights[f"layers.{place}.bias"]
    found = Aesthetic(clip, file)(IMAGES, PROMPTS)
    assert torch.allclose(found, x[:, 0], atol=1e-6) and found.std() > 0
    assert torch.equal(found, Aesthetic(clip, load_head(file))(IMAGES, ["other"] * 5))


def test_safetensors_and_pytorch_files_are_one(file, tmp_path):
    from safetensors.torch import save_file

    save_file(torch.load(file, weights_only=True), tmp_path / "head.safetensors")
    for key, tensor in load_head(file).state_dict().items():
        assert torch.equal(tensor, load_head(tmp_path / "head.safetensors").state_dict()[key])


def test_loading_leaves_global_randomness_alone_and_trains_nothing(file):
    state = torch.get_rng_state()
    head = load_head(file)
    assert torch.equal(state, torch.get_rng_state()) and not any(p.requires_grad for p in head.parameters())


def test_what_is_missing_or_wrong_is_named(file, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*no\.pth.*improved-aesthetic-predictor"):
        load_head(tmp_path / "no.pth")
    weights = torch.load(file, weights_only=True)
    torch.save({k: v for k, v in weights.items() if "layers.6" not in k}, tmp_path / "part.pth")
    with pytest.raises(ValueError, match=r"part\.pth' lacks layers\.6\.weight, layers\.6\.bias of 10 expected keys"):
        load_head(tmp_path / "part.pth")
    torch.save(weights | {"bomb": Path("x")}, tmp_path / "bomb.pth")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("bomb.pth", "text.pth", "text.safetensors"):
        with pytest.raises(ValueError, match="holds no weights that can be read safely"):
            load_head(tmp_path / name)
    with pytest.raises(ValueError, match="the head reads embeddings of 768 numbers, but this CLIP gives 16"):
        Aesthetic(tiny(CLIPScore), AestheticHead())


def test_pick_score_is_the_scaled_cosine_that_the_model_itself_gives():
    reward = tiny(PickScore)
    with torch.no_grad():
        tokens = reward._tokenizer(PROMPTS, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        said = reward._model(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=reward.preprocess(IMAGES),
        )
    assert reward(IMAGES, PROMPTS).tolist() == pytest.approx(said.logits_per_image.diagonal().tolist(), rel=1e-5)
    with pytest.raises(TypeError, match="path"):
        PickScore()
