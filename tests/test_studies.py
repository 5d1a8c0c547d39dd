"""The studies that ship with the library: what they ask, on a toy that takes no time and through the command line."""

import dataclasses
import json

import pytest
import torch
from PIL import Image
from strategies import Counted

from dsearch import Budget, cli, methods, studies
from dsearch.adapters import toy
from dsearch.compare import compare
from dsearch.compare.anchors import ANCHORS
from dsearch.experiments import build, runs
from dsearch.experiments.experiment import ExperimentError, Named
from dsearch.experiments.folder import Run
from dsearch.experiments.reader import load

QUICK = ["--seeds", "2", "--steps", "4", "--device", "cpu"]


@pytest.mark.parametrize("name", studies.NAMES)
def test_every_study_can_be_run(name):
    study = load(name)
    build.Workshop(study).check()
    assert len(study.seeds) >= 2 and load(studies.path(name)) == study


@pytest.mark.parametrize("name", studies.NAMES)
def test_methods_at_one_bill_spend_at_most_it_and_most_of_it(name):
    study = load(name)
    (model,) = study.models.values()
    for _, _, budget, key, _ in study.cells():
        if limits := study.budgets[budget]:
            limit = limits["model_calls"]
            made = build.method(study.methods[key], build.unasked)
            bill = made.within(Budget(model_calls=limit), model.num_steps).bill(model.num_steps)
            assert 0.6 * limit < bill.model_calls <= limit, key


def test_the_demonstrations_methods_are_those_of_the_readme():
    bills = {
        "plain": (160, 8),
        "best-of-N": (160, 8),
        "SVDD": (153, 153),
        "DSearch": (160, 116),
        "DSearch-R": (156, 156),
    }
    for key, named in load("demo").methods.items():
        bill = build.method(named, build.unasked).within(Budget(model_calls=160), 20).bill(20)
        assert (bill.model_calls, bill.decodes) == bills[key]


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no study is called 'dmeo'; choose among demo, ensemble, frontier"):
        studies.path("dmeo")
    with pytest.raises(FileNotFoundError):
        load("dmeo")


def test_fields_stand_in_the_place_of_the_files():
    study = load("demo", prompts=["panda"], seeds=3)
    assert (study.prompts, study.seeds) == (("panda",), (0, 1, 2)) and study.methods == load("demo").methods
    with pytest.raises(ExperimentError, match=r"^demo: seeds: 0 is not a whole number"):
        load("demo", seeds=0)


# The paper's experiments


class Painted(Counted):
    """The toy's plane as pictures of one colour: it can be drawn, and scored from its pixels."""

    def decode(self, x0):
        self.decodes += len(x0)
        pixels = torch.cat([x0, x0[:, :1]], dim=1).sigmoid()
        return pixels[:, :, None, None].expand(-1, 3, 8, 8)


def red(images, prompts):
    return images[:, 0, 0, 0]


def green(images, prompts):
    return images[:, 1, 0, 0]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    out = tmp_path_factory.mktemp("paper")
    model = Painted(toy.GaussianMixture([[-1.0, 0.0], [1.0, 1.0]], 0.7, num_steps=8, shift={"cat": 0.5}))
    study = load("paper-small", models={"toy": "given"}, budgets=[{"model_calls": 32}, {"model_calls": 64}])
    rewards = {"compressibility": Named("given"), "hps": Named("given")}
    study = dataclasses.replace(study.under("compressibility"), rewards=rewards, held_out=("hps",))
    run = runs.run(study, out / "run", given={"toy": model, "compressibility": red, "hps": green})
    return model, run, compare([run], out / "run", say=lambda text: None)


def row(found, method, budget):
    return next(r for r in found.rows if (r.method, dict(r.budget).get("model_calls")) == (method, budget))


def test_every_method_is_there_at_equal_bills_and_the_published_ones_as_published(told):
    _, _, found = told
    pooled = ["DSearch as published", "DSearch-R as published", "SVDD-PM as published"]
    equal = ["best-of-N", "SMC", "SVDD-PM", "DSearch", "DSearch-R"]
    assert [r.method for r in found.rows] == ["plain", *pooled, *equal, *equal]
    assert all(r.kept == 7 for r in found.rows if r.budget)
    assert all((r.reward.above is None) == (r.method == "best-of-N" or not r.budget) for r in found.rows)
    assert "best-of-N has no budget in common with: plain as given; DSearch as published as given" in found.table()


def test_published_rows_are_the_published_methods_bills(told):
    _, _, found = told
    wide = {"duplicate_size": 2, "w": 2, "search_schedule": "exponential"}
    made = {
        "DSearch": methods.published(red, 7, oversamplerate=2, drop_schedule="exponential", **wide),
        "DSearch-R": methods.published(red, 14, replacerate=0.08, **wide),
        "SVDD-PM": methods.published(red, 7, 5),
    }
    for name, method in made.items():
        assert row(found, f"{name} as published", None).bill["model_calls"] * 7 == method.plan(8).model_calls


def test_every_row_spent_is_counted_in_the_table_but_for_the_pilots(told):
    model, run, found = told
    pilot = 16 * 4 * 8
    assert model.model_calls == pilot + sum(3 * 7 * r.bill["model_calls"] for r in found.rows)
    (std, gain), *others = json.loads((run.folder / "pilots.json").read_text()).values()
    assert not others and std > 0 and len(gain) == 7


def test_search_raises_the_reward_while_the_others_watch(told):
    _, run, found = told
    mean = [row(found, *at).reward.own.mean for at in (("SVDD-PM", 64), ("best-of-N", 32), ("plain", None))]
    assert mean == sorted(mean, reverse=True)
    assert all(set(r.held_out) == {"hps"} for r in found.rows)
    drawn = ("reward_0_model_calls", "pareto_0", "along_0", "correlation_0", "grid_0_0")
    assert {file.stem for file in run.folder.glob("*.png")} == set(drawn)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["reproduce", "beauty"], ["beauty", "compressibility, aesthetic, hps"]),
        (["reproduce", "--bills", "0"], ["a bill in plain samples is 0", "at least 1"]),
        (["reproduce", "--bills", "2"], ["the smallest dsearch_r costs", "model_calls=40; raise it"]),
        (["reproduce", "--seeds", "1"], ["seeds is 1", "at least 2"]),
        (["reproduce", "hps", "--model", "a/b"], ["hps needs its weights", "--hps FILE"]),
        (["reproduce", "aesthetic", "--aesthetic-head", "x.pth"], ["--aesthetic-clip"]),
        (["reproduce", "hps", "--hps-prompts", "no.txt"], ["no.txt", "one prompt a line"]),
        (["reproduce", "hps", "--hps", "no.pt", "--hps-prompts", __file__], ["no.pt"]),
        (["reproduce", "psp", "--model", "a/b"], ["psp needs its weights: --image-reward FILE"]),
        (["reproduce", "psp", "--image-reward", "no.pt"], ["no.pt", "ImageReward.pt of huggingface.co"]),
        (
            ["reproduce", "psp", "--geneval-prompts", "no.jsonl"],
            ["no prompts at no.jsonl", "evaluation_metadata.jsonl"],
        ),
        (["reproduce", "psp", "--geneval-prompts", __file__], ["553"]),
    ],
)
def test_the_command_names_what_is_wrong(words, names, capsys, tmp_path):
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsearch: error: ") and len(error.splitlines()) == 1
    assert all(name in error for name in names)


def test_prompts_of_their_own_make_an_experiment_of_its_own(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("panda\ncat\n")
    words = ["reproduce", "hps", *QUICK, "--bills", "4", "--hps-prompts", str(tmp_path / "prompts.txt")]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    run = Run.open(tmp_path / "out" / "hps")
    assert run.complete and run.experiment.prompts == ("panda", "cat") and run.experiment.objectives == ("hps",)
    assert (run.folder / "table.md").read_text() in capsys.readouterr().out


@pytest.mark.slow
def test_the_matched_table_of_psp_is_one_command(tmp_path, capsys):
    words = ["reproduce", "psp", *QUICK, "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    run = Run.open(tmp_path / "out")
    assert run.complete and run.experiment.objectives == ("ImageReward",) and run.experiment.held_out == ("HPS",)
    assert list(run.experiment.methods) == ["base", "best-of-4", "FK", "DSearch", "SVDD", "RBF", "PSP"]
    said = capsys.readouterr().out
    assert "| AUC of" not in said and "published" not in said  # nothing was published of the model in the box
    bills = {r["method"]: r["bill"]["model_calls"] for r in run.records()}
    assert bills["base"] == 4 * 4  # four images, whose mean counts
    assert all(0.6 * 16 < bill <= 16 for name, bill in bills.items() if name != "RBF") and bills["RBF"] <= 16


def test_on_the_published_model_psp_is_searched_as_published():
    study = load("psp")
    (model,) = study.models.values()
    assert model.num_steps == 64 and study.budgets[-1] == {"model_calls": 4 * 64}
    figures = next(a for a in ANCHORS if a.measure == "ImageReward").values
    assert set(study.methods) == set(figures) - {"BFS"}


# The demonstration


def test_the_demonstration_is_a_run_that_goes_on_and_is_reported_and_compared(tmp_path, capsys):
    out = str(tmp_path / "demo-out")
    words = ["demo", "--prompts", "cat", "panda", *QUICK, "--n", "4", "--out", out]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    run = Run.open(out)
    assert run.complete and list(run.experiment.objectives) == ["clip", "compressibility"]
    assert (run.folder / "table.md").read_text() in told
    assert all(r["bill"]["model_calls"] <= 16 for r in run.records())
    for name in ("grid_0_0", "along_0", "pareto_0", "reward_0_model_calls"):
        assert Image.open(run.folder / f"{name}.png").width > 300
    best = {key(r): r["reward"] for r in run.records() if r["method"] == "best-of-N" and r["rank"] == 0}
    for record in run.records():
        if record["method"] == "plain":  # the same noise: none of its images exceeds the best
            assert record["reward"] <= best[key(record)]
    assert cli.main(words) == 0
    assert "20 of 20 searches are there already" in capsys.readouterr().out
    assert cli.main(["report", out]) == 0 and (run.folder / "report.html").exists()
    assert cli.main(["compare", out, "--baseline", "plain", "--out", str(tmp_path / "other")]) == 0


def key(record):
    return record["objective"], record["seed"], record["prompt"]


def test_unchanged_it_is_the_study_itself(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(runs, "run", lambda experiment, *_, **__: asked.append(experiment) or StopRun.now())
    for words in (["demo"], ["run", "demo"]):
        assert cli.main([*words, "--out", str(tmp_path)]) == 2
    assert asked == [load("demo"), load("demo")]


class StopRun(ValueError):
    """Ends a command before it runs anything."""

    @classmethod
    def now(cls):
        raise cls("enough")
