"""Held-out rewards watch and never steer; what descends from what is counted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    PROMPTS,
    Counted,
    CountedReward,
    assert_identical,
    assert_same_result,
    every_method,
    group,
    run,
    smooth,
)

import dsearch
from dsearch import Bill, methods
from dsearch.adapters import toy


def left(x, prompts):
    return -x[:, 0]


def below(x, prompts):
    return -x[:, 1] + torch.tensor([float(len(p)) for p in prompts])


@every_method
@pytest.mark.parametrize("every", [0, 1, 2])
def test_held_out_rewards_change_nothing_and_are_billed_apart(example, every):
    model, reward = Counted(toy.example()), CountedReward(smooth)
    every = every if example(smooth).program is None else 0  # a tree has no looks on the way
    watched = run(example(reward), denoiser=model, watch=[dsearch.HeldOut({"left": left, "below": below}, every)])
    free = run(example(smooth))
    assert_same_result(watched, free)
    assert watched.cost.bill == free.cost.bill and watched.cost.spent == free.cost.spent
    assert reward.calls == watched.cost.spent.reward_calls  # those of held-out rewards are their own
    assert model.decodes == watched.cost.spent.decodes + watched.cost.watched.decodes
    images = sum(look.value.numel() for look in watched.looks)
    assert watched.cost.watched == Bill(0, 2 * (images - watched.rewards.numel()), 2 * images)


@every_method
def test_the_last_look_is_at_the_images_returned(example):
    result = run(example(smooth), watch=[dsearch.HeldOut({"left": left, "below": below})])
    for b, prompts in enumerate(result.prompts):
        assert torch.equal(result.held_out["left"][b], left(result.images[b], prompts))
        assert torch.equal(result.held_out["below"][b], below(result.images[b], prompts))
    (look,) = result.looks
    assert look.level == 6 and torch.equal(look.value, result.rewards)


def test_looks_on_the_way_are_at_the_posterior_means_of_the_beams_alive():
    seen = []
    result = run(
        methods.dsearch(smooth, 4, 2, 8, search="all"),
        watch=[dsearch.HeldOut({"left": left}, every=2), lambda step, beams: seen.append(beams)],
    )
    assert [look.level for look in result.looks] == [2, 4, 6]
    for look in result.looks[:-1]:
        beams = seen[look.level - 1]
        assert torch.equal(look.scores["left"], -beams.pred.x0[..., 0]) and torch.equal(look.value, beams.value)


def test_a_prompt_whose_held_out_reward_falls_while_its_value_rises_is_searched_no_further():
    """A held-out reward that is the reward turned round falls at every rise; one that is the reward never does."""
    method = methods.svdd(smooth, 4, 2)
    against = {"against": lambda x, prompts: -smooth(x, prompts)}
    stopped = run(method, seed=1, watch=[dsearch.HeldOut(against, every=1, patience=2)])
    free = run(method, seed=1)
    ends = []
    for b in range(2):
        rises, done = 0, False
        for before, after in zip(stopped.looks, stopped.looks[1:-1], strict=False):
            rose = after.value[b].max() > before.value[b].max()
            fell = after.scores["against"][b].mean() < before.scores["against"][b].mean()
            rises = rises + 1 if rose and fell else 0
            done |= rises >= 2
            drawn = int(stopped.trace[after.level].values[b].isfinite().sum()) if after.level < 5 else None
            assert drawn in (None, 2 if done else 8)
        ends.append(done)
    assert any(ends)
    assert stopped.cost.spent.model_calls < free.cost.spent.model_calls
    agrees = run(method, seed=1, watch=[dsearch.HeldOut({"same": smooth}, every=1, patience=1)])
    assert agrees.looks[-1].scores["same"].equal(agrees.rewards)
    none = run(
        method, seed=1, watch=[dsearch.HeldOut({"flat": lambda x, prompts: torch.zeros(len(x))}, every=1, patience=1)]
    )
    assert_same_result(none, free)


def test_a_stop_leaves_batch_mates_alone():
    def turned(x, prompts):
        return torch.where(torch.tensor([p == "a" for p in prompts]), -smooth(x, prompts), 0.0)

    method = methods.svdd(smooth, 4, 2)
    stopped, free = run(method, seed=1, watch=[dsearch.HeldOut({"turned": turned}, 1, 1)]), run(method, seed=1)
    assert_identical(group(stopped, 1) | {"bill": None}, group(free, 1) | {"bill": None})
    assert stopped.cost.spent.model_calls < free.cost.spent.model_calls


def test_what_goes_wrong_in_a_held_out_reward_is_named():
    def broken(x, prompts):
        raise RuntimeError("no more")

    with pytest.raises(
        dsearch.RewardError, match=r"the held-out reward 'judge' raised RuntimeError: no more \(level 2"
    ):
        run(methods.svdd(smooth, 2), watch=[dsearch.HeldOut({"judge": broken}, every=2)])
    with pytest.raises(dsearch.RewardError, match=r"the held-out reward 'judge' returned shape \(\)"):
        run(methods.svdd(smooth, 2), watch=[dsearch.HeldOut({"judge": lambda x, prompts: x.mean()})])
    with pytest.raises(ValueError, match="held-out rewards have names"):
        dsearch.HeldOut({})
    with pytest.raises(ValueError, match="patience=2 counts looks on the way; set every=1 or more"):
        dsearch.HeldOut({"a": left}, patience=2)


@settings(max_examples=20)
@given(st.integers(0, 2**40), st.integers(1, 5), st.integers(1, 3))
def test_ancestors_are_counted_as_a_walk_back_counts_them(seed, beams, width):
    result = run(methods.beam(smooth, beams, width), seed=seed)
    counts = result.lineage.ancestors()
    assert counts.shape == (2, 6) and (counts.diff(dim=-1) <= 0).all()
    for b in range(len(PROMPTS)):
        root = list(range(beams))
        for step, (child, w) in enumerate(zip(result.lineage.child, result.lineage.width, strict=True)):
            root = [root[c // w] for c in child[b].tolist()]
            assert counts[b, step] == len(set(root))
        assert counts[b, -1] == len(set(result.lineage.ancestor()[b].tolist()))


def test_the_effective_sample_size_is_that_of_the_weights():
    result = run(methods.fk(smooth, 6, lam=3.0, every=2, ess_below=1e-9))
    w = result.log_w.exp()
    assert torch.allclose(result.ess, w.sum(-1) ** 2 / w.square().sum(-1))
    assert run(methods.plain(smooth, beams=3)).ess.tolist() == pytest.approx([3, 3])
