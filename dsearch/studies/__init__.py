"""Experiments that ship with the library, as YAML files beside this one: `dsearch run demo` runs `demo.yaml`."""

from __future__ import annotations

from pathlib import Path

__all__ = ["NAMES", "path"]

_HERE = Path(__file__).parent

NAMES = tuple(sorted(file.stem for file in _HERE.glob("*.yaml")))
"""The studies, by name."""


def path(name: str) -> Path:
    """The file of the study of that name.

    Raises:
        ValueError: for a name that is none of `NAMES`.
    """
    if name not in NAMES:
        raise ValueError(f"no study is called {name!r}; choose among {', '.join(NAMES)}")
    return _HERE / f"{name}.yaml"
