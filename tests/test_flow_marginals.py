"""How far the sampler of flow models is from the model's own law, in the closed form of Gaussian data."""

import math

import diffusers
import pytest
import torch

from dsearch.adapters._kernel import kernel


def variance(eta, steps, target=0.25, shift=3.0):
    """Of what the kernel ends with, where the data are N(0, target) and the network is exact: a linear recursion."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    of = kernel(scheduler, steps, "cpu", eta, flow=True)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double().tolist()

    def stepped(x, i, noise):
        s = sigmas[i]
        mean = (1 - s) * target / ((1 - s) ** 2 * target + s**2) * x  # E[x_0 | x]
        return of.step((x - mean) / s, i, x, noise)

    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    total = 1.0
    for i in range(steps):
        gain, spread = float(stepped(one, i, none)), float(stepped(none, i, one))
        total = gain**2 * total + spread**2
    return total


@pytest.mark.parametrize(("eta", "short"), [(1.0, 0.065), (0.0, 0.034)])
def test_marginals_are_kept_to_first_order_in_the_step(eta, short):
    apart = {steps: 0.25 - variance(eta, steps) for steps in (40, 80, 160, 640)}
    assert apart[40] == pytest.approx(short, abs=6e-4)
    for steps in (40, 80):  # half the step, half the error, more and more nearly
        assert 1.5 < apart[steps] / apart[2 * steps] < 2.2
    assert abs(apart[640]) < 0.12 * abs(apart[40])
    assert not math.isclose(apart[40], 0, abs_tol=1e-3)
