"""The noise of a flow's steps: how much of what a sample has is kept, and how much is drawn anew.

All kinds step x = (1 - s) x_0 + s eps from level s to s' < s by

    x' = (1 - s') x_hat + keep eps_hat + draw noise,   x_hat = x - s v,   eps_hat = x + (1 - s) v,

and differ in `keep` and `draw` alone; s' and 0 are the flow's own ODE. At the clean end, s' = 0, all give x_hat.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from ..core.plan import one_of

__all__ = ["Kind", "Noise", "noise_of"]

Kind = Literal["posterior", "cps", "flow-sde", "dance", "full"]
"""What of a flow's noise is drawn anew:

- `posterior`: as much as q(x' | x, x_0) has, `draw` = eta (s'/s) sqrt(s^2 - ((1-s)/(1-s'))^2 s'^2) and `keep` the rest
  of s', keep^2 + draw^2 = s'^2 (DDIM, Song et al. 2021, equations 12 and 16, in the flow's notation);
- `cps`: `draw` = s' sin(eta pi/2), `keep` = s' cos(eta pi/2) (Flow-CPS, Wang and Yu 2025, arXiv 2509.05952);
- `flow-sde`: an Euler-Maruyama step of the SDE with g^2 = eta^2 s/(1-s) (Flow-GRPO, Liu et al. 2025, arXiv
  2505.05470); its code takes 1 - s from the next level at s = 1, as here where a descent begins at 0.999 or more;
- `dance`: the same with g = eta (DanceGRPO, Xue et al. 2025, arXiv 2505.07818);
- `full`: all of it, `draw` = s' (`stochastic_sampling` of diffusers' FlowMatchEulerDiscreteScheduler); cps at eta 1.

Of an SDE keep = s' - g^2 (s-s') / 2s and draw = g sqrt(s-s'), which leaves more noise than s' by an amount of second
order in the step. `cps` and `full` draw noise of order 1 in every step, however short: they never reach the model's
law.
"""

_USUAL: dict[str, float] = {"posterior": 1.0, "cps": 0.7, "flow-sde": 0.7, "dance": 0.3, "full": 1.0}
_SDES = ("flow-sde", "dance")


class Noise(NamedTuple):
    """A kind of noise and its strength; made by `noise_of`."""

    kind: Kind = "posterior"
    eta: float = 1.0

    def split(self, s: float, to: float, second: float) -> tuple[float, float]:
        """`keep` and `draw` of the step from `s` to `to`; `second` is the level after the descent's first."""
        if to == 0:
            return 0.0, 0.0
        if self.kind in _SDES:
            g2 = self.eta**2 * (s / (1 - (min(s, second) if s >= 0.999 else s)) if self.kind == "flow-sde" else 1.0)
            return to - g2 * (s - to) / (2 * s), math.sqrt(g2 * (s - to))
        if self.kind == "full":
            return 0.0, to
        if self.kind == "cps":
            return to * math.cos(self.eta * math.pi / 2), to * math.sin(self.eta * math.pi / 2)
        fresh = max(0.0, s**2 - ((1 - s) / (1 - to)) ** 2 * to**2)
        draw = self.eta * to / s * fresh**0.5
        return max(0.0, to**2 - draw**2) ** 0.5, draw


def noise_of(kind: str, eta: float | None = None) -> Noise:
    """The noise of that name, of the strength that its source takes where `eta` is None.

    Raises:
        ValueError: for a name that is none of them, or a strength that it cannot have.
    """
    one_of("noise", kind, Kind)
    eta = _USUAL[kind] if eta is None else float(eta)
    if kind in _SDES:
        if not (0 <= eta < math.inf):
            raise ValueError(f"eta={eta} of noise={kind!r} must be at least 0 and finite; {_USUAL[kind]} is usual")
    elif not 0 <= eta <= 1:
        raise ValueError(f"eta={eta} is outside [0, 1]; above 1 the kernel has no real mean")
    if kind == "full" and eta != 1:
        raise ValueError(f"eta={eta}: noise='full' draws all noise anew and knows no eta; leave it at 1, or take 'cps'")
    return Noise(kind, eta)  # type: ignore[arg-type]  # one_of has seen it
