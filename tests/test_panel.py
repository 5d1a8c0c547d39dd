"""A panel watches and never steers; what descends from what is counted."""

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
from dsearch import Bill, Panel, methods
from dsearch.adapters import toy


def left(x, prompts):
    return -x[:, 0]


def below(x, prompts):
    return -x[:, 1] + torch.tensor([float(len(p)) for p in prompts])


@every_method
@pytest.mark.parametrize("every", [0, 1, 2])
def test_a_panel_changes_nothing_and_is_billed_apart(example, every):
    model, reward = Counted(toy.example()), CountedReward(smooth)
    watched = run(example(reward), denoiser=model, observe=Panel({"left": left, "below": below}, every))
    free = run(example(smooth))
    assert_same_result(watched, free)
    assert watched.bill == free.bill and watched.spent == free.spent
    assert reward.calls == watched.spent.reward_calls  # the panel's calls are its own
    assert model.decodes == watched.spent.decodes + watched.watched.decodes
    images = sum(look.guide.numel() for look in watched.looks)
    assert watched.watched == Bill(0, 2 * (images - watched.rewards.numel()), 2 * images)


@every_method
def test_the_last_look_is_at_the_images_returned(example):
    result = run(example(smooth), observe={"left": left, "below": below})
    for b, prompts in enumerate(result.prompts):
        assert torch.equal(result.observed["left"][b], left(result.images[b], prompts))
        assert torch.equal(result.observed["below"][b], below(result.images[b], prompts))
    (look,) = result.looks
    assert look.step == 6 and torch.equal(look.guide, result.rewards)


def test_looks_on_the_way_are_at_the_posterior_means_of_the_beams_alive():
    seen = []
    result = run(
        methods.dsearch(smooth, 4, 2, 8, search="all"),
        observe=Panel({"left": left}, every=2),
        callback=lambda step, beams: seen.append(beams),
    )
    assert [look.step for look in result.looks] == [2, 4, 6]
    for look in result.looks[:-1]:
        beams = seen[look.step - 1]
        assert torch.equal(look.scores["left"], -beams.pred.x0[..., 0]) and torch.equal(look.guide, beams.value)


def test_a_prompt_whose_panel_falls_while_its_guide_rises_is_searched_no_further():
    """A guide that is the panel turned round falls for it at every rise; one that is the panel never does."""
    method = methods.svdd(smooth, 4, 2)
    against = {"against": lambda x, prompts: -smooth(x, prompts)}
    stopped = run(method, observe=Panel(against, every=1, patience=2), seed=1)
    free = run(method, seed=1)
    ends = []
    for b in range(2):
        rises, done = 0, False
        for before, after in zip(stopped.looks, stopped.looks[1:-1], strict=False):
            rose = after.guide[b].max() > before.guide[b].max()
            fell = after.scores["against"][b].mean() < before.scores["against"][b].mean()
            rises = rises + 1 if rose and fell else 0
            done |= rises >= 2
            drawn = int(stopped.trace[after.step].values[b].isfinite().sum()) if after.step < 5 else None
            assert drawn in (None, 2 if done else 8)
        ends.append(done)
    assert any(ends)
    assert stopped.spent.model_calls < free.spent.model_calls
    agrees = run(method, observe=Panel({"same": smooth}, every=1, patience=1), seed=1)
    assert agrees.looks[-1].scores["same"].equal(agrees.rewards)
    none = run(method, observe=Panel({"flat": lambda x, prompts: torch.zeros(len(x))}, every=1, patience=1), seed=1)
    assert_same_result(none, free)


def test_a_stop_leaves_batch_mates_alone():
    def turned(x, prompts):
        return torch.where(torch.tensor([p == "a" for p in prompts]), -smooth(x, prompts), 0.0)

    method = methods.svdd(smooth, 4, 2)
    stopped, free = run(method, observe=Panel({"turned": turned}, 1, 1), seed=1), run(method, seed=1)
    assert_identical(group(stopped, 1) | {"bill": None}, group(free, 1) | {"bill": None})
    assert stopped.spent.model_calls < free.spent.model_calls


def test_what_goes_wrong_in_a_panel_is_named():
    def broken(x, prompts):
        raise RuntimeError("no more")

    with pytest.raises(dsearch.RewardError, match=r"the panel's 'judge' raised RuntimeError: no more \(step 2"):
        run(methods.svdd(smooth, 2), observe=Panel({"judge": broken}, every=2))
    with pytest.raises(dsearch.RewardError, match=r"the panel's 'judge' returned shape \(\)"):
        run(methods.svdd(smooth, 2), observe={"judge": lambda x, prompts: x.mean()})
    with pytest.raises(ValueError, match="a panel names its rewards"):
        Panel({})
    with pytest.raises(ValueError, match="patience=2 counts looks on the way; set every=1 or more"):
        Panel({"a": left}, patience=2)


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
