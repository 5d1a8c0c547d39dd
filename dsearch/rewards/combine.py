"""Rewards made of rewards: sums, z-scores, constraints, a memory for expensive ones, threads for slow ones."""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from dsearch.core.contract import Reward, precise
from dsearch.rewards._inputs import asked, check_prompts
from dsearch.rewards._pictures import content
from dsearch.rewards.compressibility import Compressibility, Incompressibility

__all__ = [
    "Awaited",
    "Cached",
    "Constrained",
    "Retried",
    "Threaded",
    "Weighted",
    "ZScored",
    "cached",
    "constrained",
    "retried",
    "weighted",
]


@dataclass(frozen=True)
class Weighted:
    """The sum of weight times reward; `weighted(a, b, weights=(1, 0.5))` makes one."""

    rewards: tuple[Reward, ...]
    weights: tuple[float, ...]

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """The weighted sum of what the rewards say, `[N]`."""
        said = [w * asked(r, images, prompts) for r, w in zip(self.rewards, self.weights, strict=True)]
        return torch.stack(said).sum(dim=0)


def weighted(*rewards: Reward, weights: Sequence[float] | None = None) -> Weighted:
    """The weighted sum of rewards, with weight 1 each by default.

    Rewards have units: minus kilobytes span more than cosines, and swallow them. Put them on one scale with `ZScored`,
    or choose weights in their units.

    Raises:
        ValueError: for no rewards, another number of weights, or weights that are not finite.
    """
    weights = [1.0] * len(rewards) if weights is None else list(weights)
    if not rewards or len(weights) != len(rewards) or not all(map(math.isfinite, weights)):
        raise ValueError(f"weights={weights} for {len(rewards)} rewards; give one finite weight each")
    return Weighted(rewards, tuple(map(float, weights)))


@dataclass(frozen=True)
class ZScored:
    """(reward - mean) / std, against fixed reference pictures: a batch's own would tie a row's score to its mates'."""

    reward: Reward
    mean: float
    std: float

    @classmethod
    def against(cls, reward: Reward, images: Tensor, prompts: list[str]) -> "ZScored":
        """With the mean and standard deviation of the reward over reference pictures, plain samples for instance.

        Raises:
            ValueError: for fewer than 2 pictures, or where they all score alike.
        """
        said = precise(asked(reward, images, prompts))
        std = float(said.std()) if len(said) > 1 else 0.0
        if not std > 0:
            raise ValueError(
                f"{len(said)} reference pictures score with a standard deviation of {std}; give some that differ"
            )
        return cls(reward, float(said.mean()), std)

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """What the reward says, standardised: `[N]`."""
        return (asked(self.reward, images, prompts) - self.mean) / self.std


@dataclass(frozen=True)
class Constrained:
    """A reward less `penalty` times what the others fall short of their bounds."""

    reward: Reward
    at_least: tuple[tuple[Reward, float], ...]
    penalty: float

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """What the reward says, less the penalties: `[N]`."""
        total = asked(self.reward, images, prompts)
        for other, bound in self.at_least:
            total = total - self.penalty * (bound - asked(other, images, prompts)).clamp(min=0)
        return total


def constrained(
    reward: Reward, at_least: Mapping[Reward, float] | Sequence[tuple[Reward, float]], penalty: float = 1000.0
) -> Constrained:
    """The reward, among pictures for which other rewards reach their bounds.

    A picture that falls short loses `penalty` (in units of the reward) for each unit of shortfall, so that among
    pictures which all fall short, the search moves towards those that do not: a hard limit would leave it blind.

    Raises:
        ValueError: for no bounds, one that is not finite, or a penalty that is not above 0.
    """
    bounds = tuple(at_least.items() if isinstance(at_least, Mapping) else at_least)
    if not bounds or not all(math.isfinite(bound) for _, bound in bounds):
        raise ValueError(
            f"at_least has bounds {[bound for _, bound in bounds]}; give a finite one for each other reward"
        )
    if not 0 < penalty < math.inf:
        raise ValueError(f"penalty={penalty} must be above 0 and finite")
    return Constrained(reward, bounds, float(penalty))


@dataclass
class Cached:
    """A reward that is asked once for each picture and prompt, by content; `cached(reward)` makes one.

    Attributes:
        reward: asked only for what is new.
        size: scores kept; the longest unused goes first.
    """

    reward: Reward
    size: int
    _known: OrderedDict[bytes, Tensor] = field(default_factory=OrderedDict, repr=False)

    @property
    def on_host(self) -> bool:
        """Whether the reward works beside an accelerator: as the one that is asked."""
        return getattr(self.reward, "on_host", False)

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """What the reward says, or has said before of the same image and prompt: `[N]`."""
        check_prompts(images, prompts)
        keys = [content(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        new = sorted(row for key, row in first.items() if key not in self._known)
        found = {key: self._known[key] for key in first if key in self._known}
        if new:
            said = asked(self.reward, images[new], [prompts[row] for row in new])
            found |= {keys[row]: score for row, score in zip(new, said.detach().cpu(), strict=True)}
        for key in first:
            self._known[key] = found[key]
            self._known.move_to_end(key)
        while len(self._known) > self.size:
            self._known.popitem(last=False)
        return torch.stack([found[key] for key in keys]).to(images.device)


def cached(reward: Reward, size: int = 100_000) -> Cached:
    """A memory for an expensive reward: pictures equal to the bit, under one prompt, are scored once.

    Reading pixels waits for an accelerator, so it pays for rewards that cost more than that.

    Raises:
        ValueError: for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size={size}; keep at least 1 score")
    return Cached(reward, size)


@dataclass(frozen=True)
class Threaded:
    """A reward of one picture at a time, asked on `workers` threads: for services that wait. Scores keep their order.

    `reward` is called with `images [1, 3, H, W]` and one prompt, from several threads at once.
    """

    on_host: ClassVar[bool] = True
    reward: Reward
    workers: int = 8

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ValueError(f"workers={self.workers}; choose at least 1")

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """What the reward says of every image, asked by several threads: `[N]`."""
        with ThreadPoolExecutor(self.workers, thread_name_prefix="reward") as pool:
            said = list(
                pool.map(
                    lambda row: asked(self.reward, images[row : row + 1], prompts[row : row + 1]), range(len(images))
                )
            )
        return torch.cat(said)


@dataclass(frozen=True)
class Awaited:
    """A coroutine `(image [3, H, W], prompt) -> number`, awaited for up to `at_once` pictures together, in order.

    It runs an event loop of its own in a thread, so it works in notebooks too.
    """

    on_host: ClassVar[bool] = True
    reward: Callable[[Tensor, str], Awaitable[float]]
    at_once: int = 32

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise ValueError(f"at_once={self.at_once}; choose at least 1")

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """What the coroutine says of every image, so many awaited at once: `[N]`."""
        with ThreadPoolExecutor(1, thread_name_prefix="reward") as pool:
            said = pool.submit(lambda: asyncio.run(self._all(images, prompts))).result()
        return torch.tensor(said, dtype=torch.float32, device=images.device)

    async def _all(self, images: Tensor, prompts: list[str]) -> list[float]:
        gate = asyncio.Semaphore(self.at_once)

        async def one(image: Tensor, prompt: str) -> float:
            async with gate:
                return float(await self.reward(image, prompt))

        return await asyncio.gather(*(one(image, prompt) for image, prompt in zip(images, prompts, strict=True)))


@dataclass(frozen=True)
class Retried:
    """A reward that is asked again where it raises: for services that fail now and then.

    The last failure is raised, when `times` more calls failed too.
    """

    reward: Reward
    times: int = 3
    wait: float = 1.0
    on: tuple[type[Exception], ...] = (Exception,)

    def __post_init__(self) -> None:
        if self.times < 1 or self.wait < 0:
            raise ValueError(f"times={self.times} and wait={self.wait}; ask again at least once, and wait 0 s or more")

    @property
    def on_host(self) -> bool:
        """Whether the reward works beside an accelerator: as the one that is asked."""
        return getattr(self.reward, "on_host", False)

    def __call__(self, images: Tensor, prompts: list[str]) -> Tensor:
        """What the reward says, asked again where it raises: `[N]`."""
        for attempt in range(self.times):
            try:
                return asked(self.reward, images, prompts)
            except self.on:
                time.sleep(self.wait * 2**attempt)
        return asked(self.reward, images, prompts)


def retried(
    reward: Reward, times: int = 3, wait: float = 1.0, on: tuple[type[Exception], ...] = (Exception,)
) -> Retried:
    """Ask again, up to `times` times, where a call raises one of `on`: after `wait` seconds, then twice as long each.

    A call that returns the wrong number of scores counts as raising ValueError.

    Raises:
        ValueError: for no times or a negative wait.
    """
    return Retried(reward, times, wait, on)


def example() -> Weighted:
    """A cheap instance for the law suite."""
    return weighted(Compressibility(workers=1), cached(Incompressibility(quality=50, workers=1)), weights=(1.0, -0.5))
