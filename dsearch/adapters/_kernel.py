"""Reverse kernels made of diffusers' schedulers: the scheduler's own step, with noise from outside and no state.

A kernel steps parents `[..., 1, C, h, w]` to their children by the broadcasting of their noise `[..., w, C, h, w]`, and
may be asked for any step at any time: each call is made on a copy of the scheduler that knows no step before it.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ._marginals import marginals, noised
from ._noise import Noise, noise_of

__all__ = ["Kernel", "kernel", "steps_itself"]

_SHARED_WITH_PNDM = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "set_alpha_to_one"),
    *("prediction_type", "timestep_spacing", "steps_offset"),
)
_DRAWING = ("DDPMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler", "TCDScheduler")


class Kernel:
    """What all kernels have: the steps, and how the network wants its input.

    Args:
        scheduler: of our own, not the pipeline's.
        num_steps: denoising steps.
        device: where the arithmetic runs.
        eta: the noise of the kernel.
        **spacing: others of the scheduler's `set_timesteps`.
    """

    def __init__(self, scheduler: Any, num_steps: int, device: Any, eta: float, **spacing: Any) -> None:
        self.scheduler, self.eta = scheduler, eta
        scheduler.set_timesteps(num_steps, device="cpu", **spacing)  # some look into their tables, which would wait
        if len(scheduler.timesteps) != num_steps:
            raise ValueError(
                f"{type(scheduler).__name__} makes {len(scheduler.timesteps)} steps of "
                f"num_inference_steps={num_steps}; take {len(scheduler.timesteps)}, or change its timestep_spacing"
            )
        _refuse_untrained(scheduler, num_steps)
        self.timesteps = scheduler.timesteps.to(device)
        # On the host, or as ints where these index tables by it.
        self._t = scheduler.timesteps.tolist() if self.timesteps.dtype == torch.int64 else list(scheduler.timesteps)
        self.init_noise_sigma = getattr(scheduler, "init_noise_sigma", 1.0)

    def scale_input(self, x: Tensor, i: int) -> Tensor:
        """What the network wants to see of x at step i."""
        if not hasattr(self.scheduler, "scale_model_input"):
            return x
        return self._at(i).scale_model_input(x, self._t[i])

    def x0(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        """The posterior mean that the network's output says."""
        raise NotImplementedError

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor) -> Tensor:
        """Children of x."""
        return self._apart(lambda out, x, noise: self._step(out, i, x, noise), out, x, noise)

    def deterministic(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        """The step without noise, where the scheduler has one."""
        return self._apart(lambda out, x: self._still(out, i, x), out, x)

    def renoise(self, x: Tensor, level: int, to: int, noise: Tensor) -> Tensor:
        """The forward kernel q(x_to | x_level) of the scheduler's marginals.

        Raises:
            ValueError: for a scheduler that does not tell them.
        """
        here, there = self._marginals[level], self._marginals[to]
        return noised(x.float(), noise.float(), here, there).to(x.dtype)

    @cached_property
    def _marginals(self) -> list[tuple[float, float]]:
        """(a, s) of each level and of what the last step makes."""
        _, a, s = marginals(self.scheduler, self.timesteps)
        if type(self.scheduler).__name__ == "DDIMScheduler":  # without set_alpha_to_one it ends a little short of clean
            final = float(self.scheduler.final_alpha_cumprod)
            a[-1], s[-1] = final**0.5, (1 - final) ** 0.5
        return list(zip(a, s, strict=True))

    def _step(self, out: Tensor, i: int, x: Tensor, noise: Tensor) -> Tensor:
        raise NotImplementedError

    def _still(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self.scheduler).__name__} has no deterministic step; use stochastic rollouts")

    def _apart(self, step: Callable[..., Tensor], *parts: Tensor) -> Tensor:
        """The step of tensors `[..., C, h, w]` that broadcast, none of which may learn of another.

        Dynamic thresholding takes a quantile over all axes but the first, so there every child is a row.
        """
        if not self.scheduler.config.get("thresholding"):
            return step(*parts)
        shape = torch.broadcast_shapes(*(part.shape for part in parts))
        return step(*(part.expand(shape).flatten(0, -4) for part in parts)).unflatten(0, shape[:-3])

    def _at(self, i: int) -> Any:
        """A copy that stands at step i and knows no step before; what it learns goes with it."""
        scheduler = copy.copy(self.scheduler)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(i)
        scheduler.is_scale_input_called = True  # or some warn
        return scheduler


class _DDIM(Kernel):
    """Song et al. 2021, equation 16: `eta` scales the noise, 1 is the ancestral sampler."""

    def scale_input(self, x: Tensor, i: int) -> Tensor:
        return self.scheduler.scale_model_input(x, self._t[i])

    def x0(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        return self.scheduler.step(out, self._t[i], x).pred_original_sample

    def _step(self, out: Tensor, i: int, x: Tensor, noise: Tensor) -> Tensor:
        return self.scheduler.step(out, self._t[i], x, eta=self.eta, variance_noise=noise).prev_sample

    def _still(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        return self.scheduler.step(out, self._t[i], x, eta=0.0).prev_sample


class _Drawing(Kernel):
    """Schedulers that draw their noise themselves, by `torch.randn`: there they are given ours."""

    def __init__(self, scheduler: Any, num_steps: int, device: Any, eta: float, **spacing: Any) -> None:
        super().__init__(scheduler, num_steps, device, eta, **spacing)
        self._options = {"eta": eta} if "eta" in inspect.signature(scheduler.step).parameters else {}
        if eta != 1 and not self._options:
            raise ValueError(
                f"eta={eta}: {type(scheduler).__name__} knows no eta; leave it at 1, or use a DDIMScheduler"
            )
        self._sibling: Any = None
        if type(scheduler).__name__ == "TCDScheduler":  # it tells no posterior mean; a DDIM of the same schedule does
            from diffusers import DDIMScheduler

            own = scheduler.config  # from_config would put DDIM's own defaults in the place of TCD's
            shared = {key: own[key] for key in (*_SHARED_WITH_PNDM, "rescale_betas_zero_snr")}
            with torch.device("cpu"):
                # TCD has settings for clipping and never reads them.
                self._sibling = DDIMScheduler(**shared, clip_sample=False, thresholding=False)
            self._sibling.set_timesteps(num_steps)

    def x0(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        if self._sibling is not None:
            return self._sibling.step(out, self._t[i], x).pred_original_sample
        said = self._stepped(out, i, x, torch.zeros_like(x))
        for name in ("denoised", "pred_original_sample"):
            if hasattr(said, name):
                return getattr(said, name)
        return said.prev_sample  # of a consistency model: x_0 and noise

    def _step(self, out: Tensor, i: int, x: Tensor, noise: Tensor) -> Tensor:
        return self._stepped(out, i, x, noise).prev_sample

    def _stepped(self, out: Tensor, i: int, x: Tensor, noise: Tensor) -> Any:
        with _Answered(noise):
            return self._at(i).step(out, self._t[i], x, **self._options)


class _SDEDPM(Kernel):
    """SDE-DPM-Solver++ of order 1 (Lu et al. 2022, arXiv 2211.01095): it has no history, unlike higher orders."""

    def x0(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        at = self._at(i)
        at._init_step_index(self._t[i])
        return at.convert_model_output(out, sample=x)

    def _step(self, out: Tensor, i: int, x: Tensor, noise: Tensor) -> Tensor:
        at = self._at(i)
        at.model_outputs = list(at.model_outputs)  # a shallow copy shares it
        return at.step(out, self._t[i], x, variance_noise=noise).prev_sample


class _Flow(Kernel):
    """Rectified flow, x_s = (1 - s) x_0 + s eps with v = eps - x_0, sampled with noise.

    A scheduler with `stochastic_sampling` makes its own step, which draws all noise anew. Any other is an ODE, whose
    steps leave nothing to search; they draw the noise that `_noise` names, and at eta 0 they are the scheduler's own.
    """

    def __init__(
        self, scheduler: Any, num_steps: int, device: Any, eta: float, noise: Noise | None = None, **spacing: Any
    ) -> None:
        super().__init__(scheduler, num_steps, device, eta, **spacing)
        self._noise = noise_of("posterior", eta) if noise is None else noise
        self._own = bool(scheduler.config.stochastic_sampling)
        if self._own and (eta != 1 or self._noise.kind not in ("posterior", "full")):
            raise ValueError(
                f"noise={self._noise.kind!r} with eta={eta}: this scheduler's stochastic_sampling draws all noise anew "
                "and knows no eta; leave both as they are, or set stochastic_sampling=False"
            )
        self._sigmas: list[float] = scheduler.sigmas.double().tolist()

    def x0(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        return x - self._sigmas[i] * out

    def _step(self, out: Tensor, i: int, x: Tensor, noise: Tensor) -> Tensor:
        if self._own:
            with _Answered(noise):
                return self._at(i).step(out, self._t[i], x).prev_sample
        s, to = self._sigmas[i : i + 2]
        return self._moved(out, i, x, noise, *self._noise.split(s, to, self._sigmas[1]))

    def _still(self, out: Tensor, i: int, x: Tensor) -> Tensor:
        return self._moved(out, i, x, torch.zeros_like(x), self._sigmas[i + 1], 0.0)

    def _moved(self, out: Tensor, i: int, x: Tensor, noise: Tensor, keep: float, draw: float) -> Tensor:
        s, to = self._sigmas[i : i + 2]
        return (1 - to) * (x - s * out) + keep * (x + (1 - s) * out) + draw * noise


class _Answered(TorchFunctionMode):
    """Patches `torch.randn` to return this noise, in this thread alone and once at most."""

    def __init__(self, noise: Tensor) -> None:
        super().__init__()
        self._noise: Tensor | None = noise

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.randn:
            noise, self._noise = self._noise, None
            if noise is None:
                raise RuntimeError("this scheduler draws more than once a step, which a search does not expect")
            return noise
        return func(*args, **(kwargs or {}))


def steps_itself(scheduler: Any) -> bool:
    """Whether `kernel` takes a scheduler: it draws noise and remembers no step, or a DDIM has its configuration."""
    name, config = type(scheduler).__name__, scheduler.config
    first = config.get("algorithm_type") == "sde-dpmsolver++" and config.get("solver_order") == 1
    known = (*_DRAWING, "DDIMScheduler", "PNDMScheduler", "FlowMatchEulerDiscreteScheduler")
    return name in known or (name == "DPMSolverMultistepScheduler" and first)


def kernel(
    scheduler: Any,
    num_steps: int,
    device: Any,
    eta: float | None = None,
    flow: bool = False,
    noise: str = "posterior",
    **spacing: Any,
) -> Kernel:
    """The kernel of a pipeline's scheduler, which is left as it is; `flow` for a model that predicts a flow's velocity.

    Raises:
        ValueError: for a scheduler without noise or with a memory of earlier steps, naming one that works; for a noise
            that is none of `_noise.Kind`, an eta that it cannot have, or a flow's where there is none.
    """
    of = noise_of(noise, eta)
    eta, name, config = of.eta, type(scheduler).__name__, scheduler.config
    make: Callable[..., Kernel]
    if flow:
        spacing["noise"] = of
        if name != "FlowMatchEulerDiscreteScheduler":
            raise ValueError(
                f"{name} is not supported for a flow: set pipe.scheduler = "
                "diffusers.FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config)"
            )
        scheduler, make = copy.deepcopy(scheduler), _Flow
    elif noise != "posterior":
        raise ValueError(no_flow(name, noise))
    elif name == "DDIMScheduler":
        scheduler, make = copy.deepcopy(scheduler), _DDIM
    elif name == "PNDMScheduler":
        from diffusers import DDIMScheduler

        with torch.device("cpu"):  # and not what the user's torch.set_default_device says
            scheduler = DDIMScheduler(**{key: config[key] for key in _SHARED_WITH_PNDM}, clip_sample=False)
        make = _DDIM
    elif name in _DRAWING:
        scheduler, make = copy.deepcopy(scheduler), _Drawing
    elif (
        name == "DPMSolverMultistepScheduler"
        and config.algorithm_type == "sde-dpmsolver++"
        and config.solver_order == 1
    ):
        scheduler, make = copy.deepcopy(scheduler), _SDEDPM
    else:
        raise ValueError(
            f"{name} is not supported: a search needs children that differ, a posterior mean, and steps that remember "
            "no earlier ones. For a model trained with a DDPM's noise schedule, set "
            "pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False); "
            "EulerAncestralDiscreteScheduler, DDPMScheduler, LCMScheduler, TCDScheduler and "
            "DPMSolverMultistepScheduler with algorithm_type='sde-dpmsolver++', solver_order=1 work too, and "
            "dsearch.adapters.AnyPipeline steps any, on its tables of noise"
        )
    _refuse_settings(config)
    made = make(scheduler, num_steps, device, eta, **spacing)
    _refuse_infinite_start(made)
    return made


def no_flow(name: str, noise: str) -> str:
    """What to tell those who want a flow's noise of a scheduler that is none."""
    return (
        f"noise={noise!r} is a flow's, and {name} steps none; leave it at 'posterior', or make the pipeline a flow: "
        "dsearch.adapters.as_flow(pipe)"
    )


def warn_of_clipping(scheduler: Any, stacklevel: int = 4) -> None:
    """For latents, which no bound holds; pixels are meant to be clipped."""
    config, reads = scheduler.config, type(scheduler).__name__ != "TCDScheduler"  # which has the settings, unread
    if reads and (config.get("clip_sample") or config.get("thresholding")):
        warnings.warn(
            "this scheduler clips its samples (clip_sample or thresholding), which is meant for pixels and "
            "distorts latents; build it with clip_sample=False, thresholding=False",
            stacklevel=stacklevel,
        )


def _refuse_settings(config: Any) -> None:
    variance = str(config.get("variance_type", ""))
    if variance.startswith("learned"):
        raise ValueError(f"variance_type={variance!r} is not supported; set variance_type='fixed_small'")
    if variance == "fixed_large_log":
        raise ValueError(
            f"variance_type={variance!r} makes diffusers' own step nan, the square root of a logarithm; set "
            "variance_type='fixed_large', the same variance"
        )
    if config.get("invert_sigmas"):
        raise ValueError(
            "invert_sigmas=True runs a flow from images to noise, as models of Mochi's convention want it; set "
            "invert_sigmas=False for one that predicts noise - image"
        )


def _refuse_untrained(scheduler: Any, num_steps: int) -> None:
    """Tables by timestep end at the last one trained; Euler's, which interpolate, do not index them."""
    trained = scheduler.config.get("num_train_timesteps")  # none where time is continuous
    if trained is None:
        return
    if scheduler.timesteps.dtype == torch.int64 and int(scheduler.timesteps.max()) >= trained:
        raise ValueError(
            f"num_inference_steps={num_steps} with steps_offset={scheduler.config.get('steps_offset', 0)} begins at "
            f"timestep {int(scheduler.timesteps.max())}, but the last of {trained} trained ones is {trained - 1}; set "
            "steps_offset=0, or take fewer steps"
        )


def _refuse_infinite_start(made: Kernel) -> None:
    config, alphas = made.scheduler.config, getattr(made.scheduler, "alphas_cumprod", None)
    if alphas is None or config.get("prediction_type") != "epsilon" or made.timesteps.is_floating_point():
        return
    if alphas[int(made.timesteps[0])] == 0:
        raise ValueError(
            "this scheduler has zero signal at the first step, where a model that predicts epsilon says nothing of "
            "x_0; set rescale_betas_zero_snr=False, or use a v-prediction model"
        )
