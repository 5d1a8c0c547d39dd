"""Experiments as plain data: what is asked (`experiment`), the objects it names (`build`), and runs of it on disk."""

from .experiment import Experiment, ExperimentError, Model, Named, Unit, from_data, load, parse
from .folder import Run
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
    "run",
]
