"""The command line never shows a traceback: a refusal is one line and status 2, and a bug says that it is one."""

import json
import shutil

import numpy as np
import pytest
from damage import bytewise

from dsearch import cli
from dsearch.box import clip_path

QUICK = ["--steps", "2", "--reward", "compressibility", "--device", "cpu", "--out", "o"]
PLAN = """
prompts: [cat, panda]
models: {box: {pipeline: box, steps: 2, device: cpu}}
rewards: {size: compressibility, colour: colourfulness}
objectives: [size]
methods: {best: {kind: best_of_n, n: 2}, svdd: {kind: svdd, width: 2}}
seeds: 2
thumbnails: 16
"""
EXPERIMENT = "prompts: [a]\nmodels: {m: box}\nrewards: {r: compressibility}\nmethods: {m: plain}\n"


def refused(words, capsys, status=2):
    """The one line that a command leaves on standard error."""
    assert cli.main(words) == status
    error = capsys.readouterr().err
    assert error.startswith("dsearch: ") and len(error.splitlines()) == 1 and len(error) < 2300
    return error


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of hostile files, and in it."""
    monkeypatch.chdir(tmp_path)
    runs = {"empty": "{}", "null": "\0" * 9, "list": "[]", "nothing": '{"experiment": null}', "deep": "[" * 100_000}
    runs["old"] = '{"experiment": {"prompts": ["a"], "guides": [["x"]]}}'
    for name, text in runs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(text)
    (tmp_path / "given.yaml").write_text(EXPERIMENT.replace("m: box", "m: {pipeline: given}"))
    (tmp_path / "object.yaml").write_text(EXPERIMENT.replace("r: compressibility", "r: given"))
    (tmp_path / "value.yaml").write_text(EXPERIMENT.replace("m: plain", "m: {kind: svdd, value: {}}"))
    for name in ("bin", "cut"):
        shutil.copytree(clip_path("guide"), tmp_path / name)
    (tmp_path / "bin" / "model.safetensors").unlink()
    (tmp_path / "bin" / "pytorch_model.bin").write_bytes(b"garbage" * 99)
    whole = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "raises_kinds.py").write_text("raise KeyError('at import')\n")
    (tmp_path / "bad.pth").write_bytes(b"garbage")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["plan", "--beams", "0", "--within", "model_calls=100"], ["--beams is 0", "at least 1"]),
        (["plan", "--method", "svdd", "--beams", "0", "--rows-per-step", "4"], ["--beams is 0", "at least 1"]),
        (["plan", "--method", "beam", "-o", "beams=a", "--rows-per-step", "4"], ["beams is 'a'"]),
        (["plan", "--rows-per-step", "0"], ["--rows-per-step is 0"]),
        (["plan", "--method", "svdd", "-o", "value={}"], ["value {} is not known", "posterior_mean, or lookahead"]),
        (["plan", "--method", "svdd", "-o", "value=3"], ["value 3 is not known", "lookahead"]),
        (["plan", "--method", "svdd", "-o", "value={'lookahead': 3}"], ["{'lookahead': 3}", "steps: K"]),
        (["plan", "--method", "svdd", "-o", "value=[]"], ["value [] is not known"]),
        (["plan", "--method", "tuned", "-o", "gain={}"], ["gain is {}", "must be a list"]),
        (["plan", "--method", "tuned", "-o", "gain=[]"], ["gain=[] names no step"]),
        (["plan", "-o", "beams=" + "-" * 5000 + "1"], ["beams is '-----", "…"]),
        (["plan", "-o", "beams=" + "(" * 500], ["beams is '((((("]),
        (["generate", "cat", *QUICK, "--model", "given"], ["models.given: no object was given"]),
        (["generate", "cat", *QUICK, "-o", "value={}"], ["methods.dsearch: value {}"]),
        (
            ["generate", "cat", *QUICK, "--clip", "bin", "--reward", "clip"],
            ["the CLIP model at 'bin' is damaged or none"],
        ),
        (
            ["generate", "cat", *QUICK, "--clip", "cut", "--reward", "clip"],
            ["the CLIP model at 'cut' is damaged or none"],
        ),
        (
            ["generate", "cat", *QUICK, "--reward", "aesthetic", "--clip", "cut", "--weights", "bad.pth"],
            ["'bad.pth' holds no weights", "improved-aesthetic-predictor"],
        ),
        (["generate", "cat", *QUICK[:-4], "--reward", "raises_kinds:x"], ["raises_kinds raised KeyError: 'at import'"]),
        (["run", "given.yaml"], ["given.yaml:2: models.m: no object was given for it"]),
        (["run", "object.yaml"], ["object.yaml:3: rewards.r: no object was given for it"]),
        (["run", "value.yaml"], ["value.yaml:4: methods.m: value {}"]),
        (["report", "empty"], ["empty/run.json"]),
        (["report", "null"], ["null/run.json"]),
        (["compare", "list", "--out", "x"], ["list/run.json"]),
        (["compare", "deep", "--out", "x"], ["deep/run.json"]),
        (["merge", "nothing", "--out", "x"], ["nothing/run.json"]),
        (["merge", "old", "--out", "x"], ["old/run.json"]),
    ],
)
def test_what_once_was_a_traceback_is_one_line(words, names, here, capsys, attack):
    attack("a command line is wrong; it ends with status 2 and one line that names what is")
    error = refused(words, capsys)
    assert error.startswith("dsearch: error: ")
    for name in names:
        assert name in error


def broken(error):
    def command(args):
        raise error

    return command


@pytest.mark.parametrize(
    "error", [KeyError("x"), IndexError("list index out of range"), AttributeError("a\nb"), StopIteration()]
)
def test_an_exception_that_nobody_expects_says_that_it_is_a_bug_and_how_to_report_it(error, monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "plan", broken(error))
    said = refused(["plan"], capsys, status=70)
    assert said.startswith(f"dsearch: bug: {type(error).__name__}: ")
    assert "please report" in said and "dsearch --debug COMMAND" in said
    with pytest.raises(type(error)):
        cli.main(["--debug", "plan"])


def test_an_expected_error_without_words_is_a_bug_too(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "plan", broken(RuntimeError()))
    assert "bug: RuntimeError" in refused(["plan"], capsys, status=70)


def test_memory_that_runs_out_is_no_bug(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "plan", broken(MemoryError()))
    assert "out of memory; make less at once (--chunk)" in refused(["plan"], capsys)


def test_an_interruption_has_its_own_status(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "plan", broken(KeyboardInterrupt()))
    assert refused(["plan"], capsys, status=130) == "dsearch: interrupted\n"


def test_debug_shows_where_a_refusal_came_from(capsys):
    with pytest.raises(ValueError, match="--beams is 0"):
        cli.main(["--debug", "plan", "--beams", "0"])


# Damaged units


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    (folder / "plan.yaml").write_text(PLAN)
    assert cli.main(["run", str(folder / "plan.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def other(content, rng):
    """A record, or a file, that says something else."""
    lines = content.decode().splitlines()
    record = json.loads(lines[0])
    key = list(record)[int(rng.integers(len(record)))]
    record[key] = [None, [], {}, "x", -1, 10**9, True][int(rng.integers(7))]
    if rng.integers(3) == 0:
        del record[key]
    return "\n".join([json.dumps(record), *lines[1:]]).encode()


def damage(whole, folder, i):
    """A copy of the run with one file of a unit missing, damaged or saying something else."""
    rng = np.random.default_rng([7, i])
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    files = sorted(file for file in (folder / "units").rglob("*") if file.is_file())
    file = files[int(rng.integers(len(files)))]
    kind = int(rng.integers(4))
    if kind == 0:
        file.unlink()
    elif kind == 1 and file.suffix in (".json", ".jsonl"):
        file.write_bytes(other(file.read_bytes(), rng))
    else:
        file.write_bytes(bytewise(file.read_bytes(), rng))
    return file


def hold(attack, whole, folder, numbers, capsys):
    """How many damages `compare` and `report` refused; the others are told as they are, and nothing else happens."""
    refusals = 0
    for i in numbers:
        attack("a unit is damaged or says something else; report and compare read it or refuse it by name in one line")
        file = damage(whole, folder, i)
        for words in (["report", str(folder)], ["compare", str(folder), "--out", str(folder / "table")]):
            status, error = cli.main(words), capsys.readouterr().err
            assert status in (0, 2), (i, file, error)
            if status == 2:
                refusals += 1
                assert len(error.splitlines()) == 1 and file.parent.name in error, (i, file, error)
    return refusals


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_unit_is_named_by_report_and_compare(whole, tmp_path, capsys, attack):
    assert hold(attack, whole, tmp_path / "run", range(8), capsys) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_unit_damaged_in_hundreds_of_ways_is_named_by_report_and_compare(whole, tmp_path, capsys, attack):
    assert hold(attack, whole, tmp_path / "run", range(8, 158), capsys) > 50
