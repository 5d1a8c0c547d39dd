"""Drafts: with the model as its own stand-in they are the method, bit for bit; with fewer steps they keep x_T."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import Counted, CountedReward, smooth

import dsearch
from dsearch import Bill, methods
from dsearch.adapters import toy
from dsearch.core.draft import draft
from dsearch.core.tuning import rank_correlation

STRAIGHT = {
    "best_of_n": methods.best_of_n(smooth, n=5, keep=3),
    "svdd": methods.svdd(smooth, width=3, beams=3),
    "dsearch": methods.dsearch(smooth, beams=4, keep=2, rows_per_step=8),
    "dsearch_r": methods.dsearch_r(smooth, beams=4, rows_per_step=8, rate=0.5),
    "fk": methods.fk(smooth, 8, 1.0, every=1),
    "code": methods.code(smooth, width=3, block=2),
    "random_search": methods.random_search(smooth, candidates=2, rounds=3),
}
few = settings(max_examples=5)
SEEDS = st.integers(0, 2**40)


@pytest.mark.parametrize("name", STRAIGHT)
@given(seed=SEEDS)
@few
def test_the_model_as_its_own_stand_in_gives_the_method_s_images(name, seed):
    method = STRAIGHT[name]
    own = dsearch.search(toy.example(), method, ["a", "b"], seed=seed, ids=["x", "y"])
    top = own.rewards.shape[1]
    drafted = draft(toy.example(), toy.example(), method, ["a", "b"], seed=seed, ids=["x", "y"], top=top, keep=top)
    assert torch.equal(drafted.result.images, own.images) and torch.equal(drafted.result.rewards, own.rewards)
    assert torch.equal(drafted.drafted, own.rewards) and torch.equal(drafted.replayed, own.rewards)
    assert torch.equal(drafted.result.lineage.order, torch.arange(top).repeat(2, 1))


@given(seed=SEEDS, steps=st.integers(1, 9))
@few
def test_a_stand_in_of_other_steps_keeps_x_t(seed, steps):
    model = toy.GaussianMixture([[0.0, 0.0], [1.0, 2.0]], num_steps=8)
    cheap = toy.GaussianMixture([[0.0, 0.0], [1.0, 2.0]], num_steps=steps)
    starts = []
    watch = Watched(model, starts)
    drafted = draft(watch, cheap, STRAIGHT["best_of_n"], ["a"], seed=seed, top=3)
    drawn = model.start((1, 5), dsearch.KeyedRng(seed, (0,)))
    assert torch.equal(starts[-1][0], drawn[0, drafted.draft.lineage.ancestor()[0]])
    assert torch.equal(drafted.result.rewards[:, 0], drafted.replayed.max(dim=1).values)


class Watched:
    """A denoiser that remembers where runs start."""

    def __init__(self, denoiser, starts):
        self.denoiser, self.starts = denoiser, starts

    def __getattr__(self, name):
        return getattr(self.denoiser, name)

    def start(self, batch_shape, rng):
        self.starts.append(self.denoiser.start(batch_shape, rng))
        return self.starts[-1]


@pytest.mark.parametrize("price", [1.0, 0.25])
def test_the_bill_is_that_of_both(price):
    model, cheap = Counted(toy.GaussianMixture(num_steps=8)), Counted(toy.GaussianMixture(num_steps=4))

    def near(images, prompts):
        return -images.square().sum(-1)

    reward = CountedReward(near)
    method = methods.best_of_n(reward, n=6, keep=6)
    drafted = draft(model, cheap, method, ["a", "b"], top=2, price=price)
    assert cheap.model_calls == 2 * 6 * 4 and model.model_calls == 2 * 2 * 8
    rows = int(48 * price) + 32
    assert drafted.result.cost.spent == Bill(rows, 16, 16) and reward.calls == 16
    assert drafted.result.cost.planned == drafted.result.cost.bill == Bill(rows // 2, 8, 8)
    assert drafted.result.rewards.shape == (2, 1) and drafted.replayed.shape == (2, 2)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=9))
def test_rank_correlation_is_spearmans(pairs):
    one, other = (torch.tensor([side], dtype=torch.float32) for side in zip(*pairs, strict=True))
    found = rank_correlation(one, other)
    if len({*one[0].tolist()}) > 1 and len({*other[0].tolist()}) > 1:
        assert found.item() == pytest.approx(stats.spearmanr(one[0], other[0]).statistic, abs=1e-9)
    else:
        assert found.isnan().all()


def test_agreement_is_that_of_what_was_drawn_again():
    model, cheap = toy.GaussianMixture([[0.0, 0.0]], num_steps=8), toy.GaussianMixture([[0.0, 0.0]], num_steps=4)
    drafted = draft(model, cheap, methods.best_of_n(smooth, n=9, keep=9), ["a", "b"], top=9)
    assert torch.equal(drafted.agreement, rank_correlation(drafted.drafted, drafted.replayed))
    assert drafted.agreement.abs().max() <= 1


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        (methods.rbf(smooth), {}, "draws candidates one by one"),
        (methods.dts(smooth), {}, "draws candidates one by one"),
        (replace(STRAIGHT["svdd"], pool=True), {}, "draws candidates one by one or in a pool"),
        (methods.zero_order(smooth), {}, "depend on each other's rewards"),
        (methods.rerd(smooth), {}, "goes back in noise"),
        (STRAIGHT["svdd"], {"top": 4}, "top=4 exceeds the 3"),
        (STRAIGHT["svdd"], {"top": 0}, "top is 0"),
        (STRAIGHT["svdd"], {"top": 2, "keep": 3}, "keep=3 exceeds top=2"),
        (STRAIGHT["svdd"], {"price": 0.0}, "price=0.0 must be above 0"),
    ],
)
def test_what_cannot_be_drafted_is_refused_before_anything_is_spent(method, options, says):
    model = Counted(toy.example())
    with pytest.raises(ValueError, match=says):
        draft(model, model, method, "a", **options)
    assert not model.model_calls


def test_a_stand_in_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"samples \(3,\), the model from \(2,\)"):
        draft(toy.example(), toy.GaussianMixture([[0.0, 0.0, 0.0]]), STRAIGHT["svdd"], ["a"])
