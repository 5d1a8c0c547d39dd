"""Where a search should spend its rows: against enumeration, quadrature and martingales of known gains."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from strategies import Counted, CountedReward, run, smooth

import dsearch
from dsearch import methods
from dsearch.adapters import toy
from dsearch.core.tuning import Pilot, allocate, expected_best, pilot
from dsearch.methods.tuned import stretched

gains = st.lists(st.integers(0, 8).map(lambda k: k / 4), min_size=1, max_size=4).filter(any)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 40])
def test_the_expected_best_equals_quadrature(n):
    exact = integrate.quad(lambda x: x * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1), -9, 9)[0]
    assert expected_best(n) == pytest.approx(exact, abs=1e-7)
    assert expected_best(2) == pytest.approx(1 / math.sqrt(math.pi))
    assert expected_best(n + 1) - expected_best(n) > expected_best(n + 2) - expected_best(n + 1) > 0


@settings(max_examples=60)
@given(gains, st.integers(0, 6))
def test_the_widths_are_the_best_of_all(gain, more):
    rows = len(gain) + more
    width = allocate(gain, rows)
    assert sum(width) == rows and min(width) >= 1

    def worth(widths):
        return sum(g * expected_best(w) for g, w in zip(gain, widths, strict=True))

    every = (w for w in itertools.product(range(1, more + 2), repeat=len(gain)) if sum(w) == rows)
    assert worth(width) == pytest.approx(max(map(worth, every)), abs=1e-9)


def test_widths_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="rows=2 are fewer than 3 steps"):
        allocate([1.0, 1.0, 1.0], 2)
    for gain in ([0.0, 0.0], [1.0, -0.5]):
        with pytest.raises(ValueError, match="must be at least 0 and not 0 throughout"):
            allocate(gain, 5)
        with pytest.raises(ValueError, match="must be at least 0 and not 0 throughout"):
            methods.tuned(smooth, gain)


def test_rank_correlations_are_spearmans():
    values = torch.randn(3, 12, 5, generator=torch.Generator().manual_seed(0)).cumsum(-1)
    exact = [sum(stats.spearmanr(values[b, :, t], values[b, :, -1]).statistic for b in range(3)) / 3 for t in range(5)]
    assert Pilot(values).rank_correlation == pytest.approx(exact)


def test_the_gain_of_a_martingale_is_the_spread_of_its_increments():
    """Values that are sums of independent increments: a choice at step t is worth their standard deviation there."""
    spread = torch.tensor([0.5, 2.0, 1.0, 0.25, 1.5, 0.7])
    steps = torch.randn(8, 4000, 6, generator=torch.Generator().manual_seed(1)) * spread
    prompt = torch.arange(8.0)[:, None, None] * 10  # what differs between prompts gains nothing
    s = spread[:-1].tolist()
    padded = [s[0], *s, s[-1]]
    smoothed = [(a + 2 * b + c) / 4 for a, b, c in zip(padded, padded[1:], padded[2:], strict=False)]
    # 32,000 samples: the covariance of an increment with the end has an error of about sd * |end| / sqrt(n).
    assert Pilot(steps.cumsum(-1) + prompt).gain == pytest.approx(smoothed, abs=4.5 * 3 / math.sqrt(32_000))


def test_a_value_that_says_nothing_gains_nothing():
    g = torch.Generator().manual_seed(2)
    values = torch.cat([torch.randn(4, 3000, 4, generator=g), torch.randn(4, 3000, 1, generator=g)], dim=-1)
    assert max(Pilot(values).gain) < 4.5 / math.sqrt(12_000)


def test_a_pilot_is_plain_sampling_with_every_value_looked_at():
    model, reward = Counted(toy.example()), CountedReward(smooth)
    made = pilot(model, reward, ["a", "b"], samples=5, seed=3)
    assert made.values.shape == (2, 5, 6)
    assert (model.model_calls, model.decodes, reward.calls) == (60, 60, 60)
    plain = run(methods.plain(smooth, beams=5), seed=3)
    assert torch.equal(made.values[..., -1].sort(dim=1, descending=True).values, plain.rewards)
    assert torch.equal(made.values, pilot(toy.example(), smooth, ["a", "b"], samples=5, seed=3).values)
    with pytest.raises(ValueError, match="samples is 2; it must be a whole number of at least 3"):
        pilot(toy.example(), smooth, ["a"], samples=2)


@settings(max_examples=40)
@given(gains, st.integers(1, 3), st.integers(0, 9), st.integers(2, 12))
def test_tuned_spends_its_budget_at_most_and_looks_only_where_it_chooses(gain, beams, more, steps):
    budget = beams + more
    method = methods.tuned(smooth, gain, budget, beams)
    plan = method.plan(steps)
    assert plan.model_calls <= budget * steps < plan.model_calls + beams
    assert plan.score == (*(w > 1 for w in plan.width[:-1]), False)
    assert plan.width[:-1] == allocate(stretched(gain, steps - 1), budget * steps // beams - 1)


def test_gains_of_another_number_of_steps_are_read_between():
    gain = [1.0, 3.0, 2.0, 0.5]
    assert stretched(gain, 4) == gain
    assert stretched(gain, 2) == [2.0, 1.25]
    twice = stretched(gain, 8)
    assert (twice[0], twice[-1]) == (1.0, 0.5)  # beyond the middle of the first and last there is nothing to read
    assert twice[1:3] == [1.5, 2.5]


def test_tuned_widths_beat_even_ones_where_the_gains_are_uneven():
    """Only the last choice before the end matters: all rows go there, and the expected best is known."""
    gain = [0.0, 0.0, 0.0, 1.0]
    assert methods.tuned(smooth, gain, rows_per_step=4).plan(5).width == (1, 1, 1, 16, 1)


def test_a_tuned_search_runs_on_its_own_pilot():
    model = toy.example()
    made = dsearch.pilot(model, smooth, ["a", "b"], samples=64)
    method = methods.tuned(smooth, made.gain, rows_per_step=4)
    assert run(method, denoiser=model).rewards.mean() > run(methods.plain(smooth, 1)).rewards.mean()
