"""The marginals x_t = a x_0 + s n of a scheduler, and the forward kernel between two of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["FLOWS", "beyond", "marginals", "noised"]

FLOWS = ("flow", "inverted")
"""What networks of flows predict: the velocity towards the noise, or towards the image."""

_SIGMAS = ("Euler", "Heun", "LMS", "KDPM2", "EDM", "CosineDPM")


def noised(x: Tensor, noise: Tensor, here: tuple[float, float], there: tuple[float, float]) -> Tensor:
    """x_j = (a_j / a_i) x_i + sqrt(s_j^2 - (a_j / a_i)^2 s_i^2) z, of marginals `here` (a_i, s_i) and `there`."""
    (a, s), (a_to, s_to) = here, there
    keep = a_to / a
    return keep * x + math.sqrt(max(0.0, s_to**2 - (keep * s) ** 2)) * noise


def marginals(scheduler: Any, times: Tensor) -> tuple[str, list[float], list[float]]:
    """What the network predicts, and (a, s) of each level and the clean end.

    Raises:
        ValueError: for a scheduler that has no such tables, or another prediction.
    """
    name, config = type(scheduler).__name__, scheduler.config
    kind = config.get("prediction_type") or "epsilon"
    sigmas = getattr(scheduler, "sigmas", None)
    n = len(times)
    if sigmas is not None:
        s = torch.as_tensor(sigmas, device="cpu").double().flatten().tolist()
        s = s[: n + 1] if len(s) > n else [*s, 0.0]
    if "FlowMatch" in name or config.get("use_flow_sigmas") or kind == "flow_prediction":
        if config.get("invert_sigmas"):  # they are the share of the image, and the velocity leads towards it (Mochi)
            kind, a, s = "inverted", s, [1 - each for each in s]
        elif beyond(scheduler):  # its velocity is the noise n of x_0 + s n
            kind, a = "epsilon", [1.0] * (n + 1)
        else:
            kind, a = "flow", [1 - each for each in s]
    elif name.startswith(("EDM", "CosineDPM")):
        kind, a = "edm", [1.0] * (n + 1)
    elif name.startswith(_SIGMAS):
        a = [1.0] * (n + 1)
    elif name.startswith("IPNDM"):  # its alphas and betas are a and s themselves, and the network says v
        kind, a = "v_prediction", scheduler.alphas.double().tolist()[-n - 1 :]
        s = scheduler.betas.double().tolist()[-n - 1 :]
    elif "Wuerstchen" in name:
        left = [float(scheduler._alpha_cumprod(t.float()[None], times.device)) for t in times]
        kind, a = "epsilon", [*(min(each, 1.0) ** 0.5 for each in left), 1.0]
        s = [(1 - each * each) ** 0.5 for each in a]
    elif hasattr(scheduler, "alphas_cumprod"):
        if sigmas is not None and len(sigmas) == n + 1:  # of the variance-preserving x / sqrt(1 + s^2)
            a = [(1 + each * each) ** -0.5 for each in s]
            s = [each * by for each, by in zip(s, a, strict=True)]
        else:
            left = [float(scheduler.alphas_cumprod[int(t)]) for t in times]
            a = [*(each**0.5 for each in left), 1.0]
            s = [*((1 - each) ** 0.5 for each in left), 0.0]
    else:
        raise ValueError(
            f"{name} has no tables of its noise; give the pipeline a DDIM, Euler or flow matching scheduler"
        )
    if kind not in (*FLOWS, "edm", "epsilon", "sample", "v_prediction"):
        raise ValueError(f"prediction_type={kind!r} of {name} is not supported")
    return kind, a, s


def beyond(scheduler: Any) -> bool:
    """Whether the sigmas of a flow's scheduler are those of x_0 + s n, and no flow's, which end at 1 (Cosmos)."""
    return bool(torch.as_tensor(scheduler.sigmas, device="cpu").max() > 1 + 1e-3)
