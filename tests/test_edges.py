"""Values at the edge: settings, ids, sizes, rewards and devices that few pass, and the right value or error for each."""

import warnings

import diffusers
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dsearch.adapters import StableDiffusion
from dsearch.adapters._kernel import kernel

# Schedulers

FAMILIES = {
    "DDIM": (diffusers.DDIMScheduler, {}),
    "DDPM": (diffusers.DDPMScheduler, {}),
    "LCM": (diffusers.LCMScheduler, {}),
    "TCD": (diffusers.TCDScheduler, {}),
    "Euler ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "DPM++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}),
}
SETTINGS = st.fixed_dictionaries(
    {"prediction_type": st.sampled_from(["epsilon", "v_prediction"])},
    optional={
        "thresholding": st.booleans(),
        "dynamic_thresholding_ratio": st.sampled_from([0.5, 0.9, 0.995]),
        "sample_max_value": st.sampled_from([1.0, 2.0, 10.0]),
        "clip_sample": st.booleans(),
        "clip_sample_range": st.sampled_from([0.5, 1.0, 3.0]),
        "timestep_spacing": st.sampled_from(["leading", "trailing", "linspace"]),
        "variance_type": st.sampled_from(["fixed_small", "fixed_small_log", "fixed_large"]),
        "use_karras_sigmas": st.booleans(),
    },
)


def made(family, **options):
    """The family's scheduler with those of the settings that it has."""
    kind, base = FAMILIES[family]
    own = kind().config
    return kind(**base, **{name: value for name, value in options.items() if name in own})


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=30)
@given(options=SETTINGS, step=st.integers(0, 4), seed=st.integers(0, 99))
def test_with_any_setting_a_beam_has_the_result_that_it_has_alone(family, options, step, seed):
    of = kernel(made(family, **options), 5, "cpu", 1.0)
    generator = torch.Generator().manual_seed(seed)
    x, out = (torch.randn(2, 3, 1, 4, 4, 4, generator=generator) for _ in range(2))
    x = x * torch.tensor([1.0, 4.0, 30.0])[:, None, None, None, None]  # beams that a common quantile would tell of
    noise = torch.randn(2, 3, 2, 4, 4, 4, generator=generator)
    together = of.step(out, step, x, noise).expand_as(noise)
    for b, k, w in ((b, k, w) for b in range(2) for k in range(3) for w in range(2)):
        alone = of.step(out[b, k], step, x[b, k], noise[b, k, w][None])[0]
        torch.testing.assert_close(together[b, k, w], alone)
    if family == "DDIM":
        still = of.deterministic(out, step, x)
        for b, k in ((b, k) for b in range(2) for k in range(3)):
            torch.testing.assert_close(still[b, k], of.deterministic(out[b, k], step, x[b, k]))


@pytest.mark.parametrize("family", ["DDIM", "DDPM", "LCM", "DPM++"])
def test_dynamic_thresholding_of_children_is_the_schedulers_own_of_rows(family):
    own = kernel(made(family, thresholding=True, sample_max_value=10.0), 5, "cpu", 1.0)
    x, out = torch.randn(6, 4, 4, 4) * torch.tensor([1, 2, 4, 8, 16, 32.0])[:, None, None, None], torch.randn(6, 4, 4, 4)
    beams = own.step(out[None, :, None], 2, x[None, :, None], torch.zeros(1, 6, 1, 4, 4, 4))
    assert torch.equal(beams[0, :, 0], own.step(out, 2, x, torch.zeros_like(x)))


@pytest.mark.parametrize("clips", [{"clip_sample": True}, {"thresholding": True}])
def test_the_posterior_mean_of_a_tcd_is_clipped_no_more_than_its_step_is(clips):
    x, out = 20 * torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    plain, clipped = (kernel(made("TCD", **each), 5, "cpu", 1.0) for each in ({}, clips))
    for step in range(5):
        assert torch.equal(clipped.x0(out, step, x), plain.x0(out, step, x))
        assert clipped.x0(out, step, x).abs().max() > 3
        noise = torch.randn_like(x)
        assert torch.equal(clipped.step(out, step, x, noise), plain.step(out, step, x, noise))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it does not clip, and so is not warned of
        StableDiffusion(tiny.pipeline(made("TCD", **clips)), num_inference_steps=5)


@pytest.mark.parametrize(
    ("family", "setting", "steps", "works"),
    [
        ("DDIM", {"steps_offset": 1}, 1000, {"steps_offset": 0}),
        ("DDPM", {"steps_offset": 1}, 1000, {"steps_offset": 0}),
        ("DDPM", {"variance_type": "fixed_large_log"}, 5, {"variance_type": "fixed_large"}),
        ("DDPM", {"variance_type": "learned_range"}, 5, {"variance_type": "fixed_small"}),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_one_that_does(family, setting, steps, works):
    ((name, value),), ((_, remedy),) = setting.items(), works.items()
    with pytest.raises(ValueError, match=rf"{name}={value!r}.*set {name}={remedy!r}"):
        kernel(made(family, timestep_spacing="leading", **setting), steps, "cpu", 1.0)
    of = kernel(made(family, timestep_spacing="leading", **works), steps, "cpu", 1.0)
    x = torch.ones(1, 4, 4, 4)
    assert all(of.step(x, i, x, x).isfinite().all() for i in (0, steps - 1))


def test_a_flow_that_runs_backwards_is_refused():
    with pytest.raises(ValueError, match="invert_sigmas=True.*set invert_sigmas=False"):
        kernel(diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), 5, "cpu", 1.0, flow=True)
