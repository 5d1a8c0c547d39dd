"""Colourfulness against its formula in numpy."""

import numpy as np
import pytest
import torch

from dsearch.rewards import Colourfulness


def test_it_is_hasler_and_suesstrunks_m3():
    images = torch.rand(4, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    expected = []
    for red, green, blue in (255 * images.numpy()).astype(np.float64):
        rg, yb = red - green, (red + green) / 2 - blue
        expected.append(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))
    assert Colourfulness()(images, [""] * 4).tolist() == pytest.approx(expected, rel=1e-4)


def test_grey_has_none_and_one_colour_has_its_mean():
    grey = torch.full((1, 3, 4, 4), 0.3)
    red = torch.tensor([1.0, 0, 0])[None, :, None, None].expand(1, 3, 4, 4)
    assert Colourfulness()(grey, [""]).item() == pytest.approx(0, abs=1e-3)
    assert Colourfulness()(red, [""]).item() == pytest.approx(0.3 * np.hypot(255, 127.5), rel=1e-5)
