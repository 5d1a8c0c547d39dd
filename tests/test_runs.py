"""Runs on disk: killed at any moment they go on to the same bytes; shards merge into the same run."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dsearch import Budget, HeldOut, SearchError, methods, pilot, search
from dsearch.adapters import GaussianMixture
from dsearch.experiments import runs
from dsearch.experiments.build import Workshop
from dsearch.experiments.experiment import Experiment, ExperimentError, Model, Named
from dsearch.experiments.folder import Run
from dsearch.experiments.locks import locked

sys.path.insert(0, str(Path(__file__).parent))


class Painted(GaussianMixture):
    """A toy whose samples are flat pictures."""

    def decode(self, x0):
        return torch.sigmoid(x0)[:, :1, None, None].expand(-1, 3, 4, 4)


def painted():
    return Painted(num_steps=6)


def bright(images, prompts):
    return images.mean((1, 2, 3))


def dark(images, prompts):
    return 1 - images.mean((1, 2, 3)) + 0.001 * torch.tensor([float(len(p)) for p in prompts])


def toy(**changes):
    parts = {
        "prompts": ("a", "../b", "<c>", "🦊", "a"),
        "rewards": {"bright": Named("test_runs:bright"), "dark": Named("test_runs:dark")},
        "methods": {"SVDD": Named("svdd"), "best of/N": Named("best_of_n")},
        "models": {"toy": Model("test_runs:painted")},
        "budgets": ({"model_calls": 24}, {"model_calls": 48}),
        "seeds": (0, 7),
        "batch": 2,
    }
    return Experiment(**{**parts, **changes})


def files(folder):
    """What must be the same, byte for byte: everything but timings and locks."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith((".shard", ".prices", ".pilots", "timing"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return runs.run(toy(), tmp_path_factory.mktemp("runs") / "whole")


def test_a_run_holds_one_record_an_image_that_a_search_of_its_own_repeats(whole):
    assert whole.complete and len(whole.units) == 2 * 2 * 2 * 3
    records = [json.loads(line) for line in (whole.folder / "records.jsonl").read_text().splitlines()]
    assert records == whole.records() and len(records) == 2 * 2 * 2 * 5
    shop = Workshop(whole.experiment)
    for unit in whole.units[::5]:
        method = shop.method(unit, None)
        prompts = [whole.experiment.prompts[p] for p in unit.positions]
        result = search(painted(), method, prompts, ids=unit.positions, seed=unit.seed, watch=[HeldOut({"dark": dark})])
        own = [r for r in records if r["unit"] == unit.name]
        assert [r["reward"] for r in own] == result.rewards.flatten().tolist()
        assert [r["held_out"]["dark"] for r in own] == result.held_out["dark"].flatten().tolist()
        assert [r["path"] for r in own] == result.lineage.path().flatten(0, 1).tolist()
        assert [r["prompt"] for r in own] == prompts and [r["position"] for r in own] == list(unit.positions)
        level = Image.open(whole.folder / own[0]["image"]).getpixel((0, 0))[0]
        assert level == round(float(result.images[0, 0].mean()) * 255)
        trace = whole.trace(unit)
        assert trace.prompts == prompts and trace.order.tolist() == result.lineage.order.tolist()
        assert trace.alive == [s.alive for s in result.trace] and trace.width == [s.width for s in result.trace]
        for kept, step in zip(trace.values, result.trace, strict=True):
            assert (kept is None) == (step.values is None)
            assert kept is None or torch.equal(kept, step.values.float())
        assert all(torch.equal(a, b) for a, b in zip(trace.child, result.lineage.child, strict=True))


def test_every_method_is_sized_to_the_bill(whole):
    for record in whole.records():
        limit = whole.experiment.budgets[record["budget"]]["model_calls"]
        assert 0.5 * limit < record["bill"]["model_calls"] <= limit


def test_names_of_files_are_counters_and_hashes_alone(whole):
    allowed = set("0123456789abcdef-.")
    for unit in (whole.folder / "units").iterdir():
        assert set(unit.name) <= allowed
    for image in (whole.folder / "images").iterdir():
        assert set(image.stem) <= allowed and image.suffix == ".png"


def test_nothing_is_generated_twice(whole):
    told, made = [], {f: f.stat().st_mtime_ns for f in whole.folder.rglob("*.png")}
    again = runs.run(toy(), whole.folder, say=told.append)
    assert again.complete and told == ["24 of 24 searches are there already"]
    assert made == {f: f.stat().st_mtime_ns for f in whole.folder.rglob("*.png")}


def test_batches_change_no_record_but_the_names_of_units(whole, tmp_path):
    alone = runs.run(toy(batch=1), tmp_path / "alone")

    def told(run):
        records = [{k: v for k, v in r.items() if k not in ("unit", "image")} for r in run.records()]
        return sorted(records, key=lambda r: json.dumps([r["budget"], r["method"], r["seed"], r["position"]]))

    assert told(alone) == told(whole)


@given(at=st.lists(st.integers(0, 23), max_size=24, unique=True), half=st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_run_goes_on_from_any_set_of_finished_units_to_the_same_bytes(whole, tmp_path_factory, at, half):
    folder = tmp_path_factory.mktemp("again") / "run"
    shutil.copytree(whole.folder, folder)
    (folder / "records.jsonl").unlink()
    for index in at:
        unit = whole.units[index]
        shutil.rmtree(folder / "units" / unit.name)
        for image in (folder / "images").glob(f"{unit.index:06}-*"):
            if not half:
                image.unlink()
    if half and at:  # what a kill leaves: part of a unit, part of a file
        (folder / "units" / f".1-1-{whole.units[at[0]].name}").mkdir()
        (folder / "images" / f".{whole.units[at[0]].index:06}-0000-0000.png.1-1").write_bytes(b"half")
    runs.run(toy(), folder)
    assert files(folder) == files(whole.folder)


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background was told to ignore it
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
import test_runs
from dsearch.experiments import runs
print("ready", flush=True)
runs.run(test_runs.toy(), sys.argv[1], say=lambda line: print(line, flush=True))
print("whole", flush=True)
"""


def started(folder):
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    # Not measured: coverage waits for a lock of its own for ever where an interrupt meets it.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True, env=env)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_killed_at_many_moments_it_ends_with_the_same_bytes(whole, tmp_path, seed, attack):
    folder, draw = tmp_path / "run", random.Random(seed)
    for kill in range(6):
        number = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[(kill + seed) % 3]
        attack(f"a process gets {number.name} at a random moment; the run then goes on to the same bytes")
        process = started(folder)
        for _ in range(draw.randint(1 + (kill > 0), 4)):  # lines: ready, what is there, and one a finished unit
            process.stdout.readline()
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(number)
        process.wait(timeout=60)
        assert process.returncode == -number or (number, process.returncode) == (signal.SIGINT, 1)
    assert 0 < len(Run.open(folder).finished) < 24
    process = started(folder)
    assert process.communicate()[0].endswith("whole\n")
    assert files(folder) == files(whole.folder)


class Killed(BaseException):
    """What stops a program wherever it is."""


@pytest.mark.parametrize("half", [False, True])
def test_stopped_at_any_write_it_ends_with_the_same_bytes(tmp_path, monkeypatch, half, attack):
    experiment, writes, stop = toy(seeds=(0,), budgets=({"model_calls": 12},), batch=3), [], [-1]

    def stopping(real):
        def moved(self, target):
            writes.append(target)
            if len(writes) == stop[0]:
                if half and self.is_file():
                    self.write_bytes(self.read_bytes()[:5])
                raise Killed
            return real(self, target)

        return moved

    for name in ("replace", "rename"):
        monkeypatch.setattr(Path, name, stopping(getattr(Path, name)))
    expected = files(runs.run(experiment, tmp_path / "whole").folder)
    total = len(writes)
    assert total > 20
    for at in range(1, total + 1):
        attack("a process ends before or within each of its writes; the run then goes on to the same bytes")
        writes.clear()
        stop[0] = at
        with pytest.raises(Killed):
            runs.run(experiment, tmp_path / f"{at}")
        stop[0] = -1
        runs.run(experiment, tmp_path / f"{at}")
        assert files(tmp_path / f"{at}") == expected


@pytest.mark.parametrize("n", [2, 3, 30])
def test_shards_in_one_folder_or_in_many_merge_into_the_same_run(whole, tmp_path, n):
    for i in range(1, n + 1):
        part = runs.run(toy(), tmp_path / "one", shard=(i, n))
        assert part.complete == (i >= min(n, 24))
        runs.run(toy(), tmp_path / f"part{i}", shard=(i, n))
    merged = runs.merge([tmp_path / f"part{i}" for i in range(1, n + 1)], tmp_path / "merged")
    assert merged.complete
    assert files(tmp_path / "one") == files(tmp_path / "merged") == files(whole.folder)
    runs.merge([tmp_path / "one", tmp_path / "merged"], tmp_path / "merged")  # again: nothing to do
    assert files(tmp_path / "merged") == files(whole.folder)


def test_shards_that_do_not_fit_are_refused(whole, tmp_path):
    runs.run(toy(), tmp_path / "a", shard=(1, 3))
    with pytest.raises(ExperimentError, match="no shard has 16 of 24 searches, 000001-"):
        runs.merge([tmp_path / "a"], tmp_path / "out")
    runs.run(toy(seeds=(0,)), tmp_path / "b")
    with pytest.raises(ExperimentError, match=r"seeds differs: \[0\] there, \[0, 7\] here"):
        runs.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(ExperimentError, match="nothing to merge"):
        runs.merge([], tmp_path / "out")
    with pytest.raises(ExperimentError, match="shard 4/3"):
        runs.run(toy(), tmp_path / "c", shard=(4, 3))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_experiment_is_refused_and_left_as_it_is(whole):
    before = files(whole.folder)
    with pytest.raises(ExperimentError, match="batch differs: 2 there, 3 here"):
        runs.run(toy(batch=3), whole.folder)
    assert files(whole.folder) == before


def test_another_version_or_number_of_threads_is_said(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**about, "threads": 99}))
    told = []
    runs.run(toy(), tmp_path / "run", say=told.append)
    assert told[0].startswith(f"note: threads was 99 and is now {torch.get_num_threads()}")


def test_one_shard_runs_once_at_a_time(whole):
    with (
        locked(whole.folder / ".shard-1-1"),
        pytest.raises(ExperimentError, match="another process is running shard 1/1"),
    ):
        runs.run(toy(), whole.folder)


def test_a_reward_that_breaks_off_a_run_loses_nothing_that_was_finished(tmp_path):
    calls = []

    def fragile(images, prompts):
        calls.append(len(images))
        if sum(calls) > 150:
            raise ConnectionError("no answer")
        return images.mean((1, 2, 3))

    experiment = toy(rewards={"fragile": Named("given")}, budgets=({},))
    with pytest.raises(SearchError, match="no answer"):
        runs.run(experiment, tmp_path, given={"fragile": fragile})
    kept = Run.open(tmp_path).finished
    assert kept
    run = runs.run(experiment, tmp_path, given={"fragile": bright})
    assert run.complete and run.finished[: len(kept)] == kept


def test_what_cannot_be_loaded_leaves_no_run(tmp_path):
    experiment = toy(rewards={"hps": Named("hps", {"weights": "no.pt"})}, budgets=({},))
    with pytest.raises(ExperimentError, match=r"rewards\.hps: .*no\.pt"):
        runs.run(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "own").mkdir()
    with pytest.raises(ExperimentError, match=r"rewards\.hps: .*no\.pt"):
        runs.run(experiment, tmp_path / "own")
    assert (tmp_path / "own").is_dir() and not (tmp_path / "own" / "run.json").exists()


def test_thumbnails_are_kept_as_strips_of_all_candidates(tmp_path):
    run = runs.run(toy(thumbnails=8, seeds=(0,), budgets=({"model_calls": 24},)), tmp_path)
    unit = run.units[1]
    trace, strips = run.trace(unit), run.thumbnails(unit)
    for (b, i), strip in strips.items():
        (tmp_path / "strip.webp").write_bytes(strip)
        with Image.open(tmp_path / "strip.webp") as picture:
            n = trace.values[i].shape[1]
            assert picture.size == (4 * n, 4)
            level = picture.convert("RGB").getpixel((4 * (n - 1) + 2, 2))[0]
            assert level / 255 == pytest.approx(trace.values[i][b, n - 1].item(), abs=0.03)
    assert set(strips) == {(b, i) for b in range(len(unit.positions)) for i in range(6) if trace.values[i] is not None}


def test_many_candidates_are_wrapped_into_rows_that_a_picture_can_hold(tmp_path):
    methods = {"SVDD": Named("svdd", {"width": 5000})}
    run = runs.run(toy(thumbnails=8, seeds=(0,), budgets=({},), methods=methods, prompts=("a",)), tmp_path)
    (tmp_path / "strip.webp").write_bytes(run.thumbnails(run.units[0])[0, 0])
    with Image.open(tmp_path / "strip.webp") as picture:
        assert picture.size == (4 * 4095, 4 * 2)


def test_pooled_prompts_and_models_without_pictures_have_records(tmp_path):
    pooled = {"published": Named("published", {"bs": 5, "duplicate_size": 3})}
    run = runs.run(toy(methods=pooled, budgets=({},), batch=None, seeds=(0,)), tmp_path / "pool")
    assert [r["prompt"] for r in run.records()]
    for record in run.records():
        assert run.experiment.prompts[record["position"]] == record["prompt"]
    models = {"plain": Model("dsearch.adapters:GaussianMixture", args={"num_steps": 4})}
    rewards = {"right": Named("test_runs:right")}
    run = runs.run(toy(models=models, rewards=rewards, budgets=({},)), tmp_path / "points")
    assert {r["image"] for r in run.records()} == {None} and not (tmp_path / "points" / "images").exists()


def right(x, prompts):
    return x[:, 0]


def test_budgets_in_seconds_are_measured_once_and_kept(tmp_path):
    experiment = toy(budgets=({"seconds": 0.02},), seeds=(0,), methods={"SVDD": Named("svdd")}, chunks={"network": 4})
    run = runs.run(experiment, tmp_path)
    prices = (tmp_path / "prices.json").read_text()
    assert runs.run(experiment, tmp_path).complete and (tmp_path / "prices.json").read_text() == prices
    fixed = {"model_call": 0.01, "decode": 0.0, "reward_call": 0.0}
    other = toy(budgets=({"seconds": 0.5},), prices=fixed, methods={"SVDD": Named("svdd")})
    run = runs.run(other, tmp_path / "fixed")
    assert {r["bill"]["model_calls"] for r in run.records()} == {1 + 9 * 5}  # the widest within 50 rows


PILOTED = {
    "FK": Named("fk", {"lam": {"per_std": 3}, "every": 2}),
    "as given": Named("fk", {"every": 2}),
    "tuned": Named("tuned", {"gain": "pilot"}),
}


def test_a_pilot_is_run_once_for_an_objective_and_its_methods_are_what_they_say(tmp_path):
    parts = {"methods": PILOTED, "batch": None, "seeds": (0,), "pilot": {"samples": 8, "prompts": 3}}
    run = runs.run(toy(**parts, objectives=("bright", "dark")), tmp_path / "run")
    pilots = json.loads((tmp_path / "run" / "pilots.json").read_text())
    assert set(pilots) == {"toy/bright", "toy/dark"}
    made = pilot(painted(), bright, toy().prompts[:3], 8)
    std, gain = pilots["toy/bright"]
    assert std == pytest.approx(float(made.values[..., -1].std(dim=1).mean())) and gain == pytest.approx(made.gain)
    for name, method in {"FK": methods.fk(bright, lam=3 / std, every=2), "tuned": methods.tuned(bright, gain)}.items():
        own = [r["reward"] for r in run.records() if (r["method"], r["objective"], r["budget"]) == (name, "bright", 1)]
        sized = method.within(Budget(model_calls=48), 6)
        assert own == search(painted(), sized, toy().prompts, seed=0).rewards.flatten().tolist()
    before = files(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "units" / run.units[0].name)
    assert runs.run(run.experiment, tmp_path / "run").complete and files(tmp_path / "run") == before


def test_shards_bring_their_pilots_and_refuse_those_that_differ(tmp_path):
    experiment = toy(methods=PILOTED, seeds=(0,), batch=None, prompts=("a",))
    whole = runs.run(experiment, tmp_path / "whole")
    parts = [runs.run(experiment, tmp_path / f"{i}", shard=(i, 2)).folder for i in (1, 2)]
    assert files(runs.merge(parts, tmp_path / "merged").folder) == files(whole.folder)
    (parts[1] / "pilots.json").write_text('{"toy/bright": [1, [1]]}')
    with pytest.raises(ExperimentError, match="other pilots of toy/bright"):
        runs.merge(parts, tmp_path / "again")


def test_shards_bring_the_prices_that_each_has_used_and_refuse_those_that_differ(tmp_path):
    fixed = {"model_call": 0.01, "decode": 0.0, "reward_call": 0.0}
    experiment = toy(
        budgets=({"seconds": 0.3},), objectives=("bright", "dark"), seeds=(0,), batch=None, prices=fixed, prompts=("a",)
    )
    for i in range(1, 5):
        runs.run(experiment, tmp_path / f"{i}", shard=(i, 4))
    parts = [tmp_path / f"{i}" for i in range(1, 5)]
    whole = runs.run(experiment, tmp_path / "whole")
    assert files(runs.merge(parts, tmp_path / "merged").folder) == files(whole.folder)
    (parts[1] / "prices.json").write_text('{"toy/bright": [1, 1, 1]}')
    with pytest.raises(ExperimentError, match="other prices of toy/bright"):
        runs.merge(parts, tmp_path / "again")


def test_timings_are_in_files_of_their_own(whole):
    lines = [json.loads(line) for line in (whole.folder / "timings.jsonl").read_text().splitlines()]
    assert [line["unit"] for line in lines] == [unit.name for unit in whole.units]
    assert lines == list(whole.timings().values())
    assert all(line["seconds"] >= 0 for line in lines)
    if Path("/proc/self/status").exists():
        assert all(line["peak_bytes"] > 0 for line in lines)
    assert not any("seconds" in record for record in whole.records())


def test_what_the_model_does_not_read_of_a_prompt_is_in_its_record(tmp_path):
    long = "cat " * 90
    experiment = Experiment(
        prompts=("cat", long),
        rewards={"size": Named("compressibility")},
        methods={"plain": Named("plain", {"beams": 1})},
        models={"box": Model("box", steps=2, device="cpu")},
    )
    with pytest.warns(UserWarning, match="does not read the end of 'cat cat"):
        records = runs.run(experiment, tmp_path).records()
    fits, cut = (record["cut"] for record in records)
    assert fits == "" and set(cut.split()) == {"cat"} and 0 < len(cut) < len(long)
