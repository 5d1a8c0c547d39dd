"""Embeddings of prompts, each made once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Remembered:
    """Keeps the rows of the last `size` distinct prompts, in order of use, the oldest first.

    Raises:
        ValueError: for a size below 0.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"text_cache={size}; choose 0 (keep nothing) or more prompts")
        self.size, self.rows = size, dict[str, Tensor]()

    def __call__(self, prompts: Sequence[str], encode: Callable[[list[str]], Tensor], device: torch.device) -> Tensor:
        """N prompts -> `[N, ...]` on the device, encoding the distinct ones that are not known."""
        distinct = list(dict.fromkeys(prompts))
        known = {prompt: self.rows.pop(prompt) for prompt in distinct if prompt in self.rows}
        unknown = [prompt for prompt in distinct if prompt not in known]
        if unknown:
            # Cloned one by one: a view would keep the whole batch alive, and an inference tensor out of autograd.
            known |= {prompt: row.clone() for prompt, row in zip(unknown, encode(unknown), strict=True)}
        self.rows |= known
        for prompt in list(self.rows)[: max(0, len(self.rows) - self.size)]:
            del self.rows[prompt]
        return torch.stack([known[prompt].to(device) for prompt in prompts])
