"""Several processes, really started: the same result to the last bit, whatever their number."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest
import ranks
import torch
from strategies import assert_identical, smooth

import dsearch
from dsearch import distributed, methods
from dsearch.adapters import toy

HERE = Path(__file__).parent


def launch(out, processes, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}", "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*run, str(HERE / "ranks.py"), str(out), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """What 2 and 3 processes found; the last of the 3 dies at the end."""
    found = {}
    for processes, arguments in ((2, ()), (3, ("dies",))):
        out = tmp_path_factory.mktemp("ranks") / "found.pt"
        done = launch(out, processes, *arguments)
        assert out.exists(), done.stderr[-3000:]
        # The file is what this test's own processes wrote.
        found[processes] = {**torch.load(out, weights_only=False), "done": done, "kept": f"{out}.kept"}
    return found


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("name", ranks.CASES)
def test_any_number_of_processes_finds_the_same_bit_for_bit(launched, name, processes):
    method, prompts, options = ranks.CASES[name]
    options = {key: value for key, value in options.items() if key != "batch"}
    alone = dsearch.search(toy.example(), method, ranks.PROMPTS[:prompts], seed=3, **options)
    assert_identical(launched[processes]["found"][name], ranks.said(alone))


@pytest.mark.parametrize("processes", [2, 3])
def test_bytes_exchanged_are_the_values_and_the_winners(launched, processes):
    """One prompt, 7 children of 2 coordinates, 6 steps: what the docs state."""
    steps, width = 6, 7
    values = -(-width // processes) * 4  # of the largest part
    winner = 2 * (4 + 8 + 8)  # x in float32; the network's output and its posterior mean, float64 in this toy
    first_and_last = 8 * 4  # both are done by all; the bill is added up
    assert launched[processes]["sent"]["one prompt"] == (steps - 1) * (values + winner) + first_and_last


def test_a_process_that_dies_ends_the_job_and_what_was_finished_is_kept(launched):
    done = launched[3]["done"]
    assert done.returncode != 0
    assert "the machine went away" in done.stderr
    kept = torch.load(launched[3]["kept"], weights_only=False)
    assert [positions for positions, _ in kept] == [list(range(6))]
    alone = dsearch.search(toy.example(), methods.svdd(smooth, 3), [str(i) for i in range(6)])
    assert torch.equal(kept[0][1], alone.images)


@pytest.mark.parametrize(
    ("how", "says"),
    [("ends", "has ended: its own message says why"), ("hangs", "hangs: it did not answer in the `timeout` of")],
)
def test_a_process_that_hangs_is_told_from_one_that_has_ended(how, says):
    """Without torchrun, which may kill the process that waits before it can speak."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = []
    for rank in (0, 1):
        group = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        environment = {**os.environ, **group, "PYTHONPATH": f"{HERE.parent}:{HERE}"}
        run = [sys.executable, str(HERE / "ranks.py"), "lose", how]
        both.append(subprocess.Popen(run, env=environment, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True))
    try:
        assert [process.stdout.readline() for process in both] == ["ready\n"] * 2
        for process in both:
            process.stdin.write("go\n")
            process.stdin.flush()
        said = both[0].stdout.read()
    finally:
        for process in both:
            process.kill()
            process.communicate()
    assert f"rank 0 of 2 waited for another process that {says}" in said


def test_a_network_agrees_to_float_tolerance_and_chooses_alike(launched):
    options = ranks.network()
    alone = dsearch.search(options.pop("denoiser"), **options)
    for processes in (2, 3):
        shared = launched[processes]["network"]
        assert torch.equal(shared["path"], alone.lineage.path())
        torch.testing.assert_close(shared["images"], alone.images, atol=1e-5, rtol=0)


def test_alone_it_is_the_plain_search():
    with distributed.processes() as group:
        result = distributed.search(toy.example(), ranks.SVDD, ["a", "b", "c"], ranks=group, batch=2)
    assert_identical(ranks.said(result), ranks.said(dsearch.search(toy.example(), ranks.SVDD, ["a", "b", "c"])))
    assert (group.rank, group.size, group.sent) == (0, 1, 0)


class Two:
    rank, size = 0, 2


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (methods.rbf(smooth, width=3), "which 2 processes cannot share; give at least 2 prompts"),
        (methods.published(smooth, bs=2, w=2), "pools its prompts, which 2 processes cannot share"),
    ],
    ids=["rollover", "pool"],
)
def test_what_processes_cannot_share_is_refused(method, says):
    with pytest.raises(ValueError, match=says):
        distributed.search(toy.example(), method, "a", ranks=Two())


def test_results_of_different_plans_are_not_joined():
    one, other = (dsearch.search(toy.example(), methods.svdd(smooth, width), "a") for width in (2, 3))
    with pytest.raises(ValueError, match="different plans"):
        distributed.joined([one, other])
    with pytest.raises(ValueError, match="nothing to join"):
        distributed.joined([])
