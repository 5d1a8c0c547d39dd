"""Methods that go back in noise: the cases in which they are a method that is known already, and their exact bills."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from strategies import assert_same_result, group, run, smooth, within

import dsearch
from dsearch import Bill, Target
from dsearch.adapters import GaussianMixture, TokenChain
from dsearch.adapters.toy import Quadratic
from dsearch.core import plan as plans
from dsearch.core import selection
from dsearch.core.contract import Scores
from dsearch.core.watch import Unchanged
from dsearch.methods import (
    abcd,
    best_of_n,
    code,
    dsearch_r,
    evosearch,
    fk,
    plain,
    psp,
    random_search,
    rbf,
    rerd,
    sop,
    svdd,
)

N = 3000
"""Runs of a prompt, side by side, where a mean is held to its exact value."""


def first(images, prompts):
    return images[:, 0]


def gaussian(num_steps=4, dim=1):
    return GaussianMixture([[0.0] * dim], num_steps=num_steps)


def best_of(n):
    """The mean of the largest of n standard normals, by integration."""
    x = torch.linspace(-9, 9, 20001, dtype=torch.float64)
    phi = torch.special.ndtr(x)
    return float(torch.trapezoid(x * n * phi ** (n - 1) * torch.exp(-x * x / 2) / (2 * torch.pi) ** 0.5, x))


# ---- any method, refined ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [plain(smooth, 3), best_of_n(smooth, 4, 2), svdd(smooth, 3, 2), psp(smooth, 2), code(smooth, 2, 2)]
)
def test_no_cycle_is_the_method_itself(method):
    assert method.refined(cycles=0).plan(6) == method.plan(6)
    assert_same_result(run(method.refined(cycles=0)), run(method))


@pytest.mark.parametrize("back", [0.1, 0.5, 1.0])
def test_a_cycle_costs_the_part_of_the_descent_that_it_walks_again(back):
    for method, each in ((plain(smooth, 3), lambda e: 3 * e), (svdd(smooth, 3, 2), lambda e: 2 + 6 * (e - 1))):
        once, thrice = method.bill(20), method.refined(cycles=3, back=back).bill(20)
        steps = max(1, int(back * 20))
        assert thrice.model_calls - once.model_calls == 3 * each(steps)
        assert run(method.refined(3, back), denoiser=gaussian(20, 2)).cost.bill == thrice


def test_restarts_of_plain_sampling_keep_the_law_of_the_model():
    toy, reward = GaussianMixture([[-1.0, 0.5], [1.5, 0.0]], std=[0.5, 0.8], num_steps=5), Quadratic([1.0, -0.5])
    result = run(plain(reward, N).refined(cycles=2, back=0.6), [""], toy)
    assert within(toy.expected_reward(reward), result.rewards) and (result.kl == 0).all()


def test_restarts_of_steering_aim_at_the_tilted_law_of_their_last_samples():
    """The weights telescope to exp(lam r) of the last clean samples, and those have the model's law."""
    toy, reward, lam = gaussian(6), Quadratic([1.0]), 0.8
    method = fk(reward, particles=400, lam=lam, every=2).refined(cycles=1, back=0.5)
    result = run(method, [f"p{i}" for i in range(40)], toy)
    assert within(float(torch.tensor(toy.log_z(reward, lam)).exp()), result.log_z.exp())


def test_psp_branches_again_where_its_seeds_were_many():
    plan = psp(smooth, 4).refined(cycles=1, back=1.0).plan(8)
    assert plan.start == 8 and plan.alive[8:10] == (1, 8) and plan.keep[-1] == plan.keep[7] == 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: svdd(smooth).refined(back=0.0), "back=0.0 is outside"),
        (lambda: svdd(smooth).refined(back=1.5), "back=1.5 is outside"),
        (lambda: svdd(smooth).refined(cycles=-1), "cycles is -1"),
        (lambda: svdd(smooth).refined().refined(), "goes back in noise already"),
        (lambda: random_search(smooth).refined(), "random_search runs in rounds"),
    ],
)
def test_what_cannot_be_refined_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_refined_method_can_be_sized_to_a_budget_and_has_no_size_where_it_had_none():
    method = dsearch_r(smooth, 2, 4).refined(1, 0.5).within(dsearch.Budget(model_calls=2000), 20)
    assert 1500 < method.bill(20).model_calls <= 2000
    fixed = replace(svdd(smooth), plan=lambda steps: plans.uniform_plan(steps, 2, 2)).refined(1, 0.5)
    assert fixed.bill(10).model_calls == 2 + 4 * 9 + 2 + 4 * 4


def test_rollover_refined_still_draws_one_after_another():
    result = run(rbf(smooth, 3, 2).refined(1, 0.5))
    assert not result.cost.bill.exceeds(result.cost.planned) and result.kl is None


# ---- rerd ---------------------------------------------------------------------------------------------------


def test_rerd_without_a_cycle_is_svdd():
    assert_same_result(run(rerd(smooth, width=3, beams=2, cycles=0)), run(svdd(smooth, width=3, beams=2)))


def test_rerd_of_one_child_and_no_draw_keeps_the_model_s_law():
    chain = TokenChain(torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(1)))
    ids = [f"{i}" for i in range(2000)]
    words = run(rerd(lambda x, p: x.sum(-1), width=1, cycles=3, edit=0.7), ids, chain).latents[:, 0]
    for word, p in zip(chain.words, chain.table.flatten(), strict=True):
        assert within(float(p), (words == word).all(-1))


@pytest.mark.parametrize(("k", "m", "cycles", "edit"), [(1, 3, 4, 0.1), (10, 20, 49, 0.1), (2, 2, 1, 0.5)])
def test_rerd_costs_what_its_formula_says(k, m, cycles, edit):
    steps, e = 50, int(50 * edit)
    bill = rerd(smooth, m, k, cycles, edit).bill(steps)
    assert bill.model_calls == k * (1 + m * (steps - 1)) + cycles * k * (1 + m * (e - 1))
    assert bill.reward_calls == k * m * (steps - 1 + cycles * (e - 1)) + k * (1 + cycles) == bill.decodes


def test_rerd_improves_on_svdd_cycle_by_cycle():
    ids = [f"{i}" for i in range(300)]
    means = [float(run(rerd(first, 3, 4, cycles, 0.5, 0.5), ids, gaussian(6)).rewards.mean()) for cycles in (0, 1, 3)]
    assert means[0] + 0.1 < means[1] < means[2]


def test_draws_are_by_the_softmax_of_the_standardised_values():
    value = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    scores = Scores(value, value, torch.zeros_like(value), None, 3, 1, 3)
    z = (value - value.mean()) / value.std(correction=0)
    for zscore, logits in ((True, z / 0.7), (False, value / 0.7)):
        p = logits.softmax(-1)
        choice = selection.draws(0.7, zscore)(scores, 20_000, dsearch.KeyedRng(0, (0,)))
        for i in range(3):
            assert within(float(p[0, i]), choice.index == i)
        assert choice.kl[0, 0] == pytest.approx(float((p * (3 * p).log()).sum()))
    for temperature in (0.0, float("inf")):
        with pytest.raises(ValueError, match="must be above 0"):
            selection.draws(temperature)


def test_one_selector_for_the_clean_end_and_one_for_the_way():
    value = torch.tensor([[1.0, 2.0, 4.0, 3.0]])
    scores = Scores(value, value, torch.zeros_like(value), None, 2, 2, 3)
    select = selection.at_clean_end(selection.top_k(), before=selection.best_child)
    assert select(scores, 2, None).index.tolist() == [[1, 2]]
    assert select(replace(scores, level=3), 2, None).index.tolist() == [[2, 3]]
    assert selection.only_best_children(select)


# ---- search over paths --------------------------------------------------------------------------------------


def test_one_round_of_paths_between_pure_noise_and_the_clean_end_is_best_of_n():
    n, ids = 4, [f"{i}" for i in range(N)]
    method = sop(first, width=n, beams=1, rounds=1, start=1.0, back=1.0, forth=1.0)
    result = run(method, ids, gaussian(3))
    assert within(best_of(n), result.rewards) and method.bill(3).model_calls == 3 + n * 3


def test_search_over_paths_costs_what_its_formula_says():
    """N s_0 rows, N w s in each of the rounds, and the rest of the way down; values are asked once a round."""
    bill = sop(smooth, width=4, beams=2, rounds=2, start=0.8, back=0.5, forth=0.6).bill(20)
    assert bill.model_calls == 2 * (1 + 16) + 8 * (1 + 12) + 8 * (1 + 12 - 1)
    assert bill.reward_calls == 8 * 2
    late = sop(smooth, width=4, beams=2, rounds=1, start=0.8, back=0.5, forth=0.5).bill(20)
    assert late.model_calls == 2 * 17 + 8 * 11 + 2 * 3 and late.decodes == 8 + 2


def test_search_over_paths_takes_a_sampler_without_noise():
    toy = dsearch.adapters.FlowMixture([[0.0, 0.0]], num_steps=6, eta=0.0)
    result = run(sop(smooth, width=3, beams=2, rounds=2, start=0.7, back=0.5, forth=0.7), denoiser=toy)
    plain_one = run(plain(smooth, 2), denoiser=toy)
    assert (result.rewards.amax(1) > plain_one.rewards.amax(1)).all()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"start": 0.0}, "start=0.0 is outside"),
        ({"back": 1.2}, "back=1.2 is outside"),
        ({"back": 0.5, "forth": 0.4}, "forth=0.4 is below back=0.5"),
        ({"rounds": 0}, "rounds is 0"),
    ],
)
def test_paths_that_cannot_be_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        sop(smooth, **fields)


# ---- abcd ---------------------------------------------------------------------------------------------------


def test_abcd_without_a_cycle_is_best_of_n():
    assert_same_result(run(abcd(smooth, n=4, keep=2, cycles=0)), run(best_of_n(smooth, 4, 2)))


def test_abcd_at_level_0_alone_is_random_search():
    ids = [f"{i}" for i in range(N)]
    method = abcd(first, n=2, keep=1, copies=2, cycles=3, levels=(0.0,), patience=9)
    result = run(method, ids, gaussian(3))
    assert within(best_of(2 + 3 * 2), result.rewards)
    assert result.cost.bill == method.bill(3) == random_search(first, 2, 4).bill(3)


def test_abcd_s_best_reward_never_falls_and_its_bill_counts_the_steps_of_its_copies():
    found = [run(abcd(smooth, 3, 2, 2, cycles, (0.2, 0.7), patience=9)).rewards for cycles in range(4)]
    assert all((after >= before).all() for before, after in pairwise(found))
    bill = abcd(smooth, n=8, keep=3, copies=2, cycles=5, levels=(0.0, 0.25, 0.5)).bill(20)
    assert bill == Bill(8 * 20 + 5 * 3 * 2 * (20 + 15 + 10), *[8 + 5 * 3 * 2 * 3] * 2)


def test_abcd_stops_a_prompt_that_a_cycle_did_not_change():
    """As if it had been asked for so few cycles, and the others are left to themselves."""
    ids, make = [f"{i}" for i in range(12)], lambda cycles, patience: abcd(smooth, 2, 1, 1, cycles, (0.5,), patience)
    each = [run(make(cycles, 99), ids).rewards for cycles in range(7)]
    stopped = run(make(6, 2), ids)
    for b in range(12):
        same = [i for i in range(2, 7) if each[i][b] == each[i - 1][b] == each[i - 2][b]]
        assert stopped.rewards[b] == each[same[0] if same else 6][b]
    assert stopped.cost.spent.model_calls < run(make(6, 99), ids).cost.spent.model_calls
    alone = run(make(6, 2), ids[3:4], ids=[3])
    for name in ("images", "rewards", "latents"):
        assert torch.equal(group(alone, 0)[name], group(stopped, 3)[name])


def test_one_watcher_of_a_method_serves_many_searches():
    method = abcd(smooth, 2, 1, 1, 4, (0.5,), patience=1)
    assert_same_result(run(method), run(method))
    assert run(method, watch=[Target(-1e9)]).cost.bill.model_calls == 2 * 6


def test_evosearch_without_levels_is_best_of_n_and_at_level_0_alone_random_search():
    assert_same_result(run(evosearch(smooth, 4, 3, 2, ())), run(best_of_n(smooth, 4, 2)))
    method = evosearch(first, population=2, children=3, elite=1, levels=(0.0, 0.0))
    assert within(best_of(2 + 2 * 3), run(method, [f"{i}" for i in range(1500)], gaussian(3)).rewards)


def test_evosearch_never_loses_its_best_and_costs_what_its_generations_run():
    shares = (0.1, 0.4, 0.8)
    found = [run(evosearch(smooth, 4, 2, 2, shares[:g])).rewards for g in range(4)]
    assert all((after >= before).all() for before, after in pairwise(found))
    bill = evosearch(smooth, 14, 3, 2, shares).bill(20)
    assert bill == Bill(14 * 20 + 2 * 3 * (18 + 12 + 4), *[14 + 2 * 3 * 3] * 2)
    for fields, says in (({"levels": (0.4, 0.2)}, "that rise"), ({"elite": 9}, "elite=9 exceeds population=2")):
        with pytest.raises(ValueError, match=says):
            evosearch(smooth, **fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"n": 1, "keep": 2}, "keep=2 exceeds n=1"),
        ({"levels": ()}, r"levels=\[\]"),
        ({"levels": (0.5, 1.0)}, r"levels=\[0.5, 1.0\]"),
        ({"copies": 0}, "copies is 0"),
        ({"patience": 0}, "patience is 0"),
    ],
)
def test_cycles_that_cannot_be_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        abcd(smooth, **fields)


def test_patience_counts_clean_ends_in_a_row():
    watcher, seen = Unchanged(2).begin(), []

    class Four:
        class denoiser:
            num_steps = 4

    for level, value in ((3, 0.0), (4, 1.0), (4, 1.0), (4, 2.0), (2, 2.0), (4, 2.0), (4, 2.0)):
        beams = replace(BEAMS, value=torch.full((1, 1), value))
        said = watcher.survivors(dsearch.core.contract.Step(0, 1, 1, None, level), beams, Four)
        seen.append(None if said is None else bool(said))
    assert seen == [None, None, False, False, None, False, True]


BEAMS = dsearch.core.contract.Beams(*[torch.zeros(1, 1)] * 8)
