"""One file a backbone family: each class is a `Denoiser` for `dsearch.search`."""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .stable_diffusion import StableDiffusion as StableDiffusion
    from .toy import GaussianMixture as GaussianMixture


def __getattr__(name: str) -> Any:
    # Asked one by one, so that no model library is imported before its adapter is.
    for info in iter_modules(__path__):
        module = import_module(f"{__name__}.{info.name}")
        if name in module.__all__:
            return getattr(module, name)
    raise AttributeError(f"no adapter is named {name!r}")
