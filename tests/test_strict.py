"""Experiments are held to what the docs promise: anything wrong is refused before a model is loaded, with its line."""

import json
import math
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import fuzz
import test_runs

from dsearch import cli
from dsearch.compare import compare
from dsearch.experiments import runs
from dsearch.experiments.build import Workshop, reward
from dsearch.experiments.document import DocumentError, read
from dsearch.experiments.experiment import Experiment, ExperimentError, Model, Named
from dsearch.experiments.folder import Run
from dsearch.experiments.models import check_model
from dsearch.experiments.reader import from_data, parse
from dsearch.experiments.typed import bind, checked_device, is_attribute
from dsearch.report import report

LEAST = "prompts: [cat]\nrewards: {size: %s}\nmethods: {m: %s}\nmodels: {m: %s}\n%s"


EXPERIMENTS = "an experiment file is wrong or damaged; refused with its line in one line, before anything is loaded"


def file(size="compressibility", m="svdd", model="{pipeline: box, steps: 4}", rest=""):
    return LEAST % (size, m, model, rest)


WRONG = [
    (file("{kind: compressibility, quality: 95.5}"), 2, "quality is 95.5; it must be a whole number"),
    (file("{kind: compressibility, size: '64'}"), 2, "size is '64'; it must be a whole number"),
    (file("{kind: compressibility, size: true}"), 2, "size is True; it must be a whole number"),
    (file("{kind: clip, path: judge, device: nonsense}"), 2, "device 'nonsense' is not known"),
    (file("{kind: clip, path: 3}"), 2, "path is 3; it must be"),
    (file("{kind: weighted, rewards: [clip, compressibility], weights: [1]}"), 2, "weights"),
    (file("{kind: weighted, rewards: clip}"), 2, "is not a list of rewards"),
    (file("{kind: weighted, rewards: [klip]}"), 2, "reward 'klip' is not known; did you mean clip?"),
    (
        file("{kind: weighted, rewards: [{kind: compressibility, size: a}]}"),
        2,
        "size is 'a'; it must be a whole number",
    ),
    (file("{kind: weighted, rewards: [3]}"), 2, "3 names no reward"),
    (file("{kind: constrained, reward: clip, at_least: 3}"), 2, "at_least=3 is not"),
    (file("{kind: cached, reward: clip, size: 1.5}"), 2, "size is 1.5; it must be a whole number"),
    (file(m="{kind: svdd, temperature: a}"), 3, "temperature is 'a'; it must be a number"),
    (file(m="{kind: svdd, width: 2.5}"), 3, "width is 2.5; it must be a whole number"),
    (file(m="{kind: fk, lam: '1'}"), 3, "lam is '1'; it must be a number"),
    (file(m="{kind: fk, lam: .nan}"), 3, "nan is not finite"),
    (file(m="{kind: fk, lam: -.inf}"), 3, "-inf is not finite"),
    (file(m="{kind: fk, lam: 1e400}"), 3, "inf is not finite"),
    (file(m="{kind: svdd, value: {lookahead: {steps: 1.5}}}"), 3, "steps is 1.5; it must be a whole number"),
    (file(model="{pipeline: box, eta: a}"), 4, "eta is 'a'; it must be a number"),
    (file(model="{pipeline: box, eta: -1}"), 4, "eta is -1; it must lie in 0 to inf"),
    (file(model="{pipeline: box, eta: .inf}"), 4, "inf is not finite"),
    (file(model="{pipeline: box, height: -64}"), 4, "height is -64; it must lie in 1 to 16384"),
    (file(model="{pipeline: box, height: 64.5}"), 4, "height is 64.5; it must be a whole number"),
    (file(model="{pipeline: box, guidance_scale: none}"), 4, "guidance_scale is 'none'; it must be a number"),
    (
        file(model="{pipeline: box, guidance: 3}"),
        4,
        "StableDiffusion has no option 'guidance'; did you mean guidance_scale?",
    ),
    (file(model="{pipeline: box, device: nonsense}"), 4, "device 'nonsense' is not known"),
    (file(model="{pipeline: box, device: 'cpu:7'}"), 4, "device cpu:7: there are 1"),
    (file(model="{pipeline: ./no/such}"), 4, "no model folder ./no/such"),
    (file(model="{pipeline: null}"), 4, "None is not a string"),
    (file(model="{pipeline: box, variant: 16}"), 4, "variant=16 is not a text"),
    (file(rest="thumbnails: 1000000000\n"), 5, "1000000000 is not a whole number of at least 0 and at most 4,096"),
    (file(rest="seeds: 1000000000\n"), 5, "1000000000 is not a whole number of at least 1 and at most 10,000"),
    (file(rest=f"seeds: [{10**40}]\n"), 5, "a whole number of 41 digits"),
    (file(rest="seeds: [1, 2, 1]\n"), 5, "seeds.2: 1 stands twice"),
    (
        file(rest="budgets: [{model_calls: 40}, {decodes: 9}, {model_calls: 40}]\n"),
        5,
        "budgets.2: {'model_calls': 40} st",
    ),
    (file(rest="objectives: [size, size]\n"), 5, "objectives.1: 'size' stands twice"),
    (file(rest="objectives: [[size]]\n"), 5, "objectives.0: ['size'] is not a name"),
    (file(rest="sweeps: [{seeds: [1, 1]}]\n"), 5, "sweeps.0.seeds.1: 1 stands twice"),
    (file(rest="batch: 1e3\n"), 5, "batch: 1000.0 is not a whole number"),
    (file(rest="budgets: [{seconds: .nan}]\n"), 5, "nan is not finite"),
    (file(rest="seeds: 2001-99-99\n"), 5, "'2001-99-99' cannot be read as timestamp"),
    (file(rest="seeds: !!int x\n"), 5, "'x' cannot be read as int"),
    (file(rest="x: &a [*a]\n"), 5, "an alias that holds itself"),
    (file(rest="x: &a {<<: *a}\n"), 5, "an alias that holds itself"),
    (file(rest="x: {<<: 3}\n"), 5, "<< merges no mapping"),
    (file(rest="? [a]\n: b\n"), 5, "is not a string"),
]


@pytest.mark.parametrize(("text", "line", "told"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_work_is_refused_with_its_line_before_anything_is_loaded(text, line, told, monkeypatch, attack):
    attack(EXPERIMENTS)
    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", None)
    with pytest.raises(ExperimentError) as error:
        Workshop(parse(text, "e.yaml")).check()
    assert str(error.value).startswith(f"e.yaml:{line}: ") and told in str(error.value), error.value


def test_numbers_are_what_yaml_of_today_says_they_are():
    data, _ = read("[1e-2, -1E3, 1e5, .5e1, 1.5e+2, '1e-2', e-2, 1e, 0.5, 12e03]")
    assert data == [0.01, -1000.0, 1e5, 5.0, 150.0, "1e-2", "e-2", "1e", 0.5, 12000.0]
    found = parse(file(m="{kind: fk, lam: 1e-2}"))
    Workshop(found).check()
    assert found.methods["m"].args == {"lam": 0.01}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            {"kind": "weighted", "rewards": ["compressibility", "colourfulness"], "weights": [1, 0.5]},
            lambda c, f: c + f / 2,
        ),
        ({"kind": "ZScored", "reward": "compressibility", "mean": -1.0, "std": 2.0}, lambda c, f: (c + 1) / 2),
        ({"kind": "cached", "reward": {"kind": "compressibility", "quality": 95}}, lambda c, f: c),
        ({"kind": "constrained", "reward": "compressibility", "at_least": {"colourfulness": -1e9}}, lambda c, f: c),
        (
            {"kind": "constrained", "reward": "compressibility", "at_least": [["colourfulness", 1e6]], "penalty": 2.0},
            lambda c, f: c - 2 * (1e6 - f),
        ),
        (
            {
                "kind": "cached",
                "reward": {"kind": "weighted", "rewards": [{"kind": "cached", "reward": "compressibility"}]},
            },
            lambda c, f: c,
        ),
    ],
    ids=["weighted", "zscored", "cached", "constrained", "constrained pairs", "nested"],
)
def test_rewards_of_rewards_are_built_of_their_names(words, expected):
    experiment = from_data({"prompts": ["a"], "rewards": {"r": words}, "methods": {"m": "svdd"}})
    Workshop(experiment).check()
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    parts = [reward(Named(name))(images, ["a"] * 3) for name in ("compressibility", "colourfulness")]
    made = reward(experiment.rewards["r"])(images, ["a"] * 3)
    torch.testing.assert_close(made, expected(*parts).to(made.dtype), rtol=1e-5, atol=1e-5)


def test_merge_keys_are_written_out_and_keep_their_lines():
    text = (
        "base: &base {pipeline: box, steps: 4}\nmore: &more\n  <<: *base\n  steps: 5\nmodels:\n"
        "  a: {<<: *base}\n  b: {<<: [*more, *base], eta: .5}\n  c:\n    <<: *more\n    steps: 6\n"
    )
    data, lines = read(text)
    box = {"pipeline": "box", "steps": 4}
    assert data["models"] == {"a": box, "b": {**box, "steps": 5, "eta": 0.5}, "c": {**box, "steps": 6}}
    assert lines["models", "c", "steps"] in (1, 4, 10) and lines["models", "a", "pipeline"] == 1


def bomb(depth):
    first = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    return first + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, depth))


@pytest.mark.parametrize(
    "text", [bomb(9), "a: " * 1, "[" * 100_000, "{a: " * 5000, "x: &x {y: *x}", "&a [*a]"], ids=range(6)
)
def test_no_document_takes_a_program_down(text):
    began = time.process_time()
    try:
        data, _ = read(text)
        assert data in ({"a": None},)
    except DocumentError as error:
        assert str(error)
    assert time.process_time() - began < 20  # the machine's mercy: a bomb written out would take hours


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        *[(name, True) for name in ("a:b", "a.b:c", "_a:b.c", "my_module:my_reward", "é:ü")],
        *[
            (name, False)
            for name in (r"C:\models\sd15", "C:/models", "run_12:30:00", "./a:b", "a:", ":b", "a b:c", "a:b:c")
        ],
        *[(name, False) for name in ("~/models", "a/b:c", "a:b-c", "a:3", "", "box", "org/model", "a:b\n", "http://x")],
    ],
)
def test_only_what_can_be_a_module_and_its_attribute_is_one(text, is_one):
    assert is_attribute(text) is is_one


def test_paths_with_colons_and_tildes_are_paths(tmp_path, monkeypatch):
    for name in (r"C:\models\sd15", str(tmp_path / "run_12:30:00"), "~/models"):
        with pytest.raises(ValueError, match="no model folder"):
            check_model(Model(name, device="cpu"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("models", "run_12:30:00"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    for name in ("~/models", str(tmp_path / "run_12:30:00")):
        check_model(Model(name, device="cpu"))
        with pytest.raises(TypeError, match="has no option 'gidance'"):
            check_model(Model(name, device="cpu", args={"gidance": 2}))


def test_devices_that_are_not_here_are_refused():
    assert checked_device("cpu") == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="no GPU"):
            checked_device("cuda")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_settings_that_are_no_numbers_are_refused_in_python_and_on_the_command_line(value, capsys):
    experiment = Experiment(
        prompts=("a",), rewards={"r": Named("compressibility")}, methods={"m": Named("fk", {"lam": value})}
    )
    with pytest.raises(ExperimentError, match="is not finite"):
        Workshop(experiment).check()
    for flag in ("--guidance-scale", "--eta"):
        with pytest.raises(SystemExit) as left:
            cli.main(["generate", "cat", f"{flag}={value}"])
        assert left.value.code == 2 and "not a finite number" in capsys.readouterr().err
    assert cli.main(["generate", "cat", "--method", "fk", "-o", f"lam={1e400 if value > 0 else -1e400}"]) == 2
    capsys.readouterr()


def takes(
    a: int, b: "float | None" = None, *, c: str = "", d: "list[float] | None" = None, e: tuple[int, int] = (0, 0)
):
    """What arguments are held to."""


@pytest.mark.parametrize(
    "args",
    [
        {"a": 1},
        {"a": 1, "b": 2},
        {"a": 1, "b": None},
        {"a": 1, "d": [1, 2.5]},
        {"a": 1, "e": [1, 2]},
        {"a": 1, "c": "x"},
    ],
)
def test_arguments_that_fit_their_annotations_are_taken(args):
    bind(takes, args, "takes")


@pytest.mark.parametrize(
    "args",
    [
        *[{}, {"a": "1"}, {"a": 1.0}, {"a": True}, {"a": None}, {"a": 1, "b": "2"}, {"a": 1, "c": 3}],
        *[{"a": 1, "d": [None]}, {"a": 1, "d": "12"}, {"a": 1, "e": [1]}, {"a": 1, "e": [1, "2"]}, {"a": 1, "f": 1}],
    ],
)
def test_arguments_that_do_not_fit_are_refused(args):
    with pytest.raises(ValueError):
        bind(takes, args, "takes")


def test_neither_compare_nor_report_runs_what_a_run_names(tmp_path, monkeypatch):
    """A run whose rewards, methods and models are a module of its maker's; here it would leave a trace."""
    parts = {"prompts": ("a", "b"), "budgets": ({"model_calls": 12},), "seeds": (0, 1, 2)}
    run = runs.run(test_runs.toy(**parts), tmp_path / "run")
    foreign = json.loads((run.folder / "run.json").read_text().replace("test_runs:", "foreign_module:"))
    names = foreign["experiment"]["rewards"]
    names["dark"] = {"kind": "clip", "path": "somebody/their-clip", "download": True}
    (run.folder / "run.json").write_text(json.dumps(foreign))
    (tmp_path / "foreign_module.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = Run.open(run.folder)
    for old, new in zip(run.units, found.units, strict=True):  # their names are of what they search
        (run.folder / "units" / old.name).rename(run.folder / "units" / new.name)
    calls = []
    for place in ("huggingface_hub.snapshot_download", "huggingface_hub.hf_hub_download", "socket.socket.connect"):
        monkeypatch.setattr(place, lambda *args, **options: calls.append(args))
    compare([found], tmp_path / "comparison")
    report(found, tmp_path / "page.html")
    for name in ("bright", "dark"):
        with pytest.raises(ExperimentError, match="embed"):
            compare([found], tmp_path / "again", embed=name)
    assert not (tmp_path / "ran").exists() and not calls and "foreign_module" not in sys.modules


def escapes(attack, n, seed):
    """Of `n` damaged files: those that are neither an experiment nor an ExperimentError with the file's name."""
    found, refused = [], 0
    for text in fuzz.mutations(fuzz.WHOLE, n, seed):
        attack(EXPERIMENTS)
        try:
            Workshop(parse(text, "e.yaml")).check()
        except ExperimentError as error:
            refused += 1
            if not str(error).startswith("e.yaml") or "\n" in str(error):
                found.append((text, error))
        except Exception as error:
            found.append((text, error))
    return found, refused


def test_a_damaged_file_is_an_experiment_or_is_refused_with_its_place(attack):
    assert Workshop(parse(fuzz.WHOLE)).check() is None
    found, refused = escapes(attack, 150, seed=0)
    assert not found, found[0]
    assert refused > 75


@pytest.mark.slow
def test_a_file_damaged_in_1500_ways_is_an_experiment_or_is_refused_with_its_place(attack):
    found, refused = escapes(attack, 1500, seed=1)
    assert not found, found[0]
    assert refused > 750


def test_a_run_of_a_list_that_is_no_list_names_its_place(tmp_path):
    shutil.copytree(Path(__file__).parent / "data" / "run-0.1.0", tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    about["experiment"]["seeds"] = [0, 0]
    (tmp_path / "run" / "run.json").write_text(json.dumps(about))
    with pytest.raises(ExperimentError, match=r"run\.json: seeds\.1: 0 stands twice"):
        Run.open(tmp_path / "run")
