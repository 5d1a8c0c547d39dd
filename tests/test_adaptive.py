"""Searches that stop early, climb or look ahead: against plain loops over the same noise."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import (
    Counted,
    CountedReward,
    Recorder,
    assert_identical,
    assert_same_result,
    group,
    run,
    smooth,
    within,
)

import dsearch
from dsearch import methods
from dsearch.adapters import toy
from dsearch.core import value
from dsearch.core.contract import map_tree
from dsearch.methods.random_search import Fresh
from dsearch.methods.zero_order import Climb

SEED = st.integers(0, 2**40)
STEPS = toy.example().num_steps
few = settings(max_examples=12)


def one(model, x, step, noise, prompt="a"):
    """`[D]` at a level and noise `[D + 1]` -> the sample at the next, and its posterior mean."""
    cond, row = model.encode([prompt]), torch.zeros(1, dtype=torch.long)
    pred = map_tree(lambda leaf: leaf[None, :, None], model.predict(x[None], step, cond, row))
    x = model.step(x[None, None, None], pred, step, noise[None, None, None])[0, 0]
    return x[0], model.predict(x, step + 1, cond, row).x0[0]


def valued(x0):
    return smooth(x0[None], ["a"])[0]


def rollover(model, width, beams, seed):
    """RBF, one beam after another: rewards by beam, and rows of the network."""
    rng = dsearch.KeyedRng(seed, (0,))
    noises = [
        [rng.under(f"draw {j}").normal("noise", i, (1, beams, 1, 3))[0, :, 0] for j in range(60)] for i in range(STEPS)
    ]
    last, start = rng.normal("noise", STEPS - 1, (1, beams, 1, 3))[0, :, 0], rng.normal("start", 0, (1, beams, 2))[0]
    rewards, rows = [], beams
    for k in range(beams):
        x, own, left = start[k], None, 0
        for i in range(STEPS - 1):
            left += width
            best = None
            for j in range(60):
                if left == 0:
                    break
                left, rows = left - 1, rows + 1
                child, x0 = one(model, x, i, noises[i][j][k])
                v = valued(x0)
                if best is None or v > best[1]:
                    best = child, v
                if own is None or v > own:
                    break
            x, own = best
        rewards.append(float(valued(one(model, x, STEPS - 1, last[k])[0])))
    return rewards, rows


@few
@given(seed=SEED, width=st.integers(1, 4), beams=st.integers(1, 3))
def test_rollover_equals_a_loop_over_beams_and_draws(seed, width, beams):
    model = toy.example()
    rewards, rows = rollover(model, width, beams, seed)
    result = run(methods.rbf(smooth, width, beams), ["a"], model, seed=seed)
    assert result.rewards[0].tolist() == sorted(rewards, reverse=True)
    assert result.cost.bill.model_calls == rows <= result.cost.planned.model_calls


def test_rollover_that_never_improves_spends_all_and_one_that_always_does_spends_one():
    falling, rising = iter(range(0, -10_000, -1)), iter(range(10_000))

    def reward(numbers):
        return lambda images, prompts: torch.tensor([float(next(numbers)) for _ in images])

    spent = run(methods.rbf(reward(falling), width=3), ["a"])
    # At the first step, where there is no parent's value, one child is enough; what it left is used at the next.
    assert [step.values.isfinite().sum().item() for step in spent.trace[:-1]] == [1, 5, 3, 3, 3]
    assert spent.cost.bill == spent.cost.planned
    saved = run(methods.rbf(reward(rising), width=3), ["a"])
    assert [step.values.isfinite().sum().item() for step in saved.trace[:-1]] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("method", [methods.svdd(smooth, 4, 2), methods.beam(smooth, 3, 2)], ids=["svdd", "beam"])
def test_a_prompt_at_its_target_draws_one_child_a_beam_and_leaves_the_others_alone(method):
    free = run(method, seed=5)
    best = [step.values[0].max().item() for step in free.trace]
    target = (best[1] + max(best[2], best[1])) / 2 if best[2] > best[1] else best[1]
    limited = run(method, seed=5, watch=[dsearch.Target(min(target, max(best)))])
    reached, drawn = False, []
    for step in limited.trace[:-1]:
        drawn.append(int(step.values[0].isfinite().sum()))
        assert drawn[-1] == (step.alive if reached else step.alive * step.width)
        reached = bool((step.values[0] >= target).any())
    assert min(drawn) < max(drawn)
    rows = limited.cost.spent.model_calls
    assert rows == free.cost.spent.model_calls - sum(max(drawn) - n for n in drawn) - sum(
        int((~step.values[1].isfinite()).sum()) for step in limited.trace[:-1]
    )
    alone = run(method, seed=5, watch=[dsearch.Target(1e9)])
    assert_same_result(alone, free)  # a target that no one reaches changes nothing


@pytest.mark.parametrize("method", [methods.svdd(smooth, 4, 2), methods.beam(smooth, 3, 2)], ids=["svdd", "beam"])
def test_a_prompt_at_its_target_leaves_the_other_as_it_was(method):
    """At a target between the best values of the two prompts, one is stopped and the other never is."""
    apart = 0
    for seed in range(12):
        free = run(method, seed=seed)
        best = torch.stack([step.values.amax(dim=1) for step in free.trace]).amax(dim=0)
        low, high = int(best.argmin()), int(best.argmax())
        limited = run(method, seed=seed, watch=[dsearch.Target(float(best.mean()))])
        assert_identical(group(limited, low), group(free, low))
        apart += limited.cost.spent.model_calls < free.cost.spent.model_calls
        assert high != low
    assert apart > 0


def test_noise_search_ends_its_rounds_when_every_prompt_is_there():
    method = methods.random_search(smooth, candidates=2, rounds=5)
    free = run(method, seed=2)
    firsts = [min(float(free.trace[-1].values[b, 2 * r : 2 * r + 2].max()) for b in range(2)) for r in range(5)]
    limited = run(method, seed=2, watch=[dsearch.Target(firsts[0])])
    assert limited.cost.spent.model_calls == 2 * 2 * STEPS and limited.cost.planned == free.cost.planned


def test_a_target_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="target is nan; give a reward to reach"):
        run(methods.svdd(smooth, width=2), watch=[dsearch.Target(math.nan)])


class Interrupted:
    """Raises a KeyboardInterrupt at one call of a reward or a network."""

    def __init__(self, inner, at):
        self.inner, self.left = inner, at

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def tick(self):
        self.left -= 1
        if self.left == -1:
            raise KeyboardInterrupt

    def __call__(self, images, prompts):
        self.tick()
        return self.inner(images, prompts)

    def predict(self, *arguments):
        self.tick()
        return self.inner.predict(*arguments)


INTERRUPTED = {
    "svdd": lambda r: methods.svdd(r, 2, 2),
    "dsearch": lambda r: methods.dsearch(r, 4, 2, 8, search="all"),
    "best_of_n": lambda r: methods.best_of_n(r, 3),
    "random_search": lambda r: methods.random_search(r, 2, 3),
    "rbf": lambda r: methods.rbf(r, 2, 2),
}


@pytest.mark.parametrize("where", ["reward", "network"])
@pytest.mark.parametrize("name", INTERRUPTED)
def test_an_interrupt_at_any_call_carries_the_survivors_of_the_last_step(name, where):
    bare, kept = 0, 0
    for at in range(500):
        seen = []
        reward, model = CountedReward(smooth), toy.example()
        broken = Interrupted(reward if where == "reward" else model, at)
        method = INTERRUPTED[name](broken if where == "reward" else reward)
        try:
            run(
                method,
                denoiser=broken if where == "network" else model,
                watch=[lambda step, beams, seen=seen: seen.append(beams)],
            )
            break
        except dsearch.Interrupted as interrupt:
            kept += 1
            assert torch.equal(interrupt.beams.x, seen[-1].x)
            assert torch.equal(interrupt.beams.pred.x0, seen[-1].pred.x0)  # what can be decoded
            assert (len(seen) - interrupt.reached) % STEPS == 0  # a noise search has rounds before it
        except KeyboardInterrupt:
            bare += 1
            assert len(seen) % STEPS == 0  # only what comes before a first step has nothing to carry
    else:
        raise AssertionError("the run never completed")
    whole_runs = "best_of_n", "random_search"  # whose reward is asked at the clean end alone
    assert kept >= 1 and (bare >= 1) == (where == "network" or name not in whole_runs)


@few
@given(seed=SEED, candidates=st.integers(1, 3), rounds=st.integers(1, 3))
def test_random_search_is_the_best_of_its_rounds(seed, candidates, rounds):
    result = run(methods.random_search(smooth, candidates, rounds), ["a"], seed=seed)
    source, rewards = Fresh(dsearch.KeyedRng(seed, (0,))), []
    for _ in range(rounds):
        rewards.append(run(methods.best_of_n(smooth, candidates), ["a"], rng=source.next(None)).rewards[0, 0])
    assert result.rewards[0, 0] == max(rewards)


@few
@given(seed=SEED, radius=st.sampled_from([0.2, 0.7, 1.0]), path=st.booleans())
def test_zero_order_climbs_around_the_noise_of_its_best_run(seed, radius, path):
    """The pivot is that of the best run so far, and moves only when a run is better."""
    candidates, rounds = 3, 4
    result = run(methods.zero_order(smooth, candidates, rounds, radius, path), ["a"], seed=seed)
    pivot, best, found = {}, -math.inf, []
    for r in range(1, rounds + 1):
        fresh = dsearch.KeyedRng(seed, (0,)).under(f"round {r}")
        noise = {"start": fresh.normal("start", 0, (1, candidates, 2))[0]}
        noise |= {i: fresh.normal("noise", i, (1, candidates, 1, 3))[0, :, 0] for i in range(STEPS)}
        for key in noise:
            if key in pivot:
                noise[key] = math.sqrt(1 - radius**2) * pivot[key] + radius * noise[key]
        rewards, model = [], toy.example()
        for k in range(candidates):
            x = noise["start"][k]
            for i in range(STEPS):
                x, _ = one(model, x, i, noise[i][k])
            rewards.append(float(valued(x)))
        found += rewards
        k = max(range(candidates), key=rewards.__getitem__)
        if rewards[k] > best:
            best, pivot = rewards[k], {key: draw[k] for key, draw in noise.items() if path or key == "start"}
    assert result.trace[-1].values[0].tolist() == pytest.approx(found, abs=1e-5)
    assert result.rewards[0, 0].item() == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_noise_around_a_pivot_has_the_law_of_fresh_noise(draw):
    climb = Climb(dsearch.KeyedRng(0, tuple(range(2000))), 0.6, True)
    first = getattr(climb.next(None), draw)("noise", 1, (2000, 2))
    near = getattr(climb.next(torch.rand(2000, 2, generator=torch.Generator().manual_seed(1))), draw)
    second = near("noise", 1, (2000, 2))[:, 0].double()
    mean, square = (0.0, 1.0) if draw == "normal" else (0.5, 1 / 3)
    assert within(mean, second) and within(square, second.square())
    assert torch.corrcoef(torch.stack([first.double().mean(1), second]))[0, 1] > 0.3  # but it is near


@few
@given(
    steps=st.integers(0, 8),
    rollouts=st.integers(1, 3),
    deterministic=st.booleans(),
    over=st.sampled_from(["mean", "max", "soft"]),
)
def test_lookahead_spends_what_it_says(steps, rollouts, deterministic, over):
    assume(rollouts == 1 or not (deterministic or steps == 0))
    model, reward = Counted(toy.example()), CountedReward(smooth)
    looking = value.lookahead(steps, rollouts, deterministic, over)
    result = run(methods.svdd(reward, 3, 2, value=looking), denoiser=model)
    assert result.cost.bill == result.cost.planned
    assert (model.model_calls, model.decodes, reward.calls) == tuple(result.cost.spent)[:3]


def test_lookahead_of_no_steps_is_the_posterior_mean():
    for over in ("mean", "max", "soft"):
        looking = methods.svdd(smooth, 3, value=value.lookahead(0, over=over))
        assert_same_result(run(looking), run(methods.svdd(smooth, 3)))


def test_a_deterministic_lookahead_to_the_end_is_the_reward_of_that_run():
    model = toy.example()
    result = run(methods.svdd(smooth, 4, value=value.lookahead(99, deterministic=True)), ["a"], model)
    noise = dsearch.KeyedRng(0, (0,)).normal("noise", 0, (1, 1, 4, 3))[0, 0]
    start = dsearch.KeyedRng(0, (0,)).normal("start", 0, (1, 1, 2))[0, 0]
    cond, row = model.encode(["a"]), torch.zeros(1, dtype=torch.long)
    for child in range(4):
        x, _ = one(model, start, 0, noise[child])
        for level in range(1, STEPS):
            x = model.deterministic(x[None], model.predict(x[None], level, cond, row), level)[0]
        assert result.trace[0].values[0, child].item() == pytest.approx(float(valued(x)), abs=1e-5)


def test_rollouts_draw_apart_from_the_search():
    def drawn(v):
        recorder = Recorder(dsearch.KeyedRng(4, (0,)))
        run(methods.svdd(smooth, 3, value=v), ["a"], rng=recorder)
        return recorder.drawn

    plain, looking = drawn(value.posterior_mean), drawn(value.lookahead(2, 2))
    own = {key: draw for key, draw in looking.items() if "lookahead" not in key[1]}
    assert_identical(own, plain)
    assert len(looking) > len(plain)


@pytest.mark.parametrize("steps", [2, 99])
def test_the_mean_of_rollouts_is_unbiased_for_a_linear_reward(steps):
    """The posterior mean is a martingale, so a rollout of any length has it in the mean."""
    model, reward = toy.GaussianMixture([[-1.0], [1.5]], 0.6, num_steps=5), toy.Quadratic([2.0])
    method = methods.svdd(reward, 400, value=value.lookahead(steps, 8))
    result = dsearch.search(model, method, "", chunks=dsearch.Chunks(network=None, reward=None))
    exact = dsearch.search(model, methods.svdd(reward, 400), "", chunks=dsearch.Chunks(network=None, reward=None))
    assert within(0.0, result.trace[0].values - exact.trace[0].values)
    if steps > 5:
        assert (result.trace[0].values - exact.trace[0].values).std() > 0.05


def test_the_best_of_rollouts_is_above_their_soft_value_above_their_mean():
    first = {
        over: run(methods.svdd(smooth, 6, value=value.lookahead(9, 4, over=over, alpha=0.5))).trace[0].values
        for over in ("mean", "soft", "max")
    }
    assert (first["mean"] < first["soft"]).all() and (first["soft"] < first["max"]).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"steps": -1}, "steps is -1"),
        ({"steps": 2, "rollouts": 0}, "rollouts is 0"),
        ({"steps": 0, "rollouts": 2}, "rollouts=2 without noise are all equal"),
        ({"steps": 2, "rollouts": 2, "deterministic": True}, "rollouts=2 without noise are all equal"),
        ({"steps": 2, "alpha": 0.0}, "alpha=0.0 must be above 0"),
        ({"steps": 2, "alpha": math.inf}, "must be above 0 and finite"),
        ({"steps": 2, "over": "min"}, "over='min' is not known; choose one of mean, max, soft"),
    ],
)
def test_lookaheads_that_cannot_be_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        value.lookahead(**options)


def test_a_model_without_a_deterministic_step_says_so():
    class Bare:
        def __init__(self):
            self.inner = toy.example()

        def __getattr__(self, name):
            if name == "deterministic":
                raise AttributeError(name)
            return getattr(self.inner, name)

    with pytest.raises(TypeError, match="Bare has no deterministic step; use stochastic rollouts"):
        run(methods.svdd(smooth, 2, value=value.lookahead(1, deterministic=True)), denoiser=Bare())


def test_a_switched_value_is_the_early_one_and_then_the_late_one():
    early, late = value.lookahead(1), value.posterior_mean
    model, reward = Counted(toy.example()), CountedReward(smooth)
    result = run(methods.svdd(reward, 3, value=value.switched(early, late, 0.5)), denoiser=model)
    assert result.cost.bill == result.cost.planned and tuple(result.cost.spent)[:3] == (
        model.model_calls,
        model.decodes,
        reward.calls,
    )
    assert result.cost.bill.model_calls == 1 + 3 * 5 + 3 * 2  # levels 1 and 2 of 6 look ahead by a row
    first = run(methods.svdd(smooth, 3, value=early)).trace[0].values
    assert torch.equal(result.trace[0].values, first)
    never = run(methods.svdd(smooth, 3, value=value.switched(early, late, 0.01)))
    assert_same_result(never, run(methods.svdd(smooth, 3)))
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="is outside"):
            value.switched(early, late, share)


def test_methods_mix_psp_first_then_dsearch():
    """Eight seeds pruned at a quarter and a half of the steps, then children for those that are left."""
    steps = 8
    pruning = methods.psp(smooth, 4).plan(steps)
    half = steps // 2
    beams = pruning.keep[half - 1]
    method = methods.dsearch(
        smooth,
        beams=8,
        keep=1,
        rows_per_step=8,
        drop=(*pruning.keep[:half], *[beams] * (steps - 1 - half)),
        search=(*pruning.score[:half], *[True] * (steps - 1 - half)),
        max_width=4,
    )
    plan = method.plan(steps)
    assert plan.keep[:half] == pruning.keep[:half] and max(plan.width[half:-1]) == 4
    result = run(method, denoiser=toy.GaussianMixture([[0.0, 0.0]], num_steps=steps))
    assert result.cost.bill == result.cost.planned and result.images.shape[1] == 1


def test_fk_weighs_whatever_value_it_is_given():
    method = methods.fk(smooth, 4, lam=0.5, every=1, value=value.lookahead(2, 3, over="soft"))
    result = run(method)
    assert result.cost.bill == result.cost.planned == method.bill(STEPS) and result.cost.bill.model_calls > 4 * STEPS
    assert result.log_z.isfinite().all()
