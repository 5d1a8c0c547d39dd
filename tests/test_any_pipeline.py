"""Any pipeline of diffusers, replayed from its own source: the pipeline itself is the oracle."""

import copy
import inspect
import traceback
from contextlib import suppress

import diffusers
import families
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dsearch
from dsearch.adapters import AnyPipeline, StableDiffusion, from_pipeline
from dsearch.adapters._check import differences
from dsearch.adapters._tables import Levels, Tables
from dsearch.core.contract import map_tree

STEPS = 4
SMALL = {"height": 16, "width": 16, "max_sequence_length": 16}
QUICK = {
    *("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    *("StableDiffusionControlNetPipeline", "StableDiffusionPAGPipeline", "LatentConsistencyModelPipeline"),
    *("StableDiffusionInstructPix2PixPipeline", "StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"),
    *("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "FluxPipeline", "FluxControlPipeline"),
    *("FluxFillPipeline", "FluxKontextPipeline", "FluxInpaintPipeline", "FluxControlNetPipeline", "Flux2Pipeline"),
    *("ChromaPipeline", "QwenImagePipeline", "ZImagePipeline", "PixArtAlphaPipeline", "SanaPipeline", "BriaPipeline"),
    *("AuraFlowPipeline", "Lumina2Pipeline", "CogView4Pipeline", "HunyuanDiTPipeline", "IFPipeline", "DDPMPipeline"),
    *("WanPipeline", "LTXPipeline", "LTXImageToVideoPipeline", "CogVideoXPipeline", "HunyuanVideoPipeline"),
    *("MochiPipeline", "StableCascadePriorPipeline", "Kandinsky5T2VPipeline", "Cosmos2TextToImagePipeline"),
    *("MarigoldDepthPipeline", "ConsistencyModelPipeline", "VideoToVideoSDPipeline", "MotifVideoImage2VideoPipeline"),
}
REFUSED = {
    "DiTPipeline": "for 1 samples",
    "StableDiffusionSAGPipeline": "loops within",
    "StableDiffusionPanoramaPipeline": "carries no variable",
    "CycleDiffusionPipeline": "its own output differs by",
    "SemanticStableDiffusionPipeline": "its own output differs by",
    "LTXConditionPipeline": "depends on the turns before, and differs by",
    "Flux2KleinKVPipeline": "asked for a level again, its own lines raise AttributeError",
    "StableDiffusionPix2PixZeroPipeline": "asked for a level again, its own lines raise KeyError",
    "RePaintPipeline": "RePaintScheduler is not supported",
    "AnyFlowPipeline": "FlowMapEulerDiscreteScheduler is not supported",
    **dict.fromkeys(
        (
            "SkyReelsV2DiffusionForcingPipeline",
            "SkyReelsV2DiffusionForcingImageToVideoPipeline",
            "SkyReelsV2DiffusionForcingVideoToVideoPipeline",
        ),
        "inside another of 4 turns",
    ),
}
FIRST_REFUSED = {*list(REFUSED)[:5], "StableDiffusionPix2PixZeroPipeline"}
UNBUILT = {"BriaFiboEditPipeline", "EasyAnimateControlPipeline", "VersatileDiffusionDualGuidedPipeline"}
"""Whose own calls raise, or want prompts that are no text; the table of the documentation says what."""
ROUNDED = {"ZImageInpaintPipeline", "StableDiffusionInpaintPipelineLegacy", "WanAnimatePipeline"}
"""Whose output is theirs up to rounding."""


def marked(name):
    return pytest.param(name, marks=() if name in QUICK | FIRST_REFUSED else pytest.mark.slow)


def score(made, prompts):
    rows = made.double().flatten(1)
    return (rows * torch.linspace(-1, 1, made.shape[-1]).repeat(rows.shape[1] // made.shape[-1])).mean(dim=1) * 100


def small(name, **changes):
    pipe, call = families.FAMILIES[name]()
    return pipe, {**call, **changes}


def own(pipe, prompt="cat", **call):
    """What the pipeline itself returns."""
    generator = torch.Generator().manual_seed(3)
    return pipe(prompt, generator=generator, output_type="pt", **call)[0]


# ---- the pipeline is the oracle -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", [marked(n) for n in families.FAMILIES if n not in REFUSED.keys() | UNBUILT])
def test_a_replayed_call_is_the_pipelines_own_at_any_level_and_with_any_rows(name):
    pipe, call = small(name)
    denoiser = AnyPipeline(pipe, check=False, **call)
    far = differences(pipe, denoiser._arguments("a cat", 1), denoiser._exchanged, denoiser._layout)
    assert far.output <= (1e-5 if name in ROUNDED else 0)
    assert far.shuffled == 0
    assert far.rows < 1e-3 or far.rows == torch.inf  # those that say themselves that rows cannot go together


@pytest.mark.parametrize("name", [marked(n) for n in families.FAMILIES if n not in REFUSED.keys() | UNBUILT])
def test_a_search_of_any_family_runs_its_bill_and_finds_what_differs(name):
    pipe, call = small(name)
    denoiser = AnyPipeline(pipe, **call)
    found = dsearch.search(denoiser, dsearch.methods.svdd(score, width=3), ["a cat"], seed=1)
    assert found.cost.bill == found.cost.planned
    assert found.images.isfinite().all()
    assert all(len(set(step.values[0].tolist())) > 1 for step in found.trace[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AllegroPipeline", "QwenImageLayeredPipeline", "Kandinsky5I2VPipeline"])
def test_a_pipeline_that_decodes_one_row_at_a_time_is_given_rows_one_by_one(name):
    """Allegro decodes tiles of one video; layers are dealt to the wrong pictures; Kandinsky's frames share a spread."""
    pipe, call = small(name)
    denoiser = AnyPipeline(pipe, **call)
    assert denoiser._layout is not None
    x = torch.cat([denoiser._state, denoiser._state.flip(-1)])
    with suppress(RuntimeError, ValueError):
        together = AnyPipeline(pipe, check=False, **call).decode(x)
        assert (together - torch.cat([denoiser.decode(row[None]) for row in x])).abs().max() > 1e-3
    denoiser.encode(["a cat"])  # checks
    assert torch.equal(denoiser.decode(x), torch.cat([denoiser.decode(row[None]) for row in x]))


@pytest.mark.parametrize("name", [marked(n) for n in REFUSED])
def test_what_cannot_be_replayed_is_refused_by_name(name):
    pipe, call = small(name)
    with pytest.raises((TypeError, ValueError), match=REFUSED[name]):
        AnyPipeline(pipe, **call).encode(["a cat"])


@pytest.mark.parametrize("kind", ["KandinskyCombinedPipeline", "LTX2Pipeline", "LLaDA2Pipeline"])
def test_a_class_without_one_loop_of_one_step_is_refused_before_anything_is_run(kind):
    pipe = object.__new__(getattr(diffusers, kind))
    with pytest.raises(TypeError, match=f"{kind} .*; a search needs one loop"):
        AnyPipeline(pipe)


DRAWING = {
    "DDIM": lambda: diffusers.DDIMScheduler(**tiny.SD_DDIM),
    "DDPM": lambda: diffusers.DDPMScheduler(**tiny.SD_BETAS, clip_sample=False),
    "Euler ancestral": lambda: diffusers.EulerAncestralDiscreteScheduler(**tiny.SD_BETAS),
    "LCM": lambda: diffusers.LCMScheduler(**tiny.SD_BETAS),
    "TCD": lambda: diffusers.TCDScheduler(**tiny.SD_BETAS),
    "SDE-DPM-Solver++": lambda: diffusers.DPMSolverMultistepScheduler(
        **tiny.SD_BETAS, algorithm_type="sde-dpmsolver++", solver_order=1
    ),
}


def recorded(shape):
    """What a pipeline draws from generator 3, one child a step."""
    generator = torch.Generator().manual_seed(3)
    draws = [torch.randn(1, *shape, generator=generator) for _ in range(STEPS + 1)]
    return tiny.Recorded(draws[0][:, None], [draw[:, None, None] for draw in draws[1:]])


@pytest.mark.parametrize("make", DRAWING.values(), ids=DRAWING.keys())
def test_width_1_with_the_pipelines_noise_is_the_pipeline_bit_for_bit(make):
    pipe = tiny.pipeline(make())
    denoiser = AnyPipeline(pipe, num_inference_steps=STEPS)
    found = dsearch.search(denoiser, dsearch.methods.plain(score, 1), ["cat"], rng=recorded((4, 8, 8)))
    assert torch.equal(found.images[:, 0], own(pipe, num_inference_steps=STEPS, eta=1.0))


@pytest.mark.parametrize(
    ("make", "call", "shape"),
    [
        (tiny.sd3, {}, (4, 8, 8)),
        (lambda: tiny.pipeline(diffusers.EulerDiscreteScheduler(**tiny.SD_BETAS)), {}, (4, 8, 8)),
    ],
    ids=["SD3", "SD, Euler"],
)
def test_at_eta_0_a_first_order_pipeline_is_itself_bit_for_bit(make, call, shape):
    pipe = make()
    denoiser = AnyPipeline(pipe, eta=0, num_inference_steps=STEPS, **call)
    found = dsearch.search(denoiser, dsearch.methods.plain(score, 1), ["cat"], rng=recorded(shape))
    assert torch.equal(found.images[:, 0], own(pipe, num_inference_steps=STEPS, **call))


def test_it_searches_as_the_adapter_of_stable_diffusion_does():
    pipe, method = tiny.pipeline(), dsearch.methods.svdd(tiny.contrast, width=3)
    theirs = dsearch.search(StableDiffusion(pipe, num_inference_steps=STEPS), method, ["cat", "a red dog"], seed=1)
    ours = dsearch.search(AnyPipeline(pipe, num_inference_steps=STEPS), method, ["cat", "a red dog"], seed=1)
    assert all(torch.equal(a, b) for a, b in zip(ours.lineage.child, theirs.lineage.child, strict=True))
    torch.testing.assert_close(ours.images, theirs.images, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["FluxPipeline", "StableDiffusionXLInpaintPipeline", "AnimateDiffPipeline"])
def test_decoding_is_the_pipelines_own_tail(name):
    pipe, call = small(name)
    generator = [torch.Generator().manual_seed(3) for _ in range(2)]
    call |= {"prompt": ["cat", "a red dog"][: 1 if "Animate" in name else 2]}
    latents = pipe(**call, generator=generator[0], output_type="latent")[0]
    decoded = pipe(**call, generator=generator[1], output_type="pt")[0]
    del call["prompt"]
    with torch.no_grad():
        assert torch.equal(AnyPipeline(pipe, check=False, **call).decode(latents), decoded.float())


# ---- starts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline", "FluxImg2ImgPipeline"]
)
@pytest.mark.parametrize("strength", [0.5, 0.75])
def test_a_call_with_an_image_starts_where_the_pipeline_starts_and_takes_as_many_steps(name, strength):
    pipe, call = small(name, strength=strength)
    seen = []

    def look(pipe, step, t, kept):
        seen.append(step)
        return {}

    pipe(prompt="cat", **call, callback_on_step_end=look)
    denoiser = AnyPipeline(pipe, **call)
    assert denoiser.num_steps == len(seen) == strength * STEPS
    state = denoiser._home.frames[0].values["latents"]
    noise = tiny.Recorded(((state - denoiser._start.mean) / denoiser._start.scale)[None], [])
    torch.testing.assert_close(denoiser.start((1, 1), noise)[0], state)
    assert 0 < denoiser._start.scale < 1


# ---- prompts, rows, chunks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["StableDiffusionXLPipeline", "FluxPipeline", "PixArtAlphaPipeline", "WanPipeline"])
def test_a_prompt_depends_neither_on_its_batch_mates_nor_on_chunks(name):
    pipe, call = small(name)
    denoiser, plain = AnyPipeline(pipe, **call), dsearch.methods.best_of_n(score, n=3)
    both = dsearch.search(denoiser, plain, ["cat", "a red dog"], ids=["a", "b"])
    alone = dsearch.search(denoiser, plain, ["a red dog"], ids=["b"])
    split = dsearch.search(
        denoiser, plain, ["cat", "a red dog"], ids=["a", "b"], chunks=dsearch.Chunks(network=1, decoder=2)
    )
    torch.testing.assert_close(both.latents[1:], alone.latents, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(both.latents, split.latents, atol=1e-3, rtol=1e-3)
    assert (both.latents[0] - both.latents[1]).abs().max() > 0.1


def test_prompts_whose_calls_differ_in_more_than_rows_go_one_after_another():
    pipe, call = small("FluxPipeline")
    denoiser = AnyPipeline(pipe, **call)
    one, other = denoiser.encode(["cat", "dog"]), denoiser.encode(["cat"])
    assert len(one) == len(other) == 1
    del call["max_sequence_length"]
    longer = AnyPipeline(pipe, **call, max_sequence_length=8)
    mixed = [other[0], longer.encode(["cat"])[0]]
    x = torch.randn(3, *denoiser._state.shape[1:])
    with torch.no_grad():
        got = denoiser.predict(x, 1, mixed, torch.tensor([1, 0, 1]))
        apart = [denoiser.predict(x[r : r + 1], 1, [mixed[p]], torch.tensor([0])) for r, p in enumerate([1, 0, 1])]
    torch.testing.assert_close(got.x0, torch.cat([each.x0 for each in apart]), atol=1e-5, rtol=1e-4)


# ---- state, errors, interrupts ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "StableDiffusionPAGPipeline", "FluxPipeline"])
def test_the_pipeline_stays_as_it_is(name):
    pipe, call = small(name)
    before, scheduler, config = own(pipe, **call), pipe.scheduler, dict(vars(pipe))
    times = scheduler.timesteps.clone()
    dsearch.search(AnyPipeline(pipe, **call), dsearch.methods.svdd(score, width=2), ["cat"])
    assert pipe.scheduler is scheduler and torch.equal(scheduler.timesteps, times)
    assert all(vars(pipe)[key] is value for key, value in config.items())
    assert torch.equal(own(pipe, **call), before)


def test_an_error_inside_the_pipeline_comes_out_with_the_pipelines_own_lines():
    pipe, call = small("FluxPipeline")
    denoiser = AnyPipeline(pipe, **call)
    hook = pipe.transformer.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(ZeroDivisionError("here")))
    with pytest.raises(ZeroDivisionError, match="here") as caught:
        dsearch.search(denoiser, dsearch.methods.plain(score, 1), ["cat"])
    hook.remove()
    assert "pipeline_flux.py" in "".join(traceback.format_tb(caught.tb))
    assert dsearch.search(denoiser, dsearch.methods.plain(score, 1), ["cat"]).rewards.isfinite().all()


def test_two_searches_at_once_do_not_meet():
    pipe, call = small("StableDiffusionPAGPipeline")
    one, other = (AnyPipeline(pipe, **{**call, "guidance_scale": scale}) for scale in (2.0, 6.0))
    method, inner = dsearch.methods.svdd(score, width=2), []
    apart = [dsearch.search(each, method, ["cat"]).latents for each in (one, other)]

    def meanwhile(*_):
        inner.append(dsearch.search(other, method, ["cat"]).latents)

    outer = dsearch.search(one, method, ["cat"], watch=[meanwhile]).latents
    assert torch.equal(outer, apart[0]) and all(torch.equal(each, apart[1]) for each in inner)


def test_a_callback_of_the_pipeline_runs_once_for_each_step_and_may_interrupt_it():
    pipe, call = small("StableDiffusionPipeline")
    seen = []

    def look(pipe, step, t, kept):
        seen.append((step, tuple(kept["latents"].shape)))
        pipe._interrupt = step == 1
        return kept

    denoiser = AnyPipeline(pipe, **call, check=False, callback_on_step_end=look)
    with pytest.raises(dsearch.Interrupted) as interrupt:
        dsearch.search(denoiser, dsearch.methods.svdd(score, width=3), ["cat"])
    assert seen == [(0, (3, 4, 8, 8)), (1, (3, 4, 8, 8))]
    assert interrupt.value.reached == 1 and interrupt.value.beams.pred.x0.isfinite().all()


# ---- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        ({"prompt": "cat"}, TypeError, "give prompts to the search"),
        ({"latents": torch.zeros(1)}, TypeError, "draws its own start"),
        ({"num_images_per_prompt": 2}, TypeError, "the method says how many"),
        ({"strenght": 0.5}, TypeError, "takes no strenght; it takes .*num_inference_steps"),
        ({"eta": 2}, ValueError, "outside"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_run(call, error, says):
    with pytest.raises(error, match=says):
        AnyPipeline(tiny.pipeline(), **call)


def test_a_cache_that_modules_keep_from_step_to_step_is_refused():
    pipe = tiny.flux()
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.2))
    with pytest.raises(ValueError, match=r"pipe\.transformer\.disable_cache"):
        AnyPipeline(pipe, **SMALL)
    pipe.transformer.disable_cache()
    AnyPipeline(pipe, **SMALL)


# ---- schedulers ---------------------------------------------------------------------------------------------

MANY = {
    "PNDM": ("PNDMScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "KDPM2": ("KDPM2DiscreteScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "LMS": ("LMSDiscreteScheduler", {}),
    "DPM++": ("DPMSolverMultistepScheduler", {}),
    "DPM++, Karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {}),
}


@pytest.mark.parametrize(("kind", "more"), MANY.values(), ids=MANY.keys())
def test_a_deterministic_scheduler_or_one_with_a_memory_is_searched_on_its_own_levels(kind, more):
    pipe = tiny.pipeline(getattr(diffusers, kind)(**tiny.SD_BETAS, **more))
    denoiser = AnyPipeline(pipe, num_inference_steps=6)
    assert denoiser.num_steps == 6
    found = dsearch.search(denoiser, dsearch.methods.svdd(score, width=4), ["cat"], seed=2)
    plain = dsearch.search(denoiser, dsearch.methods.plain(score, 1), ["cat"], seed=2)
    assert found.rewards.max() > plain.rewards.max()


def compatible():
    """Every scheduler that diffusers' documentation lets a Stable Diffusion pipeline have."""
    kinds = tiny.pipeline().scheduler.compatibles
    return sorted(kind.__name__ for kind in kinds if "dummy" not in kind.__module__)  # of what is not installed


@pytest.mark.parametrize("kind", compatible())
def test_a_pipeline_is_searched_with_every_scheduler_that_diffusers_lets_it_have(kind):
    pipe = tiny.pipeline(getattr(diffusers, kind).from_config(tiny.pipeline().scheduler.config))
    denoiser = from_pipeline(pipe, num_inference_steps=6)
    found = dsearch.search(denoiser, dsearch.methods.svdd(score, width=4), ["cat"], seed=2)
    assert found.trace[0].values.unique().numel() == 4 and found.rewards.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("DDIMInverseScheduler", r"from an image to its noise.*diffusers\.DDIMScheduler\.from_config"),
        ("KarrasVeScheduler", "its marginals are none of .*a DDIM, Euler or flow matching one"),
    ],
)
def test_a_scheduler_that_cannot_be_searched_is_refused_by_name_with_what_to_do(kind, says):
    made = getattr(diffusers, kind)
    takes = inspect.signature(made.__init__).parameters
    pipe = tiny.pipeline(made(**{name: value for name, value in tiny.SD_BETAS.items() if name in takes}))
    with pytest.raises(ValueError, match=f"{kind}.*{says}"):
        from_pipeline(pipe, num_inference_steps=6)


def test_a_flows_consistency_steps_are_the_schedulers_own():
    """x' = (1 - s') x_0 + s' noise, as FlowMatchLCMScheduler steps with the noise that torch would draw."""
    pipe = tiny.sd3()
    pipe.scheduler = diffusers.FlowMatchLCMScheduler(shift=3.0)
    denoiser = AnyPipeline(pipe, num_inference_steps=STEPS)
    own = copy.deepcopy(pipe.scheduler)
    own.set_timesteps(STEPS)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pred = denoiser.predict(x, 0, denoiser.encode(["cat"]), torch.tensor([0]))
    torch.manual_seed(7)
    expected = own.step(pred.out.out, own.timesteps[0], x).prev_sample
    torch.manual_seed(7)
    noise = torch.randn_like(x)
    deep = map_tree(lambda leaf: leaf[:, None, None], pred)
    made = denoiser.step(x[:, None, None], deep, 0, noise[:, None, None])
    torch.testing.assert_close(made[:, 0, 0], expected, atol=1e-5, rtol=1e-5)


FLOWS = {
    "flow": (
        lambda: diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ),
        "velocity",
    ),
    "inverted": (lambda: diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "to the image"),
    "beyond 1": (diffusers.FlowMatchEulerDiscreteScheduler, "noise"),
    "IPNDM": (diffusers.IPNDMScheduler, "v"),
}
"""Other schedulers whose tables are read, and what their networks say of x = a x_0 + s n."""


@settings(max_examples=30)
@given(
    eta=st.floats(0.0, 1.0), step=st.integers(0, 4), name=st.sampled_from(["Euler", "DPM++", "UniPC", "DEIS", *FLOWS])
)
def test_the_kernel_keeps_the_marginals_of_the_scheduler(eta, step, name):
    """Of x = a x_0 + s n with the true x_0 a child is a' x_0 + s' n', n' normal: two coefficients square to s'^2."""
    if name in FLOWS:
        scheduler = FLOWS[name][0]()
    else:
        scheduler = getattr(diffusers, MANY[name][0])(**tiny.SD_BETAS, prediction_type="sample")
    scheduler.set_timesteps(
        **({"sigmas": [80.0, 20.0, 5.0, 1.0, 0.2, 0.01]} if name == "beyond 1" else {"num_inference_steps": 6})
    )
    kernel = Tables(Levels(scheduler, list(enumerate(scheduler.timesteps))).settled(), 6, "cpu", eta)
    (a, a_to), (s, s_to) = kernel._a[step : step + 2], kernel._s[step : step + 2]
    one, zero, mean = (torch.tensor([[value]]) for value in (1.0, 0.0, 2.0))

    def child(n, noise):
        x = a * mean + s * n
        said = {"image": mean, "noise": n, "velocity": (x - mean) / s, "to the image": (mean - x) / s}
        said["v"] = a * n - s * mean
        return float(kernel.step(said[FLOWS[name][1] if name in FLOWS else "image"], step, x, noise))

    base = child(zero, zero)
    by_n, by_noise = child(one, zero) - base, child(zero, one) - base
    assert base == pytest.approx(a_to * 2, abs=1e-4)
    assert by_n**2 + by_noise**2 == pytest.approx(s_to**2, rel=1e-3, abs=1e-4)


# ---- the drop-in --------------------------------------------------------------------------------------------


def test_a_pipeline_that_searches_returns_what_the_pipeline_returns_of_the_best_sample():
    pipe, call = small("FluxImg2ImgPipeline")
    method = dsearch.methods.svdd(score, width=3)
    searching = dsearch.searching(pipe, method)
    made = searching(["cat", "a red dog"], **call, generator=torch.Generator().manual_seed(3), output_type="pt")
    assert isinstance(searching, type(pipe)) and type(made) is type(pipe("cat", **call))
    call["generator"] = torch.Generator().manual_seed(3)
    found = dsearch.search(AnyPipeline(pipe, **call), method, ["cat", "a red dog"], seed=3)
    torch.testing.assert_close(made.images, found.images[:, 0], atol=1e-5, rtol=0)
    assert torch.equal(searching.result.rewards, found.rewards)
    assert searching.result.cost.bill == method.bill(3)


def test_a_pipeline_that_searches_returns_as_many_as_are_asked_in_the_pipelines_own_types():
    searching = dsearch.searching(tiny.pipeline(), dsearch.methods.best_of_n(score, n=4, keep=2))
    pictures, unsafe = searching("cat", num_inference_steps=2, num_images_per_prompt=2, return_dict=False)
    assert [picture.size for picture in pictures] == [(16, 16)] * 2 and unsafe is None
    with pytest.raises(ValueError, match=r"3 images of each prompt are asked for, and .* ends with 2"):
        searching("cat", num_inference_steps=2, num_images_per_prompt=3)


def test_a_pipeline_without_an_adapter_of_its_own_is_searched_as_it_is():
    pipe, call = small("StableDiffusionImg2ImgPipeline")
    at_once = dsearch.search(pipe, dsearch.methods.svdd(score, width=2), ["cat"], seed=3, **call)
    by_hand = dsearch.search(AnyPipeline(pipe, **call), dsearch.methods.svdd(score, width=2), ["cat"], seed=3)
    assert torch.equal(at_once.images, by_hand.images) and at_once.cost == by_hand.cost
    with pytest.raises(TypeError, match="search has no option 'strenght'; did you mean strength"):
        dsearch.search(pipe, dsearch.methods.svdd(score, width=2), ["cat"], strenght=0.5)
