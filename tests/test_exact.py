"""Exact answers: FK and SMC against the tilted law, KL in closed form, DSearch's degenerate cases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import assert_identical, run, smooth, within

import dsearch
from dsearch import methods
from dsearch.adapters import toy
from dsearch.core import value
from dsearch.core.plan import pruning_plan
from dsearch.core.resample import SCHEMES

REPLICAS, MEAN, STD, LAM = 400, 0.5, 0.8, 0.7


def first(x, prompts):
    return x[:, 0]


def steer(method, dim=1, num_steps=6):
    """Independent replicas of one prompt, side by side."""
    denoiser = toy.GaussianMixture([[MEAN] * dim], STD, num_steps=num_steps)
    return dsearch.search(denoiser, method, [""] * REPLICAS, seed=7, chunk=None, reward_chunk=None)


def assert_tilted(result, mean=MEAN + LAM * STD**2):
    """Z is unbiased, and with it the unnormalised mean: E[Z x] = Z times the tilted mean. Bounds of 4.5 sigma."""
    z = math.exp(LAM * MEAN + LAM**2 * STD**2 / 2)
    estimate = result.log_z.exp()
    assert within(z, estimate)
    weighted = (result.log_w.exp() * result.latents[..., 0]).mean(dim=1)
    assert within(z * mean, weighted)


@pytest.mark.parametrize("potential", ["difference", "max", "sum", "plain"])
@pytest.mark.parametrize("resampler", list(SCHEMES))
def test_fk_estimates_the_tilted_law(potential, resampler):
    lower = 0.5 if potential in ("sum", "plain") else 1.0
    assert_tilted(steer(methods.fk(first, 16, LAM, potential, resampler, ess_below=lower, every=2)))


@pytest.mark.parametrize("dim", [1, 8, 64])
def test_fk_estimates_the_tilted_law_in_more_dimensions(dim):
    assert_tilted(steer(methods.fk(first, 16, LAM, every=1), dim))


@pytest.mark.parametrize("schedule", ["linear", "geometric"])
def test_tempered_smc_estimates_the_tilted_law(schedule):
    assert_tilted(steer(methods.tempered(first, 16, LAM, schedule)))


def test_adaptive_tempering_is_consistent():
    result = steer(methods.tempered(first, 256, LAM, "adaptive"))
    assert result.log_z.exp().mean().item() == pytest.approx(math.exp(LAM * MEAN + LAM**2 * STD**2 / 2), rel=0.02)


@pytest.mark.parametrize("kind", ["difference", "max", "sum", "plain"])
def test_without_resampling_every_potential_telescopes_to_the_final_reward(kind):
    method = methods.fk(first, 8, LAM, kind, ess_below=1e-9, every=1, value=value.lookahead(2))
    result = steer(method)
    assert torch.allclose(result.log_w, LAM * result.rewards.double(), atol=1e-9)
    assert (result.kl == 0).all()


def test_log_weights_do_not_overflow():
    result = steer(methods.fk(lambda x, prompts: 1e4 * x[:, 0], 8, 1.0, every=1))
    assert result.log_w.isfinite().all()


@pytest.mark.parametrize("width", [1, 2, 5, 20])
def test_kl_of_the_best_child_is_that_of_the_maximum_of_normals(width):
    """Against quadrature of the density w phi Phi^(w-1), one choice a step but the last."""
    x = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    phi, cdf = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi), torch.special.ndtr(x)
    q = width * phi * cdf ** (width - 1)
    exact = torch.trapezoid(torch.special.xlogy(q, q / phi), x).item()
    result = run(methods.svdd(smooth, width=width, beams=2))
    assert result.kl.flatten().tolist() == pytest.approx([5 * exact] * 4, abs=1e-6)


def test_kl_of_soft_svdd_tends_to_that_of_the_optimal_policy():
    """A linear value tilts a Gaussian kernel in its mean: KL (g s / alpha)^2 / 2 a step, g the slope, s the std."""
    denoiser, alpha = toy.GaussianMixture([[0.0]], 1.0, num_steps=5), 0.8
    # N(0, 1) stays N(0, 1): x0_hat = sqrt(a') x', and x' given x has variance 1 - a / a'.
    a = denoiser.alpha
    exact = sum(a[i + 1] * (1 - a[i] / a[i + 1]) / alpha**2 / 2 for i in range(4))
    method = methods.svdd(first, width=400, temperature=alpha)
    result = dsearch.search(denoiser, method, [""] * 200, chunk=None, reward_chunk=None)
    assert result.kl.mean().item() == pytest.approx(exact, rel=0.05)


def same(one, other):
    assert_identical([one.images, one.rewards, one.lineage.path()], [other.images, other.rewards, other.lineage.path()])


few = settings(max_examples=10)
SEED, SIZE = st.integers(0, 2**40), st.integers(1, 5)


@few
@given(seed=SEED, beams=SIZE, width=SIZE)
def test_dsearch_that_drops_nothing_is_svdd(seed, beams, width):
    searched = methods.dsearch(smooth, beams, beams, beams * width, search="all")
    same(run(searched, seed=seed), run(methods.svdd(smooth, width, beams), seed=seed))


@few
@given(seed=SEED, n=SIZE)
def test_dsearch_that_never_branches_and_drops_at_the_end_is_best_of_n(seed, n):
    searched = methods.dsearch(smooth, n, 1, 3 * n, search=[False] * 5, max_width=1)
    same(run(searched, seed=seed), run(methods.best_of_n(smooth, n), seed=seed))


@few
@given(seed=SEED, width=SIZE)
def test_dsearch_of_one_beam_is_beam_search(seed, width):
    same(
        run(methods.dsearch(smooth, 1, 1, width, search="all"), seed=seed),
        run(methods.beam(smooth, 1, width), seed=seed),
    )


@few
@given(seed=SEED, n=SIZE)
def test_dsearch_that_never_branches_and_drops_at_its_steps_is_psp(seed, n):
    plan = pruning_plan(6, 2 * n, [(0.25, n), (0.5, max(1, n // 2))])
    searched = methods.dsearch(smooth, 2 * n, 1, 2 * n, drop=plan.keep[:-1], search=plan.score[:-1], max_width=1)
    same(run(searched, seed=seed), run(methods.psp(smooth, n), seed=seed))


@few
@given(seed=SEED, width=SIZE, beams=SIZE)
def test_code_in_blocks_of_one_is_svdd(seed, width, beams):
    same(run(methods.code(smooth, width, 1, beams), seed=seed), run(methods.svdd(smooth, width, beams), seed=seed))


@pytest.mark.parametrize(("steps", "rows"), [(8, 4 * 8), (20, 4 * 20), (64, 4 * 64)])
def test_psp_costs_the_rows_of_best_of_n(steps, rows):
    assert (
        methods.psp(smooth, 4).bill(steps).model_calls == rows == methods.best_of_n(smooth, 4).bill(steps).model_calls
    )
