"""Potentials: the increments that their equations give on values chosen by hand, and what they refuse."""

import math
from dataclasses import replace

import pytest
import torch
from strategies import scores

from dsearch.core import potential
from dsearch.core.resample import ess

LAM = 2.0
VALUES = [[1.0, -0.5], [0.5, 0.25], [2.0, -1.0]]
"""Of two paths after three steps, the last one clean."""


def increments(of, values=VALUES):
    """What a potential adds at each step, `[T, N]`."""
    memory, told = of.initial((1, len(values[0])), torch.device("cpu")), []
    for step, value in enumerate(values, start=1):
        added, memory = of(replace(scores([value], step=step), memory=memory, num_steps=len(values)))
        told.append(added[0])
    return torch.stack(told)


def settled(values=VALUES):
    return LAM * torch.tensor(values[-1], dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "log_g"),
    [
        ("difference", [[2.0, -1.0], [-1.0, 1.5], [3.0, -2.5]]),
        ("plain", [[2.0, -1.0], [1.0, 0.5], [1.0, -1.5]]),
        ("max", [[2.0, -1.0], [2.0, 0.5], [0.0, -1.5]]),
        ("sum", [[2.0, -1.0], [3.0, -0.5], [-1.0, -0.5]]),
    ],
)
def test_increments_are_those_of_the_equation_and_add_up_to_lam_r(kind, log_g):
    told = increments(potential.KINDS[kind](LAM))
    assert told.tolist() == log_g
    assert torch.equal(told.sum(0), settled())


@pytest.mark.parametrize(
    ("schedule", "g"), [("linear", [1 / 3, 2 / 3]), ("geometric", [2 ** (1 / 3) - 1, 2 ** (2 / 3) - 1])]
)
def test_tempering_raises_the_exponent_by_its_schedule(schedule, g):
    told = increments(potential.tempered(LAM, schedule)).cumsum(0)
    for total, exponent, value in zip(told, g, VALUES, strict=False):
        assert total.tolist() == pytest.approx([LAM * exponent * v for v in value], abs=1e-12)
    assert torch.allclose(told[-1], settled())


def test_adaptive_tempering_goes_as_far_as_the_effective_number_allows():
    values = [[float(k) for k in range(8)]] * 3
    told = increments(potential.adaptive(LAM, ess_target=0.5), values).cumsum(0)
    assert ess(told[:1]).item() == pytest.approx(4.0, abs=1e-6)
    assert (told[0] < told[1] + 1e-9).all() and torch.allclose(told[-1], settled(values))


def test_adaptive_tempering_of_equal_values_goes_all_the_way_at_once():
    told = increments(potential.adaptive(LAM), [[1.0, 1.0], [1.0, 1.0]])
    assert told.tolist() == [[LAM, LAM], [0.0, 0.0]]


@pytest.mark.parametrize("kind", potential.KINDS)
def test_a_path_of_no_weight_stays_so(kind):
    told = increments(potential.KINDS[kind](LAM), [[-math.inf, 0.0], [1.0, 0.0]])
    assert told[:, 0].tolist() == [-math.inf, 0.0]


def test_no_potential_adds_nothing_and_remembers_nothing():
    assert potential.none.initial((1, 2), torch.device("cpu")) is None
    assert increments(potential.none).tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: potential.difference(0.0), "lam=0.0 must be above 0"),
        (lambda: potential.plain(math.inf), "lam=inf must be above 0 and finite"),
        (lambda: potential.tempered(1.0, "cubic"), "schedule='cubic' is not known; choose one of linear, geometric"),
        (lambda: potential.adaptive(1.0, ess_target=1.0), r"ess_target=1.0 is outside \(0, 1\)"),
    ],
)
def test_a_potential_that_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
