"""What every training loop here is made of: batches, averages, the clock, workers and the step itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import contextmanager

import torch
from words import SOURCES


def weights_of(labels: list) -> torch.Tensor:
    """How often each picture is drawn: by its vendor's weight."""
    return torch.tensor([SOURCES[v][3] for _, v, _ in labels])


class Draws:
    """An endless stream of shuffled index batches, each picture as often as its weight says."""

    def __init__(self, weights: torch.Tensor, batch: int, seed: int) -> None:
        self.weights, self.batch = weights, batch
        self.rng = torch.Generator().manual_seed(seed)
        self.left = torch.empty(0, dtype=torch.long)

    def __next__(self) -> torch.Tensor:
        if len(self.left) < self.batch:  # a quarter of an epoch at a time, without repeats inside it
            self.left = torch.multinomial(self.weights, len(self.weights) // 4, generator=self.rng)
        taken, self.left = self.left[: self.batch], self.left[self.batch :]
        return taken


class Ema:
    """A running average of parameters; its window grows with the run, so that early noise is forgotten."""

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float) -> None:
        self.parameters, self.decay, self.steps = parameters, decay, 0
        self.average = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def applied(self):
        """Inside, the parameters are their averages."""
        backup = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for p, a in zip(self.parameters, self.average, strict=True):
                p.copy_(a)
        yield
        with torch.no_grad():
            for p, b in zip(self.parameters, backup, strict=True):
                p.copy_(b)


class Clock:
    """Progress by wall clock: warm-up, cosine to 2%, and a line in the log every so often."""

    def __init__(self, minutes: float, rate: float, warmup: int = 150) -> None:
        self.total, self.rate, self.warmup = minutes * 60, rate, warmup
        self.start, self.steps, self.seen = time.time(), 0, 0
        self.logged, self.logged_seen, self.sums = 0.0, 0, {}

    @property
    def elapsed(self) -> float:
        return time.time() - self.start

    @property
    def done(self) -> bool:
        return self.elapsed > self.total

    def learning_rate(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.elapsed / self.total)))
        return self.rate * min(1.0, (self.steps + 1) / self.warmup) * (0.02 + 0.98 * cosine)

    def tick(self, pictures: int, every: float = 30.0, **values: torch.Tensor) -> None:
        self.steps, self.seen = self.steps + 1, self.seen + pictures
        for k, v in values.items():
            total, count = self.sums.get(k, (0.0, 0))
            self.sums[k] = (total + float(v), count + 1)
        if self.elapsed - self.logged > every:
            rate = (self.seen - self.logged_seen) / (self.elapsed - self.logged)
            means = " ".join(f"{k} {a / c:.4f}" for k, (a, c) in self.sums.items())
            print(f"{self.elapsed:6.0f}s step {self.steps} {rate:.0f}/s {means}", flush=True)
            self.logged, self.logged_seen, self.sums = self.elapsed, self.seen, {}


class Team:
    """Workers that train one network on a thread each, with gradients averaged through shared memory.

    On busy cores this is twice as fast as one process with as many threads: threads wait for one another in
    every operation, workers only once a step.
    """

    def __init__(self, workers: int, numbers: int) -> None:
        self.workers = workers
        self.barrier = torch.multiprocessing.get_context("spawn").Barrier(workers)
        # two of each, so that one barrier a step is enough: nobody writes what another may still read
        self.gradients = torch.zeros(2, workers, numbers).share_memory_()
        self.notes = torch.zeros(2, 2, dtype=torch.float64).share_memory_()

    def agree(self, rank: int, step: int, rate: float, last: bool) -> tuple[float, bool]:
        """The first worker's learning rate and whether to stop: clocks differ, and networks must not."""
        if rank == 0:
            self.notes[step % 2] = torch.tensor([rate, float(last)])
        self.barrier.wait()
        rate, last = self.notes[step % 2].tolist()
        return rate, bool(last)

    def average(self, rank: int, step: int, parameters: list[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the workers."""
        mine = self.gradients[step % 2]
        torch.cat([p.grad.reshape(-1) for p in parameters], out=mine[rank])
        self.barrier.wait()
        parts = mine.mean(0).split([p.numel() for p in parameters])
        for p, g in zip(parameters, parts, strict=True):
            p.grad.copy_(g.view_as(p))  # in place: the fused optimiser needs the parameter's own memory layout


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor, rate: float, average: Callable | None = None) -> None:
    """One clipped optimiser step at this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    if average:
        average([p for g in optimiser.param_groups for p in g["params"]])
    torch.nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], 1.0)
    optimiser.step()


def half(device: str) -> torch.autocast:
    """bfloat16 where it is fast and safe."""
    return torch.autocast(device, dtype=torch.bfloat16)


def count(module: torch.nn.Module) -> str:
    """Parameters, in millions."""
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f}M"
