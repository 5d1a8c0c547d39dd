"""What the command line prints, whatever the terminal can show and whoever has stopped reading."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .._text import printable

__all__ = ["Plain", "plain_output"]


class Plain:
    """A text stream that is never the reason for a command to fail.

    Letters that its encoding lacks are spelt out, and so are control characters. Where nobody reads on (`| head -1`),
    the rest goes nowhere.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes what can be shown."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        shown = printable(text).encode(encoding, "backslashreplace").decode(encoding)
        with self._read_or_not():
            self._stream.write(shown)
        return len(text)

    def flush(self) -> None:
        """Hands on what is written."""
        with self._read_or_not():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextmanager
    def _read_or_not(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:  # from now on to where all goes, or Python would complain once more when it ends
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)


@contextmanager
def plain_output() -> Iterator[None]:
    """Within, all that is printed goes through `Plain`."""
    before = sys.stdout
    sys.stdout = before and Plain(before)
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    finally:
        sys.stdout = before
