"""dsearch: inference-time alignment of diffusion models by search.

No gradients, no training: at every denoising step it draws several children of each image in progress, estimates the
reward each will end with, keeps the best, and spends its budget where it pays.
"""

from .core.budget import Budget, Prices, measure
from .core.contract import Beams, Choice, Denoiser, Method, Potential, Prediction, Reward, Rng, Scores, Selector, Value
from .core.engine import ModelError, RewardError, SearchError
from .core.loop import search
from .core.panel import Look, Panel
from .core.plan import Bill, Plan
from .core.result import Lineage, Result
from .core.rng import KeyedRng
from .core.steps import Step
from .core.tuning import Pilot, pilot

# isort: split
from . import distributed, methods  # last, so that a method's file may import any name above from `dsearch`
from .drop_in import searching

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
    "distributed",
    "measure",
    "methods",
    "pilot",
    "search",
    "searching",
]
