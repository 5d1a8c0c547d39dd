"""From a loaded pipeline to pictures on disk: what a first user meets, mistakes included."""

import base64
import dataclasses
import inspect
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from strategies import assert_same_result, smooth

import dsearch
from dsearch import adapters, methods
from dsearch._optional import EXTRAS
from dsearch.box import pipeline_path
from dsearch.core.loop import search as search_denoiser

ROOT = Path(__file__).parent.parent


def svdd(width=2, beams=2):
    return methods.svdd(tiny.contrast, width=width, beams=beams)


def found(prompts=("cat", "dog"), beams=2, method=None, **options):
    """A search of a tiny pipeline."""
    method = methods.plain(tiny.contrast, beams) if method is None else method
    return dsearch.search(tiny.pipeline(), method, list(prompts), num_inference_steps=1, **options)


def image_result(images, prompts=None, rewards=None):
    """A result as a search would hand back, with these images `[B, K, C, H, W]` in the place of its own."""
    groups, kept = images.shape[:2]
    prompts = ["p"] * groups if prompts is None else prompts
    one = dsearch.search(adapters.GaussianMixture(num_steps=1), methods.plain(smooth, kept), prompts)
    rewards = one.rewards if rewards is None else rewards
    return dataclasses.replace(one, images=images, rewards=rewards)


# ---- a pipeline is a model ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pipe", "made", "options"),
    [
        (tiny.pipeline, adapters.StableDiffusion, {"num_inference_steps": 3, "guidance_scale": 2.0, "eta": 0.5}),
        (tiny.xl, adapters.AnyPipeline, {"num_inference_steps": 3, "guidance_scale": 3.0}),
        (tiny.sd3, adapters.AnyPipeline, {"num_inference_steps": 3, "negative_prompt": "grey"}),
        (tiny.flux, adapters.AnyPipeline, {"num_inference_steps": 2, "max_sequence_length": 8}),
    ],
    ids=["sd", "xl", "sd3", "flux"],
)
def test_searching_a_pipeline_is_searching_its_adapter_bit_for_bit(pipe, made, options):
    pipe = pipe()
    by_hand = search_denoiser(made(pipe, **options), svdd(), ["cat", "dog"], seed=3)
    at_once = dsearch.search(pipe, svdd(), ["cat", "dog"], seed=3, **options)
    assert_same_result(by_hand, at_once)
    assert at_once.cost == by_hand.cost


def test_the_box_is_searched_bit_for_bit():
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(pipeline_path())
    by_hand = dsearch.search(adapters.StableDiffusion(pipe, num_inference_steps=2, guidance_scale=2.5), svdd(), "cat")
    assert_same_result(dsearch.search(pipe, svdd(), "cat", num_inference_steps=2, guidance_scale=2.5), by_hand)


def test_what_is_not_said_of_a_pipeline_is_as_its_adapter_has_it():
    for pipe in (tiny.pipeline(), tiny.sd3()):
        one = adapters.from_pipeline(pipe)
        assert (
            one.num_steps
            == type(one)(pipe).num_steps
            == inspect.signature(pipe.__call__).parameters["num_inference_steps"].default
        )


def test_every_pipeline_that_an_adapter_names_goes_to_it():
    for kind in (adapters.DDPM, adapters.StableDiffusion):
        assert kind.pipelines
    from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler

    for pipe in (DDPMPipeline(tiny.pixels(), DDPMScheduler()), DDIMPipeline(tiny.pixels(), DDIMScheduler())):
        assert type(adapters.from_pipeline(pipe, num_inference_steps=2)) is adapters.DDPM


def test_a_subclass_goes_to_the_adapter_of_the_class_it_derives_from():
    pipe = tiny.pipeline()
    pipe.__class__ = type("Mine", (type("Ours", (type(pipe),), {}),), {})
    assert type(adapters.from_pipeline(pipe, num_inference_steps=3)) is adapters.StableDiffusion
    assert_same_result(
        dsearch.search(pipe, svdd(), "cat", num_inference_steps=2),
        dsearch.search(tiny.pipeline(), svdd(), "cat", num_inference_steps=2),
    )


def test_search_names_what_the_core_takes_with_its_defaults():
    ours, core = (inspect.signature(one).parameters for one in (dsearch.search, search_denoiser))
    named = {name: p for name, p in core.items() if p.kind is p.KEYWORD_ONLY}
    assert {name: ours[name].default for name in named} == {name: p.default for name, p in named.items()}
    extra = set(ours) - set(named) - {"model", "method", "prompts"}
    assert extra == {"num_inference_steps", "guidance_scale", "model_options"}


def test_what_the_core_takes_reaches_it():
    seen, chunks = [], dsearch.Chunks(3, 2, 4, pad=True)
    watch = [dsearch.HeldOut({"again": tiny.contrast}), dsearch.Target(1e9), dsearch.Thumbnails(8)]
    options = {"seed": 5, "ids": ["x", "y"], "chunks": chunks}
    model = adapters.from_pipeline(tiny.pipeline(), num_inference_steps=2)
    watching = [*watch, lambda step, beams: seen.append(step.step)]
    result = dsearch.search(model, svdd(), ["cat", "dog"], watch=watching, **options)
    assert_same_result(result, search_denoiser(model, svdd(), ["cat", "dog"], watch=watch, **options))
    assert seen == [0, 1] and torch.equal(result.held_out["again"], result.rewards) and result.thumbnails
    assert result.chunks == chunks


# ---- mistakes ----------------------------------------------------------------------------------------------


class Half:
    """A model that is not finished."""

    num_steps = 3

    def predict(self, x, step, cond, prompt):
        raise AssertionError("asked")


def redness(images, prompts):
    raise AssertionError("asked")


MISTAKES = {
    "a method not called": (lambda pipe: (pipe, methods.svdd), r"svdd is a function.*call it with a reward: svdd\(re"),
    "a reward as method": (lambda pipe: (pipe, redness), r"if it is a reward.*dsearch\.methods\.svdd\(redness\)"),
    "a reward class as method": (lambda pipe: (pipe, dsearch.rewards.CLIPScore), r"svdd\(CLIPScore\(\.\.\.\)\)"),
    "a class of rewards": (lambda pipe: (pipe, methods.svdd(dsearch.rewards.CLIPScore)), r"CLIPScore is a class.*svdd"),
    "a name as method": (lambda pipe: (pipe, "psp"), r"'psp' is a string.*dsearch\.methods\.psp\(reward\)"),
    "no method": (lambda pipe: (pipe, None), r"NoneType is no method.*dsearch\.methods\.svdd\(reward\)"),
    "a pipeline's class": (lambda pipe: (type(pipe), svdd()), r"is a class.*StableDiffusionPipeline\.from_pretrained"),
    "an adapter's class": (lambda pipe: (adapters.GaussianMixture, svdd()), r"is a class.*GaussianMixture\(\.\.\.\)"),
    "a model's name": (lambda pipe: ("sd/v1-5", svdd()), r"load it first: diffusers.*from_pretrained\('sd/v1-5'\)"),
    "a model's folder": (lambda pipe: (Path("sd"), svdd()), r"load it first: diffusers.*from_pretrained\('sd'\)"),
    "a network": (lambda pipe: (pipe.unet, svdd()), r"no adapter takes a UNet2DCond.*give a pipeline of diffusers"),
    "half a model": (lambda pipe: (Half(), svdd()), "Half lacks encode, start, noise, step, decode"),
    "the wrong way round": (lambda pipe: (svdd(), pipe), r"the model comes before the method: search\(model, method"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_what_to_do(mistake):
    arguments, says = MISTAKES[mistake]
    with pytest.raises(TypeError, match=says):
        dsearch.search(*arguments(tiny.pipeline()), ["cat"])


@pytest.mark.parametrize("name", methods.__all__)
def test_every_function_of_methods_is_told_from_a_method(name):
    with pytest.raises(TypeError, match=rf"^{name} is a function that makes a method; call it with a reward: {name}\("):
        dsearch.search(Half(), getattr(methods, name), ["cat"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sed": 3}, "search has no option 'sed'; did you mean seed"),
        ({"num_steps": 3}, "no option 'num_steps'; did you mean num_inference_steps"),
        ({"hight": 64}, "no option 'hight'; did you mean height"),
        ({"colour": 3}, "no option 'colour'; it takes num_inference_steps, guidance_scale, seed, .*negative_prompt"),
    ],
)
def test_options_that_a_pipeline_does_not_have_are_refused_by_name(options, says):
    with pytest.raises(TypeError, match=says):
        dsearch.search(tiny.pipeline(), svdd(), ["cat"], **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"guidance_scale": 3.0}, "guidance_scale is for a pipeline, and GaussianMixture is a denoiser already"),
        ({"num_inference_steps": 3}, "give num_inference_steps where GaussianMixture is made"),
        ({"eta": 0.5}, "give eta where GaussianMixture is made"),
        ({"sed": 3}, "no option 'sed'; did you mean seed"),
    ],
)
def test_a_denoiser_has_its_options_already(options, says):
    with pytest.raises(TypeError, match=says):
        dsearch.search(adapters.GaussianMixture(), methods.plain(smooth), "a", **options)


@pytest.mark.parametrize("prompts", [3, None, b"cat"])
def test_prompts_of_another_kind_are_refused(prompts):
    with pytest.raises(TypeError, match="give a string, or a list of strings"):
        dsearch.search(tiny.pipeline(), svdd(), prompts)


@pytest.mark.parametrize("prompts", [[3], ["cat", None], [["cat"]], [b"cat"]])
def test_prompts_that_are_no_strings_are_refused(prompts):
    with pytest.raises(ValueError, match="is not a string; give a string, or a list of strings"):
        dsearch.search(tiny.pipeline(), svdd(), prompts)


def test_prompts_may_come_from_anything_that_iterates():
    listed = found(["cat", "dog"])
    method = methods.plain(tiny.contrast, 2)
    for prompts in (("cat", "dog"), (text for text in ["cat", "dog"]), np.array(["cat", "dog"])):
        assert_same_result(dsearch.search(tiny.pipeline(), method, prompts, num_inference_steps=1), listed)


def test_from_pipeline_refuses_what_its_adapter_does_not_take():
    with pytest.raises(TypeError, match="StableDiffusion has no option 'num_steps'; did you mean num_inference_steps"):
        adapters.from_pipeline(tiny.pipeline(), num_steps=3)
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        adapters.from_pipeline(tiny.pipeline(), num_inference_steps=0)


# ---- pictures ----------------------------------------------------------------------------------------------


@given(channels=st.sampled_from([1, 3]), data=st.data(), size=st.tuples(*[st.integers(1, 3)] * 4))
@settings(max_examples=20)
def test_pil_shows_every_level_of_every_image_where_it_stands(channels, data, size):
    groups, kept, height, width = size
    levels = torch.tensor(
        data.draw(st.lists(st.integers(0, 255), min_size=(n := groups * kept * channels * height * width), max_size=n))
    ).reshape(groups, kept, channels, height, width)
    pictures = image_result(levels / 255).pil()
    assert [len(group) for group in pictures] == [kept] * groups
    for b, group in enumerate(pictures):
        for k, picture in enumerate(group):
            assert picture.size == (width, height) and picture.mode == "RGB"
            shown = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            assert torch.equal(shown.long(), levels[b, k].expand(3, -1, -1))


def test_pil_cuts_off_what_no_picture_can_show():
    images = torch.tensor([-0.5, 0.0, 1.0, 1.5]).reshape(1, 1, 1, 1, 4)
    (picture,) = image_result(images).pil()[0]
    assert np.array(picture)[0, :, 0].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("images", [torch.zeros(1, 2, 7), torch.zeros(1, 2, 3, 5, 8, 8), torch.ones(1, 2, 2, 4, 4)])
def test_what_is_no_image_is_not_shown_as_one(images, tmp_path):
    result = image_result(images)
    for show in (result.pil, lambda: result.save(tmp_path / "out")):
        with pytest.raises(TypeError, match=r"images are \[B, K, 3, H, W\].*result\.images holds"):
            show()
    assert not (tmp_path / "out").exists()
    assert repr(result) and "<img" not in result._repr_html_() and "spent per prompt" in result._repr_html_()


# ---- saving ------------------------------------------------------------------------------------------------


def test_saved_pictures_and_their_record_are_those_of_the_result(tmp_path):
    result = found(watch=[dsearch.HeldOut({"again": tiny.contrast})])
    paths = result.save(tmp_path / "deep" / "out")
    record = json.loads((tmp_path / "deep" / "out" / "result.json").read_text())
    for b, group in enumerate(paths):
        for k, path in enumerate(group):
            assert np.array_equal(np.array(Image.open(path)), np.array(result.pil()[b][k]))
            (entry,) = (entry for entry in record["images"] if entry["file"] == path.name)
            assert (entry["prompt"], entry["rank"]) == (result.prompts[b][k], k)
            assert entry["reward"] == entry["held_out"]["again"] == float(result.rewards[b, k])
    assert record["bill"] == result.cost.bill.counts()
    names = {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    assert names == {"000-00-cat.png", "000-01-cat.png", "001-00-dog.png", "001-01-dog.png", "result.json"}


def test_infinite_rewards_are_saved_as_nothing(tmp_path):
    image_result(torch.zeros(1, 1, 3, 4, 4), rewards=torch.tensor([[-torch.inf]])).save(tmp_path)
    assert json.loads((tmp_path / "result.json").read_text())["images"][0]["reward"] is None


HOSTILE = [
    "../../x",
    "a/b",
    "/etc/passwd",
    "..\\..\\x",
    "C:\\x",
    "nul",
    "a\0b",
    "x" * 300,
    "",
    " . ",
    "..",
    "~/x",
    "-rf",
]
HOSTILE += ["猫" * 300, "ﷺ" * 40, "\ud800", "a\nb", "\u202egnp.exe", "CON", "<img src=x>", "%2e%2e%2f", "$(touch x)"]


def hostile(test):
    for prompt in HOSTILE:
        test = example(prompts=[prompt, prompt])(test)
    return given(prompts=st.lists(st.text(max_size=60), min_size=1, max_size=3))(settings(max_examples=40)(test))


@hostile
def test_no_prompt_leads_out_of_the_folder_or_onto_another_s_file(tmp_path_factory, prompts):
    home = tmp_path_factory.mktemp("home")
    result = image_result(torch.zeros(len(prompts), 2, 3, 2, 2), prompts)
    paths = [path for group in result.save(home / "out") for path in group]
    names = [path.name for path in paths]
    assert len(set(name.lower() for name in names)) == 2 * len(prompts)
    assert sorted(os.listdir(home)) == ["out"] and set(os.listdir(home / "out")) == {*names, "result.json"}
    assert all(path.parent == home / "out" and path.is_file() and not path.is_symlink() for path in paths)
    assert all(re.fullmatch(r"\d{3}-\d\d(-[\w-]+)?\.png", name) and len(name.encode()) < 200 for name in names)
    record = json.loads((home / "out" / "result.json").read_text())
    assert [entry["prompt"] for entry in record["images"]] == [text for text in prompts for _ in range(2)]


def test_saving_again_replaces_what_was_saved_and_nothing_else(tmp_path):
    found(["cat", "dog"]).save(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "005-00-mine.png").write_text("mine too")
    paths = found(["owl"], beams=1).save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"000-00-owl.png", "result.json", "notes.txt", "005-00-mine.png"}
    assert [[path.name for path in group] for group in paths] == [["000-00-owl.png"]]
    assert (tmp_path / "notes.txt").read_text() == "mine"
    found(["cat", "dog"]).save(tmp_path)
    assert (tmp_path / "005-00-mine.png").read_text() == "mine too"


@pytest.mark.parametrize("name", ["000-01-cat.png", "result.json"])
@pytest.mark.parametrize("content", ["mine", "[]", "{}", '{"by": "me", "images": [{"file": "000-01-cat.png"}]}'])
def test_another_s_file_is_not_overwritten_and_nothing_is_written_then(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(FileExistsError, match=f"no earlier save wrote .*{name}; save to another folder"):
        found().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == content


def test_a_record_that_lies_removes_nothing_elsewhere(tmp_path):
    (tmp_path / "precious.png").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.png").write_text("mine")
    files = ["../precious.png", str(tmp_path / "precious.png"), "precious.png", "000-00-/../../precious.png"]
    record = {"by": "dsearch.Result.save", "images": [{"file": name} for name in files]}
    (tmp_path / "out" / "result.json").write_text(json.dumps(record))
    found().save(tmp_path / "out")
    assert (tmp_path / "precious.png").read_text() == (tmp_path / "out" / "precious.png").read_text() == "mine"


def test_a_link_in_the_place_of_a_picture_is_not_followed(tmp_path):
    (tmp_path / "target").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "000-00-cat.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="000-00-cat"):
        found().save(tmp_path / "out")
    assert not (tmp_path / "nowhere").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(FileExistsError, match="out is a file; save to a folder"):
        found().save(tmp_path / "out")


# ---- moving ------------------------------------------------------------------------------------------------


def tensors(tree):
    """Every tensor within."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif dataclasses.is_dataclass(tree):
        for field in dataclasses.fields(tree):
            yield from tensors(getattr(tree, field.name))
    elif isinstance(tree, dict | list | tuple):
        for entry in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors(entry)


def test_to_moves_every_tensor_and_nothing_else_changes():
    held_out = dsearch.HeldOut({"again": tiny.contrast}, every=1)
    result = dsearch.search(
        tiny.pipeline(), svdd(), ["cat"], num_inference_steps=3, watch=[held_out, dsearch.Thumbnails(4)]
    )
    moved = result.to("meta")
    assert {leaf.device.type for leaf in tensors(moved)} == {"meta"}
    assert [leaf.shape for leaf in tensors(moved)] == [leaf.shape for leaf in tensors(result)]
    assert len(list(tensors(result))) > 10 and {leaf.device.type for leaf in tensors(result)} == {"cpu"}
    assert type(moved) is dsearch.Result and type(moved.trace[0]) is type(result.trace[0])
    for name in ("prompts", "cost", "plan", "chunks"):
        assert getattr(moved, name) == getattr(result, name)


def test_moving_to_where_it_is_is_the_same_result():
    result = found(beams=3)
    assert_same_result(result.to("cpu"), result)
    assert_same_result(result.to(torch.device("cpu")).to("cpu"), result)


# ---- shown -------------------------------------------------------------------------------------------------


@given(prompts=st.lists(st.text(max_size=400), min_size=1, max_size=12), kept=st.integers(1, 9), seed=st.integers(0, 9))
@settings(max_examples=20)
def test_repr_is_three_short_lines_without_tensors(prompts, kept, seed):
    result = image_result(torch.rand(len(prompts), kept, 3, 2, 2), prompts)
    lines = repr(result).split("\n")
    assert len(lines) == 3 and all(len(line) < 400 and line.isprintable() for line in lines)
    assert f"{len(prompts)} prompt" in lines[0] and f"{kept} kept" in lines[0]
    assert f"{result.rewards[0, 0]:.4g}" in lines[1]
    assert f"{result.cost.bill.model_calls} model calls" in lines[2]


def test_repr_says_what_was_found_and_spent():
    result = found(["cat", "dog"], method=methods.svdd(tiny.contrast, width=2))
    assert repr(result).startswith("Result of 2 prompts x 1 kept: images [2, 1, 3, 16, 16]\n  best rewards: 'cat' ")
    assert repr(result).endswith(
        f"\n  spent per prompt: {result.cost.bill.model_calls} model calls, 1 decodes, 1 reward calls"
    )
    pooled = dsearch.search(tiny.pipeline(), methods.published(tiny.contrast, bs=2), ["cat", "dog"])
    assert "Result of 1 pool x" in repr(pooled) and "spent per pool" in repr(pooled)
    assert Read(pooled._repr_html_()).words.count("cat") == pooled.prompts[0].count("cat") > 0


class Read(HTMLParser):
    """The elements of a page, their pictures and its words."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.pictures, self.words, self.open = [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("img", "br"):
            self.open.append(tag)
        if tag == "img":
            self.pictures.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def image(self, number):
        coded = self.pictures[number]["src"].removeprefix("data:image/png;base64,")
        return np.array(Image.open(io.BytesIO(base64.b64decode(coded))))


def test_a_notebook_shows_the_images_their_rewards_and_the_bill():
    result = found(watch=[dsearch.HeldOut({"again": tiny.contrast})])
    page = Read(result._repr_html_())
    for b, group in enumerate(result.pil()):
        for k, picture in enumerate(group):
            assert np.array_equal(page.image(2 * b + k), np.array(picture))
            assert page.pictures[2 * b + k]["alt"] == result.prompts[b][k]
            assert f"{result.rewards[b, k]:.4g}" in page.words and f"again {result.rewards[b, k]:.4g}" in page.words
    assert not page.open and {"cat", "dog"} <= set(page.words)
    assert f"spent per prompt: {result.cost.bill.model_calls} model calls" in "".join(page.words)


@hostile
def test_a_prompt_is_text_on_the_page(prompts):
    html = image_result(torch.zeros(len(prompts), 1, 3, 2, 2), prompts)._repr_html_()
    page = Read(html.encode().decode())
    assert set(page.tags) <= {"table", "tr", "th", "td", "img", "br", "p"} and not page.open
    assert len(page.pictures) == len(prompts) and all(set(one) == {"src", "alt", "style"} for one in page.pictures)


@pytest.mark.parametrize(("groups", "kept", "side"), [(1, 1, 700), (8, 8, 256), (12, 12, 64)])
def test_a_page_stays_small_whatever_the_pictures(groups, kept, side):
    noise = torch.rand(groups, kept, 3, side, side, generator=torch.Generator().manual_seed(0))
    result = image_result(noise, ["&" * 500] * groups)
    page = result._repr_html_()
    assert len(page) < 400_000 and len(Read(page).pictures) == min(groups, 8) * min(kept, 8)
    assert ("the first 8 are shown" in page) is (groups > 8)
    assert Read(page).image(0).shape[0] >= 32


# ---- dsearch alone -----------------------------------------------------------------------------------------


def test_the_rooms_are_there_after_import_dsearch():
    code = (
        "import dsearch; rooms = {'adapters', 'methods', 'rewards', 'values', 'potential', 'selection', 'resample'}; "
    )
    code += "assert {*rooms, 'plans'} <= set(dir(dsearch)) and 'CLIPScore' in dir(dsearch.rewards); "
    code += "dsearch.values.posterior_mean, dsearch.plans.uniform_plan, dsearch.selection.top_k, dsearch.potential.none"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_method_of_one_s_own_needs_dsearch_alone():
    def mine(reward, beams):
        return dsearch.Method(
            lambda num_steps: dsearch.plans.uniform_plan(num_steps, beams, 2),
            reward,
            dsearch.values.posterior_mean,
            dsearch.potential.none,
            dsearch.selection.best_child,
            name="mine",
        )

    model = adapters.GaussianMixture(num_steps=4)
    assert_same_result(
        dsearch.search(model, mine(smooth, 3), ["a"]), dsearch.search(model, methods.svdd(smooth, 2, 3), ["a"])
    )


BLOCKED = ["PIL", "accelerate", "diffusers", "matplotlib", "safetensors", "scipy", "tqdm", "transformers", "yaml"]

ALONE = """
import sys


class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocked())
import torch
import dsearch
from dsearch.discovery import modules


def height(images, prompts):
    return images[:, 0]


def told(extra, work):
    try:
        work()
    except ModuleNotFoundError as error:
        assert str(error).endswith(f"is not installed; pip install 'dsearch-diffusion[{extra}]'"), error
    else:
        raise AssertionError(f"{extra} was not needed")


model = dsearch.adapters.GaussianMixture(num_steps=4)
for module in modules("dsearch.methods", dsearch.methods.__path__):
    result = dsearch.search(model, module.example(height), ["a", "b"])
    assert len(result.to("cpu").images) and repr(result) and result._repr_html_()
words = dsearch.adapters.TokenChain(torch.ones(3, 3, 3))
dsearch.search(words, dsearch.methods.svdd(lambda tokens, prompts: tokens.sum(1)), "a")

told("runs", lambda: dsearch.search(model, dsearch.methods.plain(height), "a", progress=True))
told("runs", lambda: dsearch.rewards.Compressibility()(torch.zeros(1, 3, 8, 8), ["a"]))
told("diffusers", lambda: dsearch.rewards.CLIPScore())
told("diffusers", lambda: dsearch.adapters.StableDiffusion(object()))
from dsearch import plots
from dsearch.compare.metrics import interval
from dsearch.experiments import build, experiment, reader

told("runs", lambda: plots.to_pil(torch.zeros(1, 3, 8, 8)))
told("runs", lambda: plots.plan_picture({"a": result.plan}, "a.png"))
told("runs", lambda: interval(torch.tensor([1.0, 2.0])))
told("runs", lambda: reader.parse("prompts: [a]"))
told("diffusers", lambda: build.denoiser(experiment.Model("box", device="cpu")))
assert not set(BLOCKED) & {name.split(".")[0] for name in sys.modules}
print("all is said")
"""


def test_torch_einops_and_numpy_are_enough_and_what_is_missing_names_its_extra(tmp_path):
    code = f"BLOCKED = {BLOCKED}\n{ALONE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "all is said\n"


def test_a_plain_install_has_what_the_extras_have():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core, extras = ["torch", "einops", "numpy"], project["optional-dependencies"]
    named = [re.split(r"[<>=]", need)[0] for need in project["dependencies"]]
    assert set(project["dependencies"]) == set(project["dependencies"][:3]) | {*extras["diffusers"], *extras["runs"]}
    assert named[:3] == core and len(named) == len(set(named))
    modules = {"pillow": "PIL", "pyyaml": "yaml", "open_clip_torch": "open_clip", "imageio-ffmpeg": "imageio_ffmpeg"}
    for extra, libraries in EXTRAS.items():
        brought = {re.split(r"[<>=]", need)[0] for need in extras[extra]}
        assert set(libraries) <= {modules.get(name, name) for name in brought}
    assert set(BLOCKED) == {*EXTRAS["diffusers"], *EXTRAS["runs"]}
