"""What plain data must be to be an argument: by the annotations of whoever takes it, and by what the words mean."""

from __future__ import annotations

import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import torch

__all__ = ["bind", "checked_device", "is_attribute", "refuse_bounds", "refuse_odd_number", "refuse_types", "short"]

LARGEST = 2**53
"""Whole numbers beyond it are not what JSON's readers elsewhere take them for."""

WITHIN: dict[str, tuple[float, float]] = {
    "height": (1, 16384),
    "width": (1, 16384),
    "eta": (0, math.inf),
    "num_inference_steps": (1, 100_000),
    "strength": (0, 1),
}
"""Where a model's arguments lie."""

_ATTRIBUTE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_attribute(text: str) -> bool:
    r"""Whether a name can be `module:attribute`; C:\models, run_12:30:00 and ./a:b are paths."""
    return _ATTRIBUTE.fullmatch(text) is not None


def refuse_odd_number(value: Any) -> None:
    """Refuses nan, infinity and numbers too large to be meant.

    Raises:
        ValueError: naming the number.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not finite, so it could not be written down; give a number")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"a whole number of {len(str(abs(value)))} digits; the largest is 2**53")


def bind(make: Callable[..., Any], args: Mapping[str, Any], name: str, *positional: Any) -> None:
    """Refuses arguments that a callable does not have, those that it lacks, and those of another type.

    Raises:
        ValueError: naming the argument, its value, and what it may be.
    """
    signature = inspect.signature(make)
    parameters = list(signature.parameters.values())
    takes_all = any(p.kind is p.VAR_POSITIONAL for p in parameters[: len(positional)])
    rest = parameters if takes_all else parameters[len(positional) :]
    known = [p.name for p in rest if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    unknown = [key for key in args if key not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        raise ValueError(f"{name} has no argument {unknown[0]!r}; it has {', '.join(known) or 'none'}")
    try:
        signature.bind(*positional, **args)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    refuse_types(make, args)


def refuse_types(make: Callable[..., Any], args: Mapping[str, Any]) -> None:
    """Refuses plain values of a type that an annotation rules out.

    Raises:
        ValueError: naming the argument, its value and what it may be.
    """
    hints = _hints(make)
    for name, value in args.items():
        if name in hints and _is_plain(value) and not _fits(value, hints[name]):
            raise ValueError(f"{name} is {short(value, 60)}; it must be {_said(hints[name])}")


def refuse_bounds(args: Mapping[str, Any]) -> None:
    """Refuses numbers of a model that can have no meaning.

    Raises:
        ValueError: naming the argument, its value and its bounds.
    """
    for name, (low, high) in WITHIN.items():
        value = args.get(name)
        if isinstance(value, int | float) and not low <= value <= high:
            raise ValueError(f"{name} is {value!r}; it must lie in {low:g} to {high:g}")


def short(value: Any, longest: int = 40) -> str:
    """A value as an error shows it."""
    text = f"a whole number of {value.bit_length()} bits" if type(value) is int and value > 10**40 else repr(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def checked_device(name: str) -> str:
    """A device, if this torch has it.

    Raises:
        ValueError: for a name that is no device, and for one that is not here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is not known; choose cpu, cuda, cuda:1, mps or xpu") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name}: this torch sees no GPU; use cpu")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        raise ValueError(f"device {name}: there are {count}, of which the last is {device.type}:{count - 1}")
    return name


def _hints(make: Any) -> dict[str, Any]:
    """Annotations by parameter, as objects, but those that cannot be read: some names only checkers import."""
    function = make.__init__ if inspect.isclass(make) else make
    module = sys.modules.get(getattr(function, "__module__", ""))
    known = {} if module is None else vars(module)
    found = {}
    for name, said in getattr(function, "__annotations__", {}).items():
        with suppress(Exception):
            found[name] = typing.get_type_hints(types.SimpleNamespace(__annotations__={name: said}), known)[name]
    return found


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may be meant where an annotation stands; of what is not known here, it may."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    if hint in (Path, torch.device, torch.dtype):
        return isinstance(value, str)
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return isinstance(value, Mapping)
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        inner = [part for part in parts if part is not Ellipsis]
        if not isinstance(value, list | tuple):
            return False
        if kind is tuple and parts and Ellipsis not in parts:
            return len(value) == len(parts) and all(map(_fits, value, parts))
        return not inner or all(_fits(one, inner[0]) for one in value)
    # No plain value is one of these; of what is not known here, it may be.
    return kind not in (torch.Tensor, np.ndarray) and not getattr(kind, "__module__", "").startswith("collections.abc")


def _said(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_said(part) for part in parts if part is not type(None)))
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
    if hint in plain:
        return plain[hint]
    kind = origin or hint
    if inspect.isclass(kind) and issubclass(kind, Mapping):
        return "a mapping"
    if inspect.isclass(kind) and issubclass(kind, Sequence):
        inner = [_said(part) for part in parts if part is not Ellipsis]
        return f"a list, each {inner[0]}" if inner else "a list"
    return getattr(kind, "__name__", str(kind))
