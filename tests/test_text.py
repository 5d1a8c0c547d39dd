"""Text of users: prompt files, terminals, spreadsheets and the labels of pictures."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.font_manager import fontManager
from PIL import Image

from dsearch import cli, plots
from dsearch._text import cell, printable, read_text
from dsearch.cli.terminal import Plain, plain_output
from dsearch.compare import words
from dsearch.experiments import ExperimentError, load, parse, prompts_of

ODD = "a\u2028b\x85c\x0bd\x0ce\x1cf\rg"
"""What `str.splitlines` would make seven prompts of."""


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["no mark", "a mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_prompts_are_the_lines_of_a_file_and_lines_end_at_line_feeds_alone(tmp_path, mark, end):
    prompts = ["cat", ODD, "🦊 猫", "#no comment", "'quoted'"]
    (tmp_path / "p.txt").write_bytes(mark + end.join([*prompts, "", " \t"]).encode())
    assert prompts_of(tmp_path / "p.txt") == prompts
    (tmp_path / "e.yaml").write_bytes(
        mark + f"prompts: {{file: p.txt}}{end}rewards: {{a: clip}}{end}methods: {{b: svdd}}".encode()
    )
    assert load(tmp_path / "e.yaml").prompts == tuple(prompts)
    assert cli._lines(tmp_path / "p.txt") == prompts


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\0"), min_size=1), min_size=1))
@settings(max_examples=50)
def test_any_prompt_comes_back_from_a_file(tmp_path_factory, prompts):
    file = tmp_path_factory.mktemp("p") / "p.txt"
    file.write_bytes("\n".join(prompts).encode())
    expected = [said for prompt in prompts if (said := prompt.strip(" \t"))]
    expected[:1] = (
        [one.removeprefix("\ufeff") for one in expected[:1]] if prompts[0].startswith("\ufeff") else expected[:1]
    )
    if expected and expected[0].strip(" \t"):
        assert prompts_of(file)[1:] == expected[1:] and prompts_of(file)[0].strip() == expected[0].strip()


OTHERS = {
    "UTF-16": ("cat\n猫".encode("utf-16"), "is UTF-16; convert it: iconv -f UTF-16"),
    "UTF-16 without a mark": ("cat".encode("utf-16-le"), "has a NUL at byte 1"),
    "UTF-32": ("cat".encode("utf-32"), "is UTF-32; convert it"),
    "Latin": ("cat\nété".encode("latin-1"), r":2: byte 0xe9 is not UTF-8; .*iconv"),
    "nothing": (b"\n \n", "holds no prompt"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_not_utf_8_is_refused_by_name_with_the_remedy(tmp_path, kind, attack):
    attack("a file of prompts is no UTF-8 or empty; refused by name, with the remedy")
    content, says = OTHERS[kind]
    (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"p\.txt.*{says}|p\.txt{says}"):
        prompts_of(tmp_path / "p.txt")
    text = "rewards: {a: clip}\nmethods: {b: svdd}\nprompts: {file: p.txt}"
    with pytest.raises(ExperimentError, match=r"experiment:3: prompts\.file: .*p\.txt"):
        parse(text, folder=tmp_path)
    if kind != "nothing":
        with pytest.raises(ExperimentError, match=r"p\.txt"):
            load(tmp_path / "p.txt")


# Terminals.


def written(encoding, *texts):
    raw = io.BytesIO()
    stream = Plain(io.TextIOWrapper(raw, encoding=encoding, newline="\n"))
    for text in texts:
        stream.write(text)
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "gbk", "utf-8"])
def test_what_an_encoding_lacks_is_spelt_out(encoding):
    said = written(encoding, "Δ 0.1 † 猫 🦊 é\n")
    assert said.startswith("Δ" if encoding in ("gbk", "utf-8") else r"\u0394") and said.endswith("\n")
    assert ("猫" in said) == (encoding in ("gbk", "utf-8")) and ("†" in said) == (encoding in ("cp1252", "utf-8"))


@given(st.text(), st.sampled_from(["ascii", "cp1252", "gbk", "utf-8", "utf-16"]))
@settings(max_examples=100)
def test_nothing_that_is_printed_fails_or_moves_a_cursor(text, encoding):
    said = written(encoding, text)
    harmful = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *"\u202a\u202b\u202d\u202e\u2066\u2067\u2068"} - {
        "\n",
        "\t",
    }
    assert not harmful & set(said)
    assert printable(printable(text)) == printable(text)


class Gone(io.StringIO):
    """A stream that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError


def test_a_pipe_that_nobody_reads_ends_no_command(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Gone())
    assert cli.main(["plan", "--method", "svdd", "--steps", "5"]) == 0


def test_without_an_output_at_all_a_command_ends_well(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["plan", "--method", "svdd", "--steps", "5"]) == 0
    monkeypatch.undo()
    before = sys.stdout
    with plain_output():
        assert isinstance(sys.stdout, Plain)
    assert sys.stdout is before


def test_a_program_whose_reader_stops_ends_quietly():
    """Python itself, with a pipe that is closed after a line: no word on standard error, and status 0."""
    script = "import sys; from dsearch.cli import main; sys.exit(main(['plan', '--method', 'svdd', '--steps', '9000']))"
    whole = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    whole.stdout.close()
    assert whole.stderr.read() == b"" and whole.wait() == 0


def test_the_names_of_an_error_cannot_command_a_terminal(capsys, tmp_path):
    assert cli.main(["check", str(tmp_path / "\x1b[2J\u202ename")]) == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and "\u202e" not in said and r"\x1b[2J\u202ename" in said


def test_a_name_in_a_table_cannot_command_what_shows_it():
    assert words.safe("a\x1b[1m|b\u202e\nc") == r"a\\x1b\[1m\|b\\u202e c"


# Spreadsheets.


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1"])
def test_no_cell_is_run_as_a_formula(text):
    assert cell(text) == f"'{text}"
    into = io.StringIO()
    csv.writer(into).writerow([cell(text)])
    assert next(csv.reader(io.StringIO(into.getvalue(), newline="")))[0][0] == "'"


@pytest.mark.parametrize("value", [-1.5, 0, -3, "a = b", "best of/N", "", None])
def test_numbers_and_other_texts_stay_as_they_are(value):
    assert cell(value) is value


# Pictures.


def drawn(tmp_path, monkeypatch, rows, columns, pixels=16, shades=None):
    """A grid's file, its figure, and the texts in it."""
    kept = []
    real = plots._figure
    monkeypatch.setattr(plots, "_figure", lambda **options: kept.append(real(**options)) or kept[-1])
    shades = torch.linspace(0, 1, len(rows) * len(columns)) if shades is None else shades
    cells = shades.reshape(len(rows), len(columns), 1, 1, 1).expand(-1, -1, 3, pixels, pixels)
    plots.grid([list(line) for line in cells], rows, columns, tmp_path / "grid.png")
    return Image.open(tmp_path / "grid.png"), kept[0], kept[0].texts


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (["a"], ["b"]),
        (
            ["WWWWWWWWWWWWWWWWWWWWWWWW\nsecond line\nthird line", "x"],
            ["MMMMMMMMMMMMMMMMMMMMMMMM", "gpq\nqqq", "$x^2_y$"],
        ),
        ([f"line {i}\n" * 12 for i in range(3)], ["one"]),
    ],
)
def test_no_label_of_a_grid_is_cut_and_none_covers_another(tmp_path, monkeypatch, rows, columns):
    picture, figure, texts = drawn(tmp_path, monkeypatch, rows, columns)
    figure.dpi = 130
    boxes = [text.get_window_extent() for text in texts]
    assert picture.size == tuple(int(side) for side in figure.get_size_inches() * 130)
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    sheet = figure.axes[0].get_window_extent()
    for n, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in [*boxes[n + 1 :], sheet.shrunk(0.999, 0.999)])


def test_pictures_of_a_grid_stand_where_their_labels_say(tmp_path, monkeypatch):
    picture, figure, texts = drawn(tmp_path, monkeypatch, ["a", "b", "c"], ["x", "y"])
    size = figure.get_size_inches()
    for r, row in enumerate(texts[:3]):
        for c, column in enumerate(texts[3:]):
            x, y = column.get_position()[0] * size[0] * 130, (1 - row.get_position()[1]) * size[1] * 130
            level = picture.convert("RGB").getpixel((round(x), round(y)))[0]
            assert level == pytest.approx(255 * (2 * r + c) / 5, abs=2)


def test_pictures_of_two_sizes_are_as_large_as_each_other(tmp_path):
    small, large = torch.zeros(3, 8, 8), torch.zeros(3, 16, 16)
    plots.grid([[small, large]], ["a"], ["x", "y"], tmp_path / "grid.png")
    dark = torch.tensor(list(Image.open(tmp_path / "grid.png").convert("L").tobytes()))
    assert (dark == 0).sum() > 2 * 140**2


def test_more_rows_than_a_renderer_takes_are_drawn_smaller(tmp_path, monkeypatch):
    picture, *_ = drawn(tmp_path, monkeypatch, ["x"] * 500, ["one"], pixels=4, shades=torch.ones(500))
    assert picture.height <= 60_000 + 1


def test_letters_that_the_usual_font_lacks_are_drawn_with_one_that_has_them(tmp_path, recwarn):
    """Matplotlib ships fonts of mathematics: what they alone have stands for what a user's CJK font alone has."""
    name = next(entry.name for entry in fontManager.ttflist if entry.name == "STIXGeneral")
    letter = min(plots._letters_of(name) - plots._letters_of(plots.OWN) - {chr(c) for c in range(0xE000, 0xF900)})
    fonts, lacking = plots._fonts(f"a{letter}")
    assert fonts[0] == plots.OWN and len(fonts) == 2 and letter in plots._letters_of(fonts[1]) and not lacking
    plots.grid([[torch.ones(3, 8, 8)]], [f"{letter}a"], ["x"], tmp_path / "grid.png")
    assert not [w for w in recwarn if "font" in str(w.message) or "Glyph" in str(w.message)]


def test_letters_that_no_font_has_are_told_once(tmp_path):
    letter = next(one for one in map(chr, range(0x13000, 0x17000)) if plots._fonts(one)[1])  # some old script
    with pytest.warns(UserWarning, match=f"no font here draws '{letter}'.*Noto") as told:
        plots.grid([[torch.ones(3, 8, 8)] * 2] * 2, [letter, "b"], ["x", letter], tmp_path / "grid.png")
    assert not [w for w in told if "Glyph" in str(w.message)]


def test_a_text_file_is_read_as_it_is(tmp_path):
    (tmp_path / "t").write_bytes(b"\xef\xbb\xbfa\r\nb\rc")
    assert read_text(Path(tmp_path / "t")) == "a\r\nb\rc"
