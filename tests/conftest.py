"""One thread a test run, hypothesis examples that are the same everywhere, and a page of what ran on a device."""

import os

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("dsearch", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("dsearch")


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


def pytest_terminal_summary(terminalreporter):
    """Where a device was asked for: what ran on it, how far from the CPU, how often the host waited, seconds."""
    asked = os.environ.get("DSEARCH_DEVICE")
    if not asked:
        return
    reports = [r for some in terminalreporter.stats.values() for r in some if getattr(r, "when", "") == "call"]
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
