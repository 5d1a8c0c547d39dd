"""Exact answers: FK and SMC against the tilted law, KL in closed form, DSearch's degenerate cases."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import assert_identical, run, smooth, within

import dsearch
from dsearch import methods
from dsearch.adapters import toy
from dsearch.adapters.toy import Quadratic, TokenChain
from dsearch.core import value
from dsearch.core.plan import pruning_plan
from dsearch.core.resample import SCHEMES

REPLICAS, MEAN, STD, LAM = 400, 0.5, 0.8, 0.7


def first(x, prompts):
    return x[:, 0]


def steer(method, dim=1, num_steps=6):
    """Independent replicas of one prompt, side by side."""
    denoiser = toy.GaussianMixture([[MEAN] * dim], STD, num_steps=num_steps)
    return dsearch.search(denoiser, method, [""] * REPLICAS, seed=7, chunks=dsearch.Chunks(network=None, reward=None))


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
    result = dsearch.search(denoiser, method, [""] * 200, chunks=dsearch.Chunks(network=None, reward=None))
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


MIXED = toy.GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], [0.5, 0.9], [0.4, 0.6], num_steps=6)
HILL = Quadratic([0.5, -0.2], 0.8)


def side_by_side(denoiser, method, seed=7, replicas=REPLICAS):
    return dsearch.search(
        denoiser, method, [""] * replicas, seed=seed, chunks=dsearch.Chunks(network=None, reward=None)
    )


def assert_unbiased(result, log_z, moments):
    """E[Z] and E[Z f(x)] are exact for any number of particles: `moments` pairs f with its tilted mean."""
    assert within(math.exp(log_z), result.log_z.exp())
    for f, mean in moments:
        assert within(math.exp(log_z) * mean, (result.log_w.exp() * f(result.latents)).mean(dim=1))


def tilted_moments(tilted):
    mean = tilted.weights @ tilted.means
    square = tilted.weights @ (tilted.means.square() + tilted.std.square()[:, None])
    return [(lambda x: x[..., 0], mean[0]), (lambda x: x[..., 1], mean[1]), (lambda x: x[..., 0].square(), square[0])]


@pytest.mark.parametrize("potential", ["difference", "max", "sum", "plain"])
@pytest.mark.parametrize("values", [value.posterior_mean, value.lookahead(2)], ids=["posterior mean", "lookahead"])
def test_fk_estimates_the_law_of_a_mixture_tilted_by_a_quadratic_reward(potential, values):
    lower = 0.5 if potential in ("sum", "plain") else 1.0
    method = methods.fk(HILL, 16, LAM, potential, ess_below=lower, every=2, value=values)
    assert_unbiased(side_by_side(MIXED, method), MIXED.log_z(HILL, LAM), tilted_moments(MIXED.tilted(HILL, LAM)))


@pytest.mark.parametrize("schedule", ["linear", "geometric"])
def test_tempered_smc_estimates_the_law_of_a_tilted_mixture(schedule):
    result = side_by_side(MIXED, methods.tempered(HILL, 16, LAM, schedule))
    assert_unbiased(result, MIXED.log_z(HILL, LAM), tilted_moments(MIXED.tilted(HILL, LAM)))


def exact(denoiser, reward, lam):
    """The soft value in closed form, as a network that has learned it."""
    return value.learned(lambda x, step, prompts: denoiser.soft_value(x, step, reward, lam))


def test_soft_svdd_with_the_exact_value_samples_the_tilted_law():
    """In the limit of many children; the last step takes one, as in the published code, and is nearly clean here."""
    denoiser = toy.GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], [0.5, 0.9], [0.4, 0.6], num_steps=24)
    strength = 2.0
    method = methods.svdd(HILL, 64, temperature=1 / strength, value=exact(denoiser, HILL, strength))
    x = side_by_side(denoiser, method, replicas=4000).latents[:, 0].double()
    tilted, plain = denoiser.tilted(HILL, strength), tilted_moments(denoiser)
    for (f, mean), (_, before) in zip(tilted_moments(tilted), plain, strict=True):
        error = 4.5 * f(x).std() / len(x) ** 0.5
        assert abs(f(x).mean() - mean) < error + 0.03 * abs(mean - before)  # of the step that does not choose


def test_the_kl_of_soft_svdd_with_the_exact_value_is_that_of_the_tilted_law():
    """KL(tilted || pretrained) = lam E[r] - log Z is the KL of the paths; few steps but the last leave it."""
    denoiser = toy.GaussianMixture([[0.0, 0.0]], 0.8, num_steps=30)
    reward, strength = Quadratic([1.0, 0.0], 0.5), 1.5
    tilted = denoiser.tilted(reward, strength)
    expected = strength * tilted.expected_reward(reward) - denoiser.log_z(reward, strength)
    method = methods.svdd(reward, 400, temperature=1 / strength, value=exact(denoiser, reward, strength))
    result = side_by_side(denoiser, method, replicas=300)
    assert result.kl.mean().item() == pytest.approx(expected, rel=0.1)


def word_law(seed=3):
    g = torch.Generator().manual_seed(seed)
    table = torch.rand(3, 3, 3, generator=g, dtype=torch.float64)
    table[0, 1, 2] = 0
    return TokenChain(table)


def letters(x, prompts):
    """[N, L] -> [N]: distinct for distinct words."""
    return (x.double() * torch.tensor([1.0, 0.31, 0.123])[: x.shape[1]]).sum(-1)


@pytest.mark.parametrize("potential", ["difference", "max", "sum", "plain"])
@pytest.mark.parametrize("resampler", list(SCHEMES))
def test_fk_estimates_the_tilted_law_of_tokens(potential, resampler):
    chain = word_law()
    lower = 0.5 if potential in ("sum", "plain") else 1.0
    result = side_by_side(chain, methods.fk(letters, 16, LAM, potential, resampler, ess_below=lower, every=1))
    tilted = chain.tilted(letters, LAM)
    moments = [(lambda x, i=i: (x[..., 0] == i).double(), tilted.table[i].sum()) for i in range(3)]
    pairs = [(lambda x: ((x[..., 0] == 2) & (x[..., 2] == 1)).double(), tilted.table[2, :, 1].sum())]
    assert_unbiased(result, chain.log_z(letters, LAM), moments + pairs)


def states(chain):
    """Every partly masked word that can be reached, by level."""
    level = {(chain.mask,) * chain.length: 1.0}
    levels = [level]
    for _ in range(chain.length):
        following = {}
        for state, p in level.items():
            for word, q in zip(*chain.kernel(torch.tensor(state)), strict=True):
                key = tuple(word.tolist())
                following[key] = following.get(key, 0.0) + p * float(q)
        levels.append(level := following)
    return levels


def test_the_soft_value_of_rollouts_is_unbiased_on_the_scale_where_it_is_enumerated():
    """E[exp(v / alpha)] over rollouts to the end is exp(soft value / alpha), at every state of every level."""
    chain, alpha = word_law(), 0.8
    method = methods.svdd(letters, 4000, value=value.lookahead(3, over="soft", alpha=alpha), temperature=alpha)
    result = dsearch.search(chain, method, "", chunks=dsearch.Chunks(network=None, reward=None))
    drawn = result.trace[0].values[0]
    expected = math.exp(chain.soft_value(torch.full((1, 3), chain.mask), letters, 1 / alpha).item() / alpha)
    assert within(expected, (drawn / alpha).exp())  # over children of the root, their rollouts: the tower rule


@pytest.mark.parametrize("level", [1, 2])
def test_the_soft_value_of_a_state_equals_enumeration(level):
    chain, alpha, seen = word_law(), 0.8, {}
    inner = value.lookahead(3, rollouts=64, over="soft", alpha=alpha)

    class Watched:
        cost = inner.cost

        def __call__(self, children, step, engine):
            found = inner(children, step, engine)
            for state, v in zip(children.x.flatten(0, 1).tolist(), found.flatten().tolist(), strict=True):
                if step == level:
                    seen.setdefault(tuple(state), []).append(v)
            return found

    method = methods.svdd(letters, 12, value=Watched(), temperature=alpha)
    dsearch.search(chain, method, [""] * 150, chunks=dsearch.Chunks(network=None, reward=None))
    checked = 0
    for state, found in seen.items():
        if len(found) > 60:
            expected = chain.soft_value(torch.tensor([state]), letters, 1 / alpha).item()
            found = torch.tensor(found, dtype=torch.float64)
            if found.std() < 1e-9:  # one word is left
                assert found[0].item() == pytest.approx(expected)
            else:
                assert within(math.exp(expected / alpha), (found / alpha).exp())
            checked += 1
    assert checked >= 6


def searched(chain, width, choose):
    """The law of a search of `width` children a step but the last, and its KL to the kernel, by enumeration.

    `choose(words, p)` gives the law of the chosen child.
    """
    level, nats = {(chain.mask,) * chain.length: 1.0}, 0.0
    for step in range(chain.length):
        following = {}
        for state, p in level.items():
            words, q = chain.kernel(torch.tensor(state))
            law = choose(words, q) if step < chain.length - 1 else q
            nats += p * float(torch.special.xlogy(law, law / q).sum())
            for word, share in zip(words.tolist(), law.tolist(), strict=True):
                following[tuple(word)] = following.get(tuple(word), 0.0) + p * share
        level = following
    return level, nats


def best_of(chain, reward, width):
    """P(the best of w draws is a state) where values differ: F(v)^w - F(v-)^w."""

    def choose(words, q):
        v = chain.soft_value(words, reward, 2.0)
        return torch.stack([q[v <= own].sum() ** width - q[v < own].sum() ** width for own in v])

    return choose


@pytest.mark.parametrize("width", [1, 2, 5])
def test_the_law_of_svdd_equals_enumeration(width):
    chain = word_law()
    law, nats = searched(chain, width, best_of(chain, letters, width))
    network = value.learned(lambda x, step, prompts: chain.soft_value(x, letters, 2.0))
    result = side_by_side(chain, methods.svdd(letters, width, value=network), replicas=6000)
    found = torch.bincount(result.latents[:, 0] @ torch.tensor([9, 3, 1]), minlength=27).double()
    expected = torch.zeros(27, dtype=torch.float64)
    for word, p in law.items():
        expected[9 * word[0] + 3 * word[1] + word[2]] = p
    often = expected * 6000 >= 5
    assert found[expected == 0].sum() == 0
    rest = torch.tensor([found[~often].sum()]), torch.tensor([expected[~often].sum() * 6000])
    both = [torch.cat([a[often], b]) for a, b in zip((found, expected * 6000), rest, strict=True)]
    keep = both[1] > 0
    assert stats.chisquare(both[0][keep], both[1][keep]).pvalue > 1e-3
    # Where children tie, choosing tells less than among distinct ones: the report is then a bound.
    reported = result.kl.mean().item()
    assert nats <= reported + 1e-9 and (width > 1 or nats == pytest.approx(0, abs=1e-12) == reported)


def test_soft_svdd_with_the_exact_value_of_tokens_tends_to_the_tilted_policy():
    """By enumeration, the KL of the optimal policy over the steps that choose, which the report estimates."""
    chain, lam = word_law(), 2.0

    def optimal(words, q):
        law = q * (lam * chain.soft_value(words, letters, lam)).exp()
        return law / law.sum()

    law, nats = searched(chain, 0, optimal)
    network = value.learned(lambda x, step, prompts: chain.soft_value(x, letters, lam))
    result = side_by_side(chain, methods.svdd(letters, 300, temperature=1 / lam, value=network), replicas=3000)
    assert result.kl.mean().item() == pytest.approx(nats, rel=0.03)
    for token in range(3):
        p = sum(p for word, p in law.items() if word[1] == token)
        assert within(p, (result.latents[:, 0, 1] == token).double())


def test_the_tilted_chain_samples_what_its_policy_says():
    """The kernel of the tilted table is p(x' | x) exp(lam (v(x') - v(x)))."""
    chain, lam = word_law(), 1.3
    tilted = chain.tilted(letters, lam)
    for level in states(chain)[:-1]:
        for state in level:
            words, q = chain.kernel(torch.tensor(state))
            own = chain.soft_value(torch.tensor([state]), letters, lam)
            policy = q * (lam * (chain.soft_value(words, letters, lam) - own)).exp()
            same_words, p = tilted.kernel(torch.tensor(state))
            assert torch.equal(words, same_words) and policy.tolist() == pytest.approx(p.tolist())
