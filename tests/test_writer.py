"""The model that writes, on tiny sizes: its pictures, a few steps of its training, and the search of its page."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import writer
import writer_search

import dsearch


@pytest.fixture(scope="module")
def pictures():
    return writer.dataset(48)


@pytest.fixture(scope="module")
def trained(pictures):
    torch.manual_seed(0)
    return writer.train(writer.network((16, 16)), pictures, steps=12, batch=8, rate=1e-2)


def darkness(images, prompts):
    return 1 - images.mean(dim=(1, 2, 3))


def test_pictures_are_dark_ink_on_light_paper(pictures):
    whole = writer.pixels(pictures)
    assert whole.shape == (48, 1, 24, 48) and whole.dtype == torch.uint8
    edges = torch.cat([whole[..., 0, :].flatten(), whole[..., -1, :].flatten()])
    assert edges.min() > 200 and (whole.flatten(1).min(1).values < 90).all()  # no digit is cut off


def test_patches_are_put_together_as_they_were_cut(pictures):
    rng = np.random.default_rng(0)
    drawn = np.stack([writer.render(f"{i:03d}", rng) for i in range(48)])
    assert torch.equal(writer.pixels(pictures)[:, 0], torch.from_numpy(drawn))


def test_decoded_pictures_are_the_pictures_enlarged(pictures):
    model = writer.Writer(writer.network((16, 16)), 2)
    large = model.decode(pictures / 127.5 - 1)
    assert large.shape == (48, 3, 96, 192)
    small = torch.nn.functional.avg_pool2d(large, writer.UPSCALE)
    assert (small - writer.pixels(pictures) / 255).abs().mean() < 0.02


def test_a_few_steps_lower_the_loss(pictures, trained):
    """And training draws from its seed alone."""
    torch.manual_seed(0)
    fresh, alphas = writer.network((16, 16)), writer.scheduler().alphas_cumprod
    x0 = pictures.float() / 127.5 - 1
    with torch.no_grad():
        before, after = (
            float(writer.loss_of(net, x0, alphas, torch.Generator().manual_seed(1))) for net in (fresh, trained)
        )
    assert after < before
    again = writer.train(fresh, pictures, steps=12, batch=8, rate=1e-2)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), trained.parameters(), strict=True))


@pytest.mark.parametrize("name", list(writer_search.METHODS))
def test_methods_search_it_at_one_bill(name, trained):
    method = writer_search.method_of(name, darkness)
    rows = method.bill(writer_search.STEPS).model_calls
    most = writer_search.BILL * writer_search.STEPS
    assert rows == writer_search.STEPS if name == "plain" else 0.9 * most <= rows <= most


def test_what_is_searched_for_reaches_the_reward_alone(trained):
    prompts = [writer_search.prompt_of(number) for number in ("472", "305")]
    result = dsearch.search(writer.Writer(trained, 2), dsearch.methods.svdd(darkness, width=2), prompts)
    assert result.images.shape == (2, 1, 3, 96, 192)
    assert result.prompts == [[prompt] for prompt in prompts]


def test_the_nearest_picture_is_the_same_number(pictures):
    images, numbers = writer.enlarged(pictures / 127.5 - 1), [f"{i:03d}" for i in range(48)]
    moved = torch.roll(0.2 + 0.6 * images, (3, -5), dims=(2, 3))  # elsewhere, and paler
    assert writer_search.Nearest(images, numbers)(moved) == numbers


def test_a_few_steps_teach_the_guide_to_read(pictures):
    """The last two digits of 48 pictures that it has seen; the first is 0 in all."""
    torch.manual_seed(0)
    reward = writer.Likeness(writer.train_guide(writer.guide(), pictures, steps=80, batch=32))
    images = writer.enlarged(pictures / 127.5 - 1)
    right = reward(images, [writer_search.prompt_of(f"{i:03d}") for i in range(48)])
    wrong = reward(images, [writer_search.prompt_of(f"{(i + 11) % 48:03d}") for i in range(48)])
    assert right.shape == (48,) and right.max() <= 0
    assert (right > wrong).float().mean() > 0.75  # by luck, a half


def test_the_grid_and_the_table_are_made(tmp_path):
    images, shape = torch.rand(2, len(writer_search.NUMBERS), 96, 192), (2, len(writer_search.NUMBERS))
    scores = torch.rand(shape).tolist()
    scores[0][0] = 1
    searches = [("plain", "classifier"), ("best-of-N", "classifier")]
    blocks = {search: {"scores": scores, "bill": [240, 1, 1, 0], "seconds": 1.0} for search in searches}
    lines = writer_search.table(blocks, dict.fromkeys(searches, torch.ones(shape))).splitlines()
    assert len(lines) == 4
    assert all("| 1 of 12 (1 to 35%) |" in line and "| 12 of 12 (76 to 100%) |" in line for line in lines[2:])
    writer_search.grid({"plain": images}, {"plain": scores}, tmp_path / "grid.png")
    assert (tmp_path / "grid.png").stat().st_size > 1000
