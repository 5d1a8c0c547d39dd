"""Experiments as plain data: what is asked (`experiment`), the objects it names (`build`), and runs of it on disk."""

from .._text import prompts_of
from .experiment import Experiment, ExperimentError, Model, Named, Unit
from .folder import Run
from .geneval import export_geneval
from .prompt_sets import prompt_set, read_prompts
from .reader import from_data, load, parse
from .runs import merge, run

__all__ = [
    "Experiment",
    "ExperimentError",
    "Model",
    "Named",
    "Run",
    "Unit",
    "export_geneval",
    "from_data",
    "load",
    "merge",
    "parse",
    "prompt_set",
    "prompts_of",
    "read_prompts",
    "run",
]
