"""ImageReward against a forward written here from the architecture, on checkpoints in the published layout."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dsearch.rewards import ImageReward

PROMPTS = ["a cat", "", "a very long red dog on the moon " * 4, "a cat"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "very", "long", "red", "dog", "on", "the", "moon", "cat"]
FULL = {"image": 224, "patch": 16, "vision": (1024, 4096, 24), "text": (768, 3072, 12)}
SMALL = {"image": 48, "patch": 16, "vision": (128, 192, 2), "text": (192, 160, 2)}


def shapes(image, patch, vision, text):
    """The names and shapes of ImageReward.pt, those that are not read included."""
    (wide, mlp, depth), (w, m, d) = vision, text
    see, read = "blip.visual_encoder.", "blip.text_encoder."

    def linear(name, out, into):
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    def norm(name, width):
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    found = {f"{see}cls_token": (1, 1, wide), f"{see}pos_embed": (1, (image // patch) ** 2 + 1, wide)}
    found |= {f"{see}patch_embed.proj.weight": (wide, 3, patch, patch), f"{see}patch_embed.proj.bias": (wide,)}
    for block in (f"{see}blocks.{i}." for i in range(depth)):
        found |= norm(f"{block}norm1", wide) | norm(f"{block}norm2", wide)
        found |= linear(f"{block}attn.qkv", 3 * wide, wide) | linear(f"{block}attn.proj", wide, wide)
        found |= linear(f"{block}mlp.fc1", mlp, wide) | linear(f"{block}mlp.fc2", wide, mlp)
    found |= norm(f"{see}norm", wide)
    found |= {f"{read}embeddings.word_embeddings.weight": (30524 if w == 768 else len(WORDS) + 2, w)}
    found |= {f"{read}embeddings.position_embeddings.weight": (512, w)} | norm(f"{read}embeddings.LayerNorm", w)
    for layer in (f"{read}encoder.layer.{i}." for i in range(d)):
        for kind, into in (("attention", w), ("crossattention", wide)):
            found |= linear(f"{layer}{kind}.self.query", w, w)
            found |= linear(f"{layer}{kind}.self.key", w, into) | linear(f"{layer}{kind}.self.value", w, into)
            found |= linear(f"{layer}{kind}.output.dense", w, w) | norm(f"{layer}{kind}.output.LayerNorm", w)
        found |= linear(f"{layer}intermediate.dense", m, w) | linear(f"{layer}output.dense", w, m)
        found |= norm(f"{layer}output.LayerNorm", w)
    for place, (into, out) in zip((0, 2, 4, 6, 7), ((w, 1024), (1024, 128), (128, 64), (64, 16), (16, 1)), strict=True):
        found |= linear(f"mlp.layers.{place}", out, into)
    found |= linear("blip.vision_proj", 256, wide) | linear("blip.text_proj", 256, w)
    return found | {f"{read}embeddings.position_ids": (1, 512)}


def random_weights(sizes):
    noise = torch.Generator().manual_seed(1)
    tensors = {}
    for name, shape in shapes(**sizes).items():
        spread = 1 / shape[-1] ** 0.5 if len(shape) == 2 else 0.1
        tensors[name] = spread * torch.randn(shape, generator=noise) + (name.endswith("norm.weight"))
        if "norm" in name.lower() and name.endswith("weight"):
            tensors[name] += 1
    return tensors


def save(folder, sizes):
    tensors = random_weights(sizes)
    torch.save(tensors, folder / "ImageReward.pt")
    filler = [f"[unused{i}]" for i in range(tensors["blip.text_encoder.embeddings.word_embeddings.weight"].shape[0])]
    (folder / "vocab.txt").write_text("\n".join([*WORDS, *filler][: len(filler) - 2]))
    return tensors


def attention(queries, keys, values, heads, shut=None):
    split = [each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (queries, keys, values)]
    weights = split[0] @ split[1].transpose(-1, -2) / split[0].shape[-1] ** 0.5
    if shut is not None:
        weights = weights.masked_fill(shut[:, None, None], -torch.inf)
    return (weights.softmax(-1) @ split[2]).transpose(1, 2).flatten(-2)


def reference(tensors, sizes, pixels, ids):
    """The raw forward of BLIP's image encoder (pre-norm), of BERT with cross-attention (post-norm), and the head."""
    (wide, _, depth), (width, _, layers) = sizes["vision"], sizes["text"]

    def linear(x, name):
        return F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(x, name, eps):
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)

    see, read = "blip.visual_encoder.", "blip.text_encoder."
    stem = f"{see}patch_embed.proj"
    x = F.conv2d(pixels, tensors[f"{stem}.weight"], tensors[f"{stem}.bias"], stride=sizes["patch"])
    x = torch.cat([tensors[f"{see}cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
    x = x + tensors[f"{see}pos_embed"]
    for block in (f"{see}blocks.{i}." for i in range(depth)):
        qkv = linear(norm(x, f"{block}norm1", 1e-6), f"{block}attn.qkv").chunk(3, -1)
        x = x + linear(attention(*qkv, wide // 64), f"{block}attn.proj")
        inner = F.gelu(linear(norm(x, f"{block}norm2", 1e-6), f"{block}mlp.fc1"))
        x = x + linear(inner, f"{block}mlp.fc2")
    seen = norm(x, f"{see}norm", 1e-6)

    words, places = (tensors[f"{read}embeddings.{kind}_embeddings.weight"] for kind in ("word", "position"))
    y = norm(words[ids] + places[: ids.shape[1]], f"{read}embeddings.LayerNorm", 1e-12)
    for layer in (f"{read}encoder.layer.{i}." for i in range(layers)):
        for kind, other in (("attention", None), ("crossattention", seen)):
            source = y if other is None else other
            q, k, v = (
                linear(of, f"{layer}{kind}.self.{which}")
                for of, which in ((y, "query"), (source, "key"), (source, "value"))
            )
            mixed = attention(q, k, v, width // 64, ids == 0 if other is None else None)
            y = norm(y + linear(mixed, f"{layer}{kind}.output.dense"), f"{layer}{kind}.output.LayerNorm", 1e-12)
        inner = F.gelu(linear(y, f"{layer}intermediate.dense"))
        y = norm(y + linear(inner, f"{layer}output.dense"), f"{layer}output.LayerNorm", 1e-12)
    y = y[:, 0]
    for place in (0, 2, 4, 6, 7):
        y = linear(y, f"mlp.layers.{place}")
    return (y[:, 0] - 0.16717362830052426) / 1.0333394966054072


def pixels_of(images, size):
    """Pillow's bicubic to the short side, the square in the middle, CLIP's normalisation."""
    rows = []
    for image in images:
        picture = Image.fromarray(image)
        short = min(picture.size)
        picture = picture.resize(tuple(size * edge // short for edge in picture.size), Image.Resampling.BICUBIC)
        left, top = (round((edge - size) / 2) for edge in picture.size)
        rows.append(np.asarray(picture.crop((left, top, left + size, top + size)), dtype=np.float32) / 255)
    pixels = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def ids_of(prompts):
    rows = [[2, *[WORDS.index(word) for word in prompt.split()][:33], 3] for prompt in prompts]
    return torch.tensor([row + [0] * (35 - len(row)) for row in rows])


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def ours(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("image_reward")
    return folder, save(folder, SMALL)


@pytest.mark.parametrize("shape", [(48, 48), (48, 71), (66, 48)])
def test_scores_are_those_of_a_forward_from_the_architecture(small, shape):
    folder, tensors = small
    images = noise(4, *shape, 3)
    expected = reference(tensors, SMALL, pixels_of(images, 48), ids_of(PROMPTS))
    found = ImageReward(folder / "ImageReward.pt", folder)(ours(images), PROMPTS)
    assert expected.std() > 0.05 and (expected[0] - expected[3]).abs() > 1e-3  # prompts and pictures matter
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_resized_pictures_score_as_pillows_to_its_rounding(small):
    folder, tensors = small
    """Noise saturates, and this random model blows rounding up; bilinear would be off by 0.4."""
    images = noise(4, 61, 90, 3)
    expected = reference(tensors, SMALL, pixels_of(images, 48), ids_of(PROMPTS))
    reward = ImageReward(folder / "ImageReward.pt", folder)
    assert reward(ours(images), PROMPTS).tolist() == pytest.approx(expected.tolist(), abs=0.03)


@pytest.mark.slow
def test_scores_at_the_published_sizes_are_those_of_a_forward_from_the_architecture(tmp_path):
    tensors = save(tmp_path, FULL)
    assert len(tensors) == 294 + 316 + 10 + 5
    images = noise(2, 224, 224, 3)
    found = ImageReward(tmp_path / "ImageReward.pt", tmp_path)(ours(images), PROMPTS[1:3])
    expected = reference(tensors, FULL, pixels_of(images, 224), ids_of(PROMPTS[1:3]))
    assert expected.std() > 1e-2
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.skipif("DSEARCH_IMAGE_REWARD" not in os.environ, reason="needs the published weights")
def test_scores_of_the_published_pictures_are_the_published_ones():
    """DSEARCH_IMAGE_REWARD: ImageReward.pt, bert-base-uncased's vocabulary, and assets/images/1-4.webp as 1.webp ..."""
    folder = Path(os.environ["DSEARCH_IMAGE_REWARD"])
    pictures = [np.asarray(Image.open(folder / f"{i}.webp").convert("RGB")) for i in (1, 2, 3, 4)]
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    found = ImageReward(folder / "ImageReward.pt", folder)(ours(np.stack(pictures)), [prompt] * 4)
    published = [0.5811622738838196, 0.2745276093482971, -1.4131819009780884, -2.029569625854492]
    assert found.tolist() == pytest.approx(published, abs=0.01)


def test_half_precision_moves_scores_less_than_a_twentieth(small):
    folder, _ = small
    images = ours(noise(4, 48, 48, 3))
    full, half = (
        ImageReward(folder / "ImageReward.pt", folder, dtype=dtype)(images, PROMPTS) for dtype in (None, torch.bfloat16)
    )
    assert half.dtype == torch.float32 and 0 < (full - half).abs().max() < 0.05


def test_what_is_missing_or_wrong_is_named(small, tmp_path, monkeypatch):
    folder, tensors = small
    with pytest.raises(FileNotFoundError, match=r"no\.pt.*ImageReward\.pt of huggingface\.co/THUDM/ImageReward"):
        ImageReward(tmp_path / "no.pt", folder)
    for lost in ("blip.visual_encoder.blocks.1.attn.proj.bias", "blip.text_encoder.encoder.layer.0.output.dense.bias"):
        torch.save({key: tensor for key, tensor in tensors.items() if key != lost}, tmp_path / "half.pt")
        with pytest.raises(ValueError, match=rf"half\.pt' lacks {lost}"):
            ImageReward(tmp_path / "half.pt", folder)
    torch.save({"layers.0.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt' lacks blip\.visual_encoder\.pos_embed"):
        ImageReward(tmp_path / "other.pt", folder)
    with pytest.raises((FileNotFoundError, ValueError), match=r"vocabulary .*bert-base-uncased"):
        ImageReward(folder / "ImageReward.pt", tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="pass download=True, or a file's path"):
        ImageReward("THUDM/ImageReward", folder)
