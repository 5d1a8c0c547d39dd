"""SES: the low band of x_T follows the best runs, the other bands stay."""

import math
from importlib import import_module
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsearch
from dsearch import methods
from dsearch.core.contract import Prediction

room = import_module("dsearch.methods.ses")  # `methods.ses` is the function


class Still:
    """A sampler without noise whose image is its x_T."""

    num_steps = 1

    def __init__(self, shape):
        self.shape, self.starts = shape, []

    def encode(self, prompts):
        return None

    def start(self, batch_shape, rng):
        self.starts.append(rng.normal("start", 0, (*batch_shape, *self.shape)))
        return self.starts[-1]

    def noise(self, step, batch_shape, rng):
        return torch.zeros((*batch_shape, *self.shape))

    def predict(self, x, level, cond, prompt_index):
        return Prediction(None, x)

    def step(self, x, pred, step, noise):
        return x + noise

    def decode(self, x0):
        return x0


def low_of(x, level):
    """The low band by Haar's own steps: sums of neighbours over sqrt(2), along both sides, level by level."""
    for _ in range(level):
        x = (x[..., 0::2] + x[..., 1::2]) / math.sqrt(2)
        x = (x[..., 0::2, :] + x[..., 1::2, :]) / math.sqrt(2)
    return x


@given(seed=st.integers(0, 2**40), level=st.integers(1, 3))
@settings(max_examples=10)
def test_the_low_band_is_haar_s_and_a_sample_is_the_sum_of_its_bands(seed, level):
    x = torch.randn(2, 3, 4, 8, 16, generator=torch.Generator().manual_seed(seed % 2**31))
    low = room._low(x, level)
    torch.testing.assert_close(low, low_of(x, level))
    part = room._spread(low, x, level)
    torch.testing.assert_close(room._low(part, level), low)
    rest = x - part
    assert room._low(rest, level).abs().max() < 1e-5
    torch.testing.assert_close(part.square().sum() + rest.square().sum(), x.square().sum())  # an orthonormal split


@pytest.mark.parametrize(
    ("shape", "levels"),
    [((4, 16, 16), 4), ((4, 16, 24), 3), ((4, 6, 6), 1), ((4, 5, 6), 0), ((8,), 3), ((3, 2, 8, 8), 3)],
)
def test_there_are_as_many_levels_as_the_sides_allow(shape, levels):
    assert room._levels(torch.zeros(1, 1, *shape), 4) == levels


def bright(images, prompts):
    return images.mean(dim=(1, 2, 3))


def test_only_the_low_band_changes_and_every_run_is_rewarded():
    model = Still((4, 8, 8))
    method = methods.ses(bright, candidates=5, rounds=4, level=2, keep=2)
    result = dsearch.search(model, method, ["a", "b"])
    x = torch.stack(model.starts)  # [rounds, B, K, ...]
    assert x.shape[:3] == (4, 2, 5) and result.cost.bill == method.bill(1) == dsearch.Bill(20, 20, 20)
    rest = x - room._spread(room._low(x.flatten(0, 1), 2), x.flatten(0, 1), 2).view_as(x)
    torch.testing.assert_close(rest, rest[:1, :, :1].expand_as(rest), atol=1e-5, rtol=0)
    assert not torch.allclose(rest[0, 0, 0], rest[0, 1, 0])  # a prompt has bands of its own
    best = x.mean(dim=(3, 4, 5)).movedim(0, 1).flatten(1).sort(dim=1, descending=True).values[:, :2]
    torch.testing.assert_close(result.rewards, best)


def test_a_later_round_draws_around_the_best_of_all_rounds_before():
    rng = dsearch.KeyedRng(4, (0, 1))
    source, shape = room.CrossEntropy(rng, elites=3, level=2, floor=0.1), (2, 6, 3, 8, 8)
    lows, rewards = [], []
    said = None
    for number in range(1, 4):
        noise = source.next(said)
        low = room._low(noise.normal("start", 0, shape), 2)
        fresh = room._low(rng.under(f"round {number}").normal("start", 0, shape), 2)
        if not lows:
            torch.testing.assert_close(low, fresh)
        else:
            for b in range(2):
                order = torch.cat(rewards, 1)[b].argsort(descending=True)[:3]
                elite = torch.cat(lows, 1)[b, order].double()
                expected = elite.mean(0) + (elite.var(0) + 0.1).sqrt() * fresh[b].double()
                torch.testing.assert_close(low[b].double(), expected, atol=1e-4, rtol=1e-4)
        said = low.mean(dim=(2, 3, 4))
        lows.append(low)
        rewards.append(said)
        assert torch.equal(noise.normal("noise", 0, shape), rng.under(f"round {number}").normal("noise", 0, shape))


def test_the_mean_moves_along_the_gradient_of_a_linear_reward():
    slope = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))

    def linear(images, prompts):
        return (room._low(images[:, None], 2)[:, 0, 0] * slope).sum((1, 2))

    model = Still((1, 8, 8))
    method = methods.ses(linear, candidates=32, rounds=6, elites=8, level=2)
    dsearch.search(model, method, [""] * 20)
    means = [room._low(x, 2).mean(dim=1)[:, 0] for x in model.starts]  # [B, 2, 2] a round
    moved = means[-1] - means[0]
    along = (moved * slope).sum((1, 2)) / (moved.flatten(1).norm(dim=1) * slope.norm())
    assert along.mean() > 0.8
    gain = [(mean * slope).sum((1, 2)).mean() for mean in means]
    assert all(later > before for before, later in pairwise(gain))


def test_one_round_is_best_of_n_over_the_low_band():
    model = Still((4, 8, 8))
    result = dsearch.search(model, methods.ses(bright, candidates=7, rounds=1), ["a"])
    assert result.rewards.item() == pytest.approx(float(model.starts[0].mean(dim=(2, 3, 4)).max()))


def test_the_variance_keeps_its_floor():
    source = room.CrossEntropy(dsearch.KeyedRng(0, (0,)), elites=2, level=1, floor=0.3)
    source.next(None).normal("start", 0, (1, 1, 1, 2, 2))
    source.next(torch.zeros(1, 1))
    assert torch.equal(
        source.last.law[1], torch.full_like(source.last.law[1], 1.3)
    )  # of one run alone nothing is known
    source.last.normal("start", 0, (1, 1, 1, 2, 2))
    source.next(torch.ones(1, 1))
    assert (source.last.law[1] >= 0.3).all()


def test_noise_that_is_not_of_x_t_is_fresh():
    rng = dsearch.KeyedRng(0, (0,))
    noise = room.Banded(rng, rng.under("bands"), 2, None)
    assert torch.equal(noise.uniform("u", 1, (1, 3)), rng.uniform("u", 1, (1, 3)))
    assert torch.equal(noise.under("x").normal("n", 0, (1, 2)), rng.under("x").normal("n", 0, (1, 2)))
    log_p = torch.zeros(1, 4)
    assert torch.equal(noise.categorical("c", 0, log_p, 2), rng.categorical("c", 0, log_p, 2))
    whole = noise.normal("start", 0, (1, 4, 8))
    parts = noise.parts(4)
    parts.seek(1, 2)
    assert torch.equal(parts.normal("start", 0, (1, 2, 8)), whole[:, 1:3])
    source = room.CrossEntropy(rng, 2, 1, 0.1)
    source.next(None)
    assert source.next(torch.zeros(1, 2)).law is None  # a model without normals has no bands


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"elites": 1}, "elites is 1"),
        ({"level": 0}, "level is 0"),
        ({"floor": 0.0}, "floor=0.0 must be above 0"),
        ({"keep": 3}, "keep=3 exceeds candidates=2"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        methods.ses(bright, **options)
