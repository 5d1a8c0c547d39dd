"""Plans that go back in noise: what they cost, what they leave unchanged, and what they refuse."""

from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PROMPTS, Counted, CountedReward, assert_same_result, group, run, smooth, within

import dsearch
from dsearch import Bill, Plan, Target
from dsearch.adapters import GaussianMixture, Masked, TokenChain
from dsearch.adapters.toy import Quadratic
from dsearch.cli.plans import plan_lines
from dsearch.core import potential
from dsearch.core.method import Method
from dsearch.core.selection import best_child, top_k
from dsearch.core.value import lookahead, posterior_mean
from dsearch.experiments import runs
from dsearch.experiments.experiment import Experiment, Model, Named
from dsearch.report import _data

T = 4


def searching(plan, select=None, value=posterior_mean, reward=smooth, **fields):
    return Method(lambda n: plan, reward, value, potential.none, select or top_k(), **fields)


def straight(*, start=2, width=1, moves=T, **fields):
    """Beams that take `moves` moves of one width, of which nothing is scored."""
    kept = [start * width**n for n in range(1, moves + 1)]
    return Plan(start, (width,) * moves, tuple(kept), (False,) * moves, **fields)


@st.composite
def routes(draw):
    """Any plan that goes back in noise, of T steps."""
    start = alive = draw(st.integers(1, 2))
    level, route, width, keep, score, ends = 0, [], [], [], [], draw(st.integers(1, 2))
    left = draw(st.integers(1, 3))
    while level < T or left:
        kind = draw(st.sampled_from(["down", "back", "away"])) if level and left else "down"
        kind = "back" if level == T and kind == "down" else kind
        if kind == "down":
            level += 1
            route.append(level)
            width.append(draw(st.integers(1, 2)))
        elif kind == "back":
            level = draw(st.integers(0, level - 1))
            route.append(level)
            width.append(draw(st.integers(1, 2)))
        else:
            most = level
            away = draw(
                st.lists(st.integers(0, most), min_size=1, max_size=3).filter(lambda a, level=level: min(a) < level)
            )
            route.append(tuple(away))
            width.append(len(away))
        left -= kind != "down"
        n = alive * width[-1]
        if level == T:  # as many each time
            ends = min(ends, n) if not any(r == T for r in reached(route[:-1])) else ends
            if n < ends:
                width[-1] = ends
                if kind == "away":
                    route[-1] = tuple([*route[-1], *[0] * ends][:ends])
                n = alive * width[-1]
            alive, scored = ends, True
        else:
            scored = draw(st.booleans())
            alive = draw(st.integers(1, min(n, 4))) if scored or n > 4 else n
            scored = scored or alive != n
        keep.append(alive)
        score.append(scored)
    return Plan(start, width, keep, score, route)


def reached(route):
    return list(accumulate(route, lambda level, to: level if isinstance(to, tuple) else to, initial=0))[1:]


def brute_force(plan):
    """Every candidate of every move, walked level by level."""
    rows, decodes, level, route = plan.start, 0, 0, plan.route or range(1, T + 1)
    for alive, width, score, to in zip((plan.start, *plan.keep), plan.width, plan.score, route, strict=False):
        for _ in range(alive):
            for child in range(width):
                if isinstance(to, tuple):
                    rests = to[child] == level
                    visited = [] if rests else range(to[child], level + 1)
                else:
                    rests, visited = False, [to]
                rows += sum(each < T for each in visited)
                end = level if isinstance(to, tuple) else to
                decodes += not rests if end == T else score
        level = level if isinstance(to, tuple) else to
    return Bill(rows, decodes, decodes)


@settings(max_examples=60)
@given(routes())
def test_the_bill_of_any_list_of_moves_is_a_brute_force_count_and_what_is_spent(plan):
    assert plan.bill() == brute_force(plan)
    assert Bill(plan.model_calls, plan.decodes, plan.reward_calls) == plan.bill()
    reward = CountedReward(smooth)
    denoiser = Counted(GaussianMixture([[0.0, 0.0], [1.0, 2.0]], num_steps=T))
    result = run(searching(plan, reward=reward), PROMPTS, denoiser)
    assert Bill(denoiser.model_calls, denoiser.decodes, reward.calls) == result.cost.spent
    assert result.cost.spent == Bill().plus(plan.bill(), len(PROMPTS)) and result.cost.bill == plan.bill()
    assert [step.level for step in result.trace] == list(plan.reached)
    assert [(step.alive, step.width) for step in result.trace] == list(zip(plan.alive, plan.width, strict=True))
    final = torch.gather(result.trace[-1].values, 1, result.lineage.path()[..., -1])
    assert torch.equal(final, result.rewards)


@settings(max_examples=10)
@given(routes(), st.tuples(*[st.one_of(st.none(), st.integers(1, 7))] * 3), st.integers(0, 2**20))
def test_chunks_and_batch_mates_change_nothing(plan, sizes, seed):
    method, chunks = searching(plan), dsearch.Chunks(*sizes)
    together = run(method, PROMPTS, GaussianMixture([[0.0, 0.0]], num_steps=T), seed=seed)
    assert_same_result(
        together, run(method, PROMPTS, GaussianMixture([[0.0, 0.0]], num_steps=T), seed=seed, chunks=chunks)
    )
    alone = run(method, PROMPTS[1:], GaussianMixture([[0.0, 0.0]], num_steps=T), seed=seed, ids=[1])
    for name, found in group(alone, 0).items():
        other = group(together, 1)[name]
        assert torch.equal(found, other) if isinstance(found, torch.Tensor) else len(found) == len(other)


def test_values_are_billed_at_the_levels_they_are_asked_at():
    plan = Plan(1, (2,) * 6, (2, 2, 2, 2, 2, 2), (True,) * 6, (1, 2, 1, 2, 3, 4))
    value = lookahead(2)
    result = run(searching(plan, value=value), PROMPTS, GaussianMixture([[0.0, 0.0]], num_steps=T))
    # 1 of x_T; 2, then 4 a move up to the clean end; rollouts of 2, 1, 2, 1 and 0 rows.
    assert result.cost.bill == plan.bill(value.cost)
    assert plan.bill(value.cost).model_calls == 1 + 2 * (1 + 2) + 4 * (1 + 1) + 4 * (1 + 2) + 4 * (1 + 1) + 4


def test_a_route_straight_down_is_the_plan_without_one():
    plan = straight()
    assert straight(route=[1, 2, 3, 4]) == plan and straight(route=[1, 2, 3, 4]).route is None
    assert hash(straight(route=(1, 2, 3, 4))) == hash(plan) and plan.reached == (1, 2, 3, 4)


def test_the_first_leg_is_the_descent_that_it_would_be_alone():
    """And no later leg repeats its noise."""
    seen = []
    back = straight(moves=12, route=[1, 2, 3, 4, 0, 1, 2, 3, 4, 2, 3, 4])
    looped = run(searching(back), watch=[lambda step, beams: seen.append((step.level, beams.x))], denoiser=mixture())
    plain = run(searching(straight()), denoiser=mixture())
    order = plain.lineage.order
    assert torch.equal(seen[3][1].gather(1, order[..., None].expand_as(seen[3][1])), plain.latents)
    for level in range(1, 5):
        states = torch.cat([x.flatten() for at, x in seen if at == level])
        assert len(states.unique()) == len(states)
    assert looped.plan.legs == (0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2)


def mixture(**options):
    return GaussianMixture([[-1.0, 0.5], [1.5, 0.0]], std=[0.5, 0.8], num_steps=T, **options)


@pytest.mark.parametrize(
    "route", [(1, 2, 3, 4, 2, 3, 4), (1, 2, 3, 1, 2, 3, 4), (1, 2, 3, 4, (0,)), (1, 2, (0,), 3, 4)], ids=str
)
def test_going_back_without_a_choice_leaves_the_law_of_the_model(route):
    toy, reward, n = mixture(), Quadratic([1.0, -0.5], curvature=0.3), 20_000
    plan = straight(start=n, moves=len(route), route=route)
    result = run(searching(plan, reward=reward), [""], toy)
    assert within(toy.expected_reward(reward), result.rewards)
    assert (result.kl == 0).all()


def test_going_back_without_a_choice_leaves_the_law_of_tokens():
    chain = TokenChain(torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(0)))
    plan = straight(start=8_000, moves=8, route=(1, 2, 3, 1, 2, 3, (1,), (0,)))
    words = run(searching(plan, reward=lambda x, prompts: x.sum(-1)), [""], chain).latents[0]
    for word, p in zip(chain.words, chain.table.flatten(), strict=True):
        assert within(float(p), (words == word).all(-1))


@pytest.mark.parametrize(
    ("route", "says"),
    [
        ([1, 2, 3], "route has 3 moves, but width names 4"),
        ([1, 2, 2, 3], "move 2 leads from level 2 to 2"),
        ([1, 3, 2, 3], "move 1 leads from level 1 to 3"),
        ([1, 2, 3, 2], "ends at level 2, but it has been at 3"),
        ([1, 2, (1, 1), 3], "sends 2 children away, but its width is 1"),
        ([1, 2, (2,), 3], r"levels \(2,\); some must be below it, and none above"),
        ([1, 2, 3, (3,)], "some must be below it"),
        ([1, -1, 1, 2], "a level of the route is -1"),
        ([1, 0.5, 1, 2], "a level of the route is 0.5"),
    ],
)
def test_a_route_that_cannot_be_walked_is_refused(route, says):
    with pytest.raises(ValueError, match=says):
        straight(route=route)


def test_a_route_keeps_as_many_at_each_clean_end():
    with pytest.raises(ValueError, match=r"ends clean with \[1, 2\] beams"):
        Plan(2, (1, 1, 1, 1), (2, 2, 2, 1), (False, False, False, True), (1, 2, 1, 2))


def test_a_model_that_cannot_go_back_is_refused_before_anything_is_spent():
    class Without(Counted):
        def __getattr__(self, name):
            if name == "renoise":
                raise AttributeError(name)
            return super().__getattr__(name)

    plan = straight(moves=6, route=(1, 2, 3, 4, 3, 4))
    denoiser = Without(mixture())
    with pytest.raises(TypeError, match="method goes back in noise, and Without has no renoise"):
        run(searching(plan), denoiser=denoiser)
    assert denoiser.model_calls == 0
    given_words = Masked(
        lambda x, level: torch.zeros(*x.shape, 3), length=4, vocab=3, template=lambda prompt: [0, 3, 3, 3]
    )
    denoiser = Counted(given_words)
    with pytest.raises(ValueError, match="cannot be masked again"):
        run(searching(plan), denoiser=denoiser)
    assert denoiser.model_calls == 0


def test_processes_cannot_share_a_search_that_goes_back():
    class Two:
        rank, size = 0, 2

    with pytest.raises(ValueError, match="method goes back in noise, which 2 processes cannot share"):
        run(searching(straight(moves=6, route=(1, 2, 3, 4, 3, 4))), denoiser=mixture(), share=Two())


def test_a_child_that_rests_is_its_parent_and_costs_nothing():
    plan = Plan(3, (1, 1, 1, 1, 2), (3, 3, 3, 3, 3), (False,) * 4 + (True,), (1, 2, 3, 4, (4, 1)))
    plain = straight(start=3)

    def worst(scores, keep, rng):  # the child that rests, whatever the values
        return best_child(replace(scores, value=torch.arange(6.0).flip(0).expand(len(scores.value), -1)), keep, rng)

    rested = run(searching(plan, worst), denoiser=mixture())
    alone = run(searching(plain), denoiser=mixture())
    assert torch.equal(rested.latents, alone.latents) and torch.equal(rested.images, alone.images)
    assert torch.equal(rested.rewards, alone.rewards)
    assert rested.cost.bill == Bill().plus(alone.cost.bill).plus(Bill(3 * 3, 3, 3))


def test_a_prompt_at_its_target_goes_back_no_more():
    """Between the two rewards of its prompts, which the plain run reaches, the target stops one of them."""
    plan = straight(moves=10, route=(1, 2, 3, 4, 2, 3, 4, 2, 3, 4))
    plain, never = (run(searching(p), denoiser=mixture(), seed=2) for p in (straight(), plan))
    best = plain.rewards.amax(1)
    stopped = run(searching(plan), denoiser=mixture(), seed=2, watch=[Target(float(best.mean()))])
    first, second = int(best.argmax()), int(best.argmin())
    assert torch.equal(stopped.latents[first], plain.latents[first])
    assert torch.equal(stopped.images[first], plain.images[first])
    assert torch.equal(stopped.rewards[first], plain.rewards[first])
    # Of the other one, which does not come to it on its way, nothing changes.
    assert max(step.values[second].max() for step in never.trace[:7] if step.values is not None) < best.mean()
    assert torch.equal(stopped.latents[second], never.latents[second])
    assert stopped.cost.spent.model_calls < never.cost.spent.model_calls
    both = run(searching(plan), denoiser=mixture(), seed=2, watch=[Target(float(best.min()))])
    assert torch.equal(both.latents, plain.latents) and both.cost.spent == plain.cost.spent
    assert len(both.trace) == 4


def test_an_error_on_the_way_names_the_level_it_was_at():
    calls = []

    def reward(images, prompts):
        calls.append(1)
        return smooth(images, prompts) if len(calls) < 2 else smooth(images, prompts) * torch.nan

    plan = straight(moves=7, route=(1, 2, 3, 4, 2, 3, 4))
    with pytest.raises(dsearch.RewardError) as error:
        run(searching(plan, reward=reward), [""], mixture())
    assert error.value.level == 4 and error.value.reached == 3


def test_a_method_that_draws_one_after_another_goes_back_too():
    base = dsearch.methods.rbf(smooth, width=3, beams=2)
    plan = Plan(
        2, (3, 3, 3, 1, 1, 3, 1), (2,) * 7, (True, True, True, False, False, True, False), (1, 2, 3, 4, 2, 3, 4)
    )
    result = run(replace(base, plan=lambda n: plan), denoiser=mixture())
    assert not result.cost.bill.exceeds(result.cost.planned)
    assert [step.level for step in result.trace] == [1, 2, 3, 4, 2, 3, 4]


def test_a_plan_that_goes_back_is_told_in_lines_and_its_cycles_once():
    lines = list(plan_lines(dsearch.methods.rerd(smooth, 3, 2, cycles=4, edit=0.2).plan(10)))
    assert [line.split() for line in lines] == [
        ["steps", "beams", "children", "rows", "scored", "levels"],
        ["0-8", "2", "3", "6", "yes", "0", "to", "9"],
        ["9", "2", "1", "2", "yes", "9", "to", "10"],
        ["10", "2", "1", "2", "no", "10", "back", "to", "8"],
        ["11", "2", "3", "6", "yes", "8", "to", "9"],
        ["12", "2", "1", "2", "yes", "9", "to", "10"],
        ["...", "3", "times", "in", "all,", "to", "step", "18"],
        ["19", "2", "1", "2", "no", "10", "back", "to", "8"],
        ["20", "2", "3", "6", "yes", "8", "to", "9"],
        ["21", "2", "1", "2", "no", "9", "to", "10"],
    ]
    lines = list(plan_lines(dsearch.methods.abcd(smooth, 3, 2, 1, 5, (0.0, 0.5)).plan(4)))
    assert lines[-2].split() == ["4", "2", "3", "12", "yes", "4", "back", "to", "0,", "2,", "and", "down", "again"]
    assert lines[-1] == "... 5 times in all, to step 8"
    straight_lines = list(plan_lines(straight()))
    assert straight_lines == ["steps      beams  children  rows  scored", "0-3            2         1     2  no"]


def test_a_run_keeps_the_levels_of_a_search_that_goes_back(tmp_path):
    """And of a straight descent what it always kept."""
    named = {"back": Named("rerd", {"width": 2, "cycles": 1, "edit": 0.5}), "down": Named("svdd", {"width": 2})}
    experiment = Experiment(
        prompts=("a",), rewards={"r": Named("given")}, objectives=("r",), models={"toy": Model("given")}, methods=named
    )
    found = runs.run(experiment, tmp_path / "run", given={"toy": mixture(), "r": smooth})
    reached = {unit.method: found.trace(unit).reached for unit in found.finished}
    assert reached == {"back": [1, 2, 3, 4, 2, 3, 4], "down": None}
    shown = {search.unit.method: _data.lineage(search)["reached"] for search in _data.searches(found)}
    assert shown == reached
