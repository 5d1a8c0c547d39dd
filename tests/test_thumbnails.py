"""Thumbnails show every candidate as it was when chosen among, and change nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import PROMPTS, Counted, assert_same_result, every_method, run

import dsearch
from dsearch import Bill, methods
from dsearch.adapters import GaussianMixture, toy

STEPS = 6
CHUNKS = {"at once": dsearch.Chunks(network=None), "streaming": dsearch.Chunks(1, 2, 1)}
in_any_chunks = pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)


class Grey(GaussianMixture):
    """Every pixel of an image is the sigmoid of its sample: a picture that says its own value."""

    def decode(self, x0):
        return x0[:, :1].sigmoid().float()[:, :, None, None].expand(-1, 3, 8, 4)


def model():
    return Grey([[-1.0], [1.0]], std=0.5, num_steps=STEPS, shift={"a": 0.5, "b": -1.0})


def brightness(images, prompts):
    return images[:, 0, 0, 0]


def grey(values):
    """`[B, N]` values in [0, 1] -> the pictures that say them; what was not drawn is blank."""
    level = values.clamp(min=0).mul(255).round().to(torch.uint8)
    return level[..., None, None, None].expand(*values.shape, 3, 8, 4)


def scored(result):
    """(thumbnails, values) of each step that has values."""
    kept = zip(result.thumbnails, result.trace, strict=True)
    return [(small, step.values) for small, step in kept if step.values is not None]


def drawn(result):
    """Candidates of steps that valued some, but not at a clean end, where they are decoded anyway."""
    noisy = [step.values for step in result.trace if step.level < result.plan.num_steps and step.values is not None]
    return sum(int((values != -torch.inf).sum()) for values in noisy)


@every_method
@in_any_chunks
def test_thumbnails_change_nothing_and_what_they_decode_is_counted_apart(example, chunks):
    counted = Counted(model())
    bare = run(example(brightness), denoiser=model(), chunks=chunks)
    seen = run(example(brightness), denoiser=counted, watch=[dsearch.Thumbnails(8)], chunks=chunks)
    assert_same_result(bare, seen)
    assert seen.cost.spent == bare.cost.spent and bare.cost.watched == Bill() and bare.thumbnails == []
    assert seen.cost.watched == Bill(0, drawn(seen), 0)
    assert counted.decodes == seen.cost.spent.decodes + seen.cost.watched.decodes


@every_method
@in_any_chunks
def test_thumbnails_show_the_values_of_all_candidates_at_each_scored_step(example, chunks):
    result = run(example(brightness), denoiser=model(), watch=[dsearch.Thumbnails(8)], chunks=chunks)
    if example(brightness).name == "dts":
        pytest.skip("values of a tree's nodes are backed up from its images")
    for small, values in scored(result) if example(brightness).rounds is None else scored(result)[-1:]:
        asked = ~values.isnan()  # a tree asks some alone
        assert torch.equal(small[asked], grey(values)[asked])


CASES = {
    "svdd": (methods.svdd(brightness, width=6), STEPS),
    "dsearch": (methods.dsearch(brightness, beams=4, keep=2, rows_per_step=12, search="all"), STEPS),
    "rbf": (methods.rbf(brightness, width=4, beams=2), STEPS),
    "best_of_n": (methods.best_of_n(brightness, 5), 1),
    "random_search": (methods.random_search(brightness, candidates=3, rounds=2), 1),
}


@in_any_chunks
@pytest.mark.parametrize(("method", "steps"), CASES.values(), ids=CASES)
def test_so_many_steps_have_thumbnails_and_the_last_one_shows_the_clean_images(method, steps, chunks):
    result = run(method, denoiser=model(), watch=[dsearch.Thumbnails(8)], chunks=chunks)
    shown = [small for small in result.thumbnails if small is not None]
    assert len(shown) == steps and len(result.thumbnails) == STEPS
    assert all(small.dtype == torch.uint8 and small.device.type == "cpu" for small in shown)
    assert torch.equal(result.thumbnails[-1], grey(result.trace[-1].values))
    best = result.thumbnails[-1].flatten(2).amax(dim=(1, 2))
    assert torch.equal(best, grey(result.rewards)[:, 0].flatten(1).amax(dim=1))


def test_a_child_that_was_not_drawn_is_blank():
    result = run(CASES["rbf"][0], denoiser=model(), watch=[dsearch.Thumbnails(8)])
    blank = [small[values == -torch.inf] for small, values in scored(result)]
    assert sum(len(small) for small in blank) > 0
    assert all((small == 0).all() for small in blank)


def test_a_prompt_at_its_target_shows_the_one_child_that_it_draws():
    result = run(
        methods.svdd(brightness, width=4), denoiser=model(), watch=[dsearch.Target(0.6), dsearch.Thumbnails(8)]
    )
    assert any((values == -torch.inf).any() for _, values in scored(result)[1:])
    for small, values in scored(result):
        assert torch.equal(small, grey(values))


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))
def test_candidates_in_any_parts_make_the_pictures_of_all(network, decoder, reward):
    method = methods.svdd(brightness, width=7)
    whole, parts = (
        run(method, denoiser=model(), chunks=chunks, watch=[dsearch.Thumbnails(2)])
        for chunks in (dsearch.Chunks(None, None, None), dsearch.Chunks(network, decoder, reward))
    )
    for one, other in zip(whole.thumbnails, parts.thumbnails, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("size", "of", "becomes"),
    [
        (8, (8, 4), (8, 4)),
        (100, (8, 4), (8, 4)),
        (4, (8, 4), (4, 2)),
        (16, (64, 64), (16, 16)),
        (16, (20, 64), (5, 16)),
        (1, (3, 64), (1, 1)),
    ],
)
def test_the_longer_edge_is_at_most_the_size_and_small_images_stay(size, of, becomes):
    images = torch.rand(2, 3, *of, generator=torch.Generator().manual_seed(0))
    small = dsearch.Thumbnails(size).small(images)
    assert small.shape == (2, 3, *becomes) and small.dtype == torch.uint8
    if of == becomes:
        assert torch.equal(small, (images * 255).round().to(torch.uint8))


def test_a_smaller_picture_of_one_colour_has_it():
    result = run(methods.svdd(brightness, width=3), denoiser=model(), watch=[dsearch.Thumbnails(4)])
    for small, values in scored(result):
        assert small.shape[-2:] == (4, 2)
        assert (small.int() - grey(values)[..., :4, :2].int()).abs().max() <= 1  # rounded once more


def test_a_model_that_decodes_to_no_images_is_refused():
    with pytest.raises(ValueError, match=r"thumbnails are of images .* decodes to \(\d+, 2\)"):
        run(methods.svdd(lambda x, prompts: x[:, 0], width=2), denoiser=toy.example(), watch=[dsearch.Thumbnails(8)])


class Two:
    """A part of a search on two processes."""

    rank, size = 0, 2


def test_a_search_on_several_processes_takes_none():
    with pytest.raises(ValueError, match="what watches candidates sees its own, which 2 processes cannot share"):
        dsearch.search(model(), methods.svdd(brightness), PROMPTS, share=Two(), watch=[dsearch.Thumbnails(8)])


@pytest.mark.parametrize("size", [-1, 2.5])
def test_a_size_that_is_no_number_of_pixels_is_refused(size):
    with pytest.raises(ValueError, match=r"thumbnails is .* whole number of at least 1"):
        run(methods.svdd(brightness), denoiser=model(), watch=[dsearch.Thumbnails(size)])
