"""dsearch: inference-time alignment of diffusion models by search.

No gradients, no training: at every denoising step it draws several children of each image in progress, estimates the
reward each will end with, keeps the best, and spends its budget where it pays.
"""

from .core import plan as plans
from .core import potential, resample, selection
from .core.budget import Budget, Prices, measure
from .core.contract import Beams, Choice, Denoiser, Method, Potential, Prediction, Reward, Rng, Scores, Selector, Value
from .core.engine import ModelError, RewardError, SearchError
from .core.panel import Look, Panel
from .core.plan import Bill, Plan
from .core.result import Lineage
from .core.rng import KeyedRng
from .core.steps import Step
from .core.tuning import Pilot, pilot

# isort: split
# Last, so that a method's file may import any name above, and `values`, from `dsearch`.
from . import adapters, distributed, methods, rewards, values
from .result import Result
from .searching import search

__version__ = "0.1.0"

__all__ = [
    "Beams",
    "Bill",
    "Budget",
    "Choice",
    "Denoiser",
    "KeyedRng",
    "Lineage",
    "Look",
    "Method",
    "ModelError",
    "Panel",
    "Pilot",
    "Plan",
    "Potential",
    "Prediction",
    "Prices",
    "Result",
    "Reward",
    "RewardError",
    "Rng",
    "Scores",
    "SearchError",
    "Selector",
    "Step",
    "Value",
    "adapters",
    "distributed",
    "measure",
    "methods",
    "pilot",
    "plans",
    "potential",
    "resample",
    "rewards",
    "search",
    "selection",
    "values",
]
