"""What experiments and the command line say of a pipeline's own call: arguments, image files, lines of errors."""

import hashlib
import json
from pathlib import Path

import families
import pytest
import tiny
import torch
from PIL import Image

import dsearch
from dsearch import cli
from dsearch.adapters import AnyPipeline, StableDiffusion, from_pipeline
from dsearch.compare.cells import _fits
from dsearch.experiments import Experiment, ExperimentError, Model, Named, Run, build, from_data, load, runs
from dsearch.experiments.models import denoiser
from dsearch.experiments.pictures import ImageFile, named, opened


def contrast(images, prompts):
    return tiny.contrast(images, prompts)


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    """An image-to-image pipeline on disk."""
    folder = tmp_path_factory.mktemp("models") / "painter"
    families.FAMILIES["StableDiffusionImg2ImgPipeline"]()[0].save_pretrained(folder)
    return folder


def written(folder, painter, call="image: cat.png, strength: 0.5", **changes):
    """An experiment of that call, with its image beside it."""
    families.image().save(folder / "cat.png")
    text = f"""
prompts: [cat]
models:
  painter: {{pipeline: {painter}, steps: 4, device: cpu, call: {{{call}}}}}
rewards: {{contrast: test_call:contrast}}
methods: {{SVDD: {{kind: svdd, width: 2}}}}
"""
    (folder / "experiment.yaml").write_text(text)
    return folder / "experiment.yaml"


def test_a_call_of_an_experiment_is_the_call_in_python(tmp_path, painter):
    run = runs.run(load(written(tmp_path, painter)), tmp_path / "run")
    pipe = families.FAMILIES["StableDiffusionImg2ImgPipeline"]()[0]
    call = {"image": Image.open(tmp_path / "cat.png"), "strength": 0.5, "num_inference_steps": 4}
    found = dsearch.search(AnyPipeline(pipe, **call), dsearch.methods.svdd(contrast, width=2), ["cat"])
    (record,) = run.records()
    assert record["reward"] == pytest.approx(float(found.rewards), abs=1e-4)
    assert dsearch.Bill(**record["bill"]) == dsearch.methods.svdd(contrast, width=2).bill(2)


def test_a_record_says_what_was_called_by_the_hash_of_the_image(tmp_path, painter):
    file = written(tmp_path, painter)
    one, name = (
        load(file),
        {"file": "cat.png", "sha256": hashlib.sha256((tmp_path / "cat.png").read_bytes()).hexdigest()},
    )
    assert one.as_dict()["models"]["painter"]["call"] == {"image": name, "strength": 0.5}
    assert from_data(json.loads(json.dumps(one.as_dict()))) == one
    families.image(seed=1).save(tmp_path / "cat.png")
    other = load(file)
    assert other != one and [u.name for u in other.units()] != [u.name for u in one.units()]
    with pytest.raises(ValueError, match=r"cat\.png is another image"):
        denoiser(one.models["painter"])


def test_a_run_with_another_image_is_another_experiment_and_does_not_compare(tmp_path, painter):
    file = written(tmp_path, painter)
    made = runs.run(load(file), tmp_path / "run")
    families.image(seed=1).save(tmp_path / "cat.png")
    with pytest.raises(ExperimentError, match=r"holds a run of another experiment .models differs"):
        runs.run(load(file), tmp_path / "run")
    other = runs.run(load(file), tmp_path / "other")
    with pytest.raises(ExperimentError, match="'painter' is one thing in"):
        _fits(Run.open(made.folder), Run.open(other.folder))
    assert made.experiment.models["painter"].as_dict() != other.experiment.models["painter"].as_dict()


def test_a_call_without_words_leaves_what_runs_are_called_as_it_was():
    assert "call" not in Model("box").as_dict()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("image: dog.png", r"call\.image: no image file 'dog\.png' in "),
        ("image: notes.txt", r"call\.image: notes\.txt is no image that could be read, of PNG"),
        ("image: .", r"call\.image: no image file '\.'"),
        ("image: {file: cat.png, sha256: 12}", r"call\.image: sha256 is 12; it must be the 64"),
        ("image: {path: cat.png}", r"call\.image: .* is no image; give a file's name"),
        (f"image: {{file: cat.png, sha256: {'ab' * 32}}}", r"call\.image: cat\.png has the SHA-256 "),
        ("strenght: 0.5", r"call\.strenght: StableDiffusionImg2ImgPipeline has no option 'strenght'; did you mean str"),
        ("strength: 2", r"call\.strength: strength is 2; it must lie in 0 to 1"),
        ("guidance_scale: high", r"call\.guidance_scale: guidance_scale is 'high'; it must be a number"),
        ("prompt: cat", r"call\.prompt: prompt is no part of a call here; give prompts to the search"),
        ("num_inference_steps: 5", r"call\.num_inference_steps: .*say `steps` beside the pipeline"),
        ("generator: 5", r"call\.generator: .*seeds name"),
        ("num_images_per_prompt: 5", r"call\.num_images_per_prompt: .*the method says how many"),
        ("strength: .nan", r"call\.strength: nan is not finite"),
    ],
)
def test_what_is_wrong_with_a_call_is_refused_with_its_line_before_the_model_is_loaded(
    tmp_path, painter, call, says, monkeypatch
):
    import diffusers

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", None)
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(ExperimentError, match=rf"experiment\.yaml:4: models\.painter\.{says}"):
        build.Workshop(load(written(tmp_path, painter, call))).check()


def test_a_call_is_a_mapping_and_no_argument_is_said_twice(tmp_path, painter):
    with pytest.raises(ExperimentError, match=r"models\.painter\.call: 'cat\.png' is not a mapping"):
        from_data(
            {
                "prompts": ["a"],
                "rewards": {"r": "x:y"},
                "methods": {"m": "svdd"},
                "models": {"painter": {"call": "cat.png"}},
            }
        )
    model = Model(str(painter), 4, device="cpu", args={"strength": 0.5}, call={"strength": 0.5})
    with pytest.raises(ValueError, match="strength stands beside the pipeline, too"):
        denoiser(model)
    with pytest.raises(ExperimentError, match="no pipeline to call"):
        experiment = Experiment(
            ("a",),
            {"r": Named("test_call:contrast")},
            {"m": Named("svdd")},
            {"toy": Model("a:b", call={"strength": 1})},
        )
        build.Workshop(experiment).check()


def test_data_without_a_folder_names_no_files_but_by_their_hash():
    with pytest.raises(ValueError, match=r"no file 'cat\.png' is known here"):
        named("image", "cat.png", None)
    known = named("image", {"file": "cat.png", "sha256": "a" * 64}, None)
    assert known == ImageFile("cat.png", "a" * 64)
    with pytest.raises(ValueError, match=r"no image file 'cat\.png'"):
        known.open()


def test_files_stand_where_images_belong_and_nowhere_else(tmp_path):
    families.image().save(tmp_path / "a.png")
    found = named("ip_adapter_image", [["a.png"], "a.png"], tmp_path)
    assert [[type(one) for one in found[0]], type(found[1])] == [[ImageFile], ImageFile]
    images = opened(found)
    assert images[0][0].mode == "RGB" and images[1].size == (16, 16)
    for name, value in (("negative_prompt", "a.png"), ("strength", 0.5), ("image_guidance_scale", 1.5)):
        assert named(name, value, tmp_path) == value


def test_images_are_upright_and_in_rgb_and_of_one_frame(tmp_path):
    upright = families.image(16).crop((0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.convert("RGBA").save(tmp_path / "turned.png", exif=exif)
    assert ImageFile.find("turned.png", tmp_path).open().size == (8, 16)
    upright.save(tmp_path / "many.webp", save_all=True, append_images=[families.image(16, 1).crop((0, 0, 16, 8))])
    with pytest.raises(ValueError, match="it has 2 frames; give each frame a file"):
        ImageFile.find("many.webp", tmp_path)
    (tmp_path / "cut.png").write_bytes((tmp_path / "turned.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cut\.png is no image"):
        ImageFile.find("cut.png", tmp_path)


def test_a_file_too_large_to_be_an_image_is_not_read(tmp_path):
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(ValueError, match=r"large\.png has 268,435,457 bytes, and an image at most"):
        ImageFile.find("large.png", tmp_path)


# ---- the command line ---------------------------------------------------------------------------------------


def test_the_command_line_calls_as_an_experiment_does(tmp_path, painter, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = runs.run(load(written(tmp_path, painter)), tmp_path / "run")
    words = ["generate", "cat", "--model", str(painter), "--steps", "4", "--device", "cpu", "--method", "svdd"]
    words += ["-o", "width=2", "--reward", "test_call:contrast", "--out", "out"]
    assert cli.main([*words, "--call", "image=cat.png", "--call", "strength=0.5"]) == 0
    ours = Run.open("out")
    assert [r["reward"] for r in ours.records()] == [r["reward"] for r in run.records()]
    assert ours.experiment.models["painter"].call == run.experiment.models["painter"].call
    capsys.readouterr()
    for call, said in (("image=dog.png", "--call no image file 'dog.png'"), ("strenght=1", "did you mean strength")):
        assert cli.main([*words, "--call", call]) == 2
        assert said in capsys.readouterr().err


def test_studies_take_a_call_from_the_command_line(tmp_path, painter, monkeypatch):
    monkeypatch.chdir(tmp_path)
    families.image().save("cat.png")
    model = Model(str(painter), 4, device="cpu", call={"image": "cat.png"})
    assert load("demo", models={"painter": model}).models["painter"].call["image"].path == Path("cat.png").absolute()


# ---- which adapter ------------------------------------------------------------------------------------------


def test_an_option_of_the_pipelines_call_that_its_adapter_lacks_takes_the_call():
    pipe = tiny.pipeline()
    assert type(from_pipeline(pipe, guidance_scale=3.0)) is StableDiffusion
    assert type(from_pipeline(pipe, guidance_rescale=0.5, num_inference_steps=2)) is AnyPipeline
    with pytest.raises(TypeError, match="StableDiffusion has no option 'guidance_rescal'"):
        from_pipeline(pipe, guidance_rescal=1)
    found = dsearch.search(
        pipe, dsearch.methods.plain(contrast, 1), ["cat"], num_inference_steps=2, guidance_rescale=0.5
    )
    assert torch.isfinite(found.rewards).all()
