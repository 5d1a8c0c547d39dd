"""Resampling: expected counts, zero weights, and the effective sample size."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import log_weights

from dsearch import KeyedRng
from dsearch.core import resample
from dsearch.core.resample import ess, residual, stratified, systematic

SCHEMES = list(resample.SCHEMES.values())
every_scheme = pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.__name__)

EDGE = 1e-9
"""Where n w is this near a whole number, float64 rounding may put a point on either side."""


def rows(log_w):
    return torch.tensor([log_w], dtype=torch.float64)


def draw(scheme, log_w, n, seed=0):
    return scheme(log_w, n, KeyedRng(seed, tuple(range(len(log_w)))), 1)


def test_every_scheme_is_known_by_its_name():
    assert all(getattr(resample, name) is scheme for name, scheme in resample.SCHEMES.items())
    assert set(resample.SCHEMES) == {"multinomial", "stratified", "systematic", "residual"}


@given(log_weights(), st.integers(1, 40), st.integers(0, 50))
def test_residual_copies_at_least_floor_of_n_w(log_w, n, seed):
    expected = n * rows(log_w).softmax(-1)
    index = draw(residual, rows(log_w).expand(50, -1), n, seed)
    count = torch.nn.functional.one_hot(index, len(log_w)).sum(1)
    assert (count >= (expected - EDGE).floor()).all()


@given(log_weights(), st.integers(1, 40), st.integers(0, 50))
def test_stratified_counts_lie_within_two_of_n_w(log_w, n, seed):
    """A weight of n w strata, cut at both ends, holds floor(n w) - 1 to ceil(n w) + 1 points."""
    expected = n * rows(log_w).softmax(-1)
    index = draw(stratified, rows(log_w).expand(50, -1), n, seed)
    count = torch.nn.functional.one_hot(index, len(log_w)).sum(1)
    assert ((count - expected).abs() < 2 + EDGE).all()
    assert torch.equal(index, index.sort(dim=-1).values)


def test_the_schemes_spread_their_draws_ever_more_evenly():
    """Variance of a count: systematic <= stratified, residual <= multinomial, strictly on these weights."""
    w = torch.tensor([0.35, 0.31, 0.22, 0.12]).double()
    spread = {}
    for name, scheme in resample.SCHEMES.items():
        count = torch.nn.functional.one_hot(draw(scheme, w.log().expand(4000, -1), 5), 4).sum(1).double()
        spread[name] = count.var(0).sum().item()
    assert spread["systematic"] < 0.95 * spread["stratified"] < 0.9 * spread["multinomial"]
    assert spread["residual"] < 0.9 * spread["multinomial"]


@given(log_weights(), st.integers(1, 40), st.integers(0, 50))
def test_systematic_copies_floor_or_ceil_of_n_w(log_w, n, seed):
    expected = n * rows(log_w).softmax(-1)
    index = draw(systematic, rows(log_w).expand(50, -1), n, seed)  # 50 groups, each with a draw of its own
    count = torch.nn.functional.one_hot(index, len(log_w)).sum(1)
    assert (count >= (expected - EDGE).floor()).all()
    assert (count <= (expected + EDGE).ceil()).all()


def test_systematic_points_are_evenly_spaced_from_one_uniform_a_group():
    w = torch.tensor([0.3, 0.4, 0.3]).double()
    rng = KeyedRng(3, tuple(range(100)))
    u = rng.uniform("resample", 7, (100, 1))
    points = (u + torch.arange(4)) / 4
    expected = (points[..., None] >= w.cumsum(0)).sum(-1)
    assert torch.equal(systematic(w.log().expand(100, -1), 4, rng, 7), expected)


@given(log_weights(), st.integers(1, 40))
def test_systematic_indices_ascend(log_w, n):
    index = draw(systematic, rows(log_w), n)[0]
    assert torch.equal(index, index.sort().values)


def test_systematic_leaves_equal_weights_alone():
    assert draw(systematic, torch.zeros(3, 7), 7).tolist() == [list(range(7))] * 3


@every_scheme
@given(log_w=log_weights(), n=st.integers(1, 40), seed=st.integers(0, 50))
def test_zero_weights_are_never_drawn(scheme, log_w, n, seed):
    index = draw(scheme, rows(log_w), n, seed)
    assert index.shape == (1, n)
    assert all(log_w[i] > -math.inf for i in index[0].tolist())


@every_scheme
@pytest.mark.parametrize("n", [3, 5, 8])
def test_schemes_are_unbiased(scheme, n):
    w = torch.tensor([0.02, 0.3, 0.0, 0.13, 0.55]).double()
    repeats = 4000
    index = draw(scheme, w.log().expand(repeats, -1), n)
    count = torch.nn.functional.one_hot(index, len(w)).sum(1).double()  # [repeats, N]
    error = (count.mean(0) - n * w).abs()
    assert (error <= 4.5 * count.std(0) / math.sqrt(repeats) + 1e-12).all()
    assert (count.std(0)[w > 0] > 0).all()


@every_scheme
@given(log_w=log_weights(), n=st.integers(1, 20), constant=st.integers(-4000, 4000))
def test_adding_a_constant_to_the_log_weights_changes_nothing(scheme, log_w, n, constant):
    moved = rows(log_w) + constant / 8  # exact on this grid
    assert torch.equal(draw(scheme, rows(log_w), n), draw(scheme, moved, n))
    assert torch.equal(ess(rows(log_w)), ess(moved))


@every_scheme
def test_a_group_does_not_depend_on_its_batch_mates(scheme):
    log_w = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    many = scheme(log_w, 6, KeyedRng(2, ("a", "b", "c")), 4)
    assert torch.equal(scheme(log_w[2:], 6, KeyedRng(2, ("c",)), 4), many[2:])


@every_scheme
def test_steps_draw_afresh(scheme):
    log_w, rng = torch.arange(40.0)[None] / 40, KeyedRng(2, (0,))
    assert not torch.equal(scheme(log_w, 20, rng, 1), scheme(log_w, 20, rng, 2))


@given(log_weights())
def test_ess_lies_between_one_and_n(log_w):
    assert 1 - 1e-12 <= ess(rows(log_w)).item() <= len(log_w) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("weights", "exact"),
    [([5.0], 1), ([2.0] * 7, 7), ([0, 0, 3.0], 1), ([1, 1, 0, 0], 2), ([1, 2], 9 / 5), ([1, 2, 3], 36 / 14)],
)
def test_ess_exact_cases(weights, exact):
    assert ess(torch.tensor([weights, weights]).log()).tolist() == pytest.approx([exact, exact], rel=1e-6)
