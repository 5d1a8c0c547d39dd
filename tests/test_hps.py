"""HPS against hpsv2's own code. Both need open_clip and hpsv2: CONTRIBUTING says how to have them beside the tests."""

import gzip
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsearch._torchvision import mend
from dsearch.rewards import hps

if os.environ.get("DSEARCH_ORACLES"):  # whoever asks for the oracles is told what is missing
    mend()
    import open_clip
else:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra clip", exc_type=ImportError)

PROMPTS = ["a cat", "a very long red dog on the moon", "a cat", ""]


@pytest.fixture(scope="module")
def oracle():
    """hpsv2's scoring module; its wheel lacks a vocabulary file that open_clip has."""
    pytest.importorskip("hpsv2", reason="needs hpsv2")
    vocabulary, opened = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz", gzip.open

    def supplied(path, *arguments, **options):
        missing = Path(path).name == vocabulary.name and not Path(path).exists()
        return opened(vocabulary if missing else path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gzip, "open", supplied)
        from hpsv2 import img_score
    return img_score


def theirs(oracle, name, weights, images, prompts):
    model, _, preprocess = oracle.create_model_and_transforms(name, None, precision="fp32", output_dict=True)
    oracle.model_dict.clear()
    oracle.model_dict.update(model=model, preprocess_val=preprocess)
    scores = [
        oracle.score(Image.fromarray(image), prompt, cp=str(weights))[0]
        for image, prompt in zip(images, prompts, strict=True)
    ]
    oracle.model_dict.clear()
    return torch.tensor([float(score) for score in scores])


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def ours(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hps")
    (folder / "small.json").write_text(json.dumps(hps.TINY))
    open_clip.add_model_config(folder / "small.json")
    torch.manual_seed(1)
    weights = open_clip.create_model("small", pretrained=None).state_dict()
    torch.save({"state_dict": weights}, folder / "weights.pt")
    return folder


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (50, 70), (91, 33), (20, 20), (31, 32)])
def test_scores_equal_hpsv2s_own(oracle, tiny, size):
    from hpsv2.src.open_clip import factory

    factory.add_model_config(tiny / "small.json")
    images = noise(4, *size, 3)
    expected = theirs(oracle, "small", tiny / "weights.pt", images, PROMPTS)
    found = hps.HPS(tiny / "weights.pt", model="small")(ours(images), PROMPTS)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert found.std() > 1e-3


@pytest.mark.slow
def test_scores_of_the_true_architecture_equal_hpsv2s_own(oracle, tmp_path):
    torch.manual_seed(0)
    net = open_clip.create_model("ViT-H-14", pretrained=None)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "random.pt")
    del net
    images = noise(2, 224, 300, 3)
    found = hps.HPS(tmp_path / "random.pt")(ours(images), PROMPTS[:2])
    expected = theirs(oracle, "ViT-H-14", tmp_path / "random.pt", images, PROMPTS[:2])
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_prompt_is_encoded_once(tiny, monkeypatch):
    reward, asked = hps.HPS(tiny / "weights.pt", model="small"), []
    inner = reward._text_features
    monkeypatch.setattr(reward, "_text_features", lambda prompts: asked.append(prompts) or inner(prompts))
    images = ours(noise(4, 32, 32, 3))
    assert torch.equal(reward(images, PROMPTS), reward(images, PROMPTS))
    assert asked == [["a cat", PROMPTS[1], ""]]


def test_half_precision_moves_scores_less_than_a_hundredth(tiny):
    images = ours(noise(4, 64, 64, 3))
    full, half = (hps.HPS(tiny / "weights.pt", model="small", dtype=d)(images, PROMPTS) for d in (None, torch.bfloat16))
    assert half.dtype == torch.float32 and (full - half).abs().max() < 0.01


def test_what_is_missing_or_wrong_is_named(tiny, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"no\.pt.*HPS_v2\.1_compressed\.pt of huggingface\.co/xswu/HPSv2"):
        hps.HPS(tmp_path / "no.pt")
    with pytest.raises(ValueError, match=r"version='3' is not known; choose one of 2\.0, 2\.1"):
        hps.HPS(tmp_path / "no.pt", "3")
    weights = torch.load(tiny / "weights.pt", weights_only=True)["state_dict"]
    torch.save({"state_dict": {k: v for k, v in weights.items() if k != "text_projection"}}, tmp_path / "half.pt")
    with pytest.raises(ValueError, match=r"half\.pt' lacks text_projection of"):
        hps.HPS(tmp_path / "half.pt", model="small")
    torch.save({"bomb": Path("x")}, tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match="holds no weights that can be read safely"):
        hps.HPS(tmp_path / "bomb.pt", model="small")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="pass download=True, or a file's path"):
        hps.HPS("xswu/HPSv2")


def test_without_open_clip_the_remedy_is_named(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModuleNotFoundError, match="HPS needs open_clip: pip install"):
        hps.HPS(tiny / "weights.pt", model="small")
