"""The toy diffusion against numerical integration and its own exact laws: it is the oracle of the other tests."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from strategies import within

import dsearch
from dsearch.adapters.toy import GaussianMixture

MEANS, STDS, WEIGHTS = np.array([-1.5, 2.0]), np.array([0.4, 0.9]), np.array([0.3, 0.7])
WIDE = (-12, 12)


def mixture(**options):
    return GaussianMixture([[m] for m in MEANS], STDS, WEIGHTS, **options)


def density(x0, shift=0.0):
    return sum(w * stats.norm.pdf(x0, m + shift, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))


def alpha(step, num_steps):
    return math.sin(math.pi * step / (2 * num_steps)) ** 2


def marginal(x, a):
    """p(x_t), the mixture's components scaled and widened."""
    return sum(
        w * stats.norm.pdf(x, math.sqrt(a) * m, math.sqrt(a * s**2 + 1 - a))
        for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True)
    )


def predicted(toy, x, step, prompt="none"):
    x = torch.as_tensor(x, dtype=torch.float32).reshape(-1, toy.means.shape[1])
    return toy.predict(x, step, toy.encode([prompt]), torch.zeros(len(x), dtype=torch.long))


def children(toy, x, step, count, seed=0, prompt="none"):
    """`count` draws of p(x_{t-1} | x_t = x), in one dimension."""
    pred = predicted(toy, [x], step, prompt)
    lead = dsearch.core.contract.map_tree(lambda leaf: leaf[None, :, None], pred)
    noise = toy.noise(step, (1, 1, count), dsearch.KeyedRng(seed, (0,)))
    return toy.step(torch.full((1, 1, 1, 1), x), lead, step, noise).flatten()


@pytest.mark.parametrize("shift", [0.0, -1.25])
@pytest.mark.parametrize("step", [0, 1, 4, 7])
def test_posterior_mean_equals_numerical_integration(step, shift):
    toy = mixture(num_steps=8, shift={"moved": shift})
    a = alpha(step, 8)
    for x in (-2.0, 0.1, 1.7):

        def joint(x0, x=x):
            return density(x0, shift) * stats.norm.pdf(x, math.sqrt(a) * x0, math.sqrt(1 - a))

        points = [x / math.sqrt(a)] if a else None  # where the likelihood is narrow
        total = integrate.quad(joint, *WIDE, points=points, limit=200)[0]
        mean = integrate.quad(lambda x0: x0 * joint(x0), *WIDE, points=points, limit=200)[0] / total
        assert predicted(toy, x, step, "moved").x0.item() == pytest.approx(mean, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("x", [-1.0, 0.4])
@pytest.mark.parametrize("step", [0, 1, 3, 4])
def test_the_reverse_kernel_equals_the_numerically_normalised_bayes_rule(step, x):
    steps = 5
    before, after = alpha(step, steps), alpha(step + 1, steps)
    ratio = before / after
    grid = np.linspace(*WIDE, 40_001)
    prior = marginal(grid, after) if step + 1 < steps else density(grid)
    pdf = prior * stats.norm.pdf(x, math.sqrt(ratio) * grid, math.sqrt(1 - ratio))
    cdf = integrate.cumulative_trapezoid(pdf, grid, initial=0)
    drawn = children(mixture(num_steps=steps), x, step, 4000)
    assert stats.kstest(drawn.double().numpy(), lambda y: np.interp(y, grid, cdf / cdf[-1])).pvalue > 1e-3


@pytest.mark.parametrize("step", [0, 2, 4])
def test_the_posterior_mean_is_a_martingale(step):
    toy = mixture(num_steps=6)
    for x in (-1.0, 0.2, 1.4):
        expected = predicted(toy, x, step).x0.item()
        later = predicted(toy, children(toy, x, step, 8000), step + 1).x0
        assert within(expected, later)


@pytest.mark.parametrize("num_steps", [1, 2, 7])
@pytest.mark.parametrize("prompt", ["", "moved"])
def test_plain_sampling_gives_the_mixture_at_any_number_of_steps(num_steps, prompt):
    toy, shift = mixture(num_steps=num_steps, shift={"moved": 3.0}), 3.0 * (prompt == "moved")
    method = dsearch.methods.plain(lambda x, prompts: x[:, 0], beams=8000)
    x = dsearch.search(toy, method, prompt, seed=num_steps, chunk=None, reward_chunk=None).images[0, :, 0]
    mean = float(WEIGHTS @ MEANS)
    variance = float(WEIGHTS @ (STDS**2 + (MEANS - mean) ** 2))
    assert within(mean + shift, x)
    assert within(variance, (x - mean - shift) ** 2)
    assert within(float(WEIGHTS @ stats.norm.cdf((0.2 - MEANS) / STDS)), x < 0.2 + shift)
    cdf = lambda y: sum(w * stats.norm.cdf(y - shift, m, s) for w, m, s in zip(WEIGHTS, MEANS, STDS, strict=True))  # noqa: E731
    assert stats.kstest(x.double().numpy(), cdf).pvalue > 1e-3


def test_dimensions_of_a_component_are_independent_given_it():
    toy = GaussianMixture([[1.0, -2.0, 0.5]], std=0.5, num_steps=4)
    method = dsearch.methods.plain(lambda x, prompts: x[:, 0], beams=6000)
    x = dsearch.search(toy, method, "", chunk=None, reward_chunk=None).images[0].double()
    centred = x - torch.tensor([1.0, -2.0, 0.5])
    for i in range(3):
        assert within(0, centred[:, i]) and within(0.25, centred[:, i] ** 2)
        assert within(0, centred[:, i] * centred[:, (i + 1) % 3])


def test_components_are_weighed_by_their_density_in_several_dimensions():
    """Of unequal width, so that the normalising constants count, once a dimension."""
    toy = GaussianMixture([[0.0, 1.0, 0.0], [0.5, 0.0, 0.0]], std=[0.3, 2.0], weights=[0.2, 0.8], num_steps=4)
    x, a = np.array([0.2, 0.4, -0.1]), alpha(2, 4)
    joint = [
        w * np.prod(stats.norm.pdf(x, math.sqrt(a) * np.array(m), math.sqrt(a * s**2 + 1 - a)))
        for w, m, s in zip([0.2, 0.8], toy.means.tolist(), [0.3, 2.0], strict=True)
    ]
    p = predicted(toy, x, 2).out[0][0].tolist()
    assert p == pytest.approx([j / sum(joint) for j in joint], rel=1e-5)


def test_step_zero_is_pure_noise_that_says_nothing():
    toy = mixture(num_steps=4)
    assert predicted(toy, [-3.0, 0.0, 5.0], 0).x0.flatten().tolist() == pytest.approx([float(WEIGHTS @ MEANS)] * 3)


def test_clean_samples_are_their_own_prediction():
    toy = mixture(num_steps=4)
    x = torch.randn(5, 1)
    pred = predicted(toy, x, 4)
    assert torch.equal(pred.x0, x) and torch.equal(toy.decode(pred.x0), x)


def test_a_prompt_moves_every_component_by_its_shift():
    toy = mixture(num_steps=3, shift={"moved": 2.0})
    assert toy.encode(["moved", "unknown"]).tolist() == [2.0, 0.0]
    for step in range(3):
        x = torch.tensor([[-1.0], [0.3]])
        here = predicted(toy, x, step).x0
        there = predicted(toy, x + 2 * math.sqrt(alpha(step, 3)), step, "moved").x0
        assert there.flatten().tolist() == pytest.approx((here + 2).flatten().tolist(), abs=1e-5)


def test_rows_take_the_condition_of_their_own_prompt():
    toy = mixture(num_steps=3, shift={"a": 1.0, "b": -4.0})
    x, cond = torch.zeros(3, 1), toy.encode(["a", "b"])
    mixed = toy.predict(x, 1, cond, torch.tensor([1, 0, 1])).x0.flatten().tolist()
    assert mixed == [predicted(toy, [0.0], 1, name).x0.item() for name in "bab"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"means": [1.0, 2.0]}, r"means has shape \(2,\)"),
        ({"means": [[1.0], [2.0]], "weights": [1.0]}, "2 components need as many weights"),
        ({"means": [[1.0], [2.0]], "weights": []}, "2 components need as many weights"),
        ({"means": [[1.0], [2.0]], "std": [1.0, 1.0, 1.0]}, r"std of shape \(3,\)"),
        ({"means": [[1.0], [2.0]], "weights": [1.0, 0.0]}, "must be above 0"),
        ({"std": 0.0}, "must be above 0"),
        ({"num_steps": 0}, "num_steps is 0"),
    ],
)
def test_shapes_and_scales_that_cannot_be_are_refused(arguments, says):
    with pytest.raises(ValueError, match=says):
        GaussianMixture(**arguments)


def test_weights_need_not_be_normalised():
    assert mixture().weights.tolist() == pytest.approx(WEIGHTS.tolist())
    assert GaussianMixture([[0.0], [1.0]], weights=torch.tensor([2.0, 6.0])).weights.tolist() == [0.25, 0.75]
    assert GaussianMixture([[0.0], [1.0]]).weights.tolist() == [0.5, 0.5]
