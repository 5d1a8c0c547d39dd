"""Every backbone and scheduler against diffusers' own pipelines, the oracles; the flow's SDE in closed form."""

import copy
import dataclasses
from functools import partial

import diffusers
import pytest
import tiny
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler

import dsearch
from dsearch.adapters import DDPM, AnyPipeline, StableDiffusion
from dsearch.adapters._noise import noise_of
from dsearch.core.contract import map_tree

STEPS = 4
SCHEDULERS = {
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "Euler ancestral, v": ("EulerAncestralDiscreteScheduler", {"prediction_type": "v_prediction"}),
    "DDPM": ("DDPMScheduler", {"clip_sample": False}),
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
    "SDE-DPM-Solver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}),
}
PROMPTS = ["cat", "a red dog"]


def scheduler(name):
    kind, settings = SCHEDULERS[name]
    return getattr(diffusers, kind)(**tiny.SD_BETAS, **settings)


def noises(shape, prompts=2, seed=3):
    """What a pipeline draws from this seed, one child a step."""
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(prompts, *shape, generator=generator) for _ in range(STEPS + 1)]
    return tiny.Recorded(draws[0][:, None], [each[:, None, None] for each in draws[1:]])


def searched(denoiser, prompts=PROMPTS, noise=None):
    plain = dsearch.methods.plain(tiny.contrast, 1)
    return dsearch.search(denoiser, plain, prompts, rng=noise or noises(shape(denoiser), len(prompts)))


def shape(denoiser):
    """Of a sample."""
    state = getattr(denoiser, "_state", None)
    return denoiser._shape if state is None else tuple(state.shape[1:])


def piped(pipe, prompts=PROMPTS, **call):
    generator = torch.Generator().manual_seed(3)
    return pipe(prompts, num_inference_steps=STEPS, generator=generator, output_type="pt", **call).images


def family(denoiser, step):
    """Parents at a step with their prediction, and noise for five children of each."""
    torch.manual_seed(9)
    x = torch.randn(2, *shape(denoiser))
    cond = denoiser.encode(["", ""] if isinstance(denoiser, DDPM) else PROMPTS)
    with torch.no_grad():
        pred = denoiser.predict(x, step, cond, torch.tensor([0, 1]))
    return (
        x[None, :, None],
        map_tree(lambda leaf: leaf[None, :, None], pred),
        torch.randn(1, 2, 5, *x.shape[1:]),
    )


BACKBONES = {
    **{f"SD, {name}": (lambda name=name: tiny.pipeline(scheduler(name)), StableDiffusion) for name in SCHEDULERS},
    "SDXL": (tiny.xl, AnyPipeline),
    "SDXL, Euler ancestral": (lambda: tiny.xl(scheduler("Euler ancestral")), AnyPipeline),
    "SD3": (tiny.sd3, AnyPipeline),
    "SD3, stochastic": (lambda: tiny.sd3(stochastic_sampling=True), AnyPipeline),
    "Flux": (tiny.flux, partial(AnyPipeline, height=16, width=16, max_sequence_length=16)),
    "DDPM": (lambda: DDPMPipeline(tiny.pixels(), DDPMScheduler()), DDPM),
    "DDIM in pixels": (lambda: DDIMPipeline(tiny.pixels(), diffusers.DDIMScheduler()), DDPM),
}
every_backbone = pytest.mark.parametrize(("make", "adapter"), BACKBONES.values(), ids=BACKBONES.keys())


# ---- the pipeline's own images ------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_one_child_a_step_is_the_pipeline_bit_for_bit_with_any_scheduler(name, guidance):
    pipe = tiny.pipeline(scheduler(name))
    ours = searched(StableDiffusion(pipe, num_inference_steps=STEPS, guidance_scale=guidance))
    theirs = piped(pipe, guidance_scale=guidance, eta=1.0)
    assert theirs.flatten(1).std(dim=1).min() > 0.01
    assert torch.equal(ours.images[:, 0], theirs)


@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize(
    "make", [tiny.xl, lambda: tiny.xl(scheduler("Euler ancestral")), lambda: tiny.xl(scheduler("LCM"))]
)
def test_sdxl_is_the_pipeline_bit_for_bit(make, guidance):
    pipe = make()
    ours = searched(AnyPipeline(pipe, num_inference_steps=STEPS, guidance_scale=guidance), ["cat"])
    assert torch.equal(ours.images[:, 0], piped(pipe, ["cat"], guidance_scale=guidance, eta=1.0))
    both = searched(AnyPipeline(pipe, num_inference_steps=STEPS, guidance_scale=guidance))
    theirs = piped(pipe, guidance_scale=guidance, eta=1.0)  # texts that are encoded together round differently
    torch.testing.assert_close(both.images[:, 0], theirs, atol=1e-5, rtol=0)


def test_sdxl_tells_the_model_its_size_negative_prompt_and_latent_spread():
    pipe = tiny.xl(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 1.0, 2.0])
    settings = {"height": 16, "width": 24, "negative_prompt": "owl"}
    ours = searched(AnyPipeline(pipe, num_inference_steps=STEPS, **settings))
    theirs = piped(pipe, eta=1.0, height=16, width=24, negative_prompt=["owl", "owl"])
    torch.testing.assert_close(ours.images[:, 0], theirs, atol=1e-5, rtol=0)


def test_an_sdxl_vae_that_overflows_in_float16_decodes_in_float32_and_stays_as_it_is():
    pipe = tiny.xl(force_upcast=True)
    pipe.vae.half()
    ours = searched(AnyPipeline(pipe, num_inference_steps=STEPS), ["cat"])
    assert pipe.vae.dtype == torch.float16
    assert torch.equal(ours.images[:, 0], piped(pipe, ["cat"], eta=1.0))


@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize("dynamic", [False, True])
def test_sd3_of_stochastic_sampling_is_the_pipeline_and_at_eta_0_its_ode(dynamic, guidance):
    drawing = tiny.sd3(stochastic_sampling=True, use_dynamic_shifting=dynamic)
    ours = searched(AnyPipeline(drawing, num_inference_steps=STEPS, guidance_scale=guidance), ["cat"])
    generator = torch.Generator().manual_seed(3)
    # The pipeline keeps its generator from the scheduler's step, which would draw from the global one.
    drawing.scheduler.step = partial(drawing.scheduler.step, generator=generator)
    theirs = drawing(
        ["cat"], num_inference_steps=STEPS, generator=generator, output_type="pt", guidance_scale=guidance
    ).images
    assert torch.equal(ours.images[:, 0], theirs)
    ode = tiny.sd3(use_dynamic_shifting=dynamic)
    ours = searched(AnyPipeline(ode, num_inference_steps=STEPS, guidance_scale=guidance, eta=0))
    torch.testing.assert_close(ours.images[:, 0], piped(ode, guidance_scale=guidance), atol=1e-5, rtol=0)


@pytest.mark.parametrize("guidance", [False, True])
def test_flux_at_eta_0_is_the_pipelines_ode(guidance):
    pipe = tiny.flux(guidance)
    denoiser = AnyPipeline(pipe, num_inference_steps=STEPS, eta=0, max_sequence_length=16, height=16, width=16)
    drawn = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    packed = pipe._pack_latents(drawn, 2, 4, 8, 8)
    noise = tiny.Recorded(packed[:, None], [torch.zeros(2, 1, 1, *packed.shape[1:])] * STEPS)
    ours = searched(denoiser, noise=noise)
    theirs = piped(pipe, max_sequence_length=16, height=16, width=16)
    torch.testing.assert_close(ours.images[:, 0], theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DDPMPipeline(tiny.pixels(), DDPMScheduler()),
        lambda: DDIMPipeline(tiny.pixels(), diffusers.DDIMScheduler()),
    ],
)
def test_pixels_are_the_pipelines_bit_for_bit(make):
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    ours = searched(DDPM(pipe, num_inference_steps=STEPS), ["", ""])
    call = {"eta": 1.0} if isinstance(pipe, DDIMPipeline) else {}
    theirs = pipe(
        batch_size=2, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(3), output_type="pt", **call
    ).images
    theirs = theirs if isinstance(theirs, torch.Tensor) else torch.as_tensor(theirs)
    theirs = theirs if theirs.shape[1] == 3 else theirs.permute(0, 3, 1, 2)
    assert torch.equal(ours.images[:, 0], theirs)


def test_a_class_is_named_by_its_number():
    unet = tiny.pixels(classes=5)
    denoiser = DDPM(unet, DDPMScheduler(), num_inference_steps=STEPS)
    x = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        pred = denoiser.predict(x, 1, denoiser.encode(["4", "0"]), torch.tensor([0, 1, 0]))
        own = unet(x, denoiser.kernel.timesteps[1], class_labels=torch.tensor([4, 0, 4])).sample
    assert torch.equal(pred.out, own)
    for bad in (["5"], ["cat"], ["-1"], [""]):
        with pytest.raises(ValueError, match=rf"prompts=\['{bad[0]}'\]: this model knows the classes '0' to '4'"):
            denoiser.encode(bad)
    with pytest.raises(ValueError, match=r"prompts=\['cat'\]: this model is unconditional; its only prompt is ''"):
        DDPM(tiny.pixels(), DDPMScheduler()).encode(["cat"])


# ---- predictions and children -------------------------------------------------------------------------------


@every_backbone
def test_children_differ_and_are_those_of_single_calls_at_every_step_in_any_order(make, adapter):
    denoiser = adapter(make(), num_inference_steps=STEPS)
    x, pred, noise = family(denoiser, 1)
    for step in (2, 0, 1):  # nothing is remembered from one step to another
        together = denoiser.step(x, pred, step, noise)
        assert together.shape == noise.shape
        assert all((together[0, 0, i] != together[0, 0, j]).any() for i in range(5) for j in range(i))
        for k in range(2):
            for j in range(5):
                one = map_one(pred, k)
                alone = denoiser.step(x[:, k : k + 1], one, step, noise[:, k : k + 1, j : j + 1])
                assert torch.equal(alone[0, 0, 0], together[0, k, j])


def map_one(pred, k):
    return map_tree(lambda leaf: leaf[:, k : k + 1], pred)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_posterior_mean_is_the_schedulers_own(name):
    """(x - sqrt(1 - a) eps) / sqrt(a); LCM has its boundary condition around it."""
    pipe = tiny.pipeline(scheduler(name))
    denoiser = StableDiffusion(pipe, num_inference_steps=STEPS)
    own = copy.deepcopy(pipe.scheduler)
    own.set_timesteps(STEPS)
    for step, t in enumerate(own.timesteps):
        x, pred, _ = family(denoiser, step)
        if name.startswith("Euler"):  # x is in its own scale there
            stepped = own.step(pred.out[0, :, 0], t, x[0, :, 0], generator=torch.Generator())
            assert torch.equal(pred.x0[0, :, 0], stepped.pred_original_sample)
            continue
        alpha = own.alphas_cumprod[int(t)]
        expected = (x - (1 - alpha).sqrt() * pred.out) / alpha.sqrt()
        if name == "LCM":
            skip, out = own.get_scalings_for_boundary_condition_discrete(t)
            expected = out * expected + skip * x
        torch.testing.assert_close(pred.x0, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_flows_sde_keeps_the_marginals_of_a_gaussian(shift, eta):
    """Data N(m, c^2): v is linear in x, so that mean and variance go through every step in closed form."""
    pipe, steps, m, c = tiny.sd3(shift=shift), 400, 0.7, 0.5
    own = copy.deepcopy(pipe.scheduler)
    own.set_timesteps(steps)
    sigmas = own.sigmas.double().tolist()
    kernel = AnyPipeline(pipe, num_inference_steps=steps, eta=eta).kernel
    mean, variance = 0.0, 1.0
    for i in range(steps):
        s, to = sigmas[i], sigmas[i + 1]

        def step(x, noise, i=i, s=s):
            x = torch.tensor([x], dtype=torch.float64)
            x0 = m + (1 - s) * c**2 / ((1 - s) ** 2 * c**2 + s**2) * (x - (1 - s) * m)  # E[x_0 | x]
            v = (x - x0) / s
            return kernel.step(v, i, x, torch.tensor([noise], dtype=torch.float64)).item()

        shifted, slope, draw = step(0.0, 0.0), step(1.0, 0.0) - step(0.0, 0.0), step(0.0, 1.0) - step(0.0, 0.0)
        mean, variance = shifted + slope * mean, slope**2 * variance + draw**2
        assert draw == pytest.approx(noise_of("posterior", eta).split(s, to, 0.0)[1], abs=1e-12)
        assert mean == pytest.approx((1 - to) * m, abs=0.02)
        assert variance == pytest.approx((1 - to) ** 2 * c**2 + to**2, abs=0.02)


def test_at_eta_1_the_flow_draws_as_much_as_the_posterior_has():
    """Var[x' | x, x_0] by Bayes: x' = a' x_0 + s' e, x = (a/a') x' + noise."""
    kernel = AnyPipeline(tiny.sd3(), num_inference_steps=10).kernel
    for i in range(1, 9):
        s, to = kernel._sigmas[i], kernel._sigmas[i + 1]
        ratio = (1 - s) / (1 - to)
        bridge = s**2 - ratio**2 * to**2
        exact = 1 / (1 / to**2 + ratio**2 / bridge)
        assert noise_of("posterior").split(s, to, 0.0)[1] ** 2 == pytest.approx(exact)


@every_backbone
def test_a_search_finds_more_than_plain_sampling_and_changes_nothing_of_the_pipeline(make, adapter):
    pipe = make()
    before = state(pipe)
    freed = []
    pipe.maybe_free_model_hooks = lambda: freed.append(True)
    denoiser = adapter(pipe, num_inference_steps=STEPS)
    prompts = ["", ""] if adapter is DDPM else PROMPTS
    found = dsearch.search(denoiser, dsearch.methods.svdd(tiny.contrast, 6), prompts, seed=1)
    plain = dsearch.search(denoiser, dsearch.methods.plain(tiny.contrast, 1), prompts, seed=1)
    assert (found.rewards > plain.rewards).all()
    assert freed == [True, True]
    assert_same(before, state(pipe))


def state(pipe):
    modules = {n: m for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
    own = {k: v for k, v in vars(pipe.scheduler).items() if not k.startswith("_internal")}
    return copy.deepcopy({"scheduler": own, **{n: dict(m.state_dict()) for n, m in modules.items()}})


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif hasattr(one, "dtype"):
        assert (one == other).all()
    else:
        assert one == other


# ---- what is refused ----------------------------------------------------------------------------------------


def test_another_pipeline_is_refused_by_name():
    with pytest.raises(TypeError, match="StableDiffusionXLPipeline is not a StableDiffusionPipeline"):
        StableDiffusion(tiny.xl())


@pytest.mark.parametrize("name", ["Flux", "StableDiffusion3", "StableDiffusionXL"])
def test_adapters_that_are_gone_say_what_takes_their_place(name):
    with pytest.raises(
        ImportError, match=rf"dsearch\.adapters\.{name} is gone: AnyPipeline\(pipe, \.\.\.\) takes its place"
    ):
        exec(f"from dsearch.adapters import {name}")


def test_pixels_need_a_unet_and_a_scheduler():
    with pytest.raises(TypeError, match="Linear is not a UNet2DModel"):
        DDPM(torch.nn.Linear(1, 1))
    with pytest.raises(TypeError, match=r"pass scheduler=diffusers\.DDPMScheduler"):
        DDPM(tiny.pixels())
    with pytest.raises(ValueError, match="variance_type='learned_range' is not supported"):
        DDPM(tiny.pixels(), DDPMScheduler(variance_type="learned_range"))


def test_schedulers_without_an_eta_refuse_one():
    with pytest.raises(ValueError, match=r"eta=0\.5: EulerAncestralDiscreteScheduler knows no eta"):
        StableDiffusion(tiny.pipeline(scheduler("Euler ancestral")), eta=0.5)
    with pytest.raises(ValueError, match=r"eta=0\.5: this scheduler's stochastic_sampling draws all"):
        AnyPipeline(tiny.sd3(stochastic_sampling=True), eta=0.5)


def test_a_solver_with_a_memory_is_refused():
    second = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=2)
    with pytest.raises(ValueError, match=r"DPMSolverMultistepScheduler is not supported.*solver_order=1"):
        StableDiffusion(tiny.pipeline(second))


@pytest.mark.parametrize("name", ["Euler ancestral", "LCM"])
def test_a_deterministic_rollout_needs_a_scheduler_that_has_one(name):
    from dsearch.core.value import Lookahead

    denoiser = StableDiffusion(tiny.pipeline(scheduler(name)), num_inference_steps=STEPS)
    method = dataclasses.replace(dsearch.methods.svdd(tiny.contrast, 2), value=Lookahead(1, deterministic=True))
    with pytest.raises(TypeError, match="has no deterministic step; use stochastic rollouts"):
        dsearch.search(denoiser, method, "cat")


# ---- diffusers' modular pipelines ---------------------------------------------------------------------------


def modular(block, guidance=5.0):
    from diffusers.guiders import ClassifierFreeGuidance
    from diffusers.modular_pipelines.stable_diffusion_xl.modular_blocks_stable_diffusion_xl import (
        StableDiffusionXLAutoBlocks,
    )

    blocks = StableDiffusionXLAutoBlocks().get_workflow("text2image")
    blocks.sub_blocks["denoise.denoise"] = block
    pipe = blocks.init_pipeline()
    parts = {n: part for n, part in tiny.xl().components.items() if part is not None and n in pipe.components}
    pipe.update_components(**parts, guider=ClassifierFreeGuidance(guidance_scale=guidance))
    return pipe


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_modular_pipeline_with_a_search_block_finds_what_the_adapter_finds(guidance):
    from dsearch.adapters import search_step

    method = dsearch.methods.svdd(tiny.contrast, 4)
    pipe = modular(search_step(method, seed=5), guidance)
    before = state(pipe)
    out = pipe(prompt=PROMPTS, num_inference_steps=STEPS, height=16, width=16, output_type="pt")
    denoiser = AnyPipeline(tiny.xl(), num_inference_steps=STEPS, guidance_scale=guidance)
    ours = dsearch.search(denoiser, method, PROMPTS, seed=5)
    assert torch.equal(out.get("search").lineage.path(), ours.lineage.path())
    torch.testing.assert_close(out.get("search").images, ours.images, atol=1e-5, rtol=0)
    torch.testing.assert_close(out.get("images"), ours.images[:, 0], atol=1e-5, rtol=0)
    assert_same(before["unet"], state(pipe)["unet"])


def test_a_modular_pipeline_copies_no_reward():
    from dsearch.adapters import search_step

    method = dsearch.methods.svdd(tiny.contrast, 2)
    block = search_step(method)
    assert copy.deepcopy(block)._settings[0] is method


def test_more_images_than_prompts_are_the_methods_business():
    from dsearch.adapters import search_step

    pipe = modular(search_step(dsearch.methods.svdd(tiny.contrast, 2)))
    with pytest.raises(ValueError, match="2 latents for 1 prompts; set num_images_per_prompt=1"):
        pipe(prompt=["cat"], num_images_per_prompt=2, num_inference_steps=2, height=16, width=16)
