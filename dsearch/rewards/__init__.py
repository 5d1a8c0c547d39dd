"""Rewards: any callable `(images [N, 3, H, W] in [0, 1], prompts) -> [N]`, higher is better.

One file a reward, and no list of them anywhere: a module here names its public classes in `__all__` and
offers `example()`, a cheap offline instance. Importing this package imports none of them.
"""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors only; a reward that is not named here works all the same
    from dsearch.rewards.clip_score import CLIPScore as CLIPScore
    from dsearch.rewards.compressibility import Compressibility as Compressibility
    from dsearch.rewards.compressibility import Incompressibility as Incompressibility


def modules(first: str = "") -> Iterator[ModuleType]:
    """Imports and yields the reward modules, the one named like the class `first` before the others."""
    names = [info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")]
    for name in sorted(names, key=lambda name: (name.replace("_", "") != first.lower(), name)):
        yield import_module(f"{__name__}.{name}")


def __getattr__(name: str) -> Any:
    if not name.startswith("_"):
        for module in modules(first=name):
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for module in modules() for name in module.__all__)})
