"""The version is said in three places, which agree."""

import re
from datetime import date
from pathlib import Path

import yaml

import dsearch

ROOT = Path(__file__).parent.parent
HEADINGS = re.compile(r"^## \[(?P<version>[^\]]+)\](?: - (?P<date>\S+))?$", re.MULTILINE)


def releases():
    """(version, date) of each section of the changelog, the newest first."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return [(found["version"], found["date"]) for found in HEADINGS.finditer(text)]


def test_the_changelog_has_a_place_for_what_is_to_come_and_then_the_newest_release():
    unreleased, newest, *older = releases()
    assert unreleased == ("Unreleased", None)
    assert newest[0] == dsearch.__version__
    days = [date.fromisoformat(day) for _, day in [newest, *older]]
    assert days == sorted(days, reverse=True)


def test_the_citation_is_of_the_newest_release():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == dsearch.__version__
    assert str(cited["date-released"]) == releases()[1][1]
