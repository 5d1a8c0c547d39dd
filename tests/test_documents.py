"""Every block of the README and the pages runs, page by page, in one folder; CONTRIBUTING.md says how to mark them."""

import ast
import doctest
import json
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from dsearch import cli
from dsearch.cli import arguments

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PIECE = re.compile(
    r"^(?P<fence>```+)(?P<info>.*)\n(?P<text>(?:.*\n)*?)(?P=fence)$|^<!-- setup\n(?P<setup>(?:.*\n)*?)-->$",
    re.MULTILINE,
)
MADE = re.compile(r"<!-- ([\w ]+): begin -->.*?<!-- \1: end -->", re.DOTALL)
"""What a benchmark wrote: its commands are those that took hours."""

INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LANGUAGES = {"python", "pycon", "sh", "console", "yaml", "json", "bibtex", "text"}
SAFE = {"ls", "cat"}
DECIMAL = re.compile(r"-?\d+\.\d+")


class Block(NamedTuple):
    """One block of a page.

    Attributes:
        where: page and line.
        language: how it is highlighted.
        runs: false for those marked `.norun`.
        title: the file that it is written to; "" for none.
        text: what it says.
    """

    where: str
    language: str
    runs: bool
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order; a comment `<!-- setup` is Python that a reader has of their own."""
    text = page.read_text(encoding="utf-8")
    made = [match.span() for match in MADE.finditer(text)]
    found = []
    for piece in PIECE.finditer(text):
        where = f"{page.name}:{text.count(chr(10), 0, piece.start()) + 1}"
        if piece["setup"] is not None:
            found.append(Block(where, "python", True, "", piece["setup"]))
            continue
        title = re.search(r'title="([^"]+)"', piece["info"])
        marks = re.sub(r'\w+="[^"]*"', "", piece["info"]).strip("{} ").replace(".", "").split()
        hours = any(begin < piece.start() < end for begin, end in made)
        language = marks[0] if marks else ("sh" if hours else "")
        runs = "norun" not in marks and not hours
        found.append(Block(where, language, runs, title[1] if title else "", piece["text"]))
    return found


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a shell block, and what a console block says that they print."""
    text = block.text.replace("\\\n", " ")
    if block.language == "console":
        assert text.startswith("$ "), f"{block.where}: a console block begins with '$ '"
        parts = [part.partition("\n") for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
        return [(command, said) for command, _, said in parts]
    found, command = [], ""
    for line in text.splitlines():
        command = f"{command}\n{line}".strip()
        with suppress(ValueError):  # a quotation goes on
            if shlex.split(command, comments=True):
                found.append((command, ""))
            command = ""
    assert not command, f"{block.where}: {command}"
    return found


def dsearch_words(command: str) -> list[str] | None:
    """The arguments of `dsearch` in a command, whatever starts it; None where it is another program's."""
    words = shlex.split(command, comments=True)
    if "dsearch" not in words or (words[0] != "dsearch" and words[words.index("dsearch") + 1] not in cli.COMMANDS):
        return None
    after = words[words.index("dsearch") + 1 :]
    return list(takewhile(lambda word: word not in ("&", "&&", ";", "|", ">"), after))


def accepted(words: list[str]) -> bool:
    """Whether the command line takes them."""
    try:
        arguments.parser(cli.COMMANDS).parse_args(words)
    except SystemExit as stop:
        return stop.code == 0
    return True


def agree(said: str, told: str) -> bool:
    """The same words; decimal numbers may differ and `...` may be anything."""
    parts = [re.escape(" ".join(DECIMAL.sub("0.0", part).split())) for part in said.split("...")]
    pattern = r"\s*" + r".*".join(r"\s*" + part + r"\s*" for part in parts)
    return re.fullmatch(pattern, " ".join(DECIMAL.sub("0.0", told).split()), re.DOTALL) is not None


class Here:
    """Runs the blocks of a page in the current folder."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.names: dict[str, object] = {"__name__": "page"}
        self.capsys = capsys

    def run(self, block: Block) -> None:
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            exec(compile(block.text, block.where, "exec"), self.names)
        elif block.language == "pycon":
            self.doctest(block)
        elif block.language in ("sh", "console"):
            for command, said in commands(block):
                self.command(block, command, said)

    def doctest(self, block: Block) -> None:
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        case = doctest.DocTestParser().get_doctest(block.text, self.names, block.where, block.where, 0)
        said: list[str] = []
        doctest.DocTestRunner(optionflags=flags).run(case, out=said.append, clear_globs=False)
        self.names.update(case.globs)
        assert not said, "".join(said)

    def command(self, block: Block, command: str, said: str) -> None:
        words = shlex.split(command, comments=True)
        self.capsys.readouterr()
        if words[0] == "dsearch":
            code = cli.main(words[1:])
            out, err = self.capsys.readouterr()
            told = out + err
        else:
            assert words[0] in SAFE, f"{block.where}: {words[0]} does not run here; mark the block with .norun"
            done = subprocess.run(words, capture_output=True, text=True)
            code, told = done.returncode, done.stdout + done.stderr
        assert code == (2 if "error:" in said else 0), f"{block.where}: {command}\n{told}"
        assert not said or agree(said, told), f"{block.where}: {command}\nsays\n{said}\nand prints\n{told}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_block_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(ROOT / "tests"), *sys.path])
    known, here = set(sys.modules), Here(capsys)
    try:
        for block in blocks(page):
            if block.runs:
                here.run(block)
    finally:  # the next page may have files of the same names
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", "") or "").startswith(str(tmp_path)):
                del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_block_is_of_a_known_kind_and_what_is_not_run_is_at_least_sound(page):
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.where}: say of what kind the block is"
        if block.language == "python":
            compile(block.text, block.where, "exec")
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "text":
            code = re.search(r"^\s*(dsearch|from [\w.]+ import|import|\$) ", block.text, re.MULTILINE)
            assert not code, f"{block.where}: this is code; say of what kind, and mark it .norun if it cannot run"
        elif block.language in ("sh", "console"):
            for command, _ in commands(block):
                words = dsearch_words(command)
                assert words is None or accepted(words), f"{block.where}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_flags_within_sentences_exist(page):
    text = PIECE.sub("", page.read_text(encoding="utf-8"))
    for code in INLINE.findall(text):
        words = dsearch_words(code) if re.match(r"(python -m )?dsearch [a-z]", code) else None
        if words is not None:  # within a sentence what is needed may be left out
            assert words[0] in cli.COMMANDS, f"{page.name}: `{code}`"
            assert {word for word in words if word.startswith("--")} <= flags(words[0]), f"{page.name}: `{code}`"
        elif code.startswith("--") and page.name != "published.md":  # that page names another program's
            known = scripts().union(*map(flags, cli.COMMANDS))
            assert code.split()[0].split("=")[0] in known, f"{page.name}: `{code}`"


def flags(command: str) -> set[str]:
    """Those that a command has."""
    top = arguments.parser(cli.COMMANDS)
    subs = next(action for action in top._actions if action.choices and not action.option_strings).choices
    return {flag for action in subs[command]._actions for flag in action.option_strings}


def scripts() -> set[str]:
    """The flags of the scripts of the repository."""
    files = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "training").glob("*.py")]
    return {flag for file in files for flag in re.findall(r'"(--[\w-]+)"', file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_scripts_and_targets_that_pages_name_exist(page):
    text = page.read_text(encoding="utf-8")
    for script in re.findall(r"python ((?:benchmarks|training|tests)/[\w/]+\.py)", text):
        assert (ROOT / script).is_file(), f"{page.name}: {script}"
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make ([\w-]+)", text, re.MULTILINE):
        assert target in targets, f"{page.name}: make {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_tests_that_pages_name_exist(page):
    for row in page.read_text(encoding="utf-8").splitlines():
        for file, names in re.findall(r"`(test_\w+\.py)`:((?: `test_\w+`,?)+)", row):
            there = (ROOT / "tests" / file).read_text(encoding="utf-8")
            for name in re.findall(r"`(\w+)`", names):
                assert f"def {name}(" in there, f"{page.name}: {file}: {name}"


def test_what_a_page_says_is_held_against_what_is_printed():
    assert agree("bill: 13 calls\n\n  0.7", "bill: 13 calls\n0.8\n") and agree("a ... z", "a b c z")
    assert not agree("bill: 13 calls", "bill: 14 calls") and not agree("line 7", "line 7 and more")


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ("python", ("python", True, "")),
        ("{ .sh .norun }", ("sh", False, "")),
        ("sh norun", ("sh", False, "")),
        ('yaml title="a.yaml"', ("yaml", True, "a.yaml")),
        ('{ .python .norun title="b.py" }', ("python", False, "b.py")),
        ("", ("", True, "")),
    ],
)
def test_marks_are_read(info, expected, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"words\n\n```{info}\ncode\n```\n", encoding="utf-8")
    (found,) = blocks(page)
    assert (found.language, found.runs, found.title) == expected
    assert found.where == "page.md:3" and found.text == "code\n"


def test_commands_are_told_apart():
    text = "# first\ndsearch plan \\\n    --steps 4\n\npython -c '\nimport dsearch'  # and\n"
    told = [command.split() for command, _ in commands(Block("", "sh", True, "", text))]
    assert told == [["dsearch", "plan", "--steps", "4"], ["python", "-c", "'", "import", "dsearch'", "#", "and"]]
    console = Block("", "console", True, "", "$ ls a\nb\nc\n$ cat b\n")
    assert commands(console) == [("ls a", "b\nc\n"), ("cat b", "")]


def test_a_flag_that_does_not_exist_is_found():
    assert accepted(["plan", "--steps", "4"]) and not accepted(["plan", "--stepps", "4"])
    assert dsearch_words("torchrun --nproc-per-node 2 -m dsearch plan --steps 4") == ["plan", "--steps", "4"]
    assert dsearch_words("srun dsearch run a.yaml --shard 1/2 && echo") == ["run", "a.yaml", "--shard", "1/2"]
    assert dsearch_words("python -m mkdocs build") is None


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_shows_nothing_from_elsewhere(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"!\[[^\]]*\]\(https?:|<(script|link|iframe)|<img[^>]+https?:|```+ *{? *\.?mermaid", text)
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert (page.parent / picture).is_file(), f"{page.name}: {picture}"


def test_the_version_to_cite_is_the_one_that_is_released():
    (version,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"version = {{{version}}}" in (ROOT / "docs" / "citation.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "name"), [("README.md", "beam"), ("docs/extending.md", "thirds")])
def test_a_documented_method_is_found_where_it_is_put(page, name, tmp_path):
    texts = [block.text for block in blocks(ROOT / page)]
    block = next(text for text in texts if f'__all__ = ["{name}"]' in text)
    assert ast.get_docstring(ast.parse(block))
    shutil.copytree(ROOT / "dsearch", tmp_path / "dsearch", ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "dsearch" / "methods" / f"{name}.py").write_text(block, encoding="utf-8")
    script = f"""
import dsearch
from dsearch.adapters import GaussianMixture
from dsearch.methods import {name}
result = dsearch.search(GaussianMixture(), {name}(lambda x, prompts: x[:, 0]), ["a"])
assert result.cost.bill == result.cost.planned and dsearch.methods.{name} is {name}
print(dsearch.__file__)
"""
    told = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith(str(tmp_path))
