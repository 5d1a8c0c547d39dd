"""A reverse kernel read off a scheduler's tables, where its own step is deterministic or remembers others."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..core.rng import move
from ._kernel import Kernel, _Drawing, kernel, no_flow
from ._marginals import FLOWS, beyond, marginals
from ._noise import Noise, noise_of

__all__ = ["Levels", "exchanged", "kernel_of"]

_OWN = ("DDIMScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler", "TCDScheduler")
_SECOND_ORDER = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
_UNKNOWN = ("FlowMap", "VQDiffusion", "RePaint", "KarrasVe", "ScoreSde", "Amused")
_CONSISTENT = ("SCMScheduler", "CMStochasticIterativeScheduler")
_FIRST_ORDER = ("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler")


class Levels:
    """The levels of a loop, and where they stand in the tables of its scheduler.

    Attributes:
        scheduler: as the pipeline had set it when its loop began.
        times: `[T]` the time step of each level.
        table: the scheduler's own, from the first of them on; some know the clean end too.
        begin: the place of the first of them in the scheduler's tables.
    """

    def __init__(self, scheduler: Any, items: list[Any]) -> None:
        own = torch.as_tensor(scheduler.timesteps, device="cpu")
        found = [_time(item) for item in items]
        table = own.double().flatten().tolist()
        if all(time is not None for time in found):
            values = [float(time) for time in found]
            begins = [k for k in range(len(table) - len(values) + 1) if table[k : k + len(values)] == values]
        else:  # the loop counts: over all levels, or the last of them
            begins = [len(table) - len(items)] if len(items) <= len(table) else []
        if not begins:
            raise TypeError(
                f"the loop runs over {items[:2]}..., which are no time steps of its {type(scheduler).__name__}"
            )
        self.scheduler, self.begin = scheduler, begins[0]
        self.times, self.table = own[self.begin : self.begin + len(items)], own[self.begin :]

    def stand(self, scheduler: Any, level: int) -> None:
        """Schedulers that count their steps scale what the network sees by the count."""
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = self.begin + level

    def settled(self) -> Any:
        """A copy of the scheduler that knows these levels alone, and does not set others."""
        scheduler, n = copy.deepcopy(self.scheduler), len(self.times)
        scheduler.timesteps = self.times
        sigmas = getattr(scheduler, "sigmas", None)
        if sigmas is not None and len(sigmas) > self.begin + n:
            sigmas = sigmas[self.begin : self.begin + n + 1]
        if isinstance(sigmas, Tensor):
            scheduler.sigmas = sigmas.cpu()  # some look into their tables, which would wait for the device
        if hasattr(scheduler, "_step_index"):
            scheduler._step_index = scheduler._begin_index = None
        if type(scheduler).__name__ in ("LCMScheduler", "TCDScheduler"):  # they know their last step by its count
            scheduler.num_inference_steps = n
        scheduler.set_timesteps = _stays
        return scheduler


def _stays(*args: Any, **kwargs: Any) -> None:
    """In the place of `set_timesteps`."""


def _time(item: Any) -> Any:
    parts = item if isinstance(item, tuple | list) else (item,)
    times = [part for part in parts if isinstance(part, Tensor) and part.numel() == 1]
    if times:
        return times[-1]
    return parts[-1] if isinstance(parts[-1], float) or (len(parts) > 1 and isinstance(parts[-1], int)) else None


def exchanged(scheduler: Any) -> Any:
    """A scheduler of one network call per level and of as many levels as steps, where this one is not; else None."""
    import diffusers

    name = type(scheduler).__name__
    if name == "PNDMScheduler":
        return diffusers.DDIMScheduler.from_config(scheduler.config, clip_sample=False)
    if name in _SECOND_ORDER:
        known = scheduler.config.beta_schedule in ("linear", "scaled_linear", "squaredcos_cap_v2")
        betas = {} if known else {"beta_schedule": "linear", "trained_betas": scheduler.betas.tolist()}
        return diffusers.EulerDiscreteScheduler.from_config(scheduler.config, **betas)
    if name == "FlowMatchHeunDiscreteScheduler":
        return diffusers.FlowMatchEulerDiscreteScheduler.from_config(scheduler.config)
    return None


def kernel_of(levels: Levels, noise: Noise, device: Any) -> Kernel:
    """The scheduler's own step where it draws noise and remembers no step; else that of `Tables`.

    Raises:
        ValueError: for a scheduler that neither knows, naming what to do; for a flow's noise where there is no flow.
    """
    scheduler, n, eta = levels.settled(), len(levels.times), noise.eta
    name, config = type(scheduler).__name__, scheduler.config
    if "Inverse" in name:
        raise ValueError(
            f"{name} goes from an image to its noise, and a search the other way; give the pipeline "
            f"diffusers.{name.replace('Inverse', '')}.from_config(pipe.scheduler.config)"
        )
    if any(name.startswith(unknown) for unknown in _UNKNOWN):
        others = [each.__name__ for each in getattr(scheduler, "compatibles", []) if each.__name__ != name]
        raise ValueError(
            f"{name} is not supported: its marginals are none of x_t = a x_0 + s noise; give the pipeline another "
            f"scheduler, {'one of ' + ', '.join(sorted(others)) if others else 'a DDIM, Euler or flow matching one'}"
        )
    learned = str(config.get("variance_type", "")).startswith("learned")
    draws = (
        name == "DPMSolverMultistepScheduler"
        and config.algorithm_type == "sde-dpmsolver++"
        and config.solver_order == 1
    )
    if name in _CONSISTENT:  # x' = a' x_0 + s' noise, drawn anew at every step
        made = _Drawing(scheduler, n, device, eta)
        scheduler.timesteps = levels.table
        return made
    if name == "FlowMatchLCMScheduler":  # its step is x' = (1 - s') x_0 + s' noise
        return Tables(scheduler, n, device, 1.0, Noise("full") if noise.kind == "posterior" else noise)
    if eta == 0 and name in _FIRST_ORDER:
        return _FirstOrder(scheduler, n, device, eta)
    if name == "FlowMatchEulerDiscreteScheduler" and not config.invert_sigmas and not beyond(scheduler):
        return kernel(scheduler, n, device, eta, flow=True, noise=noise.kind)
    if (name in _OWN or draws) and not learned:
        return kernel(scheduler, n, device, eta, noise=noise.kind)
    return Tables(scheduler, n, device, eta, noise)


class Tables(Kernel):
    """The DDIM family on the marginals x_t = a x_0 + s n of a scheduler (Song et al. 2021, equations 12 and 16).

        x' = a' x_0 + sqrt(s'^2 - d^2) n + d noise,   d = eta (s'/s) sqrt(s^2 - (a/a')^2 s'^2),

    with x_0 the posterior mean and n = (x - a x_0) / s: the marginals are the scheduler's own for any eta, and at eta
    1 the deviation d is that of q(x' | x, x_0). It remembers no step, so it is first-order where a solver is not.
    A flow, a = 1 - s, draws the noise that `_noise` names.
    """

    def __init__(self, scheduler: Any, num_steps: int, device: Any, eta: float, noise: Noise | None = None) -> None:
        super().__init__(scheduler, num_steps, device, eta)
        self._kind, self._a, self._s = _tables(scheduler, self.timesteps)
        self._noise = noise_of("posterior", eta) if noise is None else noise
        if self._noise.kind != "posterior" and self._kind not in FLOWS:
            raise ValueError(no_flow(type(scheduler).__name__, self._noise.kind))

    def x0(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        a, s, out, kept = self._a[i], self._s[i], out.float(), x.float()
        if out.ndim > x.ndim - 1 and out.shape != x.shape and out.shape[-3] == 2 * x.shape[-3]:
            out = out.chunk(2, dim=-3)[0]  # a learned variance, which this kernel does not use
        if self._kind == "edm":
            sigma = move(torch.tensor(s, device="cpu"), x.device)
            return self.scheduler.precondition_outputs(kept, out, sigma).to(x.dtype)
        if self._kind == "flow":
            mean = kept - s * out
        elif self._kind == "inverted":
            mean = kept + s * out
        elif self._kind == "epsilon":
            mean = (kept - s * out) / max(a, 1e-3)
        elif self._kind == "sample":
            mean = out
        else:  # v = a n - s x_0, of x / sqrt(a^2 + s^2)
            scale = (a * a + s * s) ** 0.5
            mean = (a * kept / scale - s * out) / scale
        return mean.to(x.dtype)

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor) -> Tensor:
        return self._moved(out, i, x, noise, *self._split(i))

    def deterministic(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        return self._moved(out, i, x, torch.zeros_like(x), self._s[i + 1], 0.0)

    def _split(self, i: int) -> tuple[float, float]:
        """How much noise is kept and how much is drawn anew."""
        (a, a_to), (s, s_to) = self._a[i : i + 2], self._s[i : i + 2]
        if self._noise.kind != "posterior":
            return self._noise.split(s, s_to, self._s[1])
        fresh = max(0.0, s * s - (a / a_to) ** 2 * s_to * s_to)
        draw = self.eta * s_to / s * fresh**0.5
        return max(0.0, s_to * s_to - draw * draw) ** 0.5, draw

    def _moved(self, out: Tensor, i: int, x: Tensor, noise: Tensor, keep: float, draw: float) -> Tensor:
        mean = self.x0(out, i, x).float()
        n = (x.float() - self._a[i] * mean) / self._s[i]
        return (self._a[i + 1] * mean + keep * n + draw * noise).to(x.dtype)


class _FirstOrder(Tables):
    """The scheduler's own step without noise, bit for bit."""

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor) -> Tensor:
        return self._at(i).step(out, self.timesteps[i], x).prev_sample


def _tables(scheduler: Any, times: Tensor) -> tuple[str, list[float], list[float]]:
    """`marginals`, of levels that each are cleaner than the one before."""
    kind, a, s = marginals(scheduler, times)
    n = len(times)
    # At the very end some stay where they are: their last step does nothing.
    noisier = [k for k in range(n) if not (s[k + 1] < s[k] or (k == n - 1 and k and s[k + 1] == s[k]))]
    if noisier:
        raise ValueError(
            f"{type(scheduler).__name__} goes from noise {s[noisier[0]]:.3g} to {s[noisier[0] + 1]:.3g} at step "
            f"{noisier[0]}, and a search needs each level to be cleaner than the one before; give the pipeline a "
            "first-order scheduler"
        )
    return kind, a, s
