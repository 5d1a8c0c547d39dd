"""One file a backbone family: each class is a `Denoiser` for `dsearch.search`."""

from typing import Any

from ..discovery import find, modules

_REMOVED = ("Flux", "StableDiffusion3", "StableDiffusionXL")


def __getattr__(name: str) -> Any:
    if name in _REMOVED:  # no AttributeError, which an import would answer for us without the remedy
        raise ImportError(f"dsearch.adapters.{name} is gone: AnyPipeline(pipe, ...) takes its place, as fast and alike")
    return find(__name__, __path__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for module in modules(__name__, __path__) for name in module.__all__)})
