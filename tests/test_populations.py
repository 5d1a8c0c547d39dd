"""Methods over populations, paths and noise: the cases in which they are a method that is known already, and laws."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from strategies import assert_same_result, run, smooth, within

import dsearch
from dsearch import KeyedRng, Target
from dsearch.adapters import GaussianMixture, TokenChain
from dsearch.adapters.toy import Quadratic
from dsearch.core import potential, selection
from dsearch.core.contract import Scores, take
from dsearch.core.rng import shares
from dsearch.methods import best_of_n, bfs, epsilon_greedy, fk, funnel, iterref, pg, plain, svdd, tempered

SEED = torch.Generator().manual_seed(4)
CHAIN = TokenChain(torch.rand(2, 2, 2, generator=SEED) + 0.3)  # no word so rare that it is not met


def letters(x, prompts):
    return x.double() @ torch.tensor([0.4, 0.8, -0.6], dtype=torch.float64)


def law_of(result):
    """`[B, words]`: of each group, the weight of each word."""
    weights = result.log_w.softmax(-1)
    return torch.stack([((result.latents == word).all(-1) * weights).sum(1) for word in CHAIN.words], dim=1)


def far(found, law):
    """Total variation of the mean of `[B, words]` from a law."""
    return float((found.mean(0) - law).abs().sum() / 2)


def many(n):
    return [f"{i}" for i in range(n)]


def first(images, prompts):
    return images[:, 0]


# ---- bfs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zscore", [True, False])
def test_bfs_without_a_preference_is_best_of_n(zscore):
    one, other = run(bfs(smooth, 5, tau=0.0, zscore=zscore, keep=2)), run(best_of_n(smooth, 5, 2))
    assert torch.equal(one.images, other.images) and torch.equal(one.rewards, other.rewards)
    assert torch.equal(one.lineage.path(), other.lineage.path())


def test_bfs_of_a_strong_preference_goes_on_with_the_best_beam_alone():
    result = run(bfs(smooth, 6, looks=(0.5,), tau=1e6))
    look = result.trace[2]
    assert look.level == 3 and (result.lineage.child[2] == look.values.argmax(dim=1, keepdim=True)).all()


def test_bfs_copies_a_beam_as_often_as_its_share_says_or_one_more():
    result = run(bfs(smooth, 7, looks=(0.5,), tau=1.3), many(40))
    values = result.trace[2].values.double()
    share = 7 * (1.3 * (values - values.mean(1, keepdim=True)) / values.std(1, keepdim=True, correction=0)).softmax(1)
    copies = (result.lineage.child[2][:, :, None] == torch.arange(7)).sum(1)
    assert ((copies - share).abs() < 1 + 1e-9).all() and (copies.sum(1) == 7).all()


def test_bfs_costs_best_of_n_s_rows_and_its_looks():
    assert bfs(smooth, 12, (0.25, 0.5, 0.75)).bill(100) == dsearch.Bill(1200, 12 * 4, 12 * 4)


# ---- a funnel, and VASR -------------------------------------------------------------------------------------


def test_a_funnel_that_drops_none_is_tempered_smc():
    for schedule in ("geometric", "linear"):
        same = funnel(smooth, 4, 4, 0.7, schedule=schedule, every=2)
        assert_same_result(run(same), run(tempered(smooth, 4, 0.7, schedule, ess_below=1.0, every=2)))


@pytest.mark.parametrize("resampler", ["multinomial", "systematic", "residual", "stratified"])
def test_a_funnel_estimates_the_normaliser_without_bias_whatever_it_drops(resampler):
    lam, method = 1.2, funnel(letters, 5, 2, 1.2, "linear", resampler=resampler, every=1)
    assert method.plan(3).keep == (5, 3, 3)
    assert within(math.exp(CHAIN.log_z(letters, lam)), run(method, many(1500), CHAIN).log_z.exp())


def test_a_funnel_falls_along_its_curve_at_its_looks():
    plan = funnel(smooth, 8, 2, every=5).plan(21)
    assert plan.keep[3:5] == (8, 6) and plan.keep[-1] == 2 and sum(plan.score) == 5
    assert funnel(smooth, 8, 2).within(dsearch.Budget(model_calls=1000), 20).plan(20).start > 8


def test_vasr_is_fk_by_differences_resampled_systematically_at_every_look():
    """Its own update (arXiv 2604.06779, v2): mass m ~ w exp(r_t), offspring by systematic resampling, then w / m."""
    seen, lam = [], 0.8

    def vasr(scores, keep, rng):
        """From the values alone: the difference potential's weights are not read."""
        mass = shares(lam * (scores.value.double() - torch.nan_to_num(scores.parent.double())))
        u = rng.uniform("resample", scores.level, (len(mass), 1))
        points = (torch.arange(keep) + u) / keep
        index = torch.searchsorted(mass.cumsum(1) / mass.sum(1, keepdim=True), points, right=True).clamp(max=keep - 1)
        if scores.final:
            index = torch.arange(keep).expand(index.shape)
        seen.append(index)
        return dsearch.core.contract.Choice(index, take(scores.log_w, index))

    ours = run(fk(smooth, 6, lam, every=1, ess_below=1.0))
    theirs = run(replace(fk(smooth, 6, lam, every=1), select=vasr, potential=potential.none))
    assert torch.equal(ours.latents, theirs.latents) and len(seen) == 6
    assert torch.equal(ours.lineage.path(), theirs.lineage.path())


# ---- epsilon-greedy -----------------------------------------------------------------------------------------


def test_epsilon_greedy_of_one_round_is_svdd():
    for epsilon in (0.0, 0.4, 1.0):
        one, other = run(epsilon_greedy(smooth, 5, 1, epsilon, beams=2)), run(svdd(smooth, 5, 2))
        assert torch.equal(one.latents, other.latents) and one.cost.spent == other.cost.spent
        assert torch.equal(one.lineage.path(), other.lineage.path())


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0])
def test_the_noise_of_every_candidate_stays_normal(epsilon):
    """Of a reward that prefers nothing, so that every candidate is an honest draw; in one step from pure noise."""
    seen = []
    method = epsilon_greedy(lambda x, p: torch.zeros(len(x)), 3, 4, epsilon, 0.4)
    method = replace(method, value=Spied(seen))
    run(method, many(2000), GaussianMixture([[0.0]], num_steps=2))
    for x in seen:  # a step of a standard normal leads to one
        for power, exact in ((1, 0.0), (2, 1.0), (4, 3.0)):
            assert within(exact, x.double() ** power, z=5)


class Spied:
    """The posterior mean's value, and what it is asked of."""

    def __init__(self, seen):
        self.seen = seen

    def __call__(self, children, level, engine):
        self.seen.append(children.x[:, :1, 0])
        return engine.reward(children.pred.x0, children.prompt_index, level)

    def cost(self, level, num_steps):
        return dsearch.Bill(0, 1, 1)


def test_epsilon_1_is_svdd_of_all_candidates_and_rounds_never_lose_what_they_found():
    toy, ids = GaussianMixture([[0.0]], num_steps=3), many(1500)
    wide = run(svdd(first, 6), ids, toy).rewards
    rounds = run(epsilon_greedy(first, 2, 3, 1.0), ids, toy)
    assert within(float(wide.mean()), rounds.rewards, z=5)
    for step in rounds.trace[:-1]:
        assert torch.equal(take(step.values, rounds.lineage.child[step.step])[:, 0], step.values.amax(1))


def test_epsilon_greedy_searches_tokens_too():
    found = run(epsilon_greedy(letters, 2, 3, radius=0.3), many(500), CHAIN).rewards
    assert found.mean() > run(plain(letters, 1), many(500), CHAIN).rewards.mean() + 0.3


def test_epsilon_greedy_stops_where_it_is_told():
    one = run(epsilon_greedy(smooth, 2, 3), ["a"], watch=[Target(-1e9)])
    assert one.cost.spent.model_calls == 1 + 6 + 4


@pytest.mark.parametrize("fields", [{"epsilon": 1.1}, {"epsilon": -0.1}, {"radius": 0.0}, {"radius": 2.0}])
def test_an_epsilon_or_radius_that_cannot_be_is_refused(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))}=.* is outside"):
        epsilon_greedy(smooth, **fields)


# ---- particle Gibbs -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sweeps_of_particle_gibbs_approach_the_tilted_law_that_one_misses():
    law, lam = CHAIN.tilted(letters, 1.0).table.flatten(), 1.0
    one, ten = (law_of(run(pg(letters, 3, sweeps, lam, every=1), many(1500), CHAIN)) for sweeps in (1, 10))
    assert far(one, law) > 0.05 > 0.03 > far(ten, law)
    for word, p in enumerate(law):
        assert within(float(p), ten[:, word])


def test_a_single_particle_is_the_same_path_each_time():
    assert torch.equal(run(pg(smooth, 1, 4)).latents, run(pg(smooth, 1, 1)).latents)


def test_the_retained_path_is_one_of_the_next_sweep_s():
    """Of all particles of all sweeps, so that it is seen twice."""
    seen = []
    run(pg(smooth, 3, 4, every=2), watch=[lambda step, beams: seen.append(beams.x) if step.level == 6 else None])
    for before, after in pairwise(seen):
        assert (after[:, :1] == before).all(-1).any(1).all()
        assert not torch.isin(after[:, 1:], before).all()


def test_without_a_reward_particle_gibbs_keeps_the_law_of_the_model():
    result = run(pg(lambda x, p: torch.zeros(len(x)), 3, 3, every=1), many(1000), CHAIN)
    for word, p in zip(range(8), CHAIN.table.flatten(), strict=True):
        assert within(float(p), law_of(result)[:, word])


def test_particle_gibbs_costs_its_sweeps():
    assert pg(smooth, 4, 5, every=3).bill(12) == dsearch.Bill(4 * 5 * 12, *[4 * 5 * 4] * 2)
    assert run(pg(smooth, 4, 5, every=3)).images.shape[:2] == (2, 4)


# ---- iterref ------------------------------------------------------------------------------------------------


def test_iterref_without_a_try_is_plain_sampling():
    assert_same_result(run(iterref(smooth, 3, tries=0)), run(plain(smooth, 3)))


def test_tries_that_accept_all_keep_the_law_of_the_model():
    toy, reward = GaussianMixture([[-1.0], [1.5]], std=[0.5, 0.8], num_steps=5), Quadratic([1.0])
    result = run(iterref(reward, 6000, (0.4, 0.8, 1.0), 2, 0.5, alpha=1e9), [""], toy)
    assert within(toy.expected_reward(reward), result.rewards)


@pytest.mark.slow
@pytest.mark.parametrize("back", [0.3, 1.0])
def test_tries_at_the_clean_end_approach_the_tilted_law(back):
    lam = 1.0
    law = CHAIN.tilted(letters, lam).table.flatten()
    result = run(iterref(letters, 4000, (1.0,), tries=30, back=back, alpha=1 / lam), [""], CHAIN)
    for word, p in zip(CHAIN.words, law, strict=True):
        assert within(float(p), (result.latents[0] == word).all(-1))


@pytest.mark.slow
def test_tries_on_the_way_keep_the_law_of_their_level_tilted_by_the_value():
    """p_i(x) exp(v(x) / alpha) over all masked words of a level, by enumeration."""
    seen, alpha = [], 1.0
    method = iterref(letters, 4000, (0.7,), tries=40, back=0.7, alpha=alpha)
    run(method, [""], CHAIN, watch=[lambda step, beams: seen.append(beams) if step.level == 2 else None])
    beams = seen[-1]
    states, p = [], []
    for hidden in range(3):
        for word, q in zip(CHAIN.words, CHAIN.table.flatten(), strict=True):
            x = word.clone()
            x[hidden] = CHAIN.mask
            key = x.tolist()
            if key not in states:
                states.append(key)
                p.append(0.0)
            p[states.index(key)] += float(q) / 3
    x = torch.tensor(states)
    value = letters(CHAIN.predict(x, 2, CHAIN.encode([""]), torch.zeros(len(x), dtype=torch.long)).x0, [])
    exact = (torch.tensor(p, dtype=torch.float64).log() + value / alpha).softmax(0)
    for state, share in zip(x, exact, strict=True):
        assert within(float(share), (beams.x[0] == state).all(-1))


def test_a_cold_try_only_climbs():
    result = run(iterref(smooth, 4, (1.0,), tries=10, back=0.5, alpha=1e-9), many(5))
    rewards = [step.values.unflatten(1, (4, -1))[..., 0] for step in result.trace if step.level == 6][1:]
    assert all((after >= before).all() for before, after in pairwise(rewards))


def test_iterref_costs_what_its_formula_says():
    """A try at a noisy level: its steps back down, and the values of both; at the clean end of the new one alone."""
    bill = iterref(smooth, 3, (0.5, 1.0), tries=4, back=0.2).bill(20)
    assert bill.model_calls == 3 * 20 + 4 * 3 * (4 + 1) + 4 * 3 * 4
    assert bill.reward_calls == bill.decodes == 3 + 4 * 3 * 2 + 4 * 3


def test_a_prompt_at_its_target_tries_no_more():
    """Its first try tells where it is; all other rows are those of plain sampling."""
    stopped = run(iterref(smooth, 2, (0.5, 0.7), tries=3, back=0.4), watch=[Target(-1e9)])
    assert stopped.cost.bill.model_calls == 2 * 6 + 2 * (2 + 1)


def test_metropolis_accepts_as_often_as_it_says():
    value = torch.tensor([[1.0, 0.5, 0.0, 3.0]]).expand(20_000, -1)
    scores = Scores(value, value, torch.zeros_like(value).double(), None, 2, 2, 3)
    choice = dsearch.methods.iterref(smooth, alpha=0.5).select(scores, 2, KeyedRng(0, tuple(range(20_000))))
    assert within(math.exp(-1.0), choice.index[:, 0] == 1) and (choice.index[:, 1] == 3).all()
    for alpha in (0.0, math.inf):
        with pytest.raises(ValueError, match=r"alpha=.* must be above 0"):
            iterref(smooth, alpha=alpha)
    with pytest.raises(ValueError, match=r"levels and back have 1\.5"):
        iterref(smooth, levels=(0.5, 1.5))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: bfs(smooth, 2, keep=3), "keep=3 exceeds beams=2"),
        (lambda: bfs(smooth, looks=(0.5, 1.0)), r"looks=\[1.0\] are outside"),
        (lambda: bfs(smooth, tau=-1.0), "tau=-1.0 must be at least 0"),
        (lambda: funnel(smooth, 2, 3), "keep=3 exceeds beams=2"),
        (lambda: pg(smooth, 0), "particles is 0"),
        (lambda: pg(smooth, lam=0.0), "lam=0.0 must be above 0"),
        (lambda: selection.resample(ess_below=0.0), "ess_below=0.0"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
