"""The command line, run for real on the model in the box."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dsearch import cli, methods
from dsearch.experiments.files import dumps
from dsearch.experiments.folder import Run
from dsearch.plots import to_pil
from dsearch.rewards import Colourfulness

QUICK = ["--steps", "3", "--reward", "compressibility", "--device", "cpu"]


def written(out):
    return [json.loads(line) for line in (Path(out) / "records.jsonl").read_text().splitlines()]


def test_generate_writes_pictures_a_grid_and_records_that_agree(tmp_path, capsys):
    out = tmp_path / "out"
    words = [
        "generate",
        "cat",
        "panda",
        *QUICK,
        "--beams",
        "2",
        "--rows-per-step",
        "4",
        "-o",
        "keep=2",
        "--out",
        str(out),
    ]
    assert cli.main(words) == 0
    records = written(out)
    assert [(r["prompt"], r["rank"]) for r in records] == [("cat", 0), ("cat", 1), ("panda", 0), ("panda", 1)]
    config = json.loads((out / "run.json").read_text())
    assert config["experiment"]["methods"] == {
        "dsearch": {"kind": "dsearch", "beams": 2, "rows_per_step": 4, "keep": 2}
    }
    assert config["devices"] == {"box": "cpu, float32"} and config["versions"]["torch"] == torch.__version__
    for record in records:
        assert record["bill"] == record["planned"] == methods.dsearch(len, 2, 2, 4).bill(3)._asdict()
        assert Image.open(out / record["image"]).size == (64, 64)
        assert len(record["path"]) == 3
    assert Image.open(out / "grid.png").width > 0
    assert "panda" in capsys.readouterr().out


def test_rewards_that_watch_are_told_beside_the_one_that_steers(tmp_path, capsys):
    words = ["generate", "cat", "panda", *QUICK, "--method", "svdd", "--rows-per-step", "2", "--out", str(tmp_path)]
    assert cli.main([*words, "--held-out", "clip", "colourfulness"]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[1].split() == ["compressibility", "clip", "colourfulness"]
    for record, line in zip(written(tmp_path), told.splitlines()[2:], strict=False):
        shown = [float(word) for word in line.split()[:3]]
        assert shown == pytest.approx([record["reward"], *record["held_out"].values()], abs=1e-4)
        pixels = torch.from_numpy(np.array(Image.open(tmp_path / record["image"]))).permute(2, 0, 1)[None] / 255
        assert Colourfulness()(pixels, [""]).item() == pytest.approx(record["held_out"]["colourfulness"], abs=1)


def test_a_prompt_never_becomes_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = "../../escape/$HOME"
    assert cli.main(["generate", hostile, "/etc/x", *QUICK, "--method", "plain", "-o", "beams=1", "--out", "here"]) == 0
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("[!.]*") if p.is_file()}
    (unit,) = (tmp_path / "here/units").iterdir()
    parts = ("records.jsonl", "sums.json", "timing.json", "trace.safetensors")
    inside = {f"here/units/{unit.name}/{name}" for name in parts}
    own = {"here/images/000000-0000-0000.png", "here/images/000000-0001-0000.png"}
    assert files == inside | own | {f"here/{n}" for n in ("grid.png", "records.jsonl", "run.json", "timings.jsonl")}
    assert written("here")[0]["prompt"] == hostile


def test_what_was_generated_is_shown_again_and_another_run_is_not_overwritten_unasked(tmp_path, capsys):
    words = ["generate", "cat", *QUICK, "--method", "plain", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    (tmp_path / "mine.txt").write_text("mine")
    before, image = capsys.readouterr().out, tmp_path / "images" / "000000-0000-0000.png"
    made = image.stat().st_mtime_ns
    assert cli.main(words) == 0
    assert capsys.readouterr().out == before and image.stat().st_mtime_ns == made
    assert cli.main([*words, "--seed", "1"]) == 2
    assert "another experiment (seeds differs: [0] there, [1] here)" in capsys.readouterr().err
    assert cli.main([*words, "--seed", "1", "--overwrite"]) == 0
    assert written(tmp_path)[0]["seed"] == 1 and (tmp_path / "mine.txt").read_text() == "mine"


def test_what_json_cannot_say_becomes_null():
    record = {"a": [1.5, float("inf")], "b": {"c": float("nan"), "d": "x"}, "e": (None, 2)}
    assert json.loads(dumps(record)) == {"a": [1.5, None], "b": {"c": None, "d": "x"}, "e": [None, 2]}


def test_a_reward_of_the_users_own_is_found_by_module_and_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_rewards_xyz.py").write_text("def red(images, prompts):\n    return images[:, 0].mean((1, 2))\n")
    words = [
        "generate",
        "cat",
        "--steps",
        "2",
        "--reward",
        "my_rewards_xyz:red",
        "--method",
        "svdd",
        "--rows-per-step",
        "2",
    ]
    assert cli.main([*words, "--device", "cpu", "--out", "o"]) == 0
    assert 0 <= written("o")[0]["reward"] <= 1


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["generate", "cat", "--method", "svdd", "-o", "nope=1"], ["nope", "width"]),
        (["generate", "cat", "-o", "nope"], ["NAME=VALUE"]),
        (["generate", "cat", "--reward", "nothing"], ["nothing", "compressibility"]),
        (["generate", "cat", "--reward", "json:nothing"], ["nothing"]),
        (["generate", "cat", *QUICK, "--model", "./no/such/folder"], ["no/such/folder"]),
        (["generate", "cat", "--reward", "hps"], ["hps needs --weights FILE"]),
        (
            ["generate", "cat", "--reward", "hps", "--weights", "no.pt", "--out", "none"],
            ["no.pt", "huggingface.co/xswu/HPSv2"],
        ),
        (["generate", "cat", "--reward", "aesthetic", "--weights", "no.pth"], ["aesthetic needs --clip DIR"]),
        (["generate", "cat", "--reward", "pickscore"], ["pickscore needs --clip DIR"]),
        (["generate", "cat", *QUICK, "--held-out", "nothing"], ["nothing", "colourfulness"]),
        (["run", "no/such.yaml"], ["no/such.yaml"]),
        (["run", "x.yaml", "--shard", "third"], ["x.yaml"]),
        (["report", "no/such/run"], ["no/such/run holds no run"]),
        (["merge", "no/such/run", "--out", "o"], ["no/such/run holds no run"]),
        (["compare", "no/such/run", "--out", "o"], ["no/such/run holds no run"]),
        (["generate", "cat", "--beams", "9", "--rows-per-step", "4"], ["rows_per_step=4", "beams=9"]),
        (["generate", "cat", "--reward", "clip", "--steps", "0"], ["num_inference_steps", "0"]),
        (["generate", "cat", "--model", "some/hub-id"], ["--reward", "--clip"]),
        (["generate", "cat", *QUICK, "--method", "svdd", "--eta", "0"], ["--eta"]),
        (["generate", "cat", *QUICK, "--noise", "cps"], ["noise='cps'", "as_flow"]),
        (
            ["generate", "cat", *QUICK, "--method", "svdd", "--beams", "4", "--rows-per-step", "2"],
            ["--rows-per-step 2", "--beams 4"],
        ),
        (["plan", "--method", "dsearch_r", "--beams", "4", "--rows-per-step", "8", "-o", "rate=0.03"], ["rate=0.03"]),
        (["plan", "--within", "rows=3"], ["rows", "model_calls", "seconds"]),
        (["plan", "--within", "decodes=many"], ["decodes=many", "number"]),
        (["plan", "--within", "seconds=3"], ["generate"]),
        (["plan", "--method", "published", "--within", "decodes=90"], ["published", "has no size"]),
        (
            ["plan", "--method", "best_of_n", "--steps", "9", "--within", "model_calls=3"],
            ["best_of_n", "model_calls=9"],
        ),
        (["plan", "--beside", "nothing", "--picture", "p.png"], ["nothing", "svdd"]),
        (["demo", "--seeds", "1", "--steps", "4"], ["seeds", "at least 2"]),
        (["demo", "--n", "1", "--steps", "4"], ["the smallest dsearch_r costs", "model_calls=4; raise it"]),
        (["demo", "--steps", "2", "--n", "2"], ["the smallest dsearch_r costs", "model_calls=4; raise it"]),
    ],
)
def test_what_is_wrong_is_named_without_a_traceback(words, names, capsys, tmp_path, monkeypatch, attack):
    attack("a command line is wrong; it ends with status 2 and one line that names what is")
    monkeypatch.chdir(tmp_path)  # where no earlier dsearch-out lies
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsearch: error: ")
    assert len(error.splitlines()) == 1
    for name in names:
        assert name in error


def test_the_plan_command_prints_the_bill_of_the_method(capsys, tmp_path):
    picture = tmp_path / "plan.png"
    assert cli.main(["plan", "--steps", "20", "--beams", "6", "--rows-per-step", "8", "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    bill = methods.dsearch(len, beams=6, rows_per_step=8).bill(20)
    assert f"{bill.model_calls:,} model calls, {bill.decodes:,} decodes" in text
    assert Image.open(picture).width > 0


@pytest.mark.parametrize(("limit", "width"), [(40, 4), (400, 6)])  # 1 + 9 w rows, as many decodes
def test_the_plan_command_sizes_a_method_and_the_others_beside_it(limit, width, capsys, tmp_path):
    picture = tmp_path / "plan.png"
    words = ["plan", "--method", "svdd", "--steps", "10", "--within", f"model_calls={limit}", "--within", "decodes=60"]
    assert cli.main([*words, "--beside", "psp", "beam", "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    bill = methods.svdd(len, width).bill(10)
    assert f"{bill.model_calls:,} model calls, {bill.decodes:,} decodes" in text
    beside = text.split("others within")[1]
    rows = {line.split()[0]: line.split() for line in beside.splitlines()[1:] if line.strip()}
    for name in ("psp", "beam", "best_of_n", "dsearch", "fk"):
        numbers = [int(word.replace(",", "")) for word in rows[name] if word.replace(",", "").isdigit()]
        assert 0 < numbers[0] <= bill.model_calls
    assert Image.open(picture).width > 0


def test_generate_within_seconds_records_the_prices_and_the_plan_that_they_bought(tmp_path):
    words = ["generate", "cat", *QUICK, "--method", "best_of_n", "--within", "seconds=3", "--within", "model_calls=30"]
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    (record,) = written(tmp_path)
    assert record["bill"] == record["planned"] and 3 <= record["bill"]["model_calls"] <= 30
    (prices,) = json.loads((tmp_path / "prices.json").read_text()).values()
    assert sum(p * n for p, n in zip(prices, record["bill"].values(), strict=True)) <= 3


def test_the_module_is_the_same_program():
    told = subprocess.run([sys.executable, "-m", "dsearch", "--help"], capture_output=True, text=True, check=True)
    assert {"generate", "plan", "demo"} <= set(told.stdout.replace(",", " ").split())


def test_pictures_keep_every_grey_level():
    levels = torch.arange(256).float().div(255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    (picture,) = to_pil(levels)
    assert np.array_equal(np.asarray(picture)[..., 0].ravel(), np.arange(256))


def test_a_preview_values_and_the_run_says_so(tmp_path):
    words = ["generate", "cat", *QUICK, "--method", "svdd", "--rows-per-step", "2"]
    assert cli.main([*words, "--preview", "--out", str(tmp_path / "quick")]) == 0
    assert cli.main([*words, "--out", str(tmp_path / "full")]) == 0
    quick, full = (Run.open(tmp_path / name) for name in ("quick", "full"))
    assert [run.experiment.models["box"].preview for run in (quick, full)] == ["box", None]
    values = [run.trace(run.units[0]).values[0] for run in (quick, full)]
    assert values[0].shape == values[1].shape and not torch.equal(*values)


def test_a_preview_of_another_model_is_refused(tmp_path, capsys):
    assert cli.main(["generate", "cat", *QUICK, "--preview", "elsewhere", "--out", str(tmp_path)]) == 2
    assert "preview elsewhere does not read the latents of box" in capsys.readouterr().err


def test_under_torchrun_the_same_images_are_written_once(tmp_path):
    words = ["generate", "cat", *QUICK, "--method", "svdd", "--rows-per-step", "4", "--reward", "clip"]
    assert cli.main([*words, "--out", str(tmp_path / "one")]) == 0
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dsearch"]
    done = subprocess.run([*run, *words, "--out", str(tmp_path / "two")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("records.jsonl") == 1
    (one,), (two,) = (written(tmp_path / name) for name in ("one", "two"))
    assert one["bill"] == two["bill"] and one["path"] == two["path"]
    assert two["reward"] == pytest.approx(one["reward"], abs=1e-3)
