"""Rewards against oracles made straight from Pillow and transformers, and the laws every reward obeys."""

import copy
import io
import json
import pickle
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import dsearch.rewards as rewards
from dsearch.discovery import modules
from dsearch.rewards import CLIPScore, Compressibility, Incompressibility

EDGE = 30  # of the pictures that the tests' CLIP reads
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
GREY = 1 / 255
EDGES = st.integers(8, 90)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a reward reached for the network")

    monkeypatch.setattr("socket.socket.connect", refuse)


def pictures(n: int, height: int, width: int, seed: int = 0, most: float = 1) -> Tensor:
    """[N, 3, H, W] on the 8-bit grid, from faint to full noise in shuffled order: no two files are alike."""
    rng = np.random.default_rng(seed)
    contrast = most * (1 + rng.permutation(n)[:, None, None, None]) / n
    levels = 128 + contrast * rng.uniform(-128, 127, (n, 3, height, width))
    return torch.from_numpy(np.rint(levels) / 255).float()


def to_pil(image: Tensor) -> Image.Image:
    """[3, H, W] -> the 8-bit picture, rounded in numpy."""
    levels = np.rint(image.float().numpy() * np.float32(255)).astype(np.uint8)
    return Image.fromarray(levels.transpose(1, 2, 0))


def jpeg_bytes(image: Tensor, size: tuple[int, int] | None = None, **options) -> int:
    picture = to_pil(image) if size is None else to_pil(image).resize(size[::-1], Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return len(file.getvalue())


def minus_kilobytes(images: Tensor, **options) -> Tensor:
    return torch.tensor([-jpeg_bytes(image, **options) / 1000 for image in images], dtype=torch.float32)


def prompts_for(images: Tensor) -> list[str]:
    return [f"cat {i % 3}" for i in range(len(images))]


# ---- compressibility


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 9),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    quality=st.integers(1, 100),
    workers=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_bytes_are_those_of_pillow_one_picture_at_a_time(n, height, width, quality, workers, seed):
    images = torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(seed))
    scores = Compressibility(quality=quality, workers=workers)(images, [""] * n)
    assert torch.equal(scores, minus_kilobytes(images, quality=quality))


def test_defaults_are_quality_95_at_the_pictures_own_size():
    images = pictures(3, 48, 72)
    assert torch.equal(Compressibility()(images, [""] * 3), minus_kilobytes(images, quality=95))
    assert not torch.equal(Compressibility()(images, [""] * 3), minus_kilobytes(images, quality=94))


@pytest.mark.parametrize("workers", [2, 7, 64, None])
def test_threads_keep_the_order(workers):
    images = pictures(61, 32, 32)
    expected = minus_kilobytes(images, quality=95)
    assert len(set(expected.tolist())) > 50  # else an order could not be told from another
    assert torch.equal(Compressibility(workers=workers)(images, [""] * 61), expected)


def test_a_kilobyte_is_1000_bytes():
    image = pictures(1, 64, 64)
    score = Incompressibility()(image, [""]).item()
    assert round(score * 1000) == jpeg_bytes(image[0], quality=95)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_rounded_in_float32(dtype):
    images = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    scores = Compressibility()(images, [""] * 4)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, minus_kilobytes(images, quality=95))


def test_strides_do_not_matter():
    images = pictures(4, 24, 40)
    expected = Compressibility()(images, [""] * 4)
    views = [
        images.to(memory_format=torch.channels_last),
        images.transpose(2, 3).contiguous().transpose(2, 3),
        torch.stack([images, images.flip(0)], dim=-1)[..., 0],
    ]
    assert not any(view.is_contiguous() for view in views)
    assert all(torch.equal(Compressibility()(view, [""] * 4), expected) for view in views)


@pytest.mark.parametrize(("size", "shape"), [(16, (16, 16)), ((16, 24), (16, 24)), ((64, 40), (64, 40))])
def test_size_resizes_with_pillows_bicubic(size, shape):
    images = pictures(3, 32, 48)
    scores = Compressibility(size=size)(images, [""] * 3)
    assert torch.equal(scores, minus_kilobytes(images, size=shape, quality=95))


def test_incompressibility_is_the_negative():
    images = pictures(5, 20, 20)
    kilobytes = Incompressibility(size=16, quality=80)(images, [""] * 5)
    assert torch.equal(kilobytes, -Compressibility(size=16, quality=80)(images, [""] * 5))
    assert (kilobytes > 0).all()


def test_a_flat_picture_beats_noise():
    images = torch.cat([torch.full((1, 3, 64, 64), 0.5), torch.rand(1, 3, 64, 64)])
    flat, noise = Compressibility()(images, [""] * 2).tolist()
    assert flat > noise / 2  # both are below 0: less than half the bytes
    assert Incompressibility()(images, [""] * 2).argmax() == 1


@pytest.mark.parametrize("reward", [Compressibility(size=(8, 9), workers=3), Incompressibility(quality=50)])
def test_instances_copy_pickle_and_compare(reward):
    images = pictures(3, 16, 16)
    before = reward(images, [""] * 3)
    for twin in (copy.deepcopy(reward), pickle.loads(pickle.dumps(reward))):
        assert twin == reward and torch.equal(twin(images, [""] * 3), before)
    assert Compressibility() != Incompressibility()


def test_no_thread_outlives_a_call():
    before = threading.active_count()
    Compressibility(workers=8)(pictures(32, 16, 16), [""] * 32)
    assert threading.active_count() == before


def test_pillow_writes_to_a_real_file(monkeypatch):
    """Into an object without a descriptor it would encode holding the GIL, and threads be in vain."""
    save, descriptors = Image.Image.save, []

    def spy(self, file, *args, **kwargs):
        descriptors.append(file.fileno())
        save(self, file, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", spy)
    Compressibility(workers=2)(pictures(4, 8, 8), [""] * 4)
    assert len(descriptors) == 4


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"quality": 0}, "quality=0"),
        ({"quality": 101}, "quality=101"),
        ({"workers": 0}, "workers=0"),
        ({"size": 0}, "size=0"),
        ({"size": (8, -1)}, r"size=\(8, -1\)"),
    ],
)
def test_bad_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        Compressibility(**options)


# ---- what every reward in the package obeys


@pytest.fixture(scope="module", params=[module.__name__ for module in modules(rewards.__name__, rewards.__path__)])
def reward(request):
    return made(sys.modules[request.param])


def made(module):
    """A module's example, where what it needs is installed."""
    try:
        return module.example()
    except ModuleNotFoundError as error:
        if "pip install" not in str(error):
            raise
        pytest.skip(str(error))


def test_every_module_names_its_classes_and_makes_an_example():
    found = list(modules(rewards.__name__, rewards.__path__))
    assert {"clip_score", "compressibility"} <= {module.__name__.rpartition(".")[2] for module in found}
    for module in found:
        assert module.__all__ and module.example.__doc__


def test_an_example_is_of_a_class_its_module_names(reward):
    assert type(reward).__name__ in sys.modules[type(reward).__module__].__all__


def test_example_scores_each_row_on_the_images_device(reward):
    images = pictures(5, 40, 36)
    scores = reward(images, prompts_for(images))
    assert scores.shape == (5,) and scores.dtype == torch.float32 and scores.device == images.device
    assert scores.isfinite().all() and scores.unique().numel() > 1
    assert not scores.requires_grad and not scores.is_inference()


@settings(max_examples=15, deadline=None)
@given(order=st.permutations(range(6)))
def test_permuting_the_rows_permutes_the_scores(reward, order):
    images = pictures(6, 36, 36)
    prompts = prompts_for(images)
    scores = reward(images, prompts)
    assert torch.allclose(reward(images[order], [prompts[i] for i in order]), scores[order], atol=1e-5, rtol=0)


def test_a_rows_score_does_not_depend_on_its_batch_mates(reward):
    images = pictures(7, 36, 36)
    prompts = ["cat", "a cat and a dog, side by side", "dog", "cat", "", "dog", "cat"]
    alone = torch.cat([reward(image[None], [prompt]) for image, prompt in zip(images, prompts, strict=True)])
    assert torch.allclose(reward(images, prompts), alone, atol=1e-5, rtol=0)


def test_scoring_leaves_the_inputs_and_the_global_noise_alone(reward):
    images, state = pictures(3, 36, 36), torch.random.get_rng_state()
    kept, prompts = images.clone(), prompts_for(images)
    assert not reward(images.requires_grad_(), prompts).requires_grad
    assert torch.equal(images, kept) and prompts == prompts_for(images)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda x: x * 2 - 1, r"span \[-1, .*outside \[0, 1\]"),
        (lambda x: x + 0.01, "outside"),
        (lambda x: x.index_fill(0, torch.tensor(2), torch.nan), r"images \[2\] of 3 hold NaN"),
        (lambda x: x.index_fill(0, torch.tensor(1), torch.inf), "inf"),
        (lambda x: (x * 255).to(torch.uint8), "uint8"),
        (lambda x: x[:, :1], r"\[3, 1, 36, 36\]"),
        (lambda x: x[0], r"\[3, 36, 36\]"),
        (lambda x: x[:, :, :0], r"\[3, 3, 0, 36\]"),
    ],
)
def test_bad_images_are_refused_not_repaired(reward, spoil, named):
    images = pictures(3, 36, 36)
    images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match=named):
        reward(spoil(images), ["cat"] * 3)


def test_a_hair_beyond_the_range_changes_no_pixel():
    images = torch.tensor([0.0, 1.0]).repeat(1, 3, 8, 4)
    beyond = images + torch.tensor([-5e-4, 5e-4]).repeat(1, 3, 8, 4)
    assert torch.equal(Compressibility()(beyond, [""]), Compressibility()(images, [""]))


@pytest.mark.parametrize("prompts", [["cat"] * 2, ["cat"] * 4, [], "cat"])
def test_one_prompt_for_each_image(reward, prompts):
    with pytest.raises(ValueError, match="for 3 images"):
        reward(pictures(3, 36, 36), prompts)


def test_a_new_file_is_a_new_reward(tmp_path, monkeypatch):
    (tmp_path / "brightness.py").write_text(
        "__all__ = ['Brightness']\n"
        "class Brightness:\n    def __call__(self, images, prompts): return images.mean((1, 2, 3))\n"
        "def example():\n    return Brightness()\n"
    )
    monkeypatch.setattr(rewards, "__path__", [*rewards.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "dsearch.rewards.brightness", raising=False)
    assert rewards.Brightness()(torch.full((2, 3, 4, 4), 0.25), ["", ""]).tolist() == [0.25, 0.25]
    assert "Brightness" in dir(rewards)
    monkeypatch.delitem(sys.modules, "dsearch.rewards.brightness")


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="NoSuchReward"):
        _ = rewards.NoSuchReward


def test_importing_is_light():
    """Pillow and transformers come when they are first needed, and one reward does not import the others."""
    code = (
        "import sys, dsearch.rewards as r; first = set(sys.modules); r.Compressibility(); "
        "heavy = {'transformers', 'diffusers', 'PIL', 'dsearch.rewards.clip_score'}; "
        "print(sorted(heavy & first), sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[] []"


# ---- CLIP


@pytest.fixture(scope="module")
def clip_dir(tmp_path_factory) -> Path:
    """A random CLIP with a real BPE tokenizer, in the files that transformers writes."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = sorted(ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    words = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *map("".join, merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    ids = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    tower = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=tower | ids | {"vocab_size": len(words), "max_position_embeddings": 12},
        vision_config=tower | {"image_size": EDGE, "patch_size": 6},
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    with torch.no_grad():  # transformers' initial weights are so small that every picture would look the same
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.3)
    model.save_pretrained(folder)
    tokenizer = CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=merges, model_max_length=12)
    tokenizer.save_pretrained(folder)
    write_preprocessing(folder)
    return folder


def write_preprocessing(folder: Path, **changes) -> None:
    from transformers import CLIPImageProcessorPil

    options = {
        "size": {"shortest_edge": EDGE},
        "crop_size": EDGE,
        "image_mean": MEAN,
        "image_std": STD,
    } | changes
    CLIPImageProcessorPil(**options).save_pretrained(folder)


@pytest.fixture(scope="module")
def clip(clip_dir) -> CLIPScore:
    return CLIPScore(clip_dir)


@pytest.fixture(scope="module")
def oracle(clip_dir):
    """transformers' own forward: cosines of images (one a row, through Pillow) and prompts."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

    model = CLIPModel.from_pretrained(clip_dir).eval()
    processor = CLIPProcessor(CLIPImageProcessorPil.from_pretrained(clip_dir), CLIPTokenizer.from_pretrained(clip_dir))

    @torch.no_grad()
    def cosines(images: Tensor, prompts: list[str]) -> Tensor:
        inputs = processor(
            text=prompts, images=list(map(to_pil, images)), return_tensors="pt", padding=True, truncation=True
        )
        return (model(**inputs).logits_per_image / model.logit_scale.exp()).diagonal()

    return cosines


PROMPTS = ["cat", "a dog", "cat, dog", "", "cat", "CAT  and dog"]


def test_scores_are_the_cosines_of_transformers_own_forward(clip, oracle):
    images = pictures(6, EDGE, EDGE)
    expected = oracle(images, PROMPTS)
    assert expected.std() > 0.05  # pictures and prompts must matter, or agreement would say nothing
    assert torch.allclose(clip(images, PROMPTS), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(clip(images.flip(0), PROMPTS), expected, atol=1e-2, rtol=0)


@pytest.mark.parametrize("shape", [(64, 64), (45, 70), (70, 45), (31, 30), (16, 20)])
def test_resized_pictures_score_as_transformers_own_to_its_rounding(clip, oracle, shape):
    """This random CLIP blows rounding up on noise; a wrong filter (bilinear) is off by 0.1 to 0.3."""
    images = torch.cat([pictures(1, *shape, seed=i) for i in range(6)])
    assert torch.allclose(clip(images, PROMPTS), oracle(images, PROMPTS), atol=0.03, rtol=0)


def pillow_pixels(folder: Path, images: Tensor) -> Tensor:
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil.from_pretrained(folder)
    return processor(list(map(to_pil, images)), return_tensors="pt")["pixel_values"]


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(EDGES, EDGES) | EDGES.map(lambda edge: (edge, edge)), seed=st.integers(0, 999))
def test_preprocessing_is_clip_image_processors_to_its_rounding(clip, clip_dir, shape, seed):
    """Squares at full contrast, other shapes where nothing saturates: Pillow's order of passes varies."""
    images = pictures(2, *shape, seed, most=1 if shape[0] == shape[1] else 0.4)
    difference = clip.preprocess(images) - pillow_pixels(clip_dir, images)
    assert (difference * torch.tensor(STD)[:, None, None]).abs().max() <= 1.5 * GREY


@settings(max_examples=10, deadline=None)
@given(long=st.integers(EDGE, 90), upright=st.booleans(), seed=st.integers(0, 999))
def test_right_sized_pictures_are_only_cropped_and_normalised(clip, clip_dir, long, upright, seed):
    images = pictures(2, *((long, EDGE) if upright else (EDGE, long)), seed)
    assert torch.allclose(clip.preprocess(images), pillow_pixels(clip_dir, images), atol=3e-6, rtol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"resample": 2},
        {"size": {"height": EDGE, "width": EDGE}},
        {"size": {"height": 40, "width": 33}},
        {"size": {"shortest_edge": 37}},
        {"do_center_crop": False, "size": {"height": 20, "width": 24}},
        {"do_resize": False},
        {"do_normalize": False},
    ],
    ids=str,
)
def test_preprocessing_follows_the_directorys_config(tmp_path, changes):
    from dsearch.rewards.clip_score import Preprocess

    write_preprocessing(tmp_path, **changes)
    preprocess = Preprocess.from_config(json.loads((tmp_path / "preprocessor_config.json").read_text()))
    images = pictures(2, 41, 55)
    expected = pillow_pixels(tmp_path, images)
    actual = preprocess(images)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1.5 * GREY / min(STD)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"resample": 0}, "resample=0"),
        ({"do_rescale": False}, "rescale by 1/255"),
        ({"rescale_factor": 1 / 127.5}, "rescale by 1/255"),
        ({"size": {"shortest_edge": 30, "longest_edge": 40}}, "longest_edge"),
    ],
)
def test_preprocessing_without_a_tensor_form_is_refused(config, named):
    from dsearch.rewards.clip_score import Preprocess

    with pytest.raises(ValueError, match=named):
        Preprocess.from_config(config)


def test_a_picture_smaller_than_the_crop_is_refused():
    from dsearch.rewards.clip_score import Preprocess

    with pytest.raises(ValueError, match=r"\[20, 40\] are smaller than the crop \(30, 30\)"):
        Preprocess.from_config({"do_resize": False, "crop_size": 30})(pictures(1, 20, 40))


def test_both_layouts_of_the_preprocessing_file_load(clip, clip_dir, tmp_path):
    """transformers 5 nests it in processor_config.json, older ones write a file of plain numbers."""
    nested, plain = copy_of(clip_dir, tmp_path / "nested"), copy_of(clip_dir, tmp_path / "plain")
    config = json.loads((clip_dir / "preprocessor_config.json").read_text())
    (nested / "preprocessor_config.json").unlink()
    (nested / "processor_config.json").write_text(json.dumps({"image_processor": config}))
    (plain / "preprocessor_config.json").write_text(json.dumps(config | {"size": EDGE, "crop_size": EDGE}))
    images = pictures(6, 40, 50)
    for folder in (nested, plain):
        assert torch.equal(CLIPScore(folder)(images, PROMPTS), clip(images, PROMPTS))


def test_scores_are_the_products_of_unit_embeddings(clip):
    images = pictures(6, 40, 40)
    pictured, written = clip.image_embeddings(images), clip.text_embeddings(PROMPTS)
    assert pictured.shape == written.shape == (6, 8)
    assert torch.allclose(pictured.norm(dim=-1), torch.ones(6)) and torch.allclose(written.norm(dim=-1), torch.ones(6))
    assert torch.allclose((pictured @ written.T).diagonal(), clip(images, PROMPTS), atol=1e-6)
    assert torch.equal(written[0], written[4])  # the same prompt


def counted(clip: CLIPScore, monkeypatch) -> list[int]:
    """Rows of each call of the text encoder."""
    calls, encode = [], clip._model.get_text_features

    def spy(input_ids, attention_mask):
        calls.append(len(input_ids))
        return encode(input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(clip._model, "get_text_features", spy)
    return calls


def test_each_distinct_prompt_is_encoded_once(clip_dir, monkeypatch):
    clip = CLIPScore(clip_dir)
    calls, images = counted(clip, monkeypatch), pictures(6, EDGE, EDGE)
    first = clip(images, PROMPTS)
    again = clip(images, PROMPTS)
    clip(images[:1], ["owl"])
    assert calls == [5, 1] and torch.equal(first, again)


@pytest.mark.parametrize("text_cache", [0, 1, 2, 1024])
def test_the_cache_changes_no_score_and_keeps_its_bound(clip_dir, oracle, text_cache):
    clip, images = CLIPScore(clip_dir, text_cache=text_cache), pictures(6, EDGE, EDGE)
    for shift in range(4):
        prompts = PROMPTS[shift:] + PROMPTS[:shift]
        assert torch.allclose(clip(images, prompts), oracle(images, prompts), atol=1e-5, rtol=0)
        assert len(clip._texts.rows) == min(text_cache, 5)


def test_the_prompt_used_longest_ago_is_forgotten_first(clip_dir, monkeypatch):
    clip = CLIPScore(clip_dir, text_cache=2)
    calls = counted(clip, monkeypatch)
    for prompt in ("cat", "dog", "cat", "owl"):  # the dog goes
        clip.text_embeddings([prompt])
    calls.clear()
    clip.text_embeddings(["cat"])
    assert calls == []
    clip.text_embeddings(["dog"])
    assert calls == [1]


def test_a_prompt_too_long_is_cut_with_one_warning_that_names_it(clip_dir, oracle):
    clip, images = CLIPScore(clip_dir), pictures(2, EDGE, EDGE)
    long, fits = "cat " * 11, "dog " * 10  # 12 positions hold the start, 10 words and the end
    with pytest.warns(UserWarning, match="does not read the end of .cat cat") as caught:
        scores = clip(images, [long, fits])
    assert len(caught) == 1
    assert torch.allclose(scores, oracle(images, [long, fits]), atol=1e-5, rtol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(clip(images, [long, fits]), scores)


def test_half_precision_scores_are_float32_and_near(clip_dir, clip):
    images = pictures(6, EDGE, EDGE)
    half = CLIPScore(clip_dir, dtype=torch.bfloat16)
    assert next(half._model.parameters()).dtype == torch.bfloat16
    scores = half(images.to(torch.bfloat16), PROMPTS)
    assert scores.dtype == torch.float32
    assert torch.allclose(scores, clip(images, PROMPTS), atol=0.05)
    assert torch.allclose(clip(images.half(), PROMPTS), clip(images, PROMPTS), atol=5e-3)


def test_features_may_come_as_tensors_as_in_older_transformers(clip_dir, clip, monkeypatch):
    old, images = CLIPScore(clip_dir), pictures(6, EDGE, EDGE)
    for name in ("get_image_features", "get_text_features"):
        new = getattr(old._model, name)
        monkeypatch.setattr(old._model, name, lambda new=new, **inputs: new(**inputs).pooler_output)
    assert torch.equal(old(images, PROMPTS), clip(images, PROMPTS))


def test_copies_score_alike(clip):
    images = pictures(6, EDGE, EDGE)
    for twin in (copy.deepcopy(clip), pickle.loads(pickle.dumps(clip))):
        assert torch.equal(twin(images, PROMPTS), clip(images, PROMPTS))


def test_the_boxed_guide_is_the_default(clip_dir, clip, monkeypatch):
    box = types.ModuleType("dsearch.box")
    box.clip_path = {"guide": clip_dir}.__getitem__
    monkeypatch.setitem(sys.modules, "dsearch.box", box)
    images = pictures(6, EDGE, EDGE)
    assert torch.equal(CLIPScore()(images, PROMPTS), clip(images, PROMPTS))


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


@pytest.mark.parametrize("path", ["/no/such/clip", Path("no/such"), Path("looks-like/a-hub-id"), "clip"], ids=str)
def test_a_missing_directory_is_named_with_its_remedy(path):
    with pytest.raises(FileNotFoundError) as caught:
        CLIPScore(path)
    for part in (str(path), "config.json", "model.safetensors", "tokenizer.json", "download=True"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(clip_dir, tmp_path, name):
    folder = copy_of(clip_dir, tmp_path / "clip")
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {name}"):
        CLIPScore(folder)


def test_a_hub_id_is_not_fetched_unless_asked(monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"nobody/no-such-clip.*local cache.*download=True"):
        CLIPScore("nobody/no-such-clip")
    asked = []

    def spy(name, **options):
        asked.append((name, options["local_files_only"]))
        raise OSError("offline")

    monkeypatch.setattr("transformers.CLIPModel.from_pretrained", spy)
    for download in (False, True):
        with pytest.raises(FileNotFoundError, match="no CLIP model"):
            CLIPScore("nobody/no-such-clip", download=download)
    assert asked == [("nobody/no-such-clip", True), ("nobody/no-such-clip", False)]


def test_weights_that_lack_a_layer_are_refused_not_made_up(clip_dir, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy_of(clip_dir, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="visual_projection"):
        CLIPScore(folder)


def test_pickled_weights_load_without_running_code(clip_dir, clip, tmp_path):
    from safetensors.torch import load_file

    folder = copy_of(clip_dir, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    images = pictures(6, EDGE, EDGE)
    assert torch.equal(CLIPScore(folder)(images, PROMPTS), clip(images, PROMPTS))
    torch.save(weights | {"bomb": Path("x")}, folder / "pytorch_model.bin")  # any class but a tensor's
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        CLIPScore(folder)


def test_a_negative_cache_is_refused(clip_dir):
    with pytest.raises(ValueError, match="text_cache=-1"):
        CLIPScore(clip_dir, text_cache=-1)


# ---- where there is a GPU


needs_cuda = pytest.mark.cuda


@needs_cuda
def test_bytes_on_the_gpu_are_the_hosts():
    images = torch.rand(16, 3, 64, 64)
    scores = Compressibility()(images.cuda(), [""] * 16)
    assert scores.is_cuda and torch.equal(scores.cpu(), Compressibility()(images, [""] * 16))


@needs_cuda
@pytest.mark.parametrize(("model", "images"), [(None, "cuda"), ("cpu", "cuda"), ("cuda", "cpu")])
def test_clip_scores_across_devices(clip_dir, clip, model, images):
    batch = pictures(6, 50, 40)
    far = CLIPScore(clip_dir, device=model)
    far(batch[:2], PROMPTS[:2])  # embeddings cached before the model moves
    scores = far(batch.to(images), PROMPTS)
    assert scores.device.type == images
    assert torch.allclose(scores.cpu(), clip(batch, PROMPTS), atol=1e-4)
