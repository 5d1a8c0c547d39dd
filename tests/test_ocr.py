"""OCR on words that Pillow writes; the reader is rapidocr, with its own models."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from dsearch.rewards import ocr

if not os.environ.get("DSEARCH_ORACLES"):  # whoever asks for the oracles is told what is missing
    pytest.importorskip("rapidocr", reason="needs the extra ocr")

WORDS = ["OPEN", "bakery", "Hello World", "STOP", "fresh coffee", "Exit 42", "sale", "Library", "TAXI", "good night"]
STRINGS = st.text("abcd ", max_size=7)


def sign(text, size=128, tint=(200, 30, 40), paper=(240, 240, 230)):
    """[3, size, size]: the words, as large as fits."""
    import matplotlib

    font = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans-Bold.ttf")
    picture = Image.new("RGB", (size, size), paper)
    draw, points = ImageDraw.Draw(picture), size
    while draw.textlength(text, ImageFont.truetype(font, points)) > 0.9 * size:
        points -= 1
    draw.text((size / 2, size / 2), text, tint, ImageFont.truetype(font, min(points, size // 3)), anchor="mm")
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1) / 255


@pytest.fixture(scope="module")
def reward():
    return ocr.OCR()


@pytest.mark.parametrize("size", [96, 128, 256, 512])
def test_words_that_are_written_are_read(reward, size):
    images = torch.stack([sign(word, size) for word in WORDS])
    prompts = [f'a sign that says "{word}"' for word in WORDS]
    assert reward(images, prompts).tolist() == [1.0] * len(WORDS)


def test_another_word_scores_by_its_edits(reward):
    images = torch.stack([sign("STOP")] * 4)
    prompts = [f'a sign that says "{word}"' for word in ("stop", "shop", "bakery", "STOP sign")]
    assert reward(images, prompts).tolist() == pytest.approx([1, 3 / 4, 0, 4 / 8])


def test_without_text_there_is_nothing_to_read(reward):
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    images = torch.stack([torch.full((3, 128, 128), 0.5), noise, sign("STOP")])
    assert reward.read(images) == ["", "", "STOP"]
    assert reward(images, ['"stop"'] * 3).tolist() == [0, 0, 1]
    assert ocr.OCR("")(images, ["a street"] * 3).tolist() == [1, 1, 0]


def test_the_text_may_be_given(reward):
    images = torch.stack([sign("STOP"), sign("OPEN")])
    assert ocr.OCR("open")(images, ["a sign", "a sign"]).tolist() == [0, 1]
    by_prompt = ocr.OCR(lambda prompt: {"a road": "stop", "a shop": "open"}[prompt])
    assert by_prompt(images, ["a road", "a shop"]).tolist() == [1, 1]


def test_what_is_asked_for_stands_in_double_quotes(reward):
    images = torch.stack([sign("good night")] * 3)
    prompts = ['"good" above "night"', "a sign, “Good night”", "a baker's „night“"]
    assert reward(images, prompts).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match=r"'a sign' has no text in double quotes; put some there, or give OCR\(text="):
        reward(images, ["a sign"] * 3)


@given(STRINGS, STRINGS, STRINGS)
def test_edits_are_a_metric(a, b, c):
    assert ocr.edits(a, b) == ocr.edits(b, a) and (ocr.edits(a, b) == 0) == (a == b)
    assert ocr.edits(a, c) <= ocr.edits(a, b) + ocr.edits(b, c)
    assert abs(len(a) - len(b)) <= ocr.edits(a, b) <= max(len(a), len(b))


@given(STRINGS, STRINGS)
def test_edits_are_those_of_the_recursion(a, b):
    def from_the_definition(a, b):
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return from_the_definition(a[1:], b[1:])
        return 1 + min(from_the_definition(*rest) for rest in ((a[1:], b), (a, b[1:]), (a[1:], b[1:])))

    assert ocr.edits(a[:5], b[:5]) == from_the_definition(a[:5], b[:5])


@given(STRINGS, STRINGS)
def test_agreement_is_a_share_and_one_where_the_text_is_there(read, asked):
    share = ocr.agreement(read, asked)
    assert 0 <= share <= 1
    if asked.strip():
        assert ocr.agreement(f"{read}{asked.upper()}", asked) == 1


@pytest.mark.parametrize(("options", "named"), [({"size": 8}, "size=8"), ({"threads": 0}, "threads=0")])
def test_bad_options_are_named(options, named):
    with pytest.raises(ValueError, match=named):
        ocr.OCR(**options)
