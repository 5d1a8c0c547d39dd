"""The toy diffusion against numerical integration and its own exact laws: it is the oracle of the other tests."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from strategies import within

import dsearch
from dsearch.adapters.toy import GaussianMixture, Quadratic, TokenChain

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
    x = dsearch.search(toy, method, prompt, seed=num_steps, chunks=dsearch.Chunks(network=None, reward=None)).images[
        0, :, 0
    ]
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
    x = dsearch.search(toy, method, "", chunks=dsearch.Chunks(network=None, reward=None)).images[0].double()
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


REWARDS = {"linear": Quadratic([0.6], 0.0, -0.3), "hill": Quadratic([1.0], 1.5), "bowl": Quadratic([0.2], -0.4, 1.0)}
LAM = 0.7


def expectation(f, shift=0.0):
    """E[f(x_0)] by quadrature."""
    return integrate.quad(lambda x: f(x) * density(x, shift), -25, 25, points=[-1.5 + shift, 2.0 + shift], limit=400)[0]


def weight(reward, lam=LAM):
    return lambda x: math.exp(lam * (reward.constant + float(reward.linear) * x - reward.curvature * x * x / 2))


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("shift", [0.0, -1.25])
def test_log_z_and_the_tilted_law_equal_numerical_integration(name, shift):
    toy, reward = mixture(num_steps=4, shift={"moved": shift}), REWARDS[name]
    z = expectation(weight(reward), shift)
    assert toy.log_z(reward, LAM, "moved") == pytest.approx(math.log(z), abs=1e-8)
    tilted = toy.tilted(reward, LAM, "moved")
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)[:, None]
    exact = [density(float(y), shift) * weight(reward)(float(y)) / z for y in x]
    assert tilted.log_prob(x).exp().tolist() == pytest.approx(exact, rel=1e-9)
    mean_reward = expectation(lambda y: math.log(weight(reward, 1.0)(y)), shift)
    assert toy.expected_reward(reward, "moved") == pytest.approx(mean_reward, abs=1e-8)
    assert float(reward(x, [""] * 9)[2]) == pytest.approx(math.log(weight(reward, 1.0)(-2.0)))


@pytest.mark.parametrize("step", [0, 1, 3, 5])
def test_log_prob_of_every_level_equals_the_marginal(step):
    x = np.linspace(-3, 3, 7)
    exact = marginal(x, alpha(step, 5)) if step < 5 else density(x)
    assert mixture(num_steps=5).log_prob(torch.tensor(x)[:, None], step).exp().tolist() == pytest.approx(list(exact))


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("step", [0, 2, 5, 6])
def test_values_equal_numerical_integration_over_the_posterior(name, step):
    toy, reward, a = mixture(num_steps=6), REWARDS[name], alpha(step, 6)
    for x in (-1.0, 0.4):
        row = torch.tensor([[x]])
        if step == 6:
            exact = float(reward(row, [""]))
            assert toy.value(row, step, reward).item() == pytest.approx(exact, rel=1e-6)
            assert toy.soft_value(row, step, reward, LAM).item() == pytest.approx(exact, rel=1e-6)
            continue

        def over(f, x=x):
            def joint(y):
                return f(y) * density(y) * stats.norm.pdf(x, math.sqrt(a) * y, math.sqrt(1 - a))

            points = [p for p in (-1.5, 2.0, x / math.sqrt(a) if a else 0.0) if abs(p) < 25]
            return integrate.quad(joint, -25, 25, points=points, limit=400)[0]

        total = over(lambda y: 1.0)
        mean = over(lambda y: math.log(weight(reward, 1.0)(y))) / total
        soft = math.log(over(weight(reward)) / total) / LAM
        assert toy.value(row, step, reward).item() == pytest.approx(mean, rel=1e-6, abs=1e-7)
        assert toy.soft_value(row, step, reward, LAM).item() == pytest.approx(soft, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("dim", [1, 2, 8, 64])
def test_tilts_in_many_dimensions_factor_over_them(dim):
    """A single Gaussian under r = b . x - c |x|^2 / 2 is a product of one-dimensional ones."""
    g = torch.Generator().manual_seed(dim)
    mean, linear = torch.randn(2, dim, generator=g, dtype=torch.float64)
    toy, reward = GaussianMixture(mean[None], 0.8, num_steps=4), Quadratic(linear / dim, 0.9)
    ones = [
        (GaussianMixture([[m]], 0.8, num_steps=4), Quadratic([b], 0.9))
        for m, b in zip(mean.tolist(), (linear / dim).tolist(), strict=True)
    ]
    assert toy.log_z(reward, LAM) == pytest.approx(sum(t.log_z(r, LAM) for t, r in ones))
    x = torch.randn(3, dim, generator=g)
    for step in (0, 2, 4):
        parts = sum(t.soft_value(x[:, d : d + 1], step, r, LAM) for d, (t, r) in enumerate(ones))
        assert torch.allclose(toy.soft_value(x, step, reward, LAM), parts)
    assert toy.tilted(reward, LAM).means[0].tolist() == pytest.approx([float(t.tilted(r, LAM).means) for t, r in ones])


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("step", [0, 2, 4])
def test_the_kernel_of_the_tilted_law_is_the_soft_optimal_policy(name, step):
    """p*(x' | x) = p(x' | x) exp(lam (v(x') - v(x))): the tilted toy's draws have its moments."""
    toy, reward = mixture(num_steps=5), REWARDS[name]
    tilted = toy.tilted(reward, LAM)
    drawn, seen = children(toy, 0.4, step, 20_000)[:, None], torch.tensor([[0.4]])
    log_w = LAM * (toy.soft_value(drawn, step + 1, reward, LAM) - toy.soft_value(seen, step, reward, LAM))
    assert within(1.0, log_w.exp())
    optimal = children(tilted, 0.4, step, 20_000, seed=1).double()
    for f in (lambda x: x, torch.square, torch.sin):
        weighted = log_w.exp() * f(drawn[:, 0].double())
        spread = (weighted.var() / len(weighted) + f(optimal).var() / len(optimal)).sqrt()
        assert abs(weighted.mean() - f(optimal).mean()) < 4.5 * spread


def test_a_reward_without_a_tilted_law_is_refused():
    toy = mixture(num_steps=3)
    with pytest.raises(ValueError, match=r"curvature=-2.0 leaves .* above -1\.235 it has one"):
        toy.tilted(Quadratic([0.0], -2.0))
    assert math.isfinite(toy.log_z(Quadratic([0.0], -1.23)))


def joint_law(length=3, vocab=3, seed=0):
    p = np.random.default_rng(seed).dirichlet(np.full(vocab**length, 0.7))
    p[1] = 0
    return torch.tensor(p / p.sum()).reshape((vocab,) * length)


def odd(x, prompts):
    """[N, L] -> [N]: distinct for distinct words, and for each prompt another."""
    power = torch.tensor([1.0, 0.31, 0.123, 0.057], dtype=torch.float64)[: x.shape[1]]
    return (x.double() * power).sum(-1) * torch.tensor([1.0 - 0.5 * len(p) for p in prompts], dtype=torch.float64)


def spelled(table):
    """Every word and its probability, in plain Python."""
    return {w: float(table[w]) for w in itertools.product(range(len(table)), repeat=table.ndim)}


@pytest.mark.parametrize("prompt", ["", "a"])
def test_a_chain_of_tokens_equals_enumeration(prompt):
    table = joint_law()
    chain, law = TokenChain(7 * table), spelled(table)
    r = {w: float(odd(torch.tensor([w]), [prompt])) for w in law}
    z = sum(p * math.exp(2 * r[w]) for w, p in law.items())
    assert chain.log_z(odd, 2.0, prompt) == pytest.approx(math.log(z))
    assert chain.expected_reward(odd, prompt) == pytest.approx(sum(p * r[w] for w, p in law.items()))
    tilted = chain.tilted(odd, 2.0, prompt).table
    assert tilted.flatten().tolist() == pytest.approx([p * math.exp(2 * r[w]) / z for w, p in law.items()])
    for state in itertools.product(range(4), repeat=3):
        left = {w: p for w, p in law.items() if all(s in (3, t) for s, t in zip(state, w, strict=True))}
        if sum(left.values()) == 0:
            continue
        row, total = torch.tensor([state]), sum(left.values())
        mean = sum(p * r[w] for w, p in left.items()) / total
        soft = math.log(sum(p * math.exp(2 * r[w]) for w, p in left.items()) / total) / 2
        assert chain.value(row, odd, prompt).item() == pytest.approx(mean)
        assert chain.soft_value(row, odd, 2.0, prompt).item() == pytest.approx(soft)


def test_the_kernel_of_a_chain_leads_to_its_table():
    table = joint_law()
    chain, reached = TokenChain(table), {(3, 3, 3): 1.0}
    for _ in range(3):
        following = {}
        for state, p in reached.items():
            words, q = chain.kernel(torch.tensor(state))
            assert q.sum().item() == pytest.approx(1)
            for word, share in zip(words.tolist(), q.tolist(), strict=True):
                following[tuple(word)] = following.get(tuple(word), 0.0) + p * share
        reached = following
    assert reached == pytest.approx({w: p for w, p in spelled(table).items() if p}, abs=1e-12)


def test_plain_sampling_of_a_chain_gives_its_table():
    table = joint_law()
    method = dsearch.methods.plain(lambda x, prompts: x[:, 0], beams=20_000)
    words = dsearch.search(TokenChain(table), method, "", chunks=dsearch.Chunks(network=None, reward=None)).images[0]
    seen = torch.bincount(words @ torch.tensor([9, 3, 1]), minlength=27).double()
    there = table.flatten() > 0
    assert seen[~there].sum() == 0
    assert stats.chisquare(seen[there], 20_000 * table.flatten()[there]).pvalue > 1e-3


@pytest.mark.parametrize("table", [torch.ones(2, 3), torch.zeros(2, 2), torch.tensor([1.0, -1.0]), torch.tensor(1.0)])
def test_a_table_that_is_no_law_is_refused(table):
    with pytest.raises(ValueError, match="is no law over words"):
        TokenChain(table)
