"""Models that predict noise, as flows: the change of variables is exact."""

import diffusers
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_backbones import assert_same, state

import dsearch
from dsearch.adapters import AnyPipeline, StableDiffusion, as_flow
from dsearch.adapters.velocity import Velocity

ALPHAS = diffusers.DDIMScheduler(**tiny.SD_DDIM).alphas_cumprod
MEAN, VAR = 0.7, 0.3


class Exact(torch.nn.Module):
    """What a perfect network says of data N(MEAN, VAR) at the trained times, whole numbers."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.asked = kind, []

    def forward(self, z, time, return_dict=False):
        self.asked.append(time.clone())
        a2 = ALPHAS[time.round().long()].double().view(-1, 1, 1, 1)
        a, b = a2.sqrt(), (1 - a2).sqrt()
        mean = MEAN + a * VAR / (a2 * VAR + 1 - a2) * (z - a * MEAN)
        eps = (z - a * mean) / b
        return (eps if self.kind == "epsilon" else a * eps - b * mean,)


@given(time=st.integers(0, 999), kind=st.sampled_from(["epsilon", "v_prediction"]), x=st.floats(-3, 3))
def test_at_trained_times_the_velocity_is_the_flows_own(time, kind, x):
    """E[eps - x_0 | x_s] of the flow's path, of which the network has never heard."""
    ratio = float(((1 - ALPHAS[time]) / ALPHAS[time]).sqrt())
    s, network = ratio / (1 + ratio), Exact(kind)
    sample = torch.full((2, 1, 1, 1), x)
    said = Velocity(network, ALPHAS, kind)(sample, torch.tensor(1000 * s, dtype=torch.float64), return_dict=False)[0]
    mean = MEAN + (1 - s) * VAR / ((1 - s) ** 2 * VAR + s**2) * (x - (1 - s) * MEAN)
    assert said.flatten().tolist() == pytest.approx([(x - mean) / s] * 2, rel=1e-3, abs=1e-3)
    assert network.asked[0].tolist() == pytest.approx([time] * 2, abs=0.02)


def test_times_between_the_trained_ones_keep_their_order_and_those_beyond_take_the_last():
    network = Exact("epsilon")
    for s in (1.0, 0.99, 0.9, 0.5, 0.1, 0.03, 0.001):
        Velocity(network, ALPHAS)(torch.zeros(1, 1, 1, 1), 1000 * s, return_dict=False)
    asked = [float(time) for time in network.asked]
    assert asked == sorted(asked, reverse=True)
    assert (asked[0], asked[-1]) == (999, 0)
    assert any(time != round(time) for time in asked)


@pytest.mark.parametrize(("make", "adapter"), [(tiny.pipeline, StableDiffusion), (tiny.xl, AnyPipeline)])
@pytest.mark.parametrize("noise", ["posterior", "cps", "flow-sde", "dance", "full"])
def test_the_copy_is_searched_like_any_pipeline_and_the_pipeline_is_left_as_it_was(make, adapter, noise):
    pipe = make()
    before = state(pipe)
    flow = as_flow(pipe, shift=3.0)
    found = {}
    for of in (adapter, AnyPipeline):
        denoiser = of(flow, num_inference_steps=4, noise=noise)
        found[of] = dsearch.search(denoiser, dsearch.methods.svdd(tiny.contrast, 3), ["cat", "dog"], seed=1)
    torch.testing.assert_close(found[adapter].latents, found[AnyPipeline].latents, rtol=1e-4, atol=1e-4)
    plain = dsearch.search(denoiser, dsearch.methods.plain(tiny.contrast, 1), ["cat", "dog"], seed=1)
    assert (found[adapter].rewards > plain.rewards).all()
    assert_same(before, state(pipe))
    assert type(pipe.unet).__name__ == "UNet2DConditionModel"


def test_without_noise_the_search_is_the_pipelines_own_call():
    flow = as_flow(tiny.pipeline())
    shape = (1, *AnyPipeline(flow, eta=0, num_inference_steps=4)._state.shape[1:])
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    own = flow("cat", num_inference_steps=4, latents=latents, output_type="latent", guidance_scale=5.0).images
    denoiser, x = StableDiffusion(flow, eta=0, num_inference_steps=4, guidance_scale=5.0), latents
    with torch.no_grad():
        cond = denoiser.encode(["cat"])
        for step in range(4):
            pred = denoiser.predict(x, step, cond, torch.zeros(1, dtype=torch.long))
            x = denoiser.deterministic(x, pred, step)
    torch.testing.assert_close(x, own, rtol=1e-4, atol=1e-4)


def test_a_model_trained_without_signal_at_its_last_time_says_the_velocity_there():
    """At s = 1 a network of v = a eps - b x_0 says -E[x_0], so the velocity is x + that."""
    alphas = diffusers.DDIMScheduler(**tiny.SD_DDIM, rescale_betas_zero_snr=True).alphas_cumprod

    def network(z, time, return_dict):
        assert float(time) == pytest.approx(999)
        return (torch.full_like(z, -0.4),)

    of = Velocity(torch.nn.Identity(), alphas, "v_prediction")
    of.unet.forward = network
    assert float(of(torch.full((1, 1, 1, 1), 1.5), 1000.0, return_dict=False)[0]) == pytest.approx(1.1, abs=1e-4)


def test_what_is_no_model_of_noise_is_refused():
    with pytest.raises(TypeError, match="no UNet"):
        as_flow(tiny.sd3())
    with pytest.raises(TypeError, match="no UNet"):
        as_flow(as_flow(tiny.pipeline()))
    pipe = tiny.pipeline()
    pipe.scheduler = diffusers.DDIMScheduler(**tiny.SD_DDIM, prediction_type="sample")
    with pytest.raises(ValueError, match="prediction_type='sample'"):
        as_flow(pipe)
    pipe.scheduler = diffusers.DDIMScheduler(**tiny.SD_DDIM, rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="rescale_betas_zero_snr=False"):
        as_flow(pipe)


@pytest.mark.slow
def test_the_box_as_a_flow_draws_its_subjects():
    from diffusers import StableDiffusionPipeline

    from dsearch.box import SUBJECTS, clip_path, pipeline_path
    from dsearch.rewards import CLIPScore

    judge, subjects = CLIPScore(str(clip_path("judge"))), list(SUBJECTS)
    pipe = StableDiffusionPipeline.from_pretrained(pipeline_path(), local_files_only=True)
    flow = StableDiffusion(as_flow(pipe), num_inference_steps=20, guidance_scale=2.5)
    made = dsearch.search(flow, dsearch.methods.best_of_n(judge, 1), subjects, chunks=dsearch.Chunks(network=83))
    images, texts = judge.image_embeddings(made.images[:, 0]), judge.text_embeddings(subjects)
    named = (torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(texts).T).argmax(1)
    assert (named == torch.arange(len(subjects))).float().mean() > 0.95
