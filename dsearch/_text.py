"""Text of users on its way in and out: prompt files, and what a terminal, a table or a spreadsheet may be shown."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

__all__ = ["cell", "printable", "prompts_of", "read_text"]

OVERRIDES = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
"""Marks that turn the direction of what follows, beyond the text that holds them."""

MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


def read_text(file: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: for another encoding, naming the file and how to convert it.
        OSError: where it cannot be read.
    """
    held = file.read_bytes()
    for mark, name in MARKS.items():
        if held.startswith(mark):
            raise ValueError(f"{file} is {name}; convert it: iconv -f {name} -t UTF-8 {file.name} > new.txt")
    if b"\0" in held:
        at = held.index(b"\0")
        raise ValueError(f"{file} has a NUL at byte {at}, which no text in UTF-8 has; if it is UTF-16, convert it")
    try:
        return held.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = held.count(b"\n", 0, error.start) + 1, held[error.start]
        raise ValueError(
            f"{file}:{line}: byte 0x{byte:02x} is not UTF-8; save it as UTF-8, or convert it from what it is, as in "
            f"iconv -f WINDOWS-1252 -t UTF-8 {file.name} > new.txt"
        ) from error


def prompts_of(file: Path) -> list[str]:
    r"""One prompt a line of a text file in UTF-8; lines end at \n or \r\n, and blank ones count for nothing.

    Raises:
        ValueError: for another encoding, and for a file without a prompt.
        OSError: where it cannot be read.
    """
    lines = [line.strip(" \t\r") for line in read_text(file).split("\n")]
    if not any(lines):
        raise ValueError(f"{file} holds no prompt; give one a line")
    return [line for line in lines if line]


def printable(text: str) -> str:
    r"""Text whose control characters, but \n and \t, are spelt out: none moves a cursor or rings."""
    return "".join(letter if _harmless(letter) else _spelt(letter) for letter in text)


def cell(value: object) -> object:
    """What a spreadsheet may hold: a text that it would run as a formula is marked as a text, numbers stay."""
    return f"'{value}" if isinstance(value, str) and re.match(r"\s*[=+\-@]|[\t\r\n]", value) else value


def _harmless(letter: str) -> bool:
    if letter in "\n\t" or " " <= letter <= "~":
        return True
    return unicodedata.category(letter) not in ("Cc", "Cs") and unicodedata.bidirectional(letter) not in OVERRIDES


def _spelt(letter: str) -> str:
    return letter.encode("unicode_escape").decode() if ord(letter) < 0xD800 or ord(letter) > 0xDFFF else "\ufffd"
