"""After a search, a run, a picture or a report, the program that hosts the library is as it was before."""

import random
import warnings

import diffusers
import matplotlib
import numpy as np
import pytest
import torch
import transformers
from matplotlib import pyplot
from strategies import run, smooth

from dsearch import methods
from dsearch.experiments import Experiment, Model, Named, runs
from dsearch.experiments.quiet import hush
from dsearch.plots import plan_picture
from dsearch.report import report


def state():
    """All that a host program may have set, by name."""
    logs = transformers.utils.logging, diffusers.utils.logging
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "threads": torch.get_num_threads(),
        "gradients": torch.is_grad_enabled(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # the global one is what is promised
        "python": random.getstate(),
        "warnings": list(warnings.filters),
        "verbosity": [log.get_verbosity() for log in logs],
        "bars": [log.is_progress_bar_enabled() for log in logs],
        "backend": matplotlib.get_backend(),
        "figures": pyplot.get_fignums(),
        "parameters": dict(matplotlib.rcParams),
    }


def experiment():
    return Experiment(
        prompts=("cat",),
        rewards={"size": Named("compressibility")},
        methods={"SVDD": Named("svdd", {"width": 2})},
        models={"box": Model("box", steps=2, device="cpu")},
    )


DOES = {
    "a search": lambda folder: run(methods.svdd(smooth)),
    "a run": lambda folder: runs.run(experiment(), folder / "run"),
    "a picture": lambda folder: plan_picture({"SVDD": methods.svdd(smooth).plan(5)}, folder / "plan.png"),
    "a report": lambda folder: report(runs.run(experiment(), folder / "run"), folder / "report.html"),
}


@pytest.mark.parametrize("does", DOES.values(), ids=DOES)
@pytest.mark.filterwarnings("default:a host's own filter")
def test_the_host_is_as_it_was(does, tmp_path):
    before_backend = matplotlib.get_backend()
    matplotlib.use("svg")  # as a notebook has one of its own
    transformers.utils.logging.set_verbosity_info()
    diffusers.utils.logging.enable_progress_bar()
    try:
        before = state()
        does(tmp_path)
        assert state() == before
    finally:
        transformers.utils.logging.set_verbosity_warning()
        matplotlib.use(before_backend)


def test_what_breaks_off_leaves_the_host_as_it_was_too(tmp_path):
    before = state()
    with pytest.raises(RuntimeError, match="no"), hush():
        raise RuntimeError("no")
    assert state() == before
