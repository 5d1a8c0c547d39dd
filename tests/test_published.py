"""`methods.published` against an independent, plain implementation of what the published script does."""

import sys
from pathlib import Path

import pytest
import tiny
import torch
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st
from torch import Tensor

import dsearch
from dsearch.adapters import StableDiffusion
from dsearch.adapters.toy import GaussianMixture
from dsearch.methods import published

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import published_way
from published_way import Flags, Record

SEARCH = ["all", "uniform", "linear", "exponential"]
DROP = ["none", "exponential", "linear", "quadratic", "sigmoid"]
PROMPTS = ["a", "b", "c"]
COMMANDS = {
    "DSearch": Flags(4, 2, 3, oversamplerate=3, search_schedule="exponential", drop_schedule="exponential"),
    "DSearch-R": Flags(9, 2, 3, search_schedule="exponential", replacerate=0.25),
    "SVDD": Flags(4, 6),
}
"""The published commands, made small."""


def toy(steps: int) -> GaussianMixture:
    return GaussianMixture(
        [[-2.0, 0.0], [1.0, 1.5], [0.5, -2.0]], std=0.5, num_steps=steps, shift={"a": 0.5, "b": -1.0}
    )


def height(x: Tensor, prompts: list[str]) -> Tensor:
    """A smooth reward of the toy's samples that reads the prompt too."""
    return x[:, 0].double() - 0.3 * x[:, 1].double().square() + torch.tensor([len(p) * 0.1 for p in prompts])


def in_steps(levels: float):
    """The same reward, so coarse that ties are common."""
    return lambda x, prompts: (height(x, prompts) * levels).round() / levels


def coins_of(steps: int, seed: int = 0) -> list[float]:
    return torch.rand(steps, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()


class Source(dsearch.KeyedRng):
    """The default noise, whose draws without a plain counterpart in the oracle are refused."""

    def categorical(self, use, step, log_p, n):
        assert use == "replace"
        return super().categorical(use, step, log_p, n)


def both(model, reward, prompts, flags: Flags, coins, seed=0) -> tuple[dsearch.Result, Record]:
    method = published(reward, **vars(flags), coins=coins)
    ours = dsearch.search(model, method, prompts, rng=Source(seed, (0,)))
    theirs = published_way.run(model, reward, prompts, flags, coins, Source(seed, (0,)))
    return ours, theirs


def chosen(ours: dsearch.Result) -> list[list[int]]:
    """At each step, which candidates lived on, in beam order."""
    return [child[0].tolist() for child in ours.lineage.child]


def in_beam_order(ours: dsearch.Result, rows: Tensor) -> Tensor:
    return rows[0][ours.lineage.order[0].argsort()]


def assert_same_choices(ours: dsearch.Result, theirs: Record) -> None:
    assert chosen(ours) == theirs.chosen
    assert ours.prompts[0] == [theirs.prompts[k] for k in ours.lineage.order[0].tolist()]


def assert_the_bill_is_less_by_the_recomputed_winners(ours: dsearch.Result, theirs: Record) -> None:
    assert ours.cost.bill == ours.cost.planned
    assert ours.cost.bill.model_calls == theirs.rows - theirs.recomputed
    assert theirs.recomputed == sum(ours.plan.alive[1:])
    assert (ours.cost.bill.decodes, ours.cost.bill.reward_calls) == (theirs.decodes, theirs.reward_calls)


@st.composite
def cases(draw):
    steps = draw(st.integers(1, 9))
    replaces = draw(st.booleans())
    flags = Flags(
        bs=draw(st.integers(4 if replaces else 1, 9)),
        duplicate_size=draw(st.integers(1, 4)),
        w=draw(st.integers(1, 3)),
        oversamplerate=1 if replaces else draw(st.integers(1, 5)),
        search_schedule=draw(st.sampled_from(SEARCH)),
        drop_schedule="none" if replaces else draw(st.sampled_from(DROP)),
        replacerate=draw(st.sampled_from([0.25, 0.34, 0.5])) if replaces else 0.0,
    )
    coins = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=steps - 1, max_size=steps - 1))
    prompts = PROMPTS[: draw(st.integers(1, min(3, flags.beams)))]
    return steps, flags, coins, prompts, draw(st.integers(0, 99))


@settings(deadline=None, max_examples=60)
@given(cases())
def test_any_flags_on_the_toy_give_the_same_run_bit_for_bit(case):
    steps, flags, coins, prompts, seed = case
    ours, theirs = both(toy(steps), height, prompts, flags, coins, seed)
    assert_same_choices(ours, theirs)
    assert torch.equal(in_beam_order(ours, ours.latents), theirs.latents)
    assert in_beam_order(ours, ours.rewards).tolist() == theirs.rewards
    assert_the_bill_is_less_by_the_recomputed_winners(ours, theirs)


@settings(deadline=None, max_examples=60)
@given(cases(), st.sampled_from([0.5, 1.0, 3.0]))
def test_any_flags_break_ties_alike(case, levels):
    steps, flags, coins, prompts, seed = case
    ours, theirs = both(toy(steps), in_steps(levels), prompts, flags, coins, seed)
    values = [step.values[0] for step in ours.trace[:-1]]
    event(f"ties: {any(len(v.unique()) < len(v) for v in values)}")
    assert_same_choices(ours, theirs)
    assert torch.equal(in_beam_order(ours, ours.latents), theirs.latents)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_where_all_are_equal_the_first_child_and_the_first_beams_win(case):
    steps, flags, coins, prompts, seed = case
    assume(not flags.replacerate)
    ours, theirs = both(toy(steps), lambda x, prompts: torch.zeros(len(x)), prompts, flags, coins, seed)
    assert_same_choices(ours, theirs)
    for step, child, kept in zip(ours.trace, chosen(ours), ours.plan.keep, strict=True):
        assert child == [k * step.width for k in range(kept)]


@pytest.mark.parametrize("drop", DROP)
@pytest.mark.parametrize("search", SEARCH)
def test_every_pair_of_schedules(search, drop):
    flags = Flags(3, 2, 3, oversamplerate=4, search_schedule=search, drop_schedule=drop)
    ours, theirs = both(toy(12), height, PROMPTS, flags, coins_of(11, seed=2))
    assert_same_choices(ours, theirs)
    assert torch.equal(in_beam_order(ours, ours.latents), theirs.latents)


def test_the_published_command_at_its_own_size():
    flags = Flags(12, 5, 5, 5, search_schedule="exponential", drop_schedule="exponential")
    ours, theirs = both(toy(50), height, PROMPTS, flags, coins_of(49))
    assert_same_choices(ours, theirs)
    assert torch.equal(in_beam_order(ours, ours.latents), theirs.latents)
    assert (ours.plan.start, ours.plan.keep[-1], max(ours.plan.width)) == (60, 12, 25 * 60 // 13)


def test_the_published_commands_cost_what_the_methods_page_says():
    # 12 images each: DSearch about 4,370 rows an image for SVDD's 981, over the coins of the search schedule.
    svdd = published(height, bs=12, duplicate_size=20).bill(50)
    assert svdd.model_calls == 12 * 981
    dsearch_rows = [
        published(height, 12, 5, 5, 5, "exponential", "exponential", coins=seed).bill(50).model_calls / 12
        for seed in range(200)
    ]
    assert sum(dsearch_rows) / len(dsearch_rows) == pytest.approx(4370, rel=0.02)


@pytest.mark.parametrize("search", SEARCH)
def test_without_a_drop_schedule_bs_beams_are_left_after_the_first_step(search):
    plan = published(height, bs=2, oversamplerate=3, duplicate_size=2, search_schedule=search, coins=[0.5] * 9).plan(10)
    assert plan.start == 6 and plan.keep == (2,) * 10
    assert published(height, bs=2, duplicate_size=2, search_schedule=search).plan(10).alive == (2,) * 10


def test_replacing_in_an_oversampled_pool_is_refused_as_the_script_does():
    with pytest.raises(ValueError, match=r"replacerate=0.5 with oversamplerate=2.*raise bs instead"):
        published(height, bs=4, oversamplerate=2, replacerate=0.5)


def test_pruning_reorders_only_when_it_drops():
    flags = Flags(3, 2, 2, oversamplerate=3, search_schedule="all", drop_schedule="linear")
    ours, theirs = both(toy(8), height, ["a"], flags, [0.0] * 7)
    dropped = [after < before for before, after in zip(ours.plan.alive, ours.plan.keep, strict=True)]
    ascending = [child == sorted(child) for child in chosen(ours)]
    assert chosen(ours) == theirs.chosen
    assert all(up for up, drops in zip(ascending, dropped, strict=True) if not drops)
    assert not all(up for up, drops in zip(ascending, dropped, strict=True) if drops)


def test_replaced_beams_bring_their_prompts():
    flags = Flags(8, 3, replacerate=0.5)
    ours, theirs = both(toy(8), lambda x, prompts: 5 * height(x, prompts), PROMPTS, flags, [0.0] * 7)
    start = [PROMPTS[k % 3] for k in range(8)]
    origin = ours.lineage.ancestor()[0].tolist()
    assert ours.prompts[0] == [start[k] for k in origin]
    assert sorted(theirs.prompts) == sorted(ours.prompts[0]) != sorted(start)


# Stable Diffusion


@pytest.fixture(scope="module")
def denoiser():
    return StableDiffusion(tiny.pipeline(), num_inference_steps=6)


@pytest.mark.parametrize("prompts", [["cat"], ["cat", "a red dog", "owl"]], ids=["alone", "three"])
@pytest.mark.parametrize("flags", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_published_commands_on_stable_diffusion(denoiser, flags, prompts):
    ours, theirs = both(denoiser, tiny.contrast, prompts, flags, [0.5, 0.2, 0.9, 0.1, 0.8], seed=5)
    assert_same_choices(ours, theirs)
    torch.testing.assert_close(in_beam_order(ours, ours.latents), theirs.latents, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(in_beam_order(ours, ours.images), theirs.images, rtol=1e-3, atol=1e-4)
    assert_the_bill_is_less_by_the_recomputed_winners(ours, theirs)


@pytest.mark.parametrize("drop", DROP)
def test_every_drop_schedule_on_stable_diffusion(denoiser, drop):
    flags = Flags(2, 1, 2, oversamplerate=2, search_schedule="uniform", drop_schedule=drop)
    ours, theirs = both(denoiser, tiny.contrast, ["cat", "owl"], flags, [0.8, 0.2, 0.1, 0.9, 0.3])
    assert_same_choices(ours, theirs)
    torch.testing.assert_close(in_beam_order(ours, ours.latents), theirs.latents, rtol=1e-3, atol=1e-4)


def test_the_network_sees_fewer_rows_by_the_recomputed_winners(denoiser, monkeypatch):
    rows = []
    inner = denoiser.pipe.unet.forward
    monkeypatch.setattr(denoiser.pipe.unet, "forward", lambda x, *a, **k: rows.append(len(x)) or inner(x, *a, **k))
    flags, coins = COMMANDS["DSearch"], [0.5] * 5
    ours = dsearch.search(denoiser, published(tiny.contrast, **vars(flags), coins=coins), "cat")
    mine, rows[:] = sum(rows), []
    theirs = published_way.run(denoiser, tiny.contrast, ["cat"], flags, coins, dsearch.KeyedRng(0, (0,)))
    assert (mine, sum(rows)) == (2 * ours.cost.bill.model_calls, 2 * theirs.rows)
    assert sum(rows) - mine == 2 * sum(ours.plan.alive[1:])
