"""A value that is learned: a small network, trained on the pretrained model's own runs (SVDD-MC).

SVDD-MC (Li et al. 2024, arXiv 2408.08252, algorithm 3) regresses the final reward of plain runs on the noisy samples
along them, so that v(x_t, t) = E[r(x_0) | x_t]. The diffusion model is never trained.

    runs = collect(denoiser, {"aesthetic": reward}, prompts, samples=500)
    network = ValueNetwork.like(runs)
    fit(network, runs, "aesthetic")
    method = dsearch.methods.svdd(reward, width=20, value=dsearch.values.learned(network))
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._optional import optional
from .._weights import fill, read_safetensors, require
from ..core.chunks import Chunks
from ..core.contract import Beams, Denoiser, Reward, Step, take
from ..core.loop import search
from ..core.plan import one_of, positive
from ..core.value import Sees
from ..methods.plain import plain

__all__ = ["Look", "Trajectories", "ValueNetwork", "collect", "fit"]

Embed = Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Trajectories:
    """Plain runs of a model, every level of them but pure noise and the clean end.

    Attributes:
        x: `[N, T - 1, ...]` the noisy samples of levels 1 to T - 1, float16.
        x0: `[N, T - 1, ...]` their posterior means, float16.
        prompts: of each run.
        rewards: by name, `[N]` what each run ended with.
    """

    x: Tensor
    x0: Tensor
    prompts: list[str]
    rewards: dict[str, Tensor]

    @property
    def num_steps(self) -> int:
        """T of the model that made them."""
        return self.x.shape[1] + 1

    def split(self, share: float, seed: int = 0) -> tuple[Trajectories, Trajectories]:
        """These runs in two, the second with about `share` of them, drawn at random."""
        order = torch.randperm(len(self.x), generator=torch.Generator("cpu").manual_seed(seed), device="cpu")
        cut = len(order) - max(1, round(share * len(order)))
        return self.take(order[:cut]), self.take(order[cut:])

    def take(self, index: Tensor) -> Trajectories:
        """Some of the runs."""
        rewards = {name: values[index] for name, values in self.rewards.items()}
        return Trajectories(self.x[index], self.x0[index], [self.prompts[i] for i in index.tolist()], rewards)

    def save(self, path: str | Path) -> None:
        """To a safetensors file."""
        with optional():
            from safetensors.torch import save_file

        tensors = {f"reward/{name}": values.contiguous() for name, values in self.rewards.items()}
        save_file(
            {"x": self.x.contiguous(), "x0": self.x0.contiguous(), **tensors},
            path,
            metadata={"prompts": json.dumps(self.prompts)},
        )

    @classmethod
    def load(cls, path: str | Path) -> Trajectories:
        """From a file that `save` has written.

        Raises:
            FileNotFoundError: where there is none.
            ValueError: naming the file, where it is damaged or another one.
        """
        tensors, metadata = read_safetensors(path)
        rewards = {name.removeprefix("reward/"): t for name, t in tensors.items() if name.startswith("reward/")}
        try:
            x, x0, prompts = tensors["x"], tensors["x0"], json.loads(metadata["prompts"])
            lengths = {len(x), len(x0), len(prompts), *map(len, rewards.values())}
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} holds no runs; Trajectories.save writes them") from error
        every = isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts)
        if (
            not every
            or len(lengths) > 1
            or x.shape != x0.shape
            or x.ndim < 3
            or any(r.ndim != 1 for r in rewards.values())
        ):
            raise ValueError(f"{str(path)!r} holds runs that do not fit one another; Trajectories.save writes them")
        return cls(x, x0, prompts, rewards)


def collect(
    denoiser: Denoiser,
    rewards: Mapping[str, Reward],
    prompts: Sequence[str],
    samples: int = 256,
    *,
    batch: int = 32,
    seed: int = 20_000,
    chunks: Chunks = Chunks(),  # noqa: B008  # frozen
    progress: bool = False,
) -> Trajectories:
    """Samples every prompt plainly, and keeps what the samples looked like on the way and what they ended with.

    It costs `samples * T` rows and `samples` decodes per prompt, whatever the number of rewards.

    Args:
        denoiser: the model.
        rewards: by name; each sees the final images.
        prompts: like those of the search.
        samples: of each prompt.
        batch: of these, how many at once.
        seed: apart from the search's.
        chunks: rows at once, as in `search`.
        progress: a bar for each batch.
    """
    positive("samples", samples), positive("batch", batch)
    if not rewards:
        raise ValueError("no rewards; name at least one, {'aesthetic': reward}")
    first = next(iter(rewards.values()))
    parts = list[Trajectories]()
    for done in range(0, samples, batch):
        levels: list[tuple[Tensor, Tensor]] = []

        def keep(step: Step, beams: Beams, levels: list[tuple[Tensor, Tensor]] = levels) -> None:
            if step.level < denoiser.num_steps:
                levels.append((beams.x.half().cpu(), beams.pred.x0.half().cpu()))

        method = plain(first, min(batch, samples - done))
        ids = [f"{i} from {done}" for i in range(len(prompts))]
        result = search(denoiser, method, prompts, seed=seed, ids=ids, chunks=chunks, progress=progress, watch=[keep])
        # The result comes best first; back to the order of the beams.
        images = take(result.images, result.lineage.order.argsort(dim=-1)).flatten(0, 1)
        texts = [text for group in result.prompts for text in group]
        ends = {name: torch.as_tensor(reward(images, texts), device="cpu").float() for name, reward in rewards.items()}
        x, x0 = (torch.stack(leaf, dim=2).flatten(0, 1) for leaf in zip(*levels, strict=True))
        parts.append(Trajectories(x, x0, texts, ends))
    return Trajectories(
        torch.cat([part.x for part in parts]),
        torch.cat([part.x0 for part in parts]),
        [text for part in parts for text in part.prompts],
        {name: torch.cat([part.rewards[name] for part in parts]) for name in rewards},
    )


class ValueNetwork(nn.Module):
    """A small residual network v(x_t, t, prompt), for samples `[C]`, `[C, L]` or `[C, h, w]`.

    Args:
        channels: C.
        num_steps: T of the model whose levels it knows.
        sees: "x", the noisy sample, as in SVDD-MC, or "x0", its posterior mean, which carries no noise.
        width: channels within.
        prompt_dim: D of the prompts' embeddings; 0 where it is not told the prompt.
        embed: `prompts -> [R, D]`; not saved.
        seed: of the initial weights.
    """

    def __init__(
        self,
        channels: int,
        num_steps: int,
        *,
        sees: Sees = "x",
        width: int = 48,
        prompt_dim: int = 0,
        embed: Embed | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        one_of("sees", sees, Sees)
        if bool(prompt_dim) != (embed is not None):
            raise ValueError(f"prompt_dim={prompt_dim} and embed={embed}: give both, or neither")
        self.config = {"channels": channels, "num_steps": num_steps, "sees": sees, "width": width}
        self.config["prompt_dim"] = prompt_dim
        self.num_steps, self.sees, self.embed = positive("num_steps", num_steps), sees, embed
        # On the CPU and from its generator alone: torch.manual_seed would seed every device's.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.enter = nn.Conv2d(channels, width, 3, stride=2, padding=1)
            self.about = nn.Sequential(nn.Linear(16 + prompt_dim, 2 * width), nn.SiLU())
            self.blocks = nn.ModuleList(_Block(width, 2 * width) for _ in range(4))
            self.leave = nn.Sequential(nn.SiLU(), nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros((), device="cpu"))
        self.register_buffer("std", torch.ones((), device="cpu"))

    @classmethod
    def like(cls, runs: Trajectories, *, embed: Embed | None = None, **options: Any) -> ValueNetwork:
        """One whose sizes fit these runs."""
        prompt_dim = 0 if embed is None else embed(runs.prompts[:1]).shape[-1]
        return cls(runs.x.shape[2], runs.num_steps, prompt_dim=prompt_dim, embed=embed, **options)

    def forward(self, x: Tensor, level: int | Tensor, prompts: Sequence[str]) -> Tensor:
        """Samples `[R, C, ...]` of one level, or of one each `[R]`, and R prompts -> `[R]` in units of the reward."""
        if isinstance(level, int):
            level = torch.full((len(x),), level, device=x.device)  # a copy from the host would wait
        time = level.to(x.device).expand(len(x)) / self.num_steps
        waves = time[:, None] * math.pi * torch.arange(1, 9, device=x.device)
        about = [waves.sin(), waves.cos()]
        if self.embed is not None:
            about.append(self.embed(list(prompts)).to(x.device, torch.float32))
        told = self.about(torch.cat(about, dim=-1))
        h = self.enter(x.float().reshape(*x.shape, *[1] * (4 - x.ndim)))
        for i, block in enumerate(self.blocks):
            h = block(h, told)
            if i % 2 and min(h.shape[2:]) > 1:
                h = nn.functional.avg_pool2d(h, 2, ceil_mode=True)
        pooled = torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=-1)
        return self.leave(pooled)[:, 0] * self.std + self.mean

    def save(self, path: str | Path) -> None:
        """To a safetensors file, sizes included; `embed` is not saved."""
        with optional():
            from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, path, {"config": json.dumps(self.config)})

    @classmethod
    def load(cls, path: str | Path, *, embed: Embed | None = None) -> ValueNetwork:
        """From a file that `save` has written.

        Raises:
            FileNotFoundError: where there is none.
            ValueError: naming the file, where it is damaged or another one; without the `embed` that it was trained
                with.
        """
        tensors, metadata = read_safetensors(path)
        source = "one that ValueNetwork.save has written"
        try:
            config = json.loads(metadata["config"])
            width, told = config["width"], 16 + config["prompt_dim"]
            sizes = [[width, config["channels"], 3, 3], [width, width, 3, 3], [2 * width, told]]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} holds no value network; ValueNetwork.save writes one") from error
        # Before anything is made in the sizes that it claims.
        held = [tensors.get(f"{name}.weight") for name in ("enter", "blocks.0.first", "about.0")]
        if [None if tensor is None else [*tensor.shape] for tensor in held] != sizes:
            raise ValueError(f"{str(path)!r} is damaged: its weights are not of the sizes {config}; get {source}")
        if bool(config["prompt_dim"]) != (embed is not None):
            raise ValueError(f"prompt_dim={config['prompt_dim']} and embed={embed}: give both, or neither")
        try:
            network = cls(embed=embed, **config)
        except Exception as error:
            raise ValueError(f"{str(path)!r} is damaged: no network has the sizes {config}; get {source}") from error
        require(tensors, list(network.state_dict()), path, source)
        return fill(network, tensors, path, source).requires_grad_()


class _Block(nn.Module):
    """Two convolutions around a skip, the level and the prompt scaling and shifting what is between them."""

    def __init__(self, width: int, told: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.norm = nn.GroupNorm(1, width)  # over all channels: a flat sample has one pixel
        self.film = nn.Linear(told, 2 * width)

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        scale, shift = self.film(told)[:, :, None, None].chunk(2, dim=1)
        inner = self.norm(self.first(nn.functional.silu(h))) * (1 + scale) + shift
        return h + self.second(nn.functional.silu(inner))


class Look(NamedTuple):
    """How far the training was. Errors are mean squared ones in units of the reward's variance: 1 knows nothing.

    Attributes:
        step: of the training.
        error: on the batches since the last look.
        held_out: on the runs held out.
    """

    step: int
    error: float
    held_out: float


def fit(
    network: ValueNetwork,
    runs: Trajectories,
    reward: str,
    *,
    steps: int = 1000,
    batch: int = 256,
    rate: float = 2e-3,
    weight_decay: float = 0.05,
    held_out: float = 0.1,
    seed: int = 0,
    progress: Callable[[Look], object] | None = None,
) -> list[Look]:
    """Regresses the runs' final rewards on their samples, each batch over runs and levels alike.

    The levels of one run share its reward, so that a network soon knows runs by heart: the weights kept are those
    that were best, at twenty looks, on runs held out.

    Args:
        network: trained in place, and left in evaluation mode.
        runs: from `collect`; at least 10.
        reward: the name of one of their rewards.
        steps: of AdamW, its rate warmed up and annealed.
        batch: samples per step.
        rate: the highest learning rate.
        weight_decay: of AdamW.
        held_out: share of the runs to judge by.
        seed: of the batches and of which runs are held out.
        progress: called with every look.

    Returns:
        The looks.

    Raises:
        ValueError: for a reward the runs do not have, runs of another number of steps, or too few.
    """
    if reward not in runs.rewards:
        raise ValueError(f"the runs have no reward {reward!r}; they have {', '.join(runs.rewards)}")
    if runs.num_steps != network.num_steps:
        raise ValueError(f"runs of {runs.num_steps} steps cannot train a network of {network.num_steps}")
    if len(runs.prompts) < 10 or not 0 < held_out < 1:
        raise ValueError(f"{len(runs.prompts)} runs, held_out={held_out}: take 10 or more, and a share in (0, 1)")
    ends = runs.rewards[reward]
    network.mean.fill_(ends.mean()), network.std.fill_(ends.std().clamp(min=1e-12))
    runs, watched = runs.split(held_out, seed)
    draws = torch.Generator("cpu").manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=positive("steps", steps))
    looks, recent, every = list[Look](), list[Tensor](), max(1, steps // 20)
    best, kept = math.inf, dict[str, Tensor]()
    network.train()
    for i in range(steps):
        run = torch.randint(len(runs.prompts), (batch,), generator=draws, device="cpu")
        level = torch.randint(1, runs.num_steps, (batch,), generator=draws, device="cpu")
        loss = _error(network, runs, reward, run, level)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.detach())
        if (i + 1) % every == 0 or i == steps - 1:
            looks.append(Look(i + 1, float(torch.stack(recent).mean()), _held_out(network, watched, reward)))
            recent.clear()
            if looks[-1].held_out < best or not kept:
                best, kept = looks[-1].held_out, {k: v.clone() for k, v in network.state_dict().items()}
            if progress is not None:
                progress(looks[-1])
    network.load_state_dict(kept)
    network.eval()
    return looks


def _error(network: ValueNetwork, runs: Trajectories, reward: str, run: Tensor, level: Tensor) -> Tensor:
    device = network.enter.weight.device
    samples = runs.x if network.sees == "x" else runs.x0
    said = network(samples[run, level - 1].to(device).float(), level.to(device), [runs.prompts[r] for r in run])
    return ((said - runs.rewards[reward][run].to(device)) / network.std).square().mean()


@torch.no_grad()
def _held_out(network: ValueNetwork, runs: Trajectories, reward: str, most: int = 2048) -> float:
    """Over every level of the runs, or of as many runs as make `most` samples."""
    levels = runs.num_steps - 1
    count = min(len(runs.prompts), max(1, most // levels))
    run = torch.arange(count, device="cpu").repeat_interleave(levels)
    level = torch.arange(1, levels + 1, device="cpu").repeat(count)
    network.eval()
    errors = [
        _error(network, runs, reward, r, t) * len(r) for r, t in zip(run.split(256), level.split(256), strict=True)
    ]
    network.train()
    return float(torch.stack(errors).sum() / len(run))
