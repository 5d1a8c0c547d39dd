"""No data lost, no file touched that is not a run's, whatever lies in its folder or befalls it."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_runs import files, toy

from dsearch import SearchError
from dsearch.cli import main
from dsearch.compare import compare
from dsearch.experiments import locks, runs
from dsearch.experiments.experiment import ExperimentError, Named
from dsearch.experiments.folder import FORMAT, Run, exchange
from dsearch.experiments.locks import locked
from dsearch.report import report

OLD = Path(__file__).parent / "data" / "run-0.1.0"


def small(**changes):
    return toy(**{"prompts": ("a", "b"), "budgets": ({"model_calls": 12},), **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return runs.run(small(thumbnails=8), tmp_path_factory.mktemp("safe") / "whole")


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole.folder, tmp_path / "run")
    return Run.open(tmp_path / "run")


def held(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# What is damaged.

PARTS = ("records.jsonl", "trace.safetensors", "timing.json", "thumbnails.safetensors", "sums.json", "image")
DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "a bit": lambda content: content[:-9] + bytes([content[-9] ^ 4]) + content[-8:],
    "longer": lambda content: content + b"{}\n",
    "missing": None,
}
HARMLESS = {("timing.json", "a bit"), ("timing.json", "longer"), ("sums.json", "missing"), ("sums.json", "longer")}
"""A digit of a time; a unit without sums is one of an earlier version, which is read all the same."""


def damaged(run, part, damage, which=1):
    """A run, one of whose files is damaged; that file."""
    unit = run.units[which]
    folder = run.folder / "units" / unit.name
    file = run.image(run.records_of(unit)[0]) if part == "image" else folder / part
    change = DAMAGES[damage]
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    return unit


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("part", PARTS)
def test_what_is_damaged_is_named_and_made_again(whole, copy, part, damage, capsys, tmp_path, attack):
    attack("a file of a run is damaged or missing; it is named, refused, and made again to the same bytes")
    unit = damaged(copy, part, damage)
    if (part, damage) in HARMLESS and copy.damage(unit) is None:  # then all that is read is as it was
        assert copy.records() == whole.records() and report(copy, tmp_path / "page.html").exists()
        return
    assert list(copy.damages()) == [unit.name]
    assert main(["check", str(copy.folder)]) == 2
    said = capsys.readouterr()
    assert unit.name in said.out and "1 of 4 searches are damaged" in said.err
    for refuse in (
        lambda: report(copy, tmp_path / "page.html"),
        lambda: compare([copy], tmp_path / "comparison"),
        lambda: runs.merge([copy.folder], tmp_path / "merged"),
    ):
        with pytest.raises(ExperimentError, match=f"{unit.name} is damaged"):
            refuse()
    assert not any((tmp_path / name).exists() for name in ("page.html", "comparison", "merged"))
    told = []
    again = runs.run(whole.experiment, copy.folder, say=told.append)
    assert any(unit.name in line and "is damaged and made again" in line for line in told)
    assert again.damages() == {} and files(copy.folder) == files(whole.folder)
    assert main(["check", str(copy.folder)]) == 0 and "4 of 4 searches are there" in capsys.readouterr().out


def test_a_damaged_shard_is_taken_from_another_and_repairs_the_merged_run(whole, copy, tmp_path):
    damaged(copy, "image", "cut")
    merged = runs.merge([copy.folder, whole.folder], tmp_path / "merged")
    assert files(merged.folder) == files(whole.folder)
    damaged(merged, "records.jsonl", "cut")
    runs.merge([whole.folder], merged.folder)
    assert files(merged.folder) == files(whole.folder)


@pytest.mark.parametrize("name", ["records.jsonl", "timings.jsonl"])
def test_the_files_of_all_records_are_written_anew_where_they_are_damaged(whole, copy, name):
    (copy.folder / name).write_text("{}")
    runs.run(whole.experiment, copy.folder)
    assert (copy.folder / name).read_bytes() == (whole.folder / name).read_bytes()


# What is hostile.

NAMES = (
    "../../x",
    "/etc/passwd",
    "images/../../x",
    "images/000001-0000-0000.png/../x",
    "units/x",
    "images/x.png",
    7,
    "",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sums", [True, False], ids=["with sums", "without"])
def test_a_record_cannot_name_a_file_outside(copy, name, sums, tmp_path, attack):
    attack("a record or a link of a run leads elsewhere; nothing there is read into a page, written or removed")
    unit = copy.units[1]
    file = copy.folder / "units" / unit.name / "records.jsonl"
    lines = [{**record, "image": name} for record in copy.records_of(unit)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    if not sums:
        (file.parent / "sums.json").unlink()
    before = held(tmp_path)
    with pytest.raises(ExperimentError, match="is damaged"):
        runs.merge([copy.folder], tmp_path / "merged")
    with pytest.raises(ExperimentError, match=r"calls its image|is no name"):
        copy.image(lines[0])
    assert held(tmp_path) == before


@pytest.mark.parametrize("part", [*PARTS, "the unit", "images", "run.json"])
def test_no_link_is_followed_out_of_a_run(whole, copy, part, tmp_path, attack):
    attack("a record or a link of a run leads elsewhere; nothing there is read into a page, written or removed")
    unit = copy.units[1]
    folder = copy.folder / "units" / unit.name
    place = {
        "image": copy.image(copy.records_of(unit)[0]),
        "the unit": folder,
        "images": copy.folder / "images",
        "run.json": copy.folder / "run.json",
    }.get(part, folder / part)
    secret = tmp_path / "secret"
    place.rename(secret)  # all is as it was written, but lies elsewhere
    place.symlink_to(secret)
    before = held(secret) if secret.is_dir() else secret.read_bytes()
    for use in (
        lambda: report(Run.open(copy.folder), tmp_path / "page.html"),
        lambda: compare([Run.open(copy.folder)], tmp_path / "comparison"),
        lambda: runs.merge([copy.folder], tmp_path / "merged"),
    ):
        with pytest.raises(ExperimentError, match="link"):
            use()
    if part in ("images", "run.json"):
        with pytest.raises(ExperimentError, match="is a link"):
            runs.run(whole.experiment, copy.folder)
    else:
        assert runs.run(whole.experiment, copy.folder).damages() == {}
        assert files(copy.folder) == files(whole.folder) and not place.is_symlink()
    assert (held(secret) if secret.is_dir() else secret.read_bytes()) == before


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(copy):
    file = copy.folder / "units" / copy.units[0].name / "records.jsonl"
    file.unlink()
    os.mkfifo(file)
    assert "no plain file" in copy.damages()[copy.units[0].name]


def test_a_lock_that_is_a_link_harms_nothing(whole, copy, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (copy.folder / ".shard-1-1").unlink()
    (copy.folder / ".shard-1-1").symlink_to(mine)
    with pytest.raises(OSError):
        runs.run(whole.experiment, copy.folder)
    assert mine.read_text() == "mine"


# In the place of another run.


def test_a_run_takes_the_place_of_another_and_nothing_else_is_touched(copy, tmp_path):
    (copy.folder / "images" / "thesis.png").write_bytes(b"mine")
    (copy.folder / "units" / "notes").mkdir()
    (copy.folder / "units" / copy.units[0].name / "mine.txt").write_text("mine")
    (copy.folder / "report.html").write_text("of the old run")
    other = small(seeds=(1,))
    made = runs.run(other, copy.folder, overwrite=True)
    alone = runs.run(other, tmp_path / "alone")
    mine = {"images/thesis.png", f"units/{copy.units[0].name}/mine.txt", "report.html"}
    found = files(copy.folder)
    assert mine <= set(found) and (copy.folder / "units" / "notes").is_dir()
    assert {name: of for name, of in found.items() if name not in mine} == files(alone.folder)
    assert made.folder == copy.folder and made.complete and not (copy.folder / runs.NEW).exists()


def test_a_folder_that_holds_no_run_is_not_overwritten(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "thesis.png").write_bytes(b"mine")
    (tmp_path / "run.json").write_text('{"speed": 3}')
    before = held(tmp_path)
    with pytest.raises(ExperimentError, match="describes no experiment"):
        runs.run(small(), tmp_path, overwrite=True)
    assert held(tmp_path) == before


@pytest.mark.parametrize("why", ["a reward that fails", "weights that are missing", "no such method"])
def test_a_run_that_cannot_be_made_leaves_the_one_before_it(copy, why, attack):
    attack("an overwriting fails, is killed or is stopped at a move; the old run or the new one is whole")
    before = files(copy.folder)

    def fails(images, prompts):
        raise ConnectionError("no answer")

    rewards, methods = {"bright": Named("given")}, {"SVDD": Named("svdd")}
    if why == "weights that are missing":
        rewards = {"hps": Named("hps", {"weights": "no.pt"})}
    if why == "no such method":
        methods = {"SVDD": Named("svddd")}
    with pytest.raises((ExperimentError, SearchError)):
        runs.run(small(rewards=rewards, methods=methods), copy.folder, given={"bright": fails}, overwrite=True)
    assert {name: of for name, of in files(copy.folder).items() if not name.startswith(runs.NEW)} == before


@pytest.mark.parametrize("name", ["a unit", "units", "images"])
def test_an_overwriting_removes_nothing_where_a_link_leads(copy, name, tmp_path):
    place = copy.folder / "units" / copy.units[0].name if name == "a unit" else copy.folder / name
    elsewhere = tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)
    before, other = held(elsewhere), small(seeds=(1,))
    if name == "a unit":
        assert runs.run(other, copy.folder, overwrite=True).damages() == {}
        assert files(copy.folder) == files(runs.run(other, tmp_path / "alone").folder) and not place.is_symlink()
    else:
        with pytest.raises(ExperimentError, match="is a link"):
            runs.run(other, copy.folder, overwrite=True)
        assert not (copy.folder / runs.NEW).exists()
    assert held(elsewhere) == before and before


def test_the_run_of_a_living_process_is_not_overwritten(copy):
    before = files(copy.folder)
    for shard in (".shard-1-1", ".shard-2-3"):
        with locked(copy.folder / shard), pytest.raises(ExperimentError, match="another process is running"):
            runs.run(small(seeds=(1,)), copy.folder, overwrite=True)
    assert files(copy.folder) == before


def test_an_overwriting_that_was_killed_is_taken_up_or_begun_anew(copy, tmp_path):
    before, other = files(copy.folder), small(seeds=(1,))

    def until(images, prompts, left=[5]):  # noqa: B006
        left[0] -= len(images)
        if left[0] < 0:
            raise KeyboardInterrupt
        return images.mean((1, 2, 3))

    experiment = small(rewards={"bright": Named("given")}, seeds=(3,))
    with pytest.raises(KeyboardInterrupt):
        runs.run(experiment, copy.folder, given={"bright": until}, overwrite=True)
    assert {name: of for name, of in files(copy.folder).items() if not name.startswith(runs.NEW)} == before
    assert Run.open(copy.folder).damages() == {}
    runs.run(other, copy.folder, overwrite=True)
    alone = files(runs.run(other, tmp_path / "alone").folder)
    assert files(copy.folder) == alone


def test_an_exchange_that_was_stopped_anywhere_is_ended_by_the_next_overwriting(whole, tmp_path, monkeypatch, attack):
    other, real, moves = small(seeds=(1,)), Path.rename, []
    alone = runs.run(other, tmp_path / "alone").folder
    for at in range(1, 8):
        attack("an overwriting fails, is killed or is stopped at a move; the old run or the new one is whole")
        folder = tmp_path / f"{at}"
        shutil.copytree(whole.folder, folder)
        shutil.copytree(alone, folder / runs.NEW)
        moves.clear()

        def rename(self, target, at=at):
            moves.append(target)
            if len(moves) == at:
                raise KeyboardInterrupt
            return real(self, target)

        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            exchange(folder / runs.NEW, folder)
        monkeypatch.setattr(Path, "rename", real)
        runs.run(other, folder, overwrite=True)
        assert files(folder) == files(alone)


# Where the machine is not as one would like it.


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_of_the_file_system_a_file_stands_for_one(whole, tmp_path, monkeypatch, number):
    import fcntl

    def flock(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    told, beside = [], tmp_path / "run" / ".shard-1-1.held"
    runs.run(whole.experiment, tmp_path / "run", say=told.append)
    assert told[0].startswith("note: this file system has no locks") and not beside.exists()
    assert files(tmp_path / "run") == files(whole.folder)
    with (
        locked(tmp_path / "run" / ".shard-1-1"),
        pytest.raises(ExperimentError, match=r"another process is running.*remove .*\.held"),
    ):
        runs.run(whole.experiment, tmp_path / "run")
    ended = subprocess.Popen(["true"])
    ended.wait()
    beside.write_text(f"{locks.socket.gethostname()} {ended.pid}")
    assert runs.run(whole.experiment, tmp_path / "run").complete and not beside.exists()
    for other in ("another-host 1", "", f"{locks.socket.gethostname()} 1"):  # it may live
        beside.write_text(other)
        with pytest.raises(ExperimentError, match="another process"):
            runs.run(whole.experiment, tmp_path / "run")
    beside.unlink()
    # Who is told nothing of it waits.
    file, order = tmp_path / ".prices", []
    with locked(file):
        waiting = threading.Thread(target=lambda: [order.append("in") for _ in [0] if locked(file).__enter__() is None])
        waiting.start()
        waiting.join(0.3)
        assert order == []
    waiting.join(5)
    assert order == ["in"]


def test_another_failure_of_a_lock_is_no_lack_of_locks(tmp_path, monkeypatch):
    import fcntl

    def flock(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="nput/output"), locked(tmp_path / "x"):
        pass


def test_overlapping_shards_welcome_what_the_other_has_made(whole, tmp_path):
    """1/2 makes its part while 1/1 is at work: within its first search, so that both then write the same units."""
    folder, done = tmp_path / "run", []

    def meanwhile(images, prompts):
        if not done:
            done.append(True)
            runs.run(experiment, folder, given={"bright": bright}, shard=(1, 2))
        return bright(images, prompts)

    def bright(images, prompts):
        return images.mean((1, 2, 3))

    experiment = small(rewards={"bright": Named("given")})
    both = runs.run(experiment, folder, given={"bright": meanwhile})
    assert both.complete and both.damages() == {}
    assert files(folder) == files(runs.run(experiment, tmp_path / "one", given={"bright": bright}).folder)
    assert not list((folder / "units").glob(".*"))


FULL = """
import resource, sys
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
import signal
from test_data_safety import small, runs
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import dsearch.experiments.folder as folder
limit = int(sys.argv[2])
real = folder.Run.place
def place(self, unit, *args):
    if unit.index == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return real(self, unit, *args)
folder.Run.place = place
try:
    runs.run(small(thumbnails=8), sys.argv[1])
except OSError as error:
    print(error)
"""


LIMITS = [50, 300, 600, *(pytest.param(limit, marks=pytest.mark.slow) for limit in range(0, 1000, 40))]


@pytest.mark.parametrize("limit", LIMITS)
def test_where_no_byte_more_can_be_written_nothing_half_is_left(whole, tmp_path, limit, attack):
    """The limit of a process on the size of files fails a write in its middle, as a full disk does."""
    attack(
        "a write fails in its middle, as on a full disk; nothing half is left, and the run goes on to the same bytes"
    )
    folder, script = tmp_path / "run", FULL.format(tests=str(Path(__file__).parent))
    ended = subprocess.run([sys.executable, "-c", script, str(folder), str(limit)], capture_output=True, text=True)
    assert "File too large" in ended.stdout, ended.stderr
    run = Run.open(folder)
    assert [unit.index for unit in run.finished] == [0, 1] and run.damages() == {}
    expected = files(whole.folder)
    own = [name for name in expected if name.startswith(("images/00000", "units/00000"))]
    early = {name: expected[name] for name in own if name.split("/")[1][:6] in ("000000", "000001")}
    assert files(folder) == early | {"run.json": expected["run.json"]}
    assert [f.name for f in folder.rglob(".*") if not f.name.startswith(".shard")] == []
    runs.run(whole.experiment, folder)
    assert files(folder) == expected


@pytest.fixture
def readonly(whole, tmp_path):
    """The run on a file system that cannot be written to; root too is refused there."""
    if resource is None or shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a folder read-only")
    place = tmp_path / "mounted"
    place.mkdir()
    if subprocess.run(["mount", "--bind", whole.folder, place], capture_output=True).returncode:
        pytest.skip("this machine mounts nothing")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", place], check=True, capture_output=True)
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_finished_run_that_cannot_be_written_to_is_run_checked_reported_and_compared(readonly, whole, tmp_path):
    told = []
    assert runs.run(whole.experiment, readonly, say=told.append).complete
    assert told == ["4 of 4 searches are there already"]
    assert main(["check", str(readonly)]) == 0
    assert main(["report", str(readonly), "--out", str(tmp_path / "page.html")]) == 0
    assert main(["compare", str(readonly), "--out", str(tmp_path / "comparison")]) == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000 and (tmp_path / "comparison" / "table.csv").exists()
    with pytest.raises(OSError, match="Read-only"):
        report(Run.open(readonly))


# What a page is written to.


def test_a_report_is_written_into_a_pipe_a_device_and_the_file_that_a_link_names(whole, tmp_path):
    page = report(whole, tmp_path / "page.html").read_bytes()
    report(whole, Path(os.devnull))
    assert not Path(os.devnull).is_file()
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    report(whole, pipe)
    reader.join(20)
    assert read == [page] and pipe.is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "other.html")
    report(whole, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "other.html").read_bytes() == page


# Of another version.


@pytest.mark.parametrize("about", ["{}", "[]", '{"experiment": 3}', '{"format": 1}', "null"])
def test_a_run_json_of_another_program_is_refused_in_a_line(tmp_path, about, capsys):
    (tmp_path / "run.json").write_text(about)
    for words in (["report"], ["check"], ["compare"]):
        assert main([*words, str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith(f"dsearch: error: {tmp_path / 'run.json'} describes no experiment")


@pytest.mark.parametrize("form", [FORMAT + 1, -1, "1", None, 1.0, True])
def test_a_later_format_is_refused_with_the_remedy(copy, form):
    about = json.loads((copy.folder / "run.json").read_text())
    assert about["format"] == FORMAT
    (copy.folder / "run.json").write_text(json.dumps({**about, "format": form}))
    with pytest.raises(ExperimentError, match="update dsearch"):
        Run.open(copy.folder)


def test_a_run_of_version_0_1_is_read_checked_reported_compared_merged_and_gone_on_with(tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    run, expected = Run.open(folder), small(prompts=("a", "🦊"), budgets=({"model_calls": 24},), batch=2)
    assert run.experiment == expected and run.complete and run.damages() == {}
    fresh = runs.run(expected, tmp_path / "fresh")
    assert [record["image"] for record in run.records()] == [record["image"] for record in fresh.records()]
    assert [r["reward"] for r in run.records()] == pytest.approx([r["reward"] for r in fresh.records()], abs=1e-6)
    assert main(["report", str(folder)]) == 0 and main(["compare", str(folder), "--out", str(tmp_path / "c")]) == 0
    before = files(folder)
    assert runs.run(expected, folder).complete and files(folder) == before  # nothing is made anew
    unit = run.units[0]
    image = run.image(run.records_of(unit)[0])
    image.write_bytes(image.read_bytes()[:50])
    assert list(run.damages()) == [unit.name]
    assert runs.run(expected, folder).damages() == {}
    merged = runs.merge([folder], tmp_path / "merged")
    assert merged.complete and merged.damages() == {}


@pytest.mark.parametrize("name", ["prices", "pilots"])
@pytest.mark.parametrize("content", ["", "[]", "{", "3"])
def test_measurements_that_are_damaged_are_named(tmp_path, name, content):
    (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(ExperimentError, match=rf"{name}\.json is damaged"):
        runs._read(tmp_path / f"{name}.json")
