"""Rewards made of others' code: each against that code, one picture at a time."""

import math
import sys
import types

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsearch
from dsearch import cli
from dsearch._torchvision import mend
from dsearch.experiments import naming
from dsearch.experiments.experiment import Named
from dsearch.rewards import PyIQA, SigLIPAesthetic, TorchMetric, on_pil, per_frame
from dsearch.rewards._pictures import to_pil
from dsearch.rewards.aesthetic import SIZES, AestheticHead
from dsearch.rewards.siglip_aesthetic import IN_FILE, _save_tiny

IMAGES = torch.rand(5, 3, 40, 36, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a", "bb", "a", "", "ccc"]


def left_half(picture):
    return sum(picture.resize((2, 1)).getpixel((0, 0)))


# ---- Pillow's pictures


def test_a_callable_gets_each_picture_as_eight_bits_and_its_prompt_where_it_asks():
    seen = []

    def score(picture, prompt):
        seen.append((picture, prompt))
        return len(prompt)

    assert on_pil(score, prompts=True)(IMAGES, PROMPTS).tolist() == [1, 2, 1, 0, 3]
    assert [prompt for _, prompt in seen] == PROMPTS
    assert all(a.mode == "RGB" and a.tobytes() == b.tobytes() for (a, _), b in zip(seen, to_pil(IMAGES), strict=True))
    assert on_pil(left_half)(IMAGES, PROMPTS).tolist() == [left_half(picture) for picture in to_pil(IMAGES)]


def test_what_is_no_number_or_no_callable_is_named():
    with pytest.raises(TypeError, match=r"'sharp' cannot be called; give a function of a picture"):
        on_pil("sharp")
    with pytest.raises(TypeError, match=r"<lambda> returned str 'good' for a picture; return one number"):
        on_pil(lambda picture: "good")(IMAGES, PROMPTS)
    with pytest.raises(ZeroDivisionError):
        on_pil(lambda picture: 1 / 0)(IMAGES, PROMPTS)


# ---- videos


def bright(images, prompts):
    return images.mean((1, 2, 3)) + torch.tensor([float(len(p)) for p in prompts])


@settings(max_examples=40)
@given(n=st.integers(1, 4), frames=st.integers(1, 5), chunk=st.integers(1, 9), over=st.sampled_from(["mean", "min"]))
def test_a_video_has_the_mean_or_least_of_its_frames_at_any_chunk(n, frames, chunk, over):
    videos = torch.rand(n, frames, 3, 4, 5, generator=torch.Generator().manual_seed(n))
    most = 0

    def reward(images, prompts):
        nonlocal most
        most = max(most, len(images))
        return bright(images, prompts)

    each = torch.stack([bright(video, [PROMPTS[i]] * frames) for i, video in enumerate(videos)])
    found = per_frame(reward, over, chunk=chunk)(videos, PROMPTS[:n])
    assert torch.allclose(found, each.mean(1) if over == "mean" else each.amin(1)) and most <= chunk


def test_a_picture_is_a_video_of_one_frame():
    assert torch.equal(per_frame(bright)(IMAGES, PROMPTS), bright(IMAGES, PROMPTS))


def test_videos_that_cannot_be_are_named():
    with pytest.raises(ValueError, match=r"over='median' is not known; choose one of mean, min, max"):
        per_frame(bright, "median")
    with pytest.raises(ValueError, match="chunk is 0"):
        per_frame(bright, chunk=0)
    with pytest.raises(ValueError, match=r"videos are \[1, 2, 4, 8, 8\]; a reward of frames reads \[N, F, 3, H, W\]"):
        per_frame(bright)(torch.rand(1, 2, 4, 8, 8), ["a"])
    with pytest.raises(ValueError, match=r"<lambda> returned shape \(2, 1\) for 2 images"):
        per_frame(lambda images, prompts: images.mean((1, 2, 3))[:, None])(torch.rand(1, 2, 3, 8, 8), ["a"])


def test_whether_it_works_beside_an_accelerator_is_the_asked_rewards():
    assert per_frame(on_pil(left_half)).on_host and not per_frame(bright).on_host


# ---- torchmetrics


def test_total_variation_is_torchmetrics_own_of_each_picture_negated():
    pytest.importorskip("torchmetrics")
    from torchmetrics.functional.image import total_variation

    expected = -total_variation(IMAGES, reduction="none")
    for metric in (TorchMetric("TotalVariation"), TorchMetric("TotalVariation")):
        for _ in range(2):  # nothing is remembered
            assert torch.allclose(metric(IMAGES, PROMPTS), expected)


def test_a_reference_is_what_pictures_are_compared_with(tmp_path):
    pytest.importorskip("torchmetrics")
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim
    from torchmetrics.image import StructuralSimilarityIndexMeasure

    target = IMAGES[3]
    found = TorchMetric(StructuralSimilarityIndexMeasure(data_range=1.0), reference=target)(IMAGES, PROMPTS)
    expected = [ssim(image[None], target[None], data_range=1.0) for image in IMAGES]
    assert torch.allclose(found, torch.stack(expected)) and found.argmax() == 3
    (picture,) = to_pil(target[None])
    picture.save(tmp_path / "target.png")
    kept = TorchMetric("StructuralSimilarityIndexMeasure", reference=tmp_path / "target.png")
    assert kept(IMAGES, PROMPTS).argmax() == 3
    with pytest.raises(ValueError, match=r"pictures are \[3, 8, 8\] and the reference is \[3, 40, 36\]"):
        kept(torch.rand(1, 3, 8, 8), ["a"])
    with pytest.raises(FileNotFoundError, match=r"no picture at .none\.png"):
        TorchMetric("StructuralSimilarityIndexMeasure", reference="none.png")


class Lengths:
    """A metric of texts that remembers, as torchmetrics' do."""

    higher_is_better = None

    def __init__(self):
        self.seen = []

    def __call__(self, image, texts):
        self.seen += texts
        return torch.tensor(sum(map(len, self.seen)) / len(self.seen))

    def reset(self):
        self.seen = []


def test_prompts_go_to_a_metric_that_reads_them_and_no_score_has_mates_in_it():
    assert TorchMetric(Lengths(), prompts=True, higher_is_better=False)(IMAGES, PROMPTS).tolist() == [-1, -2, -1, 0, -3]


def test_metrics_that_give_no_reward_are_refused():
    with pytest.raises(ValueError, match=r"Lengths does not say which way is up; give higher_is_better"):
        TorchMetric(Lengths(), prompts=True)
    with pytest.raises(ValueError, match="a reference or the prompts, not both"):
        TorchMetric(Lengths(), prompts=True, reference=IMAGES[0], higher_is_better=True)
    with pytest.raises(ValueError, match=r"function returned shape \[1, 2\] for one picture"):
        TorchMetric(lambda image: image.mean((2, 3))[:, :2], higher_is_better=True)(IMAGES, PROMPTS)
    pytest.importorskip("torchmetrics")
    with pytest.raises(ValueError, match=r"torchmetrics.image has no 'Sharpness'; choose among .*TotalVariation"):
        TorchMetric("Sharpness")


# ---- pyiqa


def test_a_measure_of_pyiqa_is_its_own_with_more_being_better():
    mend()
    pyiqa = pytest.importorskip("pyiqa")
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    for name, sign in (("piqe", -1), ("entropy", 1)):
        own = pyiqa.create_metric(name, device=torch.device("cpu"))
        expected = torch.tensor([float(own(image[None])) for image in images])
        assert torch.allclose(PyIQA(name)(images, ["a", "b"]), sign * expected)
    with pytest.raises(ValueError, match="lpips compares with a reference picture"):
        PyIQA("lpips", download=True)
    with pytest.raises(ValueError, match="pyiqa has no 'piqee'; did you mean piqe"):
        PyIQA("piqee", download=True)


def test_pyiqa_fetches_nothing_unasked():
    with pytest.raises(ValueError, match=r"pyiqa fetches the weights of 'musiq' itself; give download=True"):
        PyIQA("musiq")


# ---- SigLIP


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("siglip")
    _save_tiny(folder)
    return folder


def test_the_score_is_transformers_pooled_embedding_through_the_heads_products(folder):
    from transformers import SiglipImageProcessorPil, SiglipVisionModel

    images = torch.round(IMAGES * 255) / 255
    processor = SiglipImageProcessorPil.from_pretrained(folder)
    pixels = processor(to_pil(images), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        x = SiglipVisionModel.from_pretrained(folder).eval()(pixel_values=pixels).pooler_output
    x = x / x.norm(dim=1, keepdim=True)
    weights = torch.load(folder / "head.pth", weights_only=True)
    for place in IN_FILE:
        x = x @ weights[f"scoring_head.{place}.weight"].T + weights[f"scoring_head.{place}.bias"]
    reward = SigLIPAesthetic(folder, folder / "head.pth")
    found = reward(images, PROMPTS)
    assert torch.allclose(found, x[:, 0], atol=2e-4)
    assert found.std() > 10 * (found - x[:, 0]).abs().max()  # else an agreement would say nothing
    assert torch.allclose(reward.image_embeddings(images).norm(dim=1), torch.ones(5))


def test_an_encoder_within_a_whole_siglip_is_read(folder, tmp_path):
    from transformers import SiglipConfig, SiglipModel, SiglipVisionModel

    vision = SiglipVisionModel.from_pretrained(folder)
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text |= {"vocab_size": 8, "max_position_embeddings": 4, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    whole = SiglipModel(SiglipConfig(text_config=text, vision_config=vision.config.to_dict()))
    own = {name.removeprefix("vision_model."): weight for name, weight in vision.state_dict().items()}
    theirs = {name: name.partition("vision_model.")[2] for name in whole.state_dict() if "vision_model." in name}
    whole.load_state_dict({name: own[mine] for name, mine in theirs.items()}, strict=False)
    whole.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text((folder / "preprocessor_config.json").read_text())
    found = SigLIPAesthetic(tmp_path, folder / "head.pth")(IMAGES, PROMPTS)
    assert torch.equal(found, SigLIPAesthetic(folder, folder / "head.pth")(IMAGES, PROMPTS))


def test_what_a_siglip_lacks_is_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no weights at .*none\.pth.*aesthetic_predictor_v2_5\.pth"):
        SigLIPAesthetic(folder, "none.pth")
    with pytest.raises(FileNotFoundError, match=r"no SigLIP at 'no folder'"):
        SigLIPAesthetic("no folder", folder / "head.pth")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors .*; preprocessor_config\.json"):
        SigLIPAesthetic(tmp_path, folder / "head.pth")
    wide = {
        f"scoring_head.{place}.weight": torch.zeros(n, m)
        for place, m, n in zip(IN_FILE, (48, *SIZES), SIZES, strict=False)
    }
    wide |= {f"scoring_head.{place}.bias": torch.zeros(n) for place, n in zip(IN_FILE, SIZES, strict=True)}
    torch.save(wide, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"the head reads embeddings of 48 numbers, but this SigLIP gives 32"):
        SigLIPAesthetic(folder, tmp_path / "wide.pth")
    torch.save(AestheticHead(32).state_dict(), tmp_path / "laion.pth")
    with pytest.raises(
        ValueError, match=r"lacks scoring_head\.0\.weight, scoring_head\.0\.bias, .* of 10 expected keys"
    ):
        SigLIPAesthetic(folder, tmp_path / "laion.pth")


# ---- from words


@pytest.fixture
def module(monkeypatch):
    made = types.ModuleType("their_scores")
    made.left_half = left_half
    monkeypatch.setitem(sys.modules, "their_scores", made)


def test_yaml_names_what_python_makes(module):
    words = Named("per_frame", {"reward": {"kind": "on_pil", "score": "their_scores:left_half"}, "over": "min"})
    naming.check_reward(words)
    made = naming.reward(words)
    videos = torch.stack([IMAGES, IMAGES.flip(0)])
    assert torch.equal(made(videos, ["a", "b"]), per_frame(on_pil(left_half), "min")(videos, ["a", "b"]))
    with pytest.raises(ValueError, match="score='sharp' is no module:attribute"):
        naming.check_reward(Named("on_pil", {"score": "sharp"}))
    with pytest.raises(ValueError, match="over"):
        naming.check_reward(Named("per_frame", {"reward": "clip", "over": "median"}))


def test_the_command_line_reads_a_reward_as_a_file_says_it(module, tmp_path, capsys):
    words = ["generate", "cat", "--steps", "3", "--method", "best_of_n", "-o", "n=2", "--device", "cpu"]
    words += ["--reward", "{kind: on_pil, score: 'their_scores:left_half'}", "--out", str(tmp_path / "out")]
    words += ["--held-out", "clip", "{kind: clip, path: judge}"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "on_pil" in said and "clip 2" in said
    (record,) = dsearch.experiments.folder.Run.open(tmp_path / "out").records()
    assert set(record["held_out"]) == {"clip", "clip 2"} and record["reward"] == math.floor(record["reward"])
    for bad, told in (
        ("{kind: clip", "expected"),
        ("{path: judge}", "kind: NAME"),
        ("{kind: clipp}", "did you mean clip"),
    ):
        assert cli.main(["generate", "cat", "--reward", bad, "--out", str(tmp_path / "bad")]) == 2
        assert told in capsys.readouterr().err
