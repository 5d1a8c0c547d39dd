# Written by `make api`, for type checkers; at run time the folder finds its modules.

from .ddpm import DDPM as DDPM
from .loaded import from_pipeline as from_pipeline
from .masked import Masked as Masked
from .modular_sdxl import search_step as search_step
from .pipeline import AnyPipeline as AnyPipeline
from .stable_diffusion import StableDiffusion as StableDiffusion
from .toy import GaussianMixture as GaussianMixture
from .toy import Quadratic as Quadratic
from .toy import TokenChain as TokenChain
from .toy_flow import FlowMixture as FlowMixture
from .velocity import as_flow as as_flow
