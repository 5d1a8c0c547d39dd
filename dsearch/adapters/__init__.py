"""One file a backbone family: each class is a `Denoiser` for `dsearch.search`."""

from typing import TYPE_CHECKING, Any

from ..discovery import find, modules

if TYPE_CHECKING:
    from .ddpm import DDPM as DDPM
    from .flux import Flux as Flux
    from .masked import Masked as Masked
    from .modular_sdxl import search_step as search_step
    from .stable_diffusion import StableDiffusion as StableDiffusion
    from .stable_diffusion_3 import StableDiffusion3 as StableDiffusion3
    from .stable_diffusion_xl import StableDiffusionXL as StableDiffusionXL
    from .toy import GaussianMixture as GaussianMixture


def __getattr__(name: str) -> Any:
    return find(__name__, __path__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for module in modules(__name__, __path__) for name in module.__all__)})
