"""One file a backbone family: each class is a `Denoiser` for `dsearch.search`."""

from typing import Any

from ..discovery import find, modules


def __getattr__(name: str) -> Any:
    return find(__name__, __path__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for module in modules(__name__, __path__) for name in module.__all__)})
