"""Edits of a method survive `within`; what only ranks reads no scale; bills, KL and patience at the edge."""

import dataclasses
import itertools
import math

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from strategies import METHODS, PROMPTS, assert_same_result, every_method, run, smooth

import dsearch
from dsearch import Bill, methods, potential, selection, values
from dsearch.adapters import GaussianMixture

few = settings(max_examples=12)


def other(images, prompts):
    return images[:, 0]


EDITS = {
    "reward": other,
    "value": values.lookahead(3),
    "potential": potential.difference(2.0),
    "select": selection.top_k(sort=True),
    "pool": True,
    "name": "mine",
    "rounds": dsearch.Rounds(1, lambda rng: rng, True),
    "expand": lambda *given: None,
}


@every_method
@few
@given(
    edits=st.sets(st.sampled_from(sorted(EDITS)), min_size=1),
    size=st.integers(1, 40),
    steps=st.integers(2, 9),
)
def test_any_edit_survives_within(example, edits, size, steps):
    method = dataclasses.replace(example(smooth), **{name: EDITS[name] for name in edits})
    if not isinstance(method.plan, dsearch.Sized):
        with pytest.raises(ValueError, match="has no size"):
            method.within(dsearch.Budget(model_calls=1000), steps)
        return
    plan = dataclasses.replace(method.plan, size=size)
    bill = dataclasses.replace(method, plan=plan).bill(steps)
    within = method.within(dsearch.Budget(*bill[:3]), steps)
    for name in ("reward", "value", "potential", "select", "pool", "name", "rounds", "expand", "program", "final"):
        assert getattr(within, name) is getattr(method, name)
    assert not within.bill(steps).exceeds(bill)


def test_an_edited_plan_has_no_size_to_change():
    plan = methods.svdd(smooth, 3).plan(5)
    method = dataclasses.replace(methods.svdd(smooth), plan=lambda num_steps: plan)
    with pytest.raises(ValueError, match="the plan of svdd has no size"):
        method.within(dsearch.Budget(model_calls=100), 5)


def test_all_is_kept_that_within_used_to_lose():
    method = dataclasses.replace(methods.svdd(smooth), pool=True, value=values.lookahead(3), reward=other)
    within = method.within(dsearch.Budget(model_calls=200), 8)
    assert within.pool and within.value is method.value and within.reward is other


WEIGH = {"fk", "tempered", "funnel", "pg", "iterref", "dts"}  # their lam or alpha is in units of the reward


@pytest.mark.parametrize("example", [m for m in METHODS if m.id not in WEIGH])
@few
@given(seed=st.integers(0, 2**30), power=st.integers(-8, 8))
def test_the_scale_of_the_reward_changes_no_choice_of_what_only_ranks(example, seed, power):
    """By powers of two, which round nothing."""
    plain = run(example(smooth), seed=seed)
    scaled = run(example(lambda x, prompts: 2.0**power * smooth(x, prompts)), seed=seed)
    assert torch.equal(plain.lineage.path(), scaled.lineage.path())
    assert torch.equal(plain.images, scaled.images)


class Noted(dsearch.Watcher):
    """What held-out rewards would stop after each step, noted and not done."""

    def __init__(self, held_out):
        self.looking, self.said = held_out.begin(), []

    def begin(self):
        return self

    def survivors(self, step, beams, engine):
        stop = self.looking.survivors(step, beams, engine)
        self.said.append([False] * len(beams.value) if stop is None else stop.tolist())


@settings(max_examples=25)
@given(seed=st.integers(0, 2**30), patience=st.integers(1, 3), every=st.integers(1, 2))
def test_patience_in_each_round_is_that_of_a_run_of_its_own(seed, patience, every):
    """What was seen of one round says nothing of the next, whose noise is drawn under a name of its own."""
    looks = itertools.count()
    held_out = dsearch.HeldOut({"falls": lambda x, prompts: torch.full([len(x)], -float(next(looks)))}, every, patience)
    search = methods.random_search(smooth, candidates=2, rounds=3)

    def plan(num_steps):  # scored throughout, so that there are values to hold the looks against
        made = search.plan(num_steps)
        return dsearch.Plan(made.start, made.width, made.keep, (True,) * num_steps)

    whole, rng, alone = Noted(held_out), dsearch.KeyedRng(seed, (0, 1)), []
    run(dataclasses.replace(search, plan=plan), PROMPTS, rng=rng, watch=[whole])
    one = dataclasses.replace(search, plan=lambda num_steps: plan(num_steps).split(3), rounds=None)
    for name in ("round 1", "round 2", "round 3"):
        noted = Noted(held_out)
        run(one, PROMPTS, rng=rng.under(name), watch=[noted])
        alone += noted.said
    event(f"stopped: {any(map(any, alone))}")
    assert whole.said == alone


def test_a_bill_of_groups_that_stop_apart_is_their_mean_rounded_up():
    cost = dsearch.Cost(Bill(9, 9, 9), Bill(10, 7, 6), Bill(), 3)
    assert cost.bill == Bill(4, 3, 2)
    method = methods.rbf(smooth, width=4)
    uneven = [run(method, ["a", "b", "c"], seed=seed).cost for seed in range(6)]
    assert any(cost.spent.model_calls % 3 for cost in uneven)
    assert all(3 * cost.bill.model_calls - cost.spent.model_calls in (0, 1, 2) for cost in uneven)


def test_kl_is_that_of_independent_samples_and_of_no_others():
    n = 6
    exact = math.log(n) - (n - 1) / n
    assert run(methods.best_of_n(smooth, n)).kl.flatten().tolist() == pytest.approx([exact] * 2)
    assert run(methods.random_search(smooth, 3, 2)).kl.flatten().tolist() == pytest.approx([exact] * 2)
    assert run(methods.zero_order(smooth, 3, 2)).kl is None
    assert run(methods.random_search(smooth, 3, 2), watch=[dsearch.Target(1e9)]).kl is None


def test_kl_of_a_search_that_stopped_is_that_of_the_choices_it_made():
    model = GaussianMixture([[0.0]], num_steps=6)
    result = dsearch.search(model, methods.svdd(other, 8), ["a"], watch=[dsearch.Target(-100.0)])
    assert result.cost.spent.model_calls == 13  # eight children once, then one per step
    assert result.kl.item() == pytest.approx(math.log(8) - 7 / 8)


def test_rollover_stays_within_its_bill_where_values_grow_dearer():
    early, late = values.posterior_mean, values.lookahead(2, 2)
    method = methods.rbf(smooth, width=4, beams=2, value=values.switched(early, late, 0.5))
    for seed in range(4):
        cost = run(method, seed=seed).cost
        assert not cost.bill.exceeds(cost.planned)


def test_the_same_model_is_searched_after_an_interrupt():
    calls = []

    def reward(images, prompts):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return smooth(images, prompts)

    with pytest.raises(dsearch.Interrupted) as interrupt:
        run(methods.svdd(reward, 2))
    assert interrupt.value.reached == 2 and interrupt.value.beams.x.shape[:2] == (2, 1)
    assert_same_result(run(methods.svdd(reward, 2)), run(methods.svdd(smooth, 2)))
