"""A model trained to predict noise, as a flow: the same network in other coordinates."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .._optional import optional

__all__ = ["as_flow"]

_TRAINED = ("epsilon", "v_prediction")


class Velocity(nn.Module):
    """The velocity v = eps - x_0 at x_s = (1 - s) x_0 + s eps, said by a network of z = a x_0 + b eps, a^2 + b^2 = 1.

    A flow's path is that of any Gaussian diffusion but for a factor and a clock: z = x_s / sqrt((1 - s)^2 + s^2) at the
    time where b / a = s / (1 - s), between two trained times by the logarithm of b / a. Nothing is approximated there.
    Beyond the trained times (at s = 1 the data are gone, which a network trained on Stable Diffusion's schedule has
    never seen) the nearest one stands in, as it does where such a model is sampled from pure noise.

    Attributes without an underscore are the network's: its `config`, `dtype` and so on.

    Args:
        unet: the network, `(z, time, ...)` -> eps, or a eps - b x_0.
        alphas: `[N]` a^2 by trained time.
        prediction_type: `epsilon` or `v_prediction`.
        num_train_timesteps: of the flow: its times are 1000 s, say.
    """

    def __init__(
        self, unet: nn.Module, alphas: Tensor, prediction_type: str = "epsilon", num_train_timesteps: int = 1000
    ) -> None:
        super().__init__()
        self.unet, self._kind, self._scale = unet, prediction_type, num_train_timesteps
        self.training = unet.training
        kept = alphas.double().clamp(min=1e-12)  # some schedules end at 0
        self._log_ratio: Tensor = torch.logit(1 - kept).float() / 2

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):
                raise
            return getattr(super().__getattr__("unet"), name)

    def forward(self, sample: Tensor, timestep: Any, *args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
        """`[R, C, h, w]` at times 1000 s, one or `[R]` -> velocities, as the network returns what it predicts."""
        s, time, a, b = self._place(timestep, sample.device)
        z = sample.float() / ((1 - s) ** 2 + s**2).sqrt()
        said = self.unet(z.to(sample.dtype), time.expand(len(sample)), *args, return_dict=return_dict, **kwargs)
        out = said[0].float()
        mean = a * z - b * out if self._kind == "v_prediction" else (z - b * out) / a
        v = ((sample.float() - mean) / s).to(sample.dtype)
        return type(said)(sample=v) if return_dict else (v,)

    def _place(self, timestep: Any, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """s, the trained time, a and b, each `[1 or R, 1, 1, 1]` but the time, `[1 or R]`."""
        s = torch.as_tensor(timestep, device=device).float().reshape(-1) / self._scale
        table = self._log_ratio.to(device)
        wanted = torch.logit(s).clamp(table[0], table[-1])
        above = torch.searchsorted(table, wanted).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        time = above - 1 + (wanted - low) / (high - low)
        s, wanted = s.view(-1, 1, 1, 1), wanted.view(-1, 1, 1, 1)
        return s, time, torch.sigmoid(-2 * wanted).sqrt(), torch.sigmoid(2 * wanted).sqrt()


def _unscaled(sample: Tensor, timestep: Any = None) -> Tensor:
    return sample


def as_flow(pipe: Any, shift: float = 1.0) -> Any:
    """A copy of a pipeline whose UNet predicts noise, as a flow model: what is said of flows can be tried on it.

    It has the pipeline's own parts and weights, `Velocity` around its UNet and a `FlowMatchEulerDiscreteScheduler`, and
    is called as before. Its ODE and its noise are a flow's; nothing is trained, and its pictures are as good as the
    model's own. The pipeline is not changed.

    Args:
        pipe: for text-to-image, of Stable Diffusion v1, v2 or XL, on its device, before its offloading is turned on.
        shift: of the flow's levels, s -> shift s / (1 + (shift - 1) s): above 1 more of them are noisy.

    Raises:
        TypeError: for a pipeline without a UNet, or one that is a flow already.
        ValueError: for a scheduler that does not say what the UNet was trained on, or whose last time has no signal.
    """
    with optional():
        from diffusers import FlowMatchEulerDiscreteScheduler

    unet = getattr(pipe, "unet", None)
    if unet is None or isinstance(unet, Velocity):
        raise TypeError(
            f"{type(pipe).__name__} has no UNet that predicts noise; give as_flow a text-to-image pipeline with one"
        )
    scheduler: Any = pipe.scheduler
    alphas, kind = getattr(scheduler, "alphas_cumprod", None), scheduler.config.get("prediction_type")
    if alphas is None or kind not in _TRAINED:
        raise ValueError(
            f"{type(scheduler).__name__} with prediction_type={kind!r} does not say what the UNet was trained on; give "
            f"as_flow one with alphas_cumprod and a prediction_type of {' or '.join(_TRAINED)}"
        )
    if kind == "epsilon" and not alphas.all():
        raise ValueError(
            "this scheduler has zero signal at the last trained time, where a network that predicts epsilon says "
            "nothing of x_0; set rescale_betas_zero_snr=False, or use a v-prediction model"
        )
    made = copy.copy(pipe)
    with torch.device("cpu"):  # and not what the user's torch.set_default_device says
        flow = FlowMatchEulerDiscreteScheduler(shift=shift)
        velocity = Velocity(unet, alphas.cpu(), kind, flow.config.num_train_timesteps)
    # What pipelines for noise-predicting UNets ask of a scheduler, and a flow's does not have.
    flow.init_noise_sigma, flow.scale_model_input = 1.0, _unscaled
    made.register_modules(unet=velocity, scheduler=flow)
    return made
