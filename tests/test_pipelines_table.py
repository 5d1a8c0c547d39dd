"""The table of docs/pipelines.md: a row for every pipeline class of diffusers, each of them held by a test."""

import re
from pathlib import Path

import diffusers
import families
import pytest
import test_any_pipeline as laws

PAGE = Path(__file__).parent.parent / "docs" / "pipelines.md"
TEXT = (
    PAGE.read_text(encoding="utf-8").partition("<!-- pipelines: begin -->")[2].partition("<!-- pipelines: end -->")[0]
)
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")][
    2:
]
WORKS = {name for name, _, _, _, _, searched, _ in ROWS if searched}
VERSION = re.search(r"diffusers ([\d.]+) has (\d+) pipeline classes", TEXT)


def test_its_counts_are_those_of_its_rows():
    said = re.search(
        r"source of (\d+) can be replayed, (\d+) are refused by name\. Of (\d+) that were run, (\d+) work", TEXT
    )
    readable = [row for row in ROWS if row[1] == "yes"]
    assert [int(n) for n in said.groups()[:2]] == [len(readable), len(ROWS) - len(readable)]
    assert int(said[4]) == len(WORKS) >= 200 and int(VERSION[2]) == len(ROWS) == len({row[0] for row in ROWS})


def test_every_class_that_does_not_work_says_why():
    assert not [row[0] for row in ROWS if not (row[5] or row[6] or row[1].startswith("no: "))]


def test_every_class_that_works_has_a_tiny_pipeline_under_the_laws_and_every_tiny_pipeline_has_a_row():
    lawful = families.FAMILIES.keys() - laws.REFUSED.keys() - laws.UNBUILT
    assert lawful == WORKS
    assert {row[0] for row in ROWS if row[6] and row[0] in laws.REFUSED} == set(laws.REFUSED)


@pytest.mark.slow
@pytest.mark.skipif(diffusers.__version__ != VERSION[1], reason="the table is of another version of diffusers")
def test_its_rows_are_the_classes_of_diffusers():
    import importlib.util

    place = importlib.util.spec_from_file_location("pipelines", PAGE.parent.parent / "benchmarks" / "pipelines.py")
    benchmark = importlib.util.module_from_spec(place)
    place.loader.exec_module(benchmark)
    kinds = benchmark.classes()
    assert [row[0] for row in ROWS] == [kind.__name__ for kind in kinds]
    said = {kind.__name__: benchmark.understood(kind) for kind in kinds}
    assert {row[0]: row[1].removeprefix("no: ") for row in ROWS} == said
