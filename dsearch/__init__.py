"""dsearch: inference-time alignment of diffusion models by search.

No gradients, no training: at every denoising step it draws several children of each image in progress, estimates the
reward each will end with, keeps the best, and spends its budget where it pays.
"""

from .core import plan as plans
from .core import potential, resample, selection
from .core.budget import Budget, Prices, measure
from .core.chunks import Chunks
from .core.contract import Beams, Choice, Denoiser, Potential, Prediction, Reward, Rng, Scores, Selector, Step
from .core.errors import Interrupted, ModelError, RewardError, SearchError
from .core.method import Method, Rounds, Sized, Value
from .core.plan import Bill, Plan
from .core.result import Cost, Lineage
from .core.rng import KeyedRng
from .core.tuning import Pilot, pilot
from .core.watch import HeldOut, Look, Target, Thumbnails, Watcher

# isort: split
# Last, so that a method's file may import any name above, and `values`, from `dsearch`.
from . import adapters, distributed, methods, rewards, values
from .drop_in import searching
from .entry import search
from .result import Result

__version__ = "0.2.0"

__all__ = [
    "Beams",
    "Bill",
    "Budget",
    "Choice",
    "Chunks",
    "Cost",
    "Denoiser",
    "HeldOut",
    "Interrupted",
    "KeyedRng",
    "Lineage",
    "Look",
    "Method",
    "ModelError",
    "Pilot",
    "Plan",
    "Potential",
    "Prediction",
    "Prices",
    "Result",
    "Reward",
    "RewardError",
    "Rng",
    "Rounds",
    "Scores",
    "SearchError",
    "Selector",
    "Sized",
    "Step",
    "Target",
    "Thumbnails",
    "Value",
    "Watcher",
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
    "searching",
    "selection",
    "values",
]
