"""The paper's experiments, on a toy that takes no time and through the command line."""

import json

import pytest
import torch
from PIL import Image
from strategies import Counted

from dsearch import cli, methods, reproduce
from dsearch.adapters import toy

PROMPTS = ("a", "b", "c")


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
    out = tmp_path_factory.mktemp("reproduce")
    model = Painted(toy.GaussianMixture([[-1.0, 0.0], [1.0, 1.0]], 0.7, num_steps=8, shift={"a": 0.5}))
    flags = reproduce.Flags(4, 2, 2, 2, 8, 0.2, 3)
    experiments = {"red": reproduce.Experiment(red, PROMPTS, flags, {"green": green}, "share")}
    rows = reproduce.run(model, experiments, reproduce.Setting((4, 8), 3), out, say=lambda line: None)
    return model, rows, out


def test_methods_at_one_bill_spend_at_most_it_and_most_of_it(told):
    _, rows, _ = told
    for bill in (4, 8):
        own = [row for row in rows if row["part"] == "equal" and row["times_plain"] == bill]
        assert [row["method"] for row in own] == ["best-of-N", "SMC", "SVDD-PM", "DSearch", "DSearch-R"]
        assert all(0.6 * bill * 8 < row["model_calls"] <= bill * 8 for row in own)
        assert all(row["prompts_kept"] == 3 for row in own)


def test_published_rows_are_the_published_methods_bills_an_image(told):
    _, rows, _ = told
    own = {row["method"]: row for row in rows if row["part"] == "published"}
    wide = {"duplicate_size": 2, "w": 2, "search_schedule": "exponential"}
    made = {
        "DSearch": methods.published(red, 4, oversamplerate=2, drop_schedule="exponential", **wide),
        "DSearch-R": methods.published(red, 8, replacerate=0.2, **wide),
        "SVDD-PM": methods.published(red, 4, 3),
    }
    for name, method in made.items():
        plan = method.plan(8)
        assert own[name]["model_calls"] == pytest.approx(plan.model_calls / plan.keep[-1])


def test_every_row_spent_is_counted_in_the_table(told):
    model, rows, _ = told
    images = {"plain": 12, "equal": 3}
    total = sum(
        row["model_calls"] * (images.get(row["part"]) or {"DSearch": 4, "DSearch-R": 8, "SVDD-PM": 4}[row["method"]])
        for row in rows
        if not (row["part"] == "published" and row["method"] == "DSearch")
    )
    pool = next(row for row in rows if row["part"] == "published" and row["method"] == "DSearch")
    kept = (
        methods.published(red, 4, 2, 2, 2, search_schedule="exponential", drop_schedule="exponential").plan(8).keep[-1]
    )
    assert model.model_calls == 3 * (total + pool["model_calls"] * kept)


def test_search_raises_the_reward_and_the_panel_watches(told):
    _, rows, out = told
    mean = {(row["part"], row["method"], row["times_plain"]): sum(row["rewards"]) / 3 for row in rows}
    assert mean["equal", "SVDD-PM", 8] > mean["equal", "best-of-N", 4] > mean["plain", "plain", 1]
    assert all(len(row["panel"]["green"]) == 3 for row in rows)
    assert json.loads((out / "results.json").read_text())["rows"] == rows
    for picture in ("curves.png", "grid_red.png"):
        assert Image.open(out / picture).width > 200
    table = reproduce.table(rows)
    assert table.count("\n") == len(rows) + 1 and "| red | DSearch | as published |" in table


def test_what_cannot_run_is_refused_before_anything_does(tmp_path):
    with pytest.raises(ValueError, match="bill is 3; it must be a whole number of at least 4"):
        reproduce.Setting((3,))
    with pytest.raises(ValueError, match="seeds is 1"):
        reproduce.Setting(seeds=1)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["reproduce", "beauty"], ["beauty", "compressibility, aesthetic, hps"]),
        (["reproduce", "--bills", "2"], ["bill is 2", "at least 4"]),
        (["reproduce", "hps", "--model", "a/b"], ["hps needs its weights", "--hps FILE"]),
        (["reproduce", "aesthetic", "--aesthetic-head", "x.pth"], ["--aesthetic-clip"]),
        (["reproduce", "hps", "--hps-prompts", "no.txt"], ["no.txt", "one prompt a line"]),
        (["reproduce", "hps", "--hps", "no.pt", "--hps-prompts", __file__], ["no.pt"]),
    ],
)
def test_the_command_names_what_is_wrong(words, names, capsys):
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsearch: error: ") and len(error.splitlines()) == 1
    assert all(name in error for name in names)


@pytest.mark.slow
def test_the_command_runs_whole_on_the_model_in_the_box(tmp_path, capsys):
    words = ["reproduce", "--steps", "4", "--bills", "4", "--seeds", "2", "--device", "cpu", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    assert (tmp_path / "table.md").read_text() in capsys.readouterr().out
    assert {p.name for p in tmp_path.glob("*.png")} == {
        "curves.png",
        "grid_aesthetic.png",
        "grid_compressibility.png",
        "grid_hps.png",
    }
