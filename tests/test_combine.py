"""Rewards made of rewards: against the arithmetic written out, and the order of every row."""

import asyncio
import math
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import CountedReward

import dsearch
from dsearch.adapters import toy
from dsearch.rewards import Awaited, Cached, Threaded, Weighted, ZScored, cached, constrained, weighted

IMAGES = torch.rand(6, 3, 5, 4, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a", "bb", "a", "", "ccc", "bb"]


def bright(images, prompts):
    return images.mean((1, 2, 3))


def long(images, prompts):
    return torch.tensor([float(len(p)) for p in prompts])


def test_a_weighted_sum_is_its_arithmetic():
    both = weighted(bright, long, weights=(2, -0.5))
    assert torch.allclose(both(IMAGES, PROMPTS), 2 * bright(IMAGES, PROMPTS) - 0.5 * long(IMAGES, PROMPTS))
    assert torch.allclose(weighted(bright, long)(IMAGES, PROMPTS), bright(IMAGES, PROMPTS) + long(IMAGES, PROMPTS))
    assert isinstance(both, Weighted)


def test_z_scores_are_those_of_the_reference_and_no_batch_mate_counts():
    scored = ZScored.against(bright, IMAGES, PROMPTS)
    own = bright(IMAGES, PROMPTS).double()
    assert torch.allclose(scored(IMAGES, PROMPTS).double(), (own - own.mean()) / own.std(), atol=1e-6)
    assert torch.equal(scored(IMAGES[2:3], ["x"]), scored(IMAGES, PROMPTS)[2:3])


def test_a_constraint_costs_its_shortfall_alone():
    reward = constrained(bright, {long: 2.0}, penalty=10)
    expected = [b - 10 * max(0.0, 2 - len(p)) for b, p in zip(bright(IMAGES, PROMPTS).tolist(), PROMPTS, strict=True)]
    assert reward(IMAGES, PROMPTS).tolist() == pytest.approx(expected)
    listed = constrained(bright, [(long, 2.0), (bright, 0.1)], penalty=10)
    assert torch.equal(listed(IMAGES, PROMPTS), reward(IMAGES, PROMPTS))


def test_a_search_under_a_constraint_keeps_it():
    """Uphill in the first coordinate, with the second held above 1."""

    def first(x, prompts):
        return x[:, 0]

    def second(x, prompts):
        return x[:, 1]

    model = toy.GaussianMixture([[0.0, 1.5]], 0.7, num_steps=8)
    prompts, width = [""] * 40, 12
    free = dsearch.search(model, dsearch.methods.svdd(first, width), prompts).latents[:, 0]
    held = dsearch.search(model, dsearch.methods.svdd(constrained(first, {second: 1.0}), width), prompts).latents[:, 0]
    assert (held[:, 1] > 0.9).float().mean() > 0.9 > (free[:, 1] > 0.9).float().mean()
    assert held[:, 0].mean() > 0.3


batches = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"])), min_size=1, max_size=8)


@settings(max_examples=50)
@given(st.lists(batches, min_size=1, max_size=4), st.integers(1, 9))
def test_a_cache_changes_no_score_and_asks_for_nothing_twice(calls, size):
    def reward(images, prompts):
        return images.mean((1, 2, 3)) + torch.tensor([float(len(p) + ord(p[0])) for p in prompts])

    counted = CountedReward(reward)
    kept, seen = cached(counted, size), set()
    for rows in calls:
        images, prompts = IMAGES[[i for i, _ in rows]], [p for _, p in rows]
        assert torch.equal(kept(images, prompts), reward(images, prompts))
        seen |= set(rows)
        assert len(kept._known) <= size
    if size == 9:  # there are eight different rows
        assert counted.calls == len(seen)


def test_a_cache_forgets_the_longest_unused():
    counted = CountedReward(bright)
    kept = Cached(counted, 2)
    for row in (0, 1, 0, 2, 0, 1):
        kept(IMAGES[row : row + 1], ["a"])
    assert counted.calls == 4  # 0, 1, 2, and 1 again


def test_threads_and_coroutines_keep_the_order_and_wait_together():
    barrier = threading.Barrier(3, timeout=20)

    def slow(images, prompts):
        barrier.wait()  # three at once, or never
        time.sleep(0.02 * float(images[0, 0, 0, 0]))
        return images.mean((1, 2, 3))

    assert torch.allclose(Threaded(slow, workers=3)(IMAGES, PROMPTS), bright(IMAGES, PROMPTS))
    running, most = 0, 0

    async def remote(image, prompt):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02 * float(image[0, 0, 0]))
        running -= 1
        return float(image.mean()) + len(prompt)

    found = Awaited(remote, at_once=4)(IMAGES, PROMPTS)
    assert torch.allclose(found, bright(IMAGES, PROMPTS) + long(IMAGES, PROMPTS)) and most == 4


def test_what_goes_wrong_inside_is_not_hidden():
    def broken(images, prompts):
        raise RuntimeError("the service is down")

    async def broken_too(image, prompt):
        raise RuntimeError("the service is down")

    for reward in (
        cached(broken),
        Threaded(broken),
        Awaited(broken_too),
        weighted(broken),
        constrained(bright, {broken: 1.0}),
    ):
        with pytest.raises(RuntimeError, match="the service is down"):
            reward(IMAGES, PROMPTS)

    def short(images, prompts):
        return images.mean()

    for reward in (cached(short), weighted(bright, short), Threaded(short)):
        with pytest.raises(ValueError, match=r"short returned shape \(\) for \d images; return one number per image"):
            reward(IMAGES, PROMPTS)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: weighted(), "for 0 rewards"),
        (lambda: weighted(bright, weights=(1, 2)), "for 1 rewards; give one finite weight each"),
        (lambda: weighted(bright, weights=(math.nan,)), "give one finite weight each"),
        (lambda: constrained(bright, {}), "give a finite one for each other reward"),
        (lambda: constrained(bright, {long: math.inf}), "give a finite one for each other reward"),
        (lambda: constrained(bright, {long: 1.0}, penalty=0), "penalty=0 must be above 0 and finite"),
        (lambda: cached(bright, 0), "size=0; keep at least 1 score"),
        (lambda: Threaded(bright, 0), "workers=0; choose at least 1"),
        (lambda: Awaited(bright, 0), "at_once=0; choose at least 1"),
        (lambda: ZScored.against(bright, IMAGES[:1], ["a"]), "1 reference pictures score"),
        (lambda: ZScored.against(long, IMAGES[:2], ["a", "b"]), "give some that differ"),
    ],
)
def test_combinations_that_cannot_be_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
