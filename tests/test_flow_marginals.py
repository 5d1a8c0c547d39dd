"""The noise of flow models: each kind against its source, and how far its samples are from the model's own law."""

import math
from itertools import pairwise

import diffusers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dsearch.adapters import FlowMixture, Quadratic
from dsearch.adapters._kernel import kernel
from dsearch.adapters._noise import noise_of
from dsearch.adapters._tables import Levels, kernel_of

KINDS = {"posterior": 1.0, "cps": 0.7, "flow-sde": 0.7, "dance": 0.3, "full": 1.0}
"""And the strength of their sources."""


def levels_of(steps, shift=3.0):
    return [shift * (1 - i / steps) / (1 + (shift - 1) * (1 - i / steps)) for i in range(steps + 1)]


def law(noise, eta, steps, target=0.25, mean=0.0):
    """Mean and variance of what the kernel ends with, where data are N(mean, target) and the network is exact."""
    even = [1 - i / steps for i in range(steps)]
    of = kernel(
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), steps, "cpu", eta, flow=True, noise=noise, sigmas=even
    )

    def stepped(x, i, noise):
        s = of._sigmas[i]
        mean_0 = mean + (1 - s) * target / ((1 - s) ** 2 * target + s**2) * (x - (1 - s) * mean)  # E[x_0 | x]
        return of.step((x - mean_0) / s, i, x, noise)

    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    at, total = 0.0, 1.0
    for i in range(steps):
        shifted = float(stepped(none, i, none))
        gain, spread = float(stepped(one, i, none)) - shifted, float(stepped(none, i, one)) - shifted
        at, total = shifted + gain * at, gain**2 * total + spread**2
    return at, total


def short(noise, eta, steps, target=0.25):
    """How much of the data's variance is missing, of 1: the same, by the two numbers of a step alone."""
    levels, total = levels_of(steps), 1.0
    for s, to in pairwise(levels):
        keep, draw = noise_of(noise, eta).split(s, to, levels[1])
        gain = ((1 - to) * (1 - s) * target + keep * s) / ((1 - s) ** 2 * target + s**2)
        total = gain**2 * total + draw**2
    return 1 - total / target


@pytest.mark.parametrize("noise", KINDS)
def test_the_kernel_ends_with_the_variance_of_the_closed_form(noise):
    for steps in (3, 20):
        assert law(noise, None, steps)[1] == pytest.approx(0.25 * (1 - short(noise, None, steps)), rel=1e-4)


@pytest.mark.parametrize("steps", [3, 10, 40])
@pytest.mark.parametrize("noise", KINDS)
def test_every_kind_keeps_the_mean_at_any_number_of_steps(noise, steps):
    assert law(noise, None, steps, mean=0.7)[0] == pytest.approx(0.7, abs=1e-6)


TABLE = {
    ("posterior", 0.0): (0.306, 0.087, 0.006),  # the ODE
    ("posterior", 0.5): (0.334, 0.105, 0.007),
    ("posterior", 1.0): (0.453, 0.175, 0.014),
    ("flow-sde", 0.7): (0.197, 0.046, -0.001),
    ("dance", 0.3): (0.298, 0.084, 0.005),
    ("cps", 0.7): (0.484, 0.35, 0.284),
    ("full", 1.0): (0.638, 0.557, 0.509),
}


@pytest.mark.parametrize(("noise", "eta"), TABLE)
def test_the_variance_that_samples_of_a_normal_miss(noise, eta):
    """The table of docs/models.md."""
    assert [round(short(noise, eta, steps, 1.0), 3) for steps in (10, 40, 640)] == list(TABLE[noise, eta])


@pytest.mark.parametrize("target", [0.25, 1.0, 4.0])
@pytest.mark.parametrize(("noise", "eta"), [("posterior", 1.0), ("posterior", 0.5), ("posterior", 0.0), ("dance", 0.3)])
def test_marginals_are_kept_to_first_order_in_the_step(noise, eta, target):
    apart = {steps: short(noise, eta, steps, target) for steps in (40, 160, 320, 640, 1280)}
    for steps in (160, 320, 640):  # half the step, half the error, more and more nearly
        assert 1.8 < apart[steps] / apart[2 * steps] < 2.05
    assert 0 < apart[1280] < 0.013 < apart[40]


def test_the_flow_sde_ends_within_half_a_percent_and_its_first_step_is_forgotten_slowly():
    """At s = 1 its noise is of order 1 however short the step, and what is too much of it falls as step^(eta^2)."""
    for target in (0.25, 1.0, 4.0):
        assert abs(short("flow-sde", 0.7, 640, target)) < 0.005
    excess = {steps: -short("flow-sde", 0.7, steps, 4.0) for steps in (1280, 2560, 5120, 10240, 20480)}
    ratios = [excess[steps] / excess[2 * steps] for steps in (1280, 2560, 5120, 10240)]
    assert ratios == sorted(ratios)
    assert 1.33 < ratios[-1] < 2**0.7**2


@pytest.mark.parametrize("target", [0.25, 1.0])
@pytest.mark.parametrize(("noise", "eta"), [("cps", 0.3), ("cps", 0.7), ("full", 1.0)])
def test_noise_of_order_1_in_every_step_never_reaches_the_law(noise, eta, target):
    """The samples' variance tends to cos^2(eta pi / 4) of the data's: at cps .7 to 73%, with all noise anew to half."""
    limit = math.cos(eta * math.pi / 4) ** 2
    apart = [1 - short(noise, eta, steps, target) - limit for steps in (320, 1280, 5120)]
    assert abs(apart[2]) < 0.03
    assert abs(apart[0]) > abs(apart[1]) > abs(apart[2])


levels = st.tuples(st.floats(0.02, 0.998), st.floats(0.01, 0.99)).map(lambda two: (two[0], two[0] * two[1]))


@given(kind=st.sampled_from(list(KINDS)), eta=st.floats(0.0, 1.0), at=levels)
def test_the_noise_level_is_kept_or_exceeded_by_second_order(kind, eta, at):
    eta, (s, to) = 1.0 if kind == "full" else eta, at
    keep, draw = noise_of(kind, eta).split(s, to, 0.99)
    g2 = {"flow-sde": eta**2 * s / (1 - s), "dance": eta**2}.get(kind, 0.0)
    more = g2 * (s - to) ** 2 / s + g2**2 * (s - to) ** 2 / (4 * s**2)
    assert keep**2 + draw**2 == pytest.approx(to**2 + more, rel=1e-9, abs=1e-12)
    assert noise_of(kind, eta).split(s, 0.0, 0.99) == (0.0, 0.0)
    if kind != "full":
        assert noise_of(kind, 0.0).split(s, to, 0.99) == (to, 0.0)


def as_published(kind, eta, x, v, noise, s, to, after):
    """The steps as their sources write them."""
    dt = to - s
    if kind == "flow-sde":  # Flow-GRPO
        std = eta * math.sqrt(s / (1 - (after if s == 1 else s)))
        mean = x * (1 + std**2 / (2 * s) * dt) + v * (1 + std**2 * (1 - s) / (2 * s)) * dt
        return mean + std * math.sqrt(-dt) * noise
    if kind == "dance":  # DanceGRPO
        score = -(x - (x - s * v) * (1 - s)) / s**2
        return x + dt * v - 0.5 * eta**2 * score * dt + eta * math.sqrt(-dt) * noise
    std = to * math.sin(eta * math.pi / 2)  # Flow-CPS
    return (x - s * v) * (1 - to) + (x + v * (1 - s)) * math.sqrt(to**2 - std**2) + std * noise


@pytest.mark.parametrize("eta", [0.2, 0.7, 1.0])
@pytest.mark.parametrize("kind", ["cps", "flow-sde", "dance"])
def test_steps_are_those_of_their_sources(kind, eta):
    of = kernel(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 9, "cpu", eta, flow=True, noise=kind)
    x, v, noise = torch.randn(3, 5, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for i in range(8):
        s, to = of._sigmas[i : i + 2]
        torch.testing.assert_close(
            of.step(v, i, x, noise), as_published(kind, eta, x, v, noise, s, to, of._sigmas[1]), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize(("noise", "eta"), [("full", None), ("cps", 1.0)])
def test_all_noise_anew_is_the_schedulers_stochastic_sampling(noise, eta):
    own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True)
    of = kernel(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 6, "cpu", eta, flow=True, noise=noise)
    x, v, drawn = torch.randn(3, 5, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    for i in range(6):
        theirs = kernel(own, 6, "cpu", flow=True, noise="full").step(v, i, x, drawn)
        torch.testing.assert_close(of.step(v, i, x, drawn), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("noise", KINDS)
def test_other_schedulers_of_flows_draw_the_same_noise(noise):
    other = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    other.set_timesteps(6)
    of = kernel_of(Levels(other, list(enumerate(other.timesteps))), noise_of(noise), "cpu")
    x, v, drawn = torch.randn(3, 5, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    for i in range(6):
        s, to = of._s[i : i + 2]
        keep, draw = noise_of(noise).split(s, to, of._s[1])
        expected = (1 - to) * (x - s * v) + keep * (x + (1 - s) * v) + draw * drawn
        torch.testing.assert_close(of.step(v, i, x, drawn), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("noise", "eta", "says"),
    [
        ("cpt", None, "choose one of posterior, cps, flow-sde, dance, full"),
        ("cps", 1.2, "outside"),
        ("posterior", -0.1, "outside"),
        ("dance", -0.1, "at least 0"),
        ("flow-sde", math.inf, "finite"),
        ("full", 0.5, "knows no eta"),
    ],
)
def test_noise_that_cannot_be_is_refused(noise, eta, says):
    with pytest.raises(ValueError, match=says):
        kernel(diffusers.FlowMatchEulerDiscreteScheduler(), 4, "cpu", eta, flow=True, noise=noise)


def test_a_flows_noise_is_refused_where_there_is_no_flow():
    with pytest.raises(ValueError, match="as_flow"):
        kernel(diffusers.DDIMScheduler(), 4, "cpu", noise="cps")
    euler = diffusers.EulerDiscreteScheduler()
    euler.set_timesteps(4)
    with pytest.raises(ValueError, match="as_flow"):
        kernel_of(Levels(euler, list(enumerate(euler.timesteps))), noise_of("dance"), "cpu")
    with pytest.raises(ValueError, match="stochastic_sampling=False"):
        kernel(diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), 4, "cpu", flow=True, noise="cps")


@pytest.mark.parametrize("noise", KINDS)
def test_the_toy_flow_steps_as_flow_models_do(noise):
    toy = FlowMixture([[0.7, -0.2]], std=0.5, num_steps=7, noise=noise, flow_shift=3.0)
    even = [1 - i / 7 for i in range(7)]
    of = kernel(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), 7, "cpu", flow=True, noise=noise, sigmas=even)
    assert of._sigmas == pytest.approx(toy.sigmas)
    x, drawn = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    cond = toy.encode([""])
    for i, s in enumerate(toy.sigmas[:-1]):
        pred = toy.predict(x, i, cond, torch.zeros(5, dtype=torch.long))
        alone = toy.step(x[None, :, None], pred._replace(x0=pred.x0[None, :, None]), i, drawn[None, :, None])
        assert torch.allclose(alone[0, :, 0], of.step((x - pred.x0) / s, i, x, drawn), atol=1e-5)


def test_the_toy_flows_closed_forms_are_those_of_its_levels():
    """E[x_0 | x_s] by quadrature over the data, and the tilted law a flow with the same noise."""
    toy = FlowMixture([[-1.0], [1.5]], std=[0.3, 0.6], weights=[1, 2], num_steps=5, noise="dance")
    x = torch.tensor([[0.4], [-0.8]])
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    reward = Quadratic([1.0], curvature=0.3)
    for level in (1, 3):
        s = toy.sigmas[level]
        p = toy.log_prob(grid[:, None]).exp() * torch.exp(-((x.double() - (1 - s) * grid) ** 2) / (2 * s**2))
        p = p / p.sum(-1, keepdim=True)
        pred = toy.predict(x, level, toy.encode([""]), torch.zeros(2, dtype=torch.long))
        torch.testing.assert_close(pred.x0[:, 0].double(), p @ grid, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(toy.value(x, level, reward), p @ reward(grid[:, None], []), rtol=1e-5, atol=1e-5)
    tilted = toy.tilted(reward, 2.0)
    assert isinstance(tilted, FlowMixture)
    assert tilted._noise == noise_of("dance")
