"""Whether a picture shows the text that its prompt asks for, by OCR: a reward of Flow-GRPO (arXiv 2505.05470)."""

import re
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, ClassVar

import torch
from torch import Tensor

from dsearch._optional import optional
from dsearch.rewards._inputs import check_images, check_prompts
from dsearch.rewards._pictures import to_pil

__all__ = ["OCR"]

QUOTED = re.compile(r"[\"“”„]([^\"“”„]*)[\"“”„]")


class OCR:
    """How much of the text that is asked for stands in each picture: images `[N, 3, H, W]`, prompts -> `[N]` in [0, 1].

    1 - edits / length, at least 0, where `edits` lead from the text that is read to the text that is asked for (insert,
    delete or replace one character); 1 where the latter is part of what is read. Case and spaces do not count. The
    reader is rapidocr with the models that it ships; nothing is downloaded. Needs the extra `ocr`: `pip install
    'dsearch-diffusion[ocr]'`.

    A picture without text scores 0, however near it came: guide a search with it where the model writes at all.

    Args:
        text: what is asked for: the same under every prompt, or a function of the prompt; None takes what stands
            within the prompt's double quotes. Empty, it gives 1 to a picture in which nothing can be read, else 0.
        size: longest edge, in pixels, at which text is looked for; larger pictures are shrunk to it.
        threads: of the reader.

    Raises:
        ModuleNotFoundError: without rapidocr.
        ValueError: for a prompt without text in double quotes, where no other text is given; a size or number of
            threads that cannot be; images that are not in [0, 1].
    """

    on_host: ClassVar[bool] = True

    def __init__(self, text: str | Callable[[str], str] | None = None, *, size: int = 320, threads: int = 1) -> None:
        if size < 32:
            raise ValueError(f"size={size}; text is looked for at 32 pixels or more")
        if threads < 1:
            raise ValueError(f"threads={threads}; choose at least 1")
        self._text, self._reader, self._turn = text, _reader(size, threads), Lock()

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` and their prompts -> the part of the text that each shows, `[N]`."""
        check_prompts(images, prompts)
        check_images(images)
        asked = [self._asked(prompt) for prompt in prompts]
        scores = [agreement(read, text) for read, text in zip(self.read(images), asked, strict=True)]
        return torch.tensor(scores, dtype=torch.float32, device=images.device)

    def read(self, images: Tensor) -> list[str]:
        """The text in each of `[N, 3, H, W]`, its lines from top to bottom; empty where there is none."""
        with self._turn:  # a reader keeps what it was last told, so threads take turns
            found = [
                self._reader(picture, use_det=True, use_cls=False, use_rec=True).txts for picture in to_pil(images)
            ]
        return [" ".join(lines or ()) for lines in found]

    def _asked(self, prompt: str) -> str:
        if isinstance(self._text, str):
            return self._text
        if self._text is not None:
            return self._text(prompt)
        quoted = QUOTED.findall(prompt)
        if not quoted:
            raise ValueError(
                f"the prompt {prompt!r} has no text in double quotes; put some there, or give OCR(text=...)"
            )
        return " ".join(quoted)


def agreement(read: str, asked: str) -> float:
    """1 - edits / length, at least 0, of the text that is asked for; case and spaces do not count."""
    read, asked = ("".join(text.lower().split()) for text in (read, asked))
    if not asked:
        return float(not read)
    return 1.0 if asked in read else max(0.0, 1 - edits(read, asked) / len(asked))


def edits(one: str, other: str) -> int:
    """Levenshtein's distance: the fewest characters to insert, delete or replace."""
    row = list(range(len(other) + 1))  # row[j]: from one's start, as far as it has been read, to other[:j]
    for i, a in enumerate(one, 1):
        last, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
    return row[-1]


def _reader(size: int, threads: int) -> Any:
    with optional():
        from rapidocr import RapidOCR
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Det.limit_side_len": size,
            "Det.limit_type": "max",
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": threads,
        }
    )


def example() -> OCR:
    """A reader that wants no text under prompts that end in 0, for the law suite: its pictures show none."""
    return OCR(lambda prompt: "" if prompt.endswith("0") else "cat")
