"""How a model is loaded: variants, single files, LoRAs, precision, offloading, compilation; tiny pipelines on disk."""

import dataclasses
import json
import shutil

import families
import ldm
import pytest
import tiny
import torch
from safetensors.torch import save_file

import dsearch
from dsearch import cli
from dsearch.adapters import AnyPipeline, StableDiffusion
from dsearch.experiments import Model, Run, from_data, runs
from dsearch.experiments.loading import LOADING, device_of, dtype_of, loaded, loras
from dsearch.experiments.models import check_model, default_device, denoiser


def contrast(images, prompts):
    return tiny.contrast(images, prompts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Stable Diffusion, tiny."""
    path = tmp_path_factory.mktemp("models") / "sd"
    tiny.pipeline().save_pretrained(path)
    return path


def model(path, steps=2, **args):
    return Model(str(path), steps, device="cpu", args=args)


def images(of):
    """What plain sampling makes of a model, or a pipeline."""
    made = denoiser(of) if isinstance(of, Model) else StableDiffusion(of, num_inference_steps=2)
    return dsearch.search(made, dsearch.methods.plain(contrast, 1), ["cat"]).images


# ---- classes, variants, precision, devices ------------------------------------------------------------------


def test_a_folder_is_loaded_as_the_class_that_is_asked_for(folder):
    call = {"image": families.image(), "strength": 0.5}
    found = denoiser(Model(str(folder), 4, device="cpu", args={"class": "StableDiffusionImg2ImgPipeline"}, call=call))
    assert type(found) is AnyPipeline and type(found.pipe).__name__ == "StableDiffusionImg2ImgPipeline"
    assert found.num_steps == 2
    with pytest.raises(TypeError, match="StableDiffusionImg2ImgPipeline has no option"):
        denoiser(Model(str(folder), 4, device="cpu", args={"class": "StableDiffusionImg2ImgPipeline"}, call={"x": 1}))


def test_a_variant_is_that_set_of_weights(folder, tmp_path):
    other = tiny.pipeline()
    other.unet = tiny.like(other.unet)
    other.save_pretrained(tmp_path / "two")
    for file in [*(tmp_path / "two").rglob("*.safetensors")]:
        file.rename(file.with_suffix(".fp16.safetensors"))
    tiny.pipeline().save_pretrained(tmp_path / "two")
    assert torch.equal(images(model(tmp_path / "two")), images(tiny.pipeline()))
    assert torch.equal(images(model(tmp_path / "two", variant="fp16")), images(other))
    with pytest.raises(ValueError, match="has no whole set of weights of variant 'ema'"):
        denoiser(model(tmp_path / "two", variant="ema"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_auto_is_the_precision_of_the_files(tmp_path, dtype):
    tiny.pipeline(dtype=dtype).save_pretrained(tmp_path / "sd")
    of = Model(str(tmp_path / "sd"), 2, "auto", "auto")
    assert dtype_of(of) == str(dtype).removeprefix("torch.") and device_of(of) == default_device()
    assert loaded(of).unet.dtype == dtype


def test_auto_of_a_variant_is_the_variants(tmp_path):
    tiny.pipeline(dtype=torch.float16).save_pretrained(tmp_path / "sd", variant="fp16")
    tiny.pipeline().save_pretrained(tmp_path / "sd")
    stored = {
        v: dtype_of(Model(str(tmp_path / "sd"), 2, "auto", args={"variant": v} if v else {})) for v in ("", "fp16")
    }
    assert stored == {"": "float32", "fp16": "float16"}
    assert dtype_of(Model("some/hub-id", dtype="auto")) == "auto"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"class": "StableDifusionPipeline"}, "is no pipeline of diffusers .*did you mean StableDiffusionPipeline"),
        ({"class": "UNet2DModel"}, "class 'UNet2DModel' is no pipeline"),
        ({"class": 3}, "class=3 is not a text"),
        ({"variant": 3}, "variant=3 is not a text"),
        ({"offload": "disk"}, "offload is 'disk'; choose model, sequential, group"),
        ({"compile": "fast"}, "compile is 'fast'; choose default, reduce-overhead, max-autotune, blocks"),
        ({"config": "./no/such"}, "no folder ./no/such for config"),
        ({"lora": "./no/such"}, "no LoRA at ./no/such"),
        ({"lora": "style.safetensors"}, r"no LoRA at style\.safetensors"),
        ({"lora": {"file": "x"}}, "lora is .*; give its path"),
        ({"lora": {"path": "x", "weight": "high"}}, "lora is .*; give its path"),
    ],
)
def test_what_cannot_be_loaded_is_refused_before_it_is(folder, args, says):
    with pytest.raises(ValueError, match=says):
        check_model(model(folder, **args))


def test_files_that_can_hold_code_or_do_not_say_what_they_are_are_refused(tmp_path):
    for name in ("model.ckpt", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no \.safetensors file, and others can hold code"):
        check_model(model(tmp_path / "model.ckpt"))
    with pytest.raises(ValueError, match="does not say which pipeline it is; give class"):
        check_model(model(tmp_path / "model.safetensors"))
    check_model(model(tmp_path / "model.safetensors", **{"class": "StableDiffusionPipeline"}))


def test_a_checkpoint_in_one_file_is_the_pipeline_and_needs_no_network(folder, tmp_path, monkeypatch):
    ldm.write(tiny.pipeline(), tmp_path / "sd.safetensors")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bare = tmp_path / "config"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("*.safetensors"))  # configuration alone
    of = model(tmp_path / "sd.safetensors", config=str(bare))
    made = denoiser(of)
    assert type(made) is StableDiffusion
    assert torch.equal(images(of), images(tiny.pipeline()))
    assert dtype_of(Model(str(tmp_path / "sd.safetensors"), dtype="auto")) == "float32"
    with pytest.raises(TypeError, match="StableDiffusion has no option 'colour'"):
        check_model(model(tmp_path / "sd.safetensors", config=str(bare), colour=3))


# ---- LoRAs --------------------------------------------------------------------------------------------------


def lora(path, seed=0, layer="down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"):
    """A LoRA of one layer in diffusers' own format, and its change of that layer's weight."""
    generator = torch.Generator().manual_seed(seed)
    up, down = torch.randn(16, 2, generator=generator), torch.randn(2, 16, generator=generator)
    save_file({f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up}, path)
    return up @ down


def merged(*changes):
    """The pipeline with the changes in its weights."""
    pipe = tiny.pipeline()
    pipe.unet = tiny.like(pipe.unet)
    pipe.unet.load_state_dict(tiny.pipeline().unet.state_dict())
    with torch.no_grad():
        layer = pipe.unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1.to_q
        for change in changes:
            layer.weight += change
    return pipe


def test_a_lora_is_its_change_of_the_weights_times_its_weight(folder, tmp_path):
    pytest.importorskip("peft")
    one, two = (lora(tmp_path / f"{name}.safetensors", seed) for seed, name in enumerate(("one", "two")))
    plain = images(model(folder))
    for given, changes in (
        (str(tmp_path / "one.safetensors"), [one]),
        ({"path": str(tmp_path / "one.safetensors"), "weight": 0.5}, [0.5 * one]),
        (
            [{"path": str(tmp_path / f"{name}.safetensors"), "weight": -0.5} for name in ("one", "two")],
            [-0.5 * one, -0.5 * two],
        ),
    ):
        found = images(model(folder, lora=given))
        torch.testing.assert_close(found, images(merged(*changes)), atol=1e-4, rtol=0)
        assert (found - plain).abs().max() > 1e-3


def test_a_lora_of_another_model_and_one_that_is_damaged_are_refused(folder, tmp_path):
    pytest.importorskip("peft")
    lora(tmp_path / "other.safetensors", layer="somewhere.else")
    (tmp_path / "damaged.safetensors").write_bytes(b"garbage" * 9)
    for name in ("other", "damaged"):
        with pytest.raises(ValueError, match=rf"{name}\.safetensors (holds no weights for|is no LoRA that)"):
            denoiser(model(folder, lora=str(tmp_path / f"{name}.safetensors")))


def test_loras_need_peft_and_say_so(folder, tmp_path):
    try:
        import peft  # noqa: F401
    except ModuleNotFoundError:
        lora(tmp_path / "one.safetensors")
        with pytest.raises(
            ModuleNotFoundError, match=r"peft is not installed; pip install 'dsearch-diffusion\[lora\]'"
        ):
            denoiser(model(folder, lora=str(tmp_path / "one.safetensors")))


def test_loras_are_named_alone_or_with_a_weight_or_in_a_list():
    assert loras(None) == [] and loras("a") == [{"path": "a", "weight": 1.0}]
    assert loras([{"path": "a", "weight": 2}, "b"]) == [{"path": "a", "weight": 2.0}, {"path": "b", "weight": 1.0}]


# ---- offloading, compilation --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["model", "group"])
@pytest.mark.parametrize("kind", ["StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline"])
def test_an_offloaded_model_finds_what_it_finds_anyway(folder, kind, how):
    call = {"image": families.image(), "strength": 0.5} if "Img2Img" in kind else {}
    plain, offloaded = (
        Model(str(folder), 4, device="cpu", args={"class": kind, **args}, call=call) for args in ({}, {"offload": how})
    )
    method = dsearch.methods.svdd(contrast, width=2)
    found = [dsearch.search(denoiser(each), method, ["cat", "a red dog"]) for each in (plain, offloaded)]
    assert torch.equal(found[0].images, found[1].images)
    hooked = [
        m
        for part in denoiser(offloaded).pipe.components.values()
        if isinstance(part, torch.nn.Module)
        for m in part.modules()
    ]
    assert any(hasattr(m, "_hf_hook") or hasattr(m, "_diffusers_hook") for m in hooked)


def test_layers_are_offloaded_one_by_one_to_an_accelerator_alone(folder):
    with pytest.raises(ValueError, match="offload is 'sequential', which needs an accelerator, and device is cpu"):
        check_model(model(folder, offload="sequential"))


@pytest.mark.cuda
def test_layers_are_offloaded_one_by_one(folder):
    plain, offloaded = (Model(str(folder), 2, "float32", "cuda", args=a) for a in ({}, {"offload": "sequential"}))
    torch.testing.assert_close(images(offloaded), images(plain), atol=1e-4, rtol=0)


def test_a_network_is_compiled_at_its_first_call(folder):
    assert denoiser(model(folder)).pipe.unet._compiled_call_impl is None
    assert denoiser(model(folder, compile="reduce-overhead")).pipe.unet._compiled_call_impl is not None


@pytest.mark.slow
def test_a_compiled_model_finds_what_it_finds_anyway(folder):
    compiled = denoiser(model(folder, compile="blocks"))
    assert any(module._compiled_call_impl is not None for module in compiled.pipe.unet.modules())
    found = dsearch.search(compiled, dsearch.methods.plain(contrast, 1), ["cat"]).images
    torch.testing.assert_close(found, images(model(folder)), atol=1e-4, rtol=0)


# ---- memory -------------------------------------------------------------------------------------------------


def test_a_result_has_no_peak_memory_but_of_a_cuda_device(folder):
    found = dsearch.search(denoiser(model(folder)), dsearch.methods.plain(contrast, 1), ["cat"])
    assert found.peak_bytes is None and dsearch.distributed.joined([found, found]).peak_bytes is None
    told = [dataclasses.replace(found, peak_bytes=n) for n in (3, 5)]
    assert dsearch.distributed.joined(told).peak_bytes == 5


@pytest.mark.cuda
def test_the_peak_memory_of_a_search_is_that_of_the_search_alone(folder):
    made = denoiser(Model(str(folder), 2, "float32", "cuda"))
    small = dsearch.search(made, dsearch.methods.plain(contrast, 1), ["cat"]).peak_bytes
    large = dsearch.search(made, dsearch.methods.plain(contrast, 64), ["cat"]).peak_bytes
    assert sum(p.nbytes for p in made.pipe.unet.parameters()) < small < large
    assert dsearch.search(made, dsearch.methods.plain(contrast, 1), ["cat"]).peak_bytes < large


# ---- YAML and the command line ------------------------------------------------------------------------------


def test_words_of_loading_go_from_yaml_to_records_and_back(folder, tmp_path):
    pytest.importorskip("peft")
    lora(tmp_path / "one.safetensors")
    words = {
        "class": "StableDiffusionPipeline",
        "offload": "model",
        "lora": {"path": str(tmp_path / "one.safetensors")},
    }
    data = {
        "prompts": ["cat"],
        "models": {"sd": {"pipeline": str(folder), "steps": 2, "dtype": "auto", "device": "auto", **words}},
        "rewards": {"contrast": "test_loading:contrast"},
        "methods": {"plain": {"kind": "plain", "beams": 1}},
    }
    run = runs.run(from_data(data), tmp_path / "run")
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {name: told["experiment"]["models"]["sd"][name] for name in words} == words
    assert told["devices"] == {"sd": f"{default_device()}, float32"}
    if default_device() == "cpu":
        expected = images(model(folder, lora=str(tmp_path / "one.safetensors")))
        assert run.records()[0]["reward"] == pytest.approx(float(contrast(expected[:, 0], [])[0]), abs=1e-4)


def test_the_command_line_says_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["generate", "cat", "--model", str(folder), "--steps", "2", "--device", "auto", "--dtype", "auto"]
    words += ["--method", "plain", "--reward", "test_loading:contrast", "--class", "StableDiffusionPipeline"]
    assert cli.main([*words, "--offload", "group", "--out", "out"]) == 0
    args = Run.open("out").experiment.models["sd"].args
    assert args == {"class": "StableDiffusionPipeline", "offload": "group"}
    assert cli.main([*words, "--lora", "no.safetensors=0.5", "--out", "other"]) == 2


def test_the_command_line_takes_loras_with_and_without_weights():
    assert [cli._lora(text) for text in ("a.safetensors", "a=b.safetensors", "a=b.safetensors=0.5", "hub/id=2")] == [
        "a.safetensors",
        "a=b.safetensors",
        {"path": "a=b.safetensors", "weight": 0.5},
        {"path": "hub/id", "weight": 2.0},
    ]


def test_every_word_of_loading_is_an_option_of_the_command_line():
    from dsearch.cli.arguments import parser

    said = parser(cli.COMMANDS).parse_args(["generate", "cat"])
    assert all(hasattr(said, "kind" if name == "class" else name) for name in LOADING)
