"""One thread a test run, hypothesis examples that are the same everywhere, and tables of what the tests saw."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from dsearch._torchvision import mend

if os.environ.get("DSEARCH_ORACLES"):  # before a test imports diffusers, and with it a torchvision that does not load
    mend()

torch.set_num_threads(1)
settings.register_profile("dsearch", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("dsearch")


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture
def attack(record_property):
    """Called once for each attack that a test makes, with its kind: `make attacks` adds up what was withstood."""

    def made(kind, times=1):
        record_property("attack", (kind, times))

    return made


def pytest_addoption(parser):
    parser.addoption("--attacks", metavar="PAGE", help="write how many attacks of each kind were withstood into a page")


BEGIN, END = "<!-- attacks: begin -->\n", "<!-- attacks: end -->\n"


def attacked(terminalreporter, reports, page):
    """Writes the table, where no test failed."""
    kinds = Counter()
    for report in reports:
        for name, found in report.user_properties:
            if name == "attack":
                kinds[found[0]] += found[1]
    lines = ["| attack | tried | right |", "| --- | ---: | ---: |"]
    lines += [f"| {kind} | {times:,} | {times:,} |" for kind, times in sorted(kinds.items())]
    terminalreporter.section("attacks")
    if any(terminalreporter.stats.get(how) for how in ("failed", "error", "skipped")):
        terminalreporter.write_line(f"some tests failed or were skipped: {page} stays as it was")
        return
    before, rest = Path(page).read_text(encoding="utf-8").split(BEGIN)
    Path(page).write_text(before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1], encoding="utf-8")
    terminalreporter.write_line("\n".join(lines))


def pytest_terminal_summary(terminalreporter, config):
    reports = [r for some in terminalreporter.stats.values() for r in some if getattr(r, "when", "") == "call"]
    if config.getoption("--attacks"):
        attacked(terminalreporter, reports, config.getoption("--attacks"))
    if os.environ.get("DSEARCH_DEVICE"):
        on_device(terminalreporter, reports, os.environ["DSEARCH_DEVICE"])


def on_device(terminalreporter, reports, asked):
    """What ran on the device that was asked for, how far from the CPU, how often the host waited, seconds."""
    lines = sorted(line for r in reports for name, line in r.user_properties if name == "device")
    terminalreporter.section(f"on the device {asked}")
    if not lines:
        terminalreporter.write_line("nothing ran: this torch sees no such device")
        return
    if torch.cuda.is_available():
        terminalreporter.write_line(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    terminalreporter.write_line("| what | device | from the CPU | most waits in a step | seconds |")
    terminalreporter.write_line("| --- | --- | ---: | ---: | ---: |")
    for what, device, apart, waits, seconds in lines:
        cells = [what, device, f"{apart:.1g}", "" if waits is None else waits, "" if seconds is None else seconds]
        terminalreporter.write_line(f"| {' | '.join(map(str, cells))} |")
