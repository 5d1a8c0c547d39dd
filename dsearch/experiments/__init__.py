"""Experiments as plain data: what is asked (`experiment`), the objects it names (`build`), and runs of it on disk."""

from .._text import prompts_of
from .experiment import Experiment, ExperimentError, Model, Named, Unit
from .folder import Run
from .reader import from_data, load, parse
from .runs import merge, run

__all__ = [
    "Experiment",
    "ExperimentError",
    "Model",
    "Named",
    "Run",
    "Unit",
    "from_data",
    "load",
    "merge",
    "parse",
    "prompts_of",
    "run",
]
