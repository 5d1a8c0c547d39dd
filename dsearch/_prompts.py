"""Prompts that are longer than a text encoder reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

__all__ = ["Split", "by_tokenizer", "tell"]

Split = Callable[[str], tuple[object, str]]
"""A prompt -> what of it is read, to be compared, and the text that is not, "" for none."""


def by_tokenizer(tokenizer: Callable[..., object], bound: int) -> Split:
    """Of a tokenizer of transformers whose encoder reads `bound` tokens, its marks for start and end included."""

    def split(prompt: str) -> tuple[object, str]:
        # Without verbose=False it would say itself, once, that the prompt is long.
        every = tokenizer(prompt, verbose=False)["input_ids"]  # type: ignore[index]
        if len(every) <= bound:
            return tuple(every), ""
        # What is kept ends with the end mark too, in the place of the first token that is cut.
        return tuple(every[: bound - 1]), tokenizer.decode(every[bound - 1 : -1]).strip()  # type: ignore[attr-defined]

    return split


def tell(who: str, prompts: Sequence[str], split: Split) -> None:
    """Warns of prompts whose end is not read, and of different ones that are therefore the same."""
    same: dict[object, str] = {}
    for prompt in dict.fromkeys(prompts):
        read, cut = split(prompt)
        if cut:
            warnings.warn(f"{who} does not read the end of {prompt!r}, {cut!r}; shorten it", stacklevel=3)
        other = same.setdefault(read, prompt)
        if other != prompt and (cut or split(other)[1]):
            warnings.warn(
                f"to {who} {prompt!r} is the same prompt as {other!r}: they differ only in what it does not read",
                stacklevel=3,
            )
