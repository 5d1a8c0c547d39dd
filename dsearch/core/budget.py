"""Budgets: what a search may cost, in any unit, and the largest method that it buys."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

import torch

from .contract import Denoiser, Reward
from .plan import Bill, positive
from .rng import KeyedRng

__all__ = ["Budget", "Prices", "measure"]


class Prices(NamedTuple):
    """Seconds that one unit of a bill takes, as measured on one machine.

    Attributes:
        model_call: one row through the network.
        decode: one decoded sample.
        reward_call: one rewarded image.
        comparison: one pair before the judge of a final choice; it is not measured, so give it.
    """

    model_call: float
    decode: float
    reward_call: float
    comparison: float = 0.0

    def seconds(self, bill: Bill) -> float:
        """What the bill takes."""
        return sum(price * n for price, n in zip(self, bill, strict=True))


@dataclass(frozen=True)
class Budget:
    """The most that a search may cost per prompt (or the pool, where a method pools its prompts); None is no limit.

    Seconds are turned into a plan by prices that were measured beforehand, so that a seed still gives one result;
    what the run then takes is as good as the prices.

    Attributes:
        model_calls: rows through the network.
        decodes: samples decoded.
        reward_calls: images rewarded.
        seconds: of all units together, at `prices`.
        prices: from `measure`, or recorded.
        comparisons: pairs before the judge of a final choice.

    Raises:
        ValueError: for a budget without a limit, a limit not above 0, or seconds without prices.
    """

    model_calls: int | None = None
    decodes: int | None = None
    reward_calls: int | None = None
    seconds: float | None = None
    prices: Prices | None = None
    comparisons: int | None = None

    def __post_init__(self) -> None:
        counts = {unit: getattr(self, unit) for unit in Bill._fields}
        for unit, limit in counts.items():
            if limit is not None:
                positive(unit, limit)
        if self.seconds is None and all(limit is None for limit in counts.values()):
            raise ValueError(
                "a budget without a limit; give model_calls, decodes, reward_calls, comparisons or seconds"
            )
        if self.seconds is not None:
            if not self.seconds > 0:
                raise ValueError(f"seconds={self.seconds} must be above 0")
            if self.prices is None:
                raise ValueError("seconds need prices=; take them from dsearch.measure(denoiser, reward)")

    def __str__(self) -> str:
        limits = {unit: getattr(self, unit) for unit in (*Bill._fields, "seconds")}
        return ", ".join(f"{unit}={limit}" for unit, limit in limits.items() if limit is not None)

    def allows(self, bill: Bill) -> bool:
        """Whether a bill stays within every limit."""
        limits = [getattr(self, unit) for unit in Bill._fields]
        if any(limit is not None and n > limit for n, limit in zip(bill, limits, strict=True)):
            return False
        return self.seconds is None or self.prices is None or self.prices.seconds(bill) <= self.seconds

    def largest(self, bill: Callable[[int], Bill], name: str) -> int:
        """The largest size, from 1, whose bill the budget allows; `name` is what errors call it.

        Bills rise with the size, though rounding may dent them: from the size that doubling and halving finds, the
        next ones are looked at too, as many again, and at most 2,048.

        Raises:
            ValueError: where even size 1 costs more, or where no size does.
        """

        def fits(size: int) -> bool:
            return self.allows(bill(size))

        if not fits(1):
            raise ValueError(f"the smallest {name} costs {bill(1)}, above the budget {self}; raise it")
        size, step = 1, 1
        while fits(size + step):
            size, step = size + step, 2 * step
            if step > 2**24:
                raise ValueError(f"size {size} of {name} is within {self}; its bill does not rise")
        while step > 1:
            step //= 2
            size += step if fits(size + step) else 0
        return max(s for s in range(size, size + min(size + 9, 2048)) if fits(s))


@torch.no_grad()
def measure(
    denoiser: Denoiser, reward: Reward, prompts: Sequence[str] = ("",), *, rows: int = 16, repeats: int = 5
) -> Prices:
    """What a row, a decode and a reward take here: medians over `repeats` batches of `rows`, after one to warm up.

    Measure once, keep the prices, and size methods with `method.within(Budget(seconds=..., prices=...), num_steps)`.

    Args:
        denoiser: the model.
        reward: the reward.
        prompts: cycled over the rows.
        rows: at once; as large as the chunks of the search.
        repeats: timed batches.
    """
    positive("rows", rows), positive("repeats", repeats)
    texts = [prompts[i % len(prompts)] for i in range(rows)]
    cond, x = denoiser.encode(texts), denoiser.start((1, rows), KeyedRng(0, (0,)))[0]
    prompt = torch.arange(rows, device=x.device)
    x0 = denoiser.predict(x, 0, cond, prompt).x0
    images = denoiser.decode(x0)
    return Prices(
        _timed(lambda: denoiser.predict(x, 0, cond, prompt).x0, repeats) / rows,
        _timed(lambda: denoiser.decode(x0), repeats) / rows,
        _timed(lambda: torch.as_tensor(reward(images, texts), device=images.device), repeats) / rows,
    )


def _timed(work: Callable[[], torch.Tensor], repeats: int) -> float:
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work().flatten()[0].item()  # waits for an accelerator
        seconds.append(time.perf_counter() - began)
    return median(seconds[1:])
