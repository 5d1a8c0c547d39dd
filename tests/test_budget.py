"""Budgets: what they allow, and the largest method that they buy."""

import dataclasses
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Counted, CountedReward, every_method, smooth

import dsearch
from dsearch import Bill, Budget, Prices, methods
from dsearch.adapters import toy

PRICES = Prices(0.5, 0.25, 0.125)
limits = st.one_of(st.none(), st.integers(1, 400))


@given(limits, limits, limits, st.tuples(*[st.integers(0, 500)] * 3))
def test_a_budget_allows_what_is_within_every_limit(rows, decodes, rewards, bill):
    assume((rows, decodes, rewards) != (None, None, None))
    within = all(limit is None or n <= limit for limit, n in zip((rows, decodes, rewards), bill, strict=True))
    assert Budget(rows, decodes, rewards).allows(Bill(*bill)) == within
    spent = 0.5 * bill[0] + 0.25 * bill[1] + 0.125 * bill[2]
    assert Budget(rows, decodes, rewards, 80.0, PRICES).allows(Bill(*bill)) == (within and spent <= 80)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "a budget without a limit; give model_calls, decodes, reward_calls, comparisons or seconds"),
        ({"model_calls": 0}, "model_calls is 0"),
        ({"decodes": -3}, "decodes is -3"),
        ({"reward_calls": 2.5}, r"reward_calls is 2\.5"),
        ({"seconds": 0.0, "prices": PRICES}, r"seconds=0\.0 must be above 0"),
        ({"seconds": math.nan, "prices": PRICES}, "seconds=nan must be above 0"),
        ({"seconds": 3.0}, "seconds need prices="),
    ],
)
def test_budgets_that_cannot_be_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        Budget(**options)


@every_method
@settings(max_examples=15)
@given(
    unit=st.sampled_from(["model_calls", "decodes", "reward_calls", "seconds"]),
    limit=st.integers(1, 150),
    steps=st.integers(2, 12),
)
def test_within_is_the_largest_size_that_fits(example, unit, limit, steps):
    """Against a look at every size up to one that is far too large."""
    method = example(smooth)
    budget = Budget(seconds=float(limit), prices=PRICES) if unit == "seconds" else Budget(**{unit: limit})
    if not isinstance(method.plan, dsearch.Sized):
        with pytest.raises(ValueError, match="has no size"):
            method.within(budget, steps)
        return
    plans = [dataclasses.replace(method.plan, size=size) for size in range(1, 400)]
    bills = [dataclasses.replace(method, plan=plan).bill(steps) for plan in plans]
    if not budget.allows(bills[-1]):
        fits = [bill for bill in bills if budget.allows(bill)]
        if not budget.allows(bills[0]):
            with pytest.raises(ValueError, match=r"the smallest .* costs .* raise it"):
                method.within(budget, steps)
        else:
            assert method.within(budget, steps).bill(steps) == fits[-1]


def test_seconds_are_reckoned_at_their_prices():
    budget = Budget(seconds=12.0, prices=PRICES)
    width = max(w for w in range(1, 99) if PRICES.seconds(methods.svdd(smooth, w).bill(5)) <= 12)
    assert methods.svdd(smooth).within(budget, 5).bill(5) == methods.svdd(smooth, width).bill(5)
    assert PRICES.seconds(Bill(4, 2, 8)) == 3.5


@pytest.mark.parametrize("most", [10**3, 10**5, 10**7])
def test_the_largest_size_is_found_without_a_look_at_all_of_them(most):
    looked = []
    assert Budget(model_calls=7 * most).largest(lambda n: looked.append(n) or Bill(7 * n), "it") == most
    assert len(looked) < 2048 + 2 * most.bit_length() + 5


@every_method
def test_a_bill_asks_what_a_level_costs_no_more_often_than_there_are_levels(example):
    asked = []
    method = example(smooth)
    cost = method.value.cost

    class Asked(type(method.value)):
        def cost(self, level, num_steps):
            asked.append(level)
            return cost(level, num_steps)

    value = object.__new__(Asked)
    value.__dict__.update(getattr(method.value, "__dict__", {}))
    counted = dataclasses.replace(method, value=value)
    assert counted.bill(300) == method.bill(300) and len(asked) <= 300
    assert counted.cost(7, 300) == method.costs(300)(7, 300)


def test_a_method_whose_bill_does_not_rise_has_no_largest_size():
    svdd = methods.svdd(smooth, 2)
    flat = dataclasses.replace(svdd, plan=dsearch.Sized(lambda size, num_steps: svdd.plan(num_steps), 1))
    with pytest.raises(ValueError, match="its bill does not rise"):
        flat.within(Budget(model_calls=100), 4)


def test_measuring_asks_each_part_for_its_rows_and_leaves_global_randomness_alone():
    state, model, reward = torch.get_rng_state(), Counted(toy.example()), CountedReward(smooth)
    prices = dsearch.measure(model, reward, ["a", "b"], rows=6, repeats=3)
    assert all(0 < price < math.inf for price in prices[:3]) and prices.comparison == 0
    # A row to start from and a batch to warm up, then the timed ones.
    assert (model.model_calls, model.decodes, reward.calls) == (6 * 5, 6 * 5, 6 * 4)
    assert {prompt for _, prompt in reward.asked} == {"a", "b"}
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("options", [{"rows": 0}, {"repeats": 0}])
def test_a_measure_of_nothing_is_refused(options):
    with pytest.raises(ValueError, match="is 0; it must be a whole number of at least 1"):
        dsearch.measure(toy.example(), smooth, **options)
