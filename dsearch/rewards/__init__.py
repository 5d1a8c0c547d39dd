"""Rewards: any callable `(images [N, 3, H, W] in [0, 1], prompts) -> [N]`, higher is better.

One file a reward, and no list of them anywhere: a module here names its public classes in `__all__` and
offers `example()`, a cheap offline instance. Importing this package imports none of them.
"""

from typing import Any

from ..discovery import find, modules


def __getattr__(name: str) -> Any:
    return find(__name__, __path__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for module in modules(__name__, __path__) for name in module.__all__)})
