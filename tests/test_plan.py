"""Plans, schedules and bills: exact tables, exact arithmetic, and errors that name step, value and bound."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsearch import Bill, Plan, methods
from dsearch.core.plan import (
    drop_schedule,
    dsearch_plan,
    flip,
    pruning_plan,
    search_probability,
    uniform_plan,
)

TABLES = json.loads((Path(__file__).parent / "data" / "schedules.json").read_text())
DROPS = ["exponential", "linear", "quadratic", "sigmoid", "none"]
SEARCHES = ["all", "uniform", "linear", "exponential"]


def name(row):
    return "-".join(str(row[key]) for key in ("drop", "search", "steps", "keep", "oversample") if key in row)


@st.composite
def plans(draw):
    """Any valid plan."""
    start = alive = draw(st.integers(1, 6))
    width, keep, score = [], [], []
    for _ in range(draw(st.integers(1, 7))):
        score.append(draw(st.booleans()))
        width.append(draw(st.integers(1, 5)) if score[-1] else 1)
        alive = draw(st.integers(1, alive * width[-1])) if score[-1] else alive
        keep.append(alive)
    return Plan(start, tuple(width), tuple(keep), tuple(score))


@st.composite
def dsearch_arguments(draw):
    beams = draw(st.integers(1, 40))
    return {
        "num_steps": draw(st.integers(1, 30)),
        "beams": beams,
        "keep": draw(st.integers(1, beams)),
        "rows_per_step": draw(st.integers(beams, 200)),
        "drop": draw(st.sampled_from(DROPS)),
        "search": draw(st.sampled_from(SEARCHES)),
        "coins": draw(st.integers(0, 1000)),
    }


# ---- tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TABLES["drop"], ids=name)
def test_drop_schedules_match_the_tables(row):
    start = row["keep"] * row["oversample"]
    assert drop_schedule(row["drop"], start, row["keep"], row["steps"]) == tuple(row["beams"])


@pytest.mark.parametrize("row", TABLES["drop"], ids=name)
def test_published_widths_and_beams_match_the_tables(row):
    method = methods.published(
        None, bs=row["keep"], duplicate_size=5, w=5, oversamplerate=row["oversample"], drop_schedule=row["drop"]
    )
    plan = method.plan(row["steps"])
    assert plan.start == row["keep"] * row["oversample"]
    assert plan.width == (*row["width"], 1)
    assert plan.keep == (*row["beams"], row["beams"][-1])
    assert plan.score == (*(True,) * (row["steps"] - 1), False)


@pytest.mark.parametrize("row", TABLES["search_probability"], ids=name)
def test_search_probabilities_match_the_tables(row):
    p = search_probability(row["search"], row["steps"])
    assert p == pytest.approx([min(1.0, q) for q in row["p"]], rel=1e-12, abs=0)


def test_the_tables_are_whole():
    assert len(TABLES["drop"]) == 32
    assert len(TABLES["search_probability"]) == 8


def test_published_idle_steps_still_draw_and_score_duplicate_size_children():
    coins = [0.99, 0.0, 0.99, 0.99]
    plan = methods.published(None, bs=2, duplicate_size=3, w=4, oversamplerate=2, search_schedule="uniform",
                             drop_schedule="linear", coins=coins).plan(5)  # fmt: skip
    assert plan.alive == (4, 4, 3, 3, 2)
    assert plan.width == (3, 12, 3, 3, 1)
    assert plan.score == (True, True, True, True, False)


def test_published_dsearch_command_spends_4370_rows_an_image():
    def rows(seed):
        method = methods.published(None, bs=12, duplicate_size=5, w=5, oversamplerate=5, coins=seed,
                                   search_schedule="exponential", drop_schedule="exponential")  # fmt: skip
        return method.bill(50).model_calls / 12

    sample = np.array([rows(seed) for seed in range(400)])
    assert abs(sample.mean() - 4370) < 4.5 * sample.std() / 400**0.5
    assert sample.std() / 400**0.5 < 20  # or the line above says little


def test_published_svdd_command_spends_981_rows_an_image():
    assert methods.published(None, bs=12, duplicate_size=20).bill(50).model_calls == 981 * 12


# ---- validation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((0, (1,), (1,), (True,)), r"start is 0; .*at least 1"),
        ((1, (), (), ()), "at least 1 step"),
        ((1, (1, 1), (1,), (True,)), "2, 1 and 1 steps"),
        ((2, (1, 0), (2, 1), (True, True)), r"width at step 1 is 0; .*at least 1"),
        ((2, (1, 1), (2, 0), (True, True)), r"keep at step 1 is 0; .*at least 1"),
        ((2, (1, 2.0), (2, 1), (True, True)), r"width at step 1 is 2\.0; .*whole"),
        ((2, (1, True), (2, 1), (True, True)), r"width at step 1 is True; .*whole"),
        ((2, (1, 3), (2, 7), (True, True)), "keep=7 exceeds 6 children at step 1"),
        ((2, (1, 3), (2, 2), (True, False)), "step 1 is not scored.*all 6 children.*keep=2"),
        ((2, (1, 1), (2, 1), (True, False)), "step 1 is not scored.*all 2 children.*keep=1"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_with_step_value_and_bound(arguments, says):
    with pytest.raises(ValueError, match=says):
        Plan(*arguments)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: drop_schedule("cubic", 4, 1, 5), "drop='cubic'.*choose one of exponential, linear"),
        (lambda: search_probability("never", 5), "search='never'.*choose one of all, uniform"),
        (lambda: drop_schedule("linear", 4, 5, 5), "keep=5 exceeds beams=4"),
        (lambda: drop_schedule("linear", 4, 1, 0), "num_steps is 0"),
        (lambda: dsearch_plan(5, 4, 1, 3, "none", "all", 0), "rows_per_step=3 .*beams=4"),
        (lambda: flip("all", 5, [0.5] * 3), "3 coins for 4 steps"),
        (lambda: flip("all", 5, [0.5, 0.5, 1.0, 0.5]), r"coin 1\.0 is outside \[0, 1\)"),
        (lambda: flip("all", 5, [0.5, float("nan"), 0.5, 0.5]), r"coin nan is outside"),
        (lambda: flip("all", 5, -1), "coins=-1"),
        (lambda: methods.best_of_n(None, n=2, keep=3), "keep=3 exceeds n=2"),
        (lambda: methods.dsearch(None, beams=5, rows_per_step=4), "rows_per_step=4 .*beams=5"),
        (lambda: methods.dsearch(None, beams=5, keep=6, rows_per_step=25), "keep=6 exceeds beams=5"),
        (lambda: methods.dsearch_r(None, beams=5, rows_per_step=4), "rows_per_step=4 .*beams=5"),
        (
            lambda: methods.dsearch_r(None, beams=33, rows_per_step=99, rate=0.03),
            "rate=0.03 of 33 beams replaces none.*34",
        ),
        (lambda: methods.svdd(None, temperature=-1.0), "temperature=-1.0 must be above 0"),
        (lambda: methods.published(None, bs=0), "bs is 0"),
        (lambda: methods.published(None, replacerate=0.5, drop_schedule="linear"), "replacerate=0.5.*'linear'"),
        (lambda: dsearch_plan(5, 4, 1, 8, [4, 4, 4], "all", 0), "drop names 3 steps; a run of 5 has 4"),
        (lambda: dsearch_plan(5, 4, 1, 8, "none", [True] * 5, 0), "search names 5 steps; a run of 5 has 4"),
        (lambda: pruning_plan(8, 8, [(0.5, 4), (0.25, 2)]), r"drops at \[0.5, 0.25\].*must rise within"),
        (lambda: pruning_plan(8, 8, [(1.0, 4)]), r"drops at \[1.0\].*must rise within"),
        (lambda: pruning_plan(8, 8, [(0.25, 4), (0.5, 6)]), r"beams fall \[8, 4, 6, 1\]"),
        (lambda: uniform_plan(3, 4).split(3), "4 beams do not divide into 3 rounds"),
    ],
)
def test_bad_schedules_are_refused_with_value_and_bound(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@given(plans())
def test_a_plan_is_frozen_and_equal_plans_hash_alike(plan):
    twin = Plan(plan.start, plan.width, plan.keep, plan.score)
    assert twin == plan and hash(twin) == hash(plan) and len({twin, plan}) == 1
    for field in dataclasses.fields(plan):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(plan, field.name, 1)


# ---- laws --------------------------------------------------------------------------------------------------


def brute_force_bill(plan, cost):
    """Walk the run candidate by candidate and count."""
    counts = Bill(plan.start)
    alive, steps = plan.start, len(plan.width)
    for i in range(steps):
        for _ in range(alive * plan.width[i]):
            clean = i == steps - 1
            spent = Bill(0, 1, 1) if clean else cost(i + 1, steps) if plan.score[i] else Bill()
            counts = Bill(*(a + b for a, b in zip(counts, spent, strict=True)))._replace(
                model_calls=counts.model_calls + spent.model_calls + (not clean)
            )
        alive = plan.keep[i]
    return counts


@given(plans())
def test_the_bill_equals_a_brute_force_count(plan):
    assert plan.bill() == brute_force_bill(plan, lambda step, steps: Bill(0, 1, 1))
    assert Bill(plan.model_calls, plan.decodes, plan.reward_calls) == plan.bill()


@given(plans())
def test_the_bill_includes_what_a_value_costs_at_each_level(plan):
    def rollouts(step, steps):
        return Bill(2 * (steps - step), 3, step)

    assert plan.bill(rollouts) == brute_force_bill(plan, rollouts)


@given(plans())
def test_alive_and_rows_follow_from_the_plan(plan):
    assert plan.num_steps == len(plan.width)
    assert plan.alive == (plan.start, *plan.keep)[:-1]
    assert plan.rows == tuple(a * w for a, w in zip(plan.alive, plan.width, strict=True))


@given(dsearch_arguments())
def test_dsearch_keep_never_rises_and_ends_at_its_target(arguments):
    plan = dsearch_plan(**arguments)
    assert all(after <= before for before, after in zip(plan.alive, plan.keep, strict=True))
    assert plan.keep[-1] == arguments["keep"]


@given(dsearch_arguments())
def test_dsearch_rows_never_exceed_the_rows_per_step(arguments):
    assert max(dsearch_plan(**arguments).rows) <= arguments["rows_per_step"]


@given(dsearch_arguments())
def test_dsearch_spends_the_rows_of_a_step_where_it_searches_and_one_per_beam_at_the_others(arguments):
    plan = dsearch_plan(**arguments)
    on = flip(arguments["search"], arguments["num_steps"], arguments["coins"])
    for i, searches in enumerate(on):
        assert plan.score[i] == searches
        assert plan.width[i] == (arguments["rows_per_step"] // plan.alive[i] if searches else 1)
    assert (plan.width[-1], plan.score[-1]) == (1, True)


@given(dsearch_arguments())
def test_dsearch_is_at_its_schedule_after_each_searching_step(arguments):
    plan = dsearch_plan(**arguments)
    target = drop_schedule(arguments["drop"], arguments["beams"], arguments["keep"], arguments["num_steps"])
    for alive, keep, score, aim in zip(plan.alive, plan.keep, plan.score, target, strict=False):
        assert keep == (aim if score else alive)


@given(st.sampled_from(DROPS), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_drop_schedules_never_rise_and_stay_between_keep_and_start(kind, a, b, steps):
    keep, start = sorted((a, b))
    beams = drop_schedule(kind, start, keep, steps)
    assert len(beams) == steps - 1
    assert list(beams) == sorted(beams, reverse=True)
    assert all(keep <= k <= start for k in beams)


@given(st.sampled_from(SEARCHES), st.integers(1, 60))
def test_search_probabilities_are_probabilities_and_never_fall(kind, steps):
    p = search_probability(kind, steps)
    assert len(p) == steps - 1
    assert all(0 <= q <= 1 for q in p) and list(p) == sorted(p)


@given(st.sampled_from(SEARCHES), st.integers(1, 60), st.integers(0, 2**64))
def test_a_seed_and_its_recorded_uniforms_give_the_same_plan(kind, steps, seed):
    uniforms = np.random.Generator(np.random.Philox(key=seed)).random(steps - 1)
    assert flip(kind, steps, seed) == flip(kind, steps, list(uniforms)) == flip(kind, steps, uniforms)
    assert flip(kind, steps, seed) == tuple(
        u < p for u, p in zip(uniforms, search_probability(kind, steps), strict=True)
    )


@given(st.integers(2, 60), st.lists(st.floats(0, 1, exclude_max=True), min_size=59, max_size=59))
def test_every_step_takes_its_own_coin(steps, coins):
    for kind in SEARCHES:
        p = search_probability(kind, steps)
        assert flip(kind, steps, coins) == tuple(coins[i] < p[i] for i in range(steps - 1))


def test_exponential_search_never_searches_first_and_all_always_does():
    assert flip("exponential", 20, [0.0] * 19)[0] is False
    assert all(flip("all", 20, [0.999999] * 19))


def test_uniform_plan_is_wide_where_it_searches_and_plain_at_the_end():
    plan = uniform_plan(4, beams=2, width=3, search=[True, False, True])
    assert plan == Plan(2, (3, 1, 3, 1), (2, 2, 2, 2), (True, False, True, False))
    assert plan.bill() == Bill(2 + 6 + 2 + 6, 6 + 6 + 2, 6 + 6 + 2)


def test_bills_add_and_compare_unit_by_unit():
    assert Bill(1, 2, 3).plus(Bill(10, 20, 30), times=2) == Bill(21, 42, 63)
    assert not Bill(1, 2, 3).exceeds(Bill(1, 2, 3))
    assert Bill(0, 0, 4).exceeds(Bill(9, 9, 3))


def test_a_method_bills_its_own_value():
    class Dear:
        def cost(self, step, num_steps):
            return Bill(5, 1, 1)

    method = dataclasses.replace(methods.svdd(None, width=2), value=Dear())
    assert method.bill(3) == Bill(1 + 4 + 4 * 5, 5, 5)


def test_dsearch_r_shares_its_rows_among_its_beams_and_drops_none():
    method = methods.dsearch_r(None, beams=5, rows_per_step=17, rate=0.2, search="uniform", coins=[0.0, 0.99, 0.0])
    assert method.plan(4) == Plan(5, (3, 1, 3, 1), (5,) * 4, (True, False, True, False))


@given(plans(), st.integers(1, 4))
def test_the_rounds_of_a_plan_cost_what_it_costs_and_keep_all_clean_candidates(plan, rounds):
    whole = Plan(rounds * plan.start, plan.width, tuple(rounds * keep for keep in plan.keep), plan.score)
    part = whole.split(rounds)
    assert Bill().plus(part.bill(), rounds) == whole.bill()
    assert part.keep[-1] == part.rows[-1] == plan.rows[-1]


def test_a_plan_made_of_lists_is_as_good_as_one_of_tuples():
    plan = Plan(2, [1, 3], [2, 1], [False, True])
    assert plan == Plan(2, (1, 3), (2, 1), (False, True))
    assert hash(plan)


def test_score_is_a_boolean():
    with pytest.raises(ValueError, match="score at step 0 is 1"):
        Plan(1, (2,), (1,), (1,))


@pytest.mark.shared
@pytest.mark.skipif("DSEARCH_SHARED" not in os.environ, reason="DSEARCH_SHARED names no folder")
def test_the_reference_tables_are_these():
    reference = json.loads((Path(os.environ["DSEARCH_SHARED"]) / "golden" / "schedules.json").read_text())
    assert {"drop", "search_probability"} <= set(reference)
    for row in reference["drop"]:
        start = row["keep"] * row["oversample"]
        assert list(drop_schedule(row["schedule"], start, row["keep"], row["steps"])) == row["beams_after_step"]
        plan = methods.published(
            len, row["keep"], 5, 5, row["oversample"], drop_schedule=row["schedule"], coins=[0.0] * row["steps"]
        ).plan(row["steps"])
        assert list(plan.width[:-1]) == row["width_if_searching"]["duplicate_size=5,w=5"]
    for steps, kinds in reference["search_probability"].items():
        for kind, p in kinds.items():
            ours = search_probability(kind, int(steps))
            assert ours == pytest.approx([min(1.0, q) for q in p], abs=1e-12)


def test_all_defaults_but_the_published_ones_cost_about_four_plain_images():
    own = {"tuned": {"gain": [1.0] * 49}}
    for name in set(methods.__all__) - {"published"}:
        rows = getattr(methods, name)(None, **own.get(name, {})).bill(50).model_calls
        assert 160 <= rows <= 204, f"{name}: {rows}"
