"""What judges share: their questions, how answers are read, and a memory of what was answered."""

import math
import re
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from dsearch.rewards._inputs import check_images, check_prompts
from dsearch.rewards._pictures import content, to_pil

__all__ = ["Job", "Judge", "JudgeError", "Mode", "read_score", "read_winner", "yes_share"]

Mode = Literal["yes", "score", "pairwise"]
Job = tuple[list[Any], str, int]
"""Pictures of Pillow's, the question about them, and which game of a match it is."""

QUESTIONS: dict[Mode, str] = {
    "yes": "Does this picture show {prompt}? Answer with one word: Yes or No.",
    "score": "How well does this picture show {prompt}? Answer with one number, from {low} (not at all) to {high}.",
    "pairwise": "Which of these two pictures shows {prompt} better? Answer with one word: First, Second or Tie.",
}
NUMBER = r"(?<![\w.])-?\d+(?:\.\d+)?"
WINNERS = {"first": 1.0, "1": 1.0, "a": 1.0, "second": 0.0, "2": 0.0, "b": 0.0, "tie": 0.5}


class JudgeError(RuntimeError):
    """A judge gave no answer, or one that cannot be read. It is raised, for a made-up score would steer the search."""


class Judge:
    """A vision-language model that is asked about pictures; where it runs is left to its kinds.

    As a reward it takes images `[N, 3, H, W]` in [0, 1] and prompts -> `[N]`; `compare` takes pairs of images.
    """

    symmetric: ClassVar[bool] = True  # `compare` asks for both orders itself

    def __init__(self, question: str | None, mode: Mode, scale: tuple[float, float], memory: int) -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode={mode!r} is not known; choose one of {', '.join(get_args(Mode))}")
        low, high = scale
        if not -math.inf < low < high < math.inf:
            raise ValueError(f"scale={scale} is no range; give its lowest and highest number, as in (1, 10)")
        if memory < 1:
            raise ValueError(f"memory={memory}; keep at least 1 answer")
        self.question, self.mode, self.scale = question or QUESTIONS[mode], mode, (low, high)
        self._memory, self._known = memory, OrderedDict[bytes, float]()

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` and their prompts -> what the judge says of each, `[N]`.

        Raises:
            JudgeError: where it gives no answer that can be read.
            ValueError: for a judge of pairs, and images that are not in [0, 1].
        """
        check_prompts(images, prompts)
        check_images(images)
        if self.mode == "pairwise":
            raise ValueError(
                "mode='pairwise' judges pairs: ask its compare(), or take mode 'yes' or 'score' as a reward"
            )
        keys = [content(image, self._asks(prompt)) for image, prompt in zip(images, prompts, strict=True)]
        fresh = self._fresh(keys)
        pictures = to_pil(images[list(fresh)]) if fresh else []
        jobs = [([picture], self._asks(prompts[row]), 0) for picture, row in zip(pictures, fresh, strict=True)]
        return torch.tensor(self._settled(keys, fresh, jobs), dtype=torch.float32, device=images.device)

    def compare(self, first: Tensor, second: Tensor, prompts: Sequence[str], game: int = 0) -> Tensor:
        """How far the first pictures win, `[N]` in [0, 1]: each pair is asked in both orders, and those are averaged.

        A judge that names the same place both times has no opinion: 0.5, as for a tie.

        Args:
            first: `[N, 3, H, W]` in [0, 1].
            second: the same.
            prompts: N.
            game: of a match of several; the same game is not asked twice.

        Raises:
            JudgeError: where it gives no answer that can be read.
            ValueError: for a judge of single pictures, and images that are not in [0, 1].
        """
        for images in (first, second):
            check_prompts(images, prompts)
            check_images(images)
        if self.mode != "pairwise":
            raise ValueError(f"mode={self.mode!r} judges one picture at a time; take mode='pairwise' to compare")
        # Both orders of every pair, as one batch of twice the length.
        left, right, texts = [*first, *second], [*second, *first], [*map(self._asks, prompts)] * 2
        keys = [content(a, text) + content(b, str(game)) for a, b, text in zip(left, right, texts, strict=True)]
        fresh = self._fresh(keys)
        jobs = [(to_pil(torch.stack([left[row]])) + to_pil(right[row][None]), texts[row], game) for row in fresh]
        forth, back = torch.tensor(self._settled(keys, fresh, jobs), device=first.device).chunk(2)
        return (forth + 1 - back) / 2

    def _answers(self, jobs: list[Job], keys: list[bytes]) -> None:
        """Asks, in whatever way, and hands each answer to `_remember` as soon as it is there."""
        raise NotImplementedError

    def _asks(self, prompt: str) -> str:
        low, high = (f"{bound:g}" for bound in self.scale)
        return self.question.replace("{low}", low).replace("{high}", high).replace("{prompt}", prompt)

    def _fresh(self, keys: Sequence[bytes]) -> list[int]:
        """The first row of each key that was not answered before."""
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        return sorted(row for key, row in first.items() if key not in self._known)

    def _settled(self, keys: Sequence[bytes], fresh: Sequence[int], jobs: list[Job]) -> list[float]:
        if jobs:
            self._answers(jobs, [keys[row] for row in fresh])
        said = [self._known[key] for key in keys]
        while len(self._known) > self._memory:
            self._known.popitem(last=False)
        return said

    def _remember(self, key: bytes, answer: float) -> None:
        self._known[key] = answer

    def _read(self, answer: str) -> float:
        return read_winner(answer) if self.mode == "pairwise" else read_score(answer, *self.scale)


def yes_share(tokens: Iterable[tuple[str, float]]) -> float:
    """Tokens and their log-probabilities -> P(yes) / (P(yes) + P(no)), each over all its spellings.

    Raises:
        JudgeError: where neither is among them.
    """
    mass, seen = {"yes": 0.0, "no": 0.0}, []
    for token, logprob in tokens:
        word = bare(token)
        seen.append(token)
        if word in mass:
            mass[word] += math.exp(logprob)
    if not sum(mass.values()) > 0:
        raise JudgeError(
            f"neither yes nor no is among the likeliest first tokens, {seen[:5]} ...; ask a yes-no question"
        )
    return mass["yes"] / sum(mass.values())


def bare(token: str) -> str:
    """A token without the marks of a space before it, in small letters."""
    return token.strip(" ▁Ġ\n\t\"'.*").lower()


def read_score(answer: str, low: float, high: float) -> float:
    """The number after the last "score" of an answer, or the only one in it; "8/10" and "8 out of 10" are 8.

    Raises:
        JudgeError: for none, several, or one outside of the scale.
    """
    plain = re.sub(r"(?:/|out of)\s*\d+(?:\.\d+)?", "", answer)
    found = re.findall(rf"score\W*?({NUMBER})", plain, re.IGNORECASE)[-1:] or re.findall(NUMBER, plain)
    if len(found) != 1:
        raise JudgeError(f"no single number in the answer {answer[:200]!r}; ask for 'Score: ' and a number")
    if not low <= float(found[0]) <= high:
        raise JudgeError(
            f"the answer {answer[:200]!r} is outside of the scale {low:g} to {high:g}; name it in the question"
        )
    return float(found[0])


def read_winner(answer: str) -> float:
    """1 for the first picture, 0 for the second, 0.5 for a tie: named after the last "winner", or anywhere.

    Raises:
        JudgeError: where it names none or several.
    """
    said = re.split(r"winner", answer, flags=re.IGNORECASE)[-1]
    named = {WINNERS[word.lower()] for word in re.findall(r"\b((?i:first|second|tie)|[12AB])\b", said)}
    if len(named) != 1:
        raise JudgeError(f"no single winner in the answer {answer[:200]!r}; ask for one of First, Second and Tie")
    return named.pop()
