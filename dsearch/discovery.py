"""Discovers the modules of a folder: to add one is to add a file, and no list is edited."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

__all__ = ["find", "modules"]


def modules(package: str, path: Iterable[str], first: str = "") -> Iterator[ModuleType]:
    """Imports and yields the public modules of a package, the one named like `first` before the others.

    Raises:
        ImportError: for a module without `__all__`.
    """
    names = [info.name for info in iter_modules(path) if not info.name.startswith("_")]
    for name in sorted(names, key=lambda name: (name.replace("_", "") != first.lower(), name)):
        module = import_module(f"{package}.{name}")
        if not hasattr(module, "__all__"):
            raise ImportError(f"{package}.{name} has no __all__; name in it what the module offers")
        yield module


def find(package: str, path: Iterable[str], name: str) -> Any:
    """What a module of the package offers under a name; modules are imported one by one until it is found.

    Raises:
        AttributeError: where none offers it.
    """
    if not name.startswith("_"):
        for module in modules(package, path, first=name):
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"{package} has no {name!r}")
