"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["dumps", "publish", "settle", "write"]


def write(file: Path, content: bytes, maker: str = "") -> None:
    """The content under this name, at once: whoever reads, or whatever is killed, sees the old file or the new one.

    `maker` is a suffix unique to this writer, where several may write the same file at the same time.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    making = file.with_name(f".{file.name}.{maker or 'making'}")
    try:
        with making.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        making.replace(file)
    except OSError:  # a full disk, say: nothing is left of the attempt
        with suppress(OSError):
            making.unlink()
        raise
    settle(file.parent)


def publish(file: Path, content: bytes) -> None:
    """The content to where a user wants it: a file is replaced at once, a pipe or a device written to as it is."""
    file = file.resolve()  # where a link leads, which stays a link
    if file.exists() and not file.is_file():
        with file.open("wb") as stream:
            stream.write(content)
    else:
        write(file, content)


def settle(folder: Path) -> None:
    """What has been renamed in a folder outlasts a loss of power, where the system can promise it."""
    with suppress(OSError):  # no descriptors of folders, or none that can be synced
        held = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(held)
        finally:
            os.close(held)


def dumps(record: Any, indent: int | None = None) -> str:
    """A JSON text and a line's end; what is infinite or nan, which JSON cannot say, becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: plain(entry) for name, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(record), indent=indent, allow_nan=False) + "\n"
