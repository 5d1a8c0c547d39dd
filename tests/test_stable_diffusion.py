"""The Stable Diffusion adapter against diffusers' own pipeline, which is the oracle."""

import hashlib
import warnings
from collections import Counter
from importlib import import_module

import diffusers
import pytest
import tiny
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from torch import Tensor

import dsearch
from dsearch.adapters import StableDiffusion

PROMPTS = ["cat", "a red dog", "7 owls"]
FAITHFUL = {
    "as Stable Diffusion v1.5": {},
    "alpha to one": {"set_alpha_to_one": True},
    "no offset": {"steps_offset": 0},
    "neither": {"set_alpha_to_one": True, "steps_offset": 0},
    "trailing": {"timestep_spacing": "trailing", "steps_offset": 0},
    "linspace": {"timestep_spacing": "linspace"},
    "v-prediction": {"prediction_type": "v_prediction"},
    "sample prediction": {"prediction_type": "sample"},
    "linear betas": {"beta_schedule": "linear"},
    "zero SNR": {
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
        "set_alpha_to_one": True,
    },
}
UNFIT = [
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "UniPCMultistepScheduler",
]


def recorded(steps: int, prompts: int, seed: int = 3, size=(8, 8), beams: int = 1) -> tiny.Recorded:
    """What a pipeline draws from `torch.Generator().manual_seed(seed)`, one child a step."""
    generator = torch.Generator().manual_seed(seed)
    draws = [torch.randn(prompts * beams, 4, *size, generator=generator) for _ in range(steps + 1)]
    start, *noise = (draw.unflatten(0, (prompts, beams)) for draw in draws)
    return tiny.Recorded(start, [each[:, :, None] for each in noise])


def by_pipeline(pipe, prompts, steps: int, seed: int = 3, eta: float = 1.0, output="pt", **call) -> Tensor:
    """The pipeline's own images (or latents) of that seed."""
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompts, num_inference_steps=steps, eta=eta, generator=generator, output_type=output, **call).images


def by_search(pipe, prompts, steps: int, beams: int = 1, size=(8, 8), **settings) -> dsearch.Result:
    """Plain sampling by the loop, with the noise that the pipeline draws."""
    denoiser = StableDiffusion(pipe, num_inference_steps=steps, **settings)
    noise = recorded(steps, len(prompts), size=size, beams=beams)
    result = dsearch.search(denoiser, dsearch.methods.plain(tiny.contrast, beams), prompts, rng=noise)
    assert noise.asked == [("start", 0), *(("noise", i) for i in range(steps))]
    return result


def in_beam_order(result: dsearch.Result, images: Tensor) -> Tensor:
    """The pipeline's flat images, arranged as the result (sorted by reward) has them."""
    return images.unflatten(0, result.rewards.shape)[torch.arange(len(result.rewards))[:, None], result.lineage.order]


def parents_and_noise(denoiser, beams: int = 2, width: int = 5, step: int = 2):
    """Parents with their predictions, `[1, K, 1, ...]`, and noise for their children, `[1, K, w, ...]`."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(beams, 4, 8, 8, generator=generator)
    with torch.no_grad():
        pred = denoiser.predict(x, step, denoiser.encode(["cat"]), torch.zeros(beams, dtype=torch.long))
    noise = torch.randn(1, beams, width, 4, 8, 8, generator=generator)
    return x, pred, noise


def spread(x: Tensor, pred: dsearch.Prediction) -> tuple[Tensor, dsearch.Prediction]:
    return x[None, :, None], dsearch.Prediction(pred.out[None, :, None], pred.x0[None, :, None])


# Plain sampling


@pytest.mark.parametrize("settings", FAITHFUL.values(), ids=FAITHFUL.keys())
@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_one_child_a_step_is_the_pipeline_bit_for_bit(settings, guidance):
    pipe = tiny.pipeline(**settings)
    result = by_search(pipe, PROMPTS, 5, guidance_scale=guidance)
    images = by_pipeline(pipe, PROMPTS, 5, guidance_scale=guidance)
    latents = by_pipeline(pipe, PROMPTS, 5, guidance_scale=guidance, output="latent")
    assert images.isfinite().all() and images.flatten(1).std(dim=1).min() > 0.01
    assert torch.equal(result.images[:, 0], images)
    assert torch.equal(result.latents[:, 0], latents)


def test_embeddings_of_ones_own_are_the_pipelines_prompt_embeds_bit_for_bit():
    """Weighted words: an `encode` of one's own is what `pipe(prompt_embeds=...)` is."""
    pipe = tiny.pipeline()
    with torch.no_grad():
        text, without = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    weighted = text * torch.linspace(0.5, 1.5, text.shape[1])[None, :, None]

    class Weighted(StableDiffusion):
        def encode(self, prompts):
            assert prompts == PROMPTS
            return weighted, without

    noise = recorded(5, len(PROMPTS))
    result = dsearch.search(
        Weighted(pipe, num_inference_steps=5), dsearch.methods.plain(tiny.contrast, 1), PROMPTS, rng=noise
    )
    images = by_pipeline(pipe, None, 5, prompt_embeds=weighted, negative_prompt_embeds=without)
    assert (result.images[:, 0] - images).abs().max() == 0.0
    assert not torch.equal(images, by_pipeline(pipe, PROMPTS, 5))


def test_these_schedulers_really_differ():
    latents = [by_pipeline(tiny.pipeline(**each), ["cat"], 5, output="latent") for each in FAITHFUL.values()]
    for i, one in enumerate(latents):
        assert not any(torch.equal(one, other) for other in latents[:i]), list(FAITHFUL)[i]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 30])
def test_any_number_of_steps_is_the_pipelines(steps):
    pipe = tiny.pipeline()
    assert torch.equal(by_search(pipe, ["cat"], steps).images[0], by_pipeline(pipe, ["cat"], steps))


@pytest.mark.parametrize(("height", "width"), [(8, 24), (32, 16), (None, 24), (24, None)])
def test_other_sizes_are_the_pipelines(height, width):
    pipe = tiny.pipeline()
    tall, wide = height or 16, width or 16
    result = by_search(pipe, ["cat"], 3, size=(tall // 2, wide // 2), height=height, width=width)
    assert result.images.shape == (1, 1, 3, tall, wide)
    assert torch.equal(result.images[0], by_pipeline(pipe, ["cat"], 3, height=tall, width=wide))


def test_a_unet_made_for_oblong_pictures_keeps_its_size():
    pipe = tiny.pipeline()
    pipe.unet = tiny.like(pipe.unet, sample_size=(8, 4))
    result = by_search(pipe, ["cat"], 2, size=(8, 4))
    assert torch.equal(result.images[0], by_pipeline(pipe, ["cat"], 2, height=16, width=8))


def test_a_negative_prompt_is_the_pipelines():
    pipe = tiny.pipeline()
    result = by_search(pipe, PROMPTS, 4, negative_prompt="blur")
    images = by_pipeline(pipe, PROMPTS, 4, negative_prompt=["blur"] * 3)
    assert torch.equal(result.images[:, 0], images)
    assert not torch.equal(images, by_pipeline(pipe, PROMPTS, 4))


def test_several_beams_are_the_pipelines_images_per_prompt():
    pipe = tiny.pipeline()
    result = by_search(pipe, PROMPTS, 4, beams=2)
    images = by_pipeline(pipe, PROMPTS, 4, num_images_per_prompt=2)
    assert torch.equal(result.images, in_beam_order(result, images))


def test_without_noise_it_is_the_pipelines_ddim():
    pipe = tiny.pipeline()
    result = by_search(pipe, ["cat"], 5, eta=0.0)
    assert torch.equal(result.images[0], by_pipeline(pipe, ["cat"], 5, eta=0.0))


def test_an_eta_between_is_the_pipelines():
    pipe = tiny.pipeline()
    assert torch.equal(by_search(pipe, ["cat"], 5, eta=0.3).images[0], by_pipeline(pipe, ["cat"], 5, eta=0.3))


@pytest.mark.parametrize("settings", [{}, {"prediction_type": "v_prediction"}, {"set_alpha_to_one": True}])
def test_a_pndm_pipeline_gets_the_ddim_of_its_configuration(settings):
    own = {**tiny.SD_BETAS, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1, **settings}
    pipe = tiny.pipeline(PNDMScheduler(**own))
    result = by_search(pipe, PROMPTS, 5)
    assert type(pipe.scheduler) is PNDMScheduler
    swapped = tiny.pipeline(DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StableDiffusion(pipe)
    assert torch.equal(result.images[:, 0], by_pipeline(swapped, PROMPTS, 5))


def test_a_ddim_that_clips_is_kept_with_a_warning():
    pipe = tiny.pipeline(clip_sample=True)
    with pytest.warns(UserWarning, match="clip_sample=False"):
        result = by_search(pipe, ["cat"], 4)
    images = by_pipeline(pipe, ["cat"], 4)
    assert torch.equal(result.images[0], images)
    assert not torch.equal(images, by_pipeline(tiny.pipeline(), ["cat"], 4))


def test_thresholding_is_warned_of_and_a_plain_ddim_is_not():
    with pytest.warns(UserWarning, match="thresholding=False"):
        StableDiffusion(tiny.pipeline(thresholding=True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StableDiffusion(tiny.pipeline())


# Predictions and children


@pytest.mark.parametrize("settings", FAITHFUL.values(), ids=FAITHFUL.keys())
def test_the_posterior_mean_is_the_schedulers_pred_original_sample(settings):
    denoiser = StableDiffusion(tiny.pipeline(**settings), num_inference_steps=5)
    oracle = DDIMScheduler.from_config(denoiser.kernel.scheduler.config)
    oracle.set_timesteps(5)
    for step, t in enumerate(oracle.timesteps):
        x, pred, noise = parents_and_noise(denoiser, step=step)
        expected = oracle.step(pred.out, t, x, eta=1.0, variance_noise=noise[0, :, 0])
        assert torch.equal(pred.x0, expected.pred_original_sample)
        assert torch.equal(denoiser.step(*spread(x, pred), step, noise)[0, :, 0], expected.prev_sample)


def test_a_clean_sample_is_its_own_posterior_mean():
    denoiser = StableDiffusion(tiny.pipeline(), num_inference_steps=3)
    x = torch.randn(2, 4, 8, 8)
    assert denoiser.predict(x, 3, None, torch.zeros(2)).x0 is x


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_children_by_broadcasting_equal_the_flat_step_bit_for_bit(prediction):
    denoiser = StableDiffusion(tiny.pipeline(prediction_type=prediction), num_inference_steps=5)
    x, pred, noise = parents_and_noise(denoiser)
    children = denoiser.step(*spread(x, pred), 2, noise)
    rows = noise.shape[2]
    flat = denoiser.kernel.scheduler.step(
        pred.out.repeat_interleave(rows, 0),
        int(denoiser.kernel.scheduler.timesteps[2]),
        x.repeat_interleave(rows, 0),
        eta=1.0,
        variance_noise=noise.flatten(0, 2),
    )
    assert torch.equal(children.flatten(0, 2), flat.prev_sample)


def test_a_child_depends_on_no_siblings_noise():
    denoiser = StableDiffusion(tiny.pipeline(), num_inference_steps=5)
    x, pred, noise = parents_and_noise(denoiser)
    before = denoiser.step(*spread(x, pred), 2, noise)
    noise[0, 0, 3] += 1
    changed = (denoiser.step(*spread(x, pred), 2, noise) != before).flatten(3).any(-1)
    assert changed.nonzero().tolist() == [[0, 0, 3]]


def test_a_row_depends_on_no_other_row():
    denoiser = StableDiffusion(tiny.pipeline(), num_inference_steps=5)
    with torch.no_grad():
        cond, x = denoiser.encode(PROMPTS), torch.randn(6, 4, 8, 8)
        prompt = torch.tensor([2, 0, 1, 1, 0, 2])
        together = denoiser.predict(x, 1, cond, prompt)
        for row in range(6):
            alone = denoiser.predict(x[row : row + 1], 1, denoiser.encode([PROMPTS[prompt[row]]]), torch.tensor([0]))
            torch.testing.assert_close(alone.x0[0], together.x0[row], rtol=1e-4, atol=1e-5)
        other = denoiser.predict(x, 1, cond, prompt.roll(1))
    assert (other.x0 - together.x0).abs().max() > 1e-3, "the tiny network does not read its prompt"


def test_half_precision_stays_within_the_networks():
    pipe = tiny.pipeline(dtype=torch.bfloat16)
    denoiser = StableDiffusion(pipe, num_inference_steps=4)
    outs = []
    pipe.unet.register_forward_hook(lambda module, args, out: outs.append(out[0]))
    x, pred, _ = parents_and_noise(denoiser, step=1)
    assert outs[0].dtype == torch.bfloat16 and {pred.out.dtype, pred.x0.dtype} == {torch.float32}
    without, with_ = outs[0].float().chunk(2)
    guided = without + 7.5 * (with_ - without)
    alpha = denoiser.kernel.scheduler.alphas_cumprod[denoiser.kernel.scheduler.timesteps[1]]
    torch.testing.assert_close(pred.x0, (x - (1 - alpha).sqrt() * guided) / alpha.sqrt(), rtol=1e-5, atol=1e-5)
    result = by_search(pipe, ["cat"], 4)
    assert result.images.dtype == result.latents.dtype == torch.float32
    full = by_search(tiny.pipeline(), ["cat"], 4)
    off = (result.latents - full.latents).abs().mean() / full.latents.abs().mean()
    assert 0 < off < 0.05


def test_a_unet_may_be_of_another_precision_than_its_text_encoder():
    pipe = tiny.pipeline(dtype=torch.bfloat16)
    pipe.text_encoder.float()
    assert by_search(pipe, ["cat"], 2).images.isfinite().all()


# What is refused


@pytest.mark.parametrize("name", UNFIT)
def test_other_schedulers_are_refused_with_what_works(name):
    pipe = tiny.pipeline(getattr(diffusers, name)())
    with pytest.raises(ValueError, match=rf"{name}.*pipe\.scheduler = diffusers\.DDIMScheduler\.from_config"):
        StableDiffusion(pipe)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LCMScheduler"])
def test_the_remedy_that_the_error_names_works(name):
    pipe = tiny.pipeline(getattr(diffusers, name)(**tiny.SD_BETAS))
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = by_search(pipe, ["cat"], 3)
    assert torch.equal(result.images[0], by_pipeline(pipe, ["cat"], 3))


@pytest.mark.parametrize("eta", [-0.1, 1.001, float("nan"), float("inf")])
def test_an_eta_without_a_kernel_is_refused(eta):
    with pytest.raises(ValueError, match=rf"eta={eta} is outside \[0, 1\]"):
        StableDiffusion(tiny.pipeline(), eta=eta)


def test_children_without_noise_are_refused():
    denoiser = StableDiffusion(tiny.pipeline(), num_inference_steps=3, eta=0.0)
    with pytest.raises(ValueError, match=r"width=4 at step 0.*eta above 0"):
        dsearch.search(denoiser, dsearch.methods.svdd(tiny.contrast, width=4), "cat")


def test_zero_snr_with_epsilon_is_refused():
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with pytest.raises(ValueError, match=r"zero signal at the first step.*rescale_betas_zero_snr=False"):
        StableDiffusion(tiny.pipeline(**zero))
    StableDiffusion(tiny.pipeline(**zero, prediction_type="v_prediction"))


@pytest.mark.parametrize("size", [{"height": 12}, {"width": 20}, {"height": 0}, {"width": -8}])
def test_sizes_that_latents_cannot_have_are_refused(size):
    with pytest.raises(ValueError, match=f"{next(iter(size))}.*{next(iter(size.values()))}"):
        StableDiffusion(tiny.pipeline(), **size)


def sdxl():
    pipe = tiny.pipeline()
    return diffusers.StableDiffusionXLPipeline(
        pipe.vae, pipe.text_encoder, None, pipe.tokenizer, None, pipe.unet, pipe.scheduler
    )


@pytest.mark.parametrize("make", [object, dict, lambda: tiny.pipeline().unet, sdxl])
def test_another_type_is_refused_by_name(make):
    pipe = make()
    with pytest.raises(TypeError, match=f"{type(pipe).__name__} is not a StableDiffusionPipeline"):
        StableDiffusion(pipe)


def test_a_unet_that_takes_its_guidance_as_an_input_is_the_pipelines():
    pipe = tiny.pipeline()
    pipe.unet = tiny.like(pipe.unet, time_cond_proj_dim=8)
    for scale in (3.0, 8.0):
        result = by_search(pipe, ["cat"], 3, guidance_scale=scale)
        assert torch.equal(result.images[0], by_pipeline(pipe, ["cat"], 3, guidance_scale=scale))


# The user's pipeline, and what is asked of it


def fingerprint(pipe) -> dict:
    """All that a user may rely on not changing."""
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return {
        "weights": {name: hashed(part) for name, part in parts.items()},
        "training": {name: [m.training for m in part.modules()] for name, part in parts.items()},
        "grad": {name: [p.requires_grad for p in part.parameters()] for name, part in parts.items()},
        "where": {name: (part.device, part.dtype) for name, part in parts.items()},
        "components": {name: id(part) for name, part in pipe.components.items()},
        "config": repr(sorted(pipe.config.items(), key=str)),
        "scheduler": {key: str(value) for key, value in vars(pipe.scheduler).items()},
        "progress": dict(pipe._progress_bar_config),
    }


def hashed(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("scheduler", [None, PNDMScheduler(**tiny.SD_BETAS, skip_prk_steps=True)])
def test_nothing_of_the_pipeline_changes(scheduler):
    pipe = tiny.pipeline(scheduler)
    pipe.unet.train()  # the user's own choice, odd as it is
    pipe.scheduler.set_timesteps(13)
    try:
        before, state = fingerprint(pipe), torch.get_rng_state()
        dsearch.search(
            StableDiffusion(pipe, num_inference_steps=4),
            dsearch.methods.dsearch(tiny.contrast, beams=3, rows_per_step=6),
            PROMPTS,
        )
        assert fingerprint(pipe) == before
        assert torch.equal(torch.get_rng_state(), state), "the global generator was used"
    finally:
        pipe.unet.eval()


def counted(pipe, monkeypatch) -> Counter:
    """Rows through the text encoder, the UNet and the decoder, and calls of the pipeline, as they happen."""
    seen: Counter = Counter()

    def watch(owner, name: str, rows=lambda *args, **named: 1):
        inner = getattr(owner, name)

        def outer(*args, **named):
            seen[name] += rows(*args, **named)
            return inner(*args, **named)

        monkeypatch.setattr(owner, name, outer)

    watch(pipe, "encode_prompt")
    watch(pipe, "maybe_free_model_hooks")
    watch(pipe.unet, "forward", lambda x, *args, **named: len(x))
    watch(pipe.vae, "decode", lambda z, *args, **named: len(z))
    watch(pipe.text_encoder, "forward", lambda *args, **named: 0)

    def texts(tokens, *args, **named):
        seen["texts"] += len(tokens)
        return encoder(tokens, *args, **named)

    encoder = pipe.text_encoder.forward
    monkeypatch.setattr(pipe.text_encoder, "forward", texts)
    return seen


@pytest.mark.parametrize(("guidance", "halves"), [(1.0, 1), (7.5, 2)])
def test_the_bill_is_what_the_networks_saw(guidance, halves, monkeypatch):
    pipe, prompts = tiny.pipeline(), PROMPTS[:2]
    seen = counted(pipe, monkeypatch)
    method = dsearch.methods.dsearch(tiny.contrast, beams=4, keep=2, rows_per_step=8, search="uniform", coins=1)
    denoiser = StableDiffusion(pipe, num_inference_steps=6, guidance_scale=guidance)
    result = dsearch.search(denoiser, method, prompts, chunks=dsearch.Chunks(network=5, decoder=3))
    assert result.cost.bill == result.cost.planned == method.bill(6)
    assert seen["forward"] == halves * len(prompts) * result.cost.bill.model_calls
    assert seen["decode"] == len(prompts) * result.cost.bill.decodes
    assert (seen["encode_prompt"], seen["texts"]) == (1, halves * len(prompts))
    assert seen["maybe_free_model_hooks"] == 1


def test_offloaded_modules_are_handed_back_when_a_reward_raises(monkeypatch):
    pipe = tiny.pipeline()
    seen = counted(pipe, monkeypatch)

    def broken(images, prompts):
        raise OSError("the scorer is gone")

    with pytest.raises(dsearch.RewardError, match="the scorer is gone"):
        dsearch.search(StableDiffusion(pipe, num_inference_steps=3), dsearch.methods.svdd(broken, 2), "cat")
    assert seen["maybe_free_model_hooks"] == 1


# Chunks and batch-mates

METHODS = {
    "svdd": dsearch.methods.svdd(tiny.contrast, width=3, beams=2),
    "dsearch": dsearch.methods.dsearch(tiny.contrast, beams=4, keep=2, rows_per_step=9, search="all"),
    "best_of_n": dsearch.methods.best_of_n(tiny.contrast, n=3, keep=2),
}


def same(one: dsearch.Result, other: dsearch.Result, rows=slice(None)) -> None:
    """Equal choices, and equal figures to float tolerance."""
    for mine, theirs in zip(one.lineage.child, other.lineage.child, strict=True):
        assert torch.equal(mine, theirs[rows])
    for mine, theirs in zip(one.trace, other.trace, strict=True):
        if mine.values is not None:
            torch.testing.assert_close(mine.values, theirs.values[rows], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.latents, other.latents[rows], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.images, other.images[rows], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_chunk_sizes_change_no_choice(method):
    denoiser = StableDiffusion(tiny.pipeline(), num_inference_steps=5)
    whole = dsearch.search(denoiser, method, PROMPTS, chunks=dsearch.Chunks(network=None, decoder=None, reward=None))
    for size in (1, 3):
        parts = dsearch.search(
            denoiser, method, PROMPTS, chunks=dsearch.Chunks(network=size, decoder=size, reward=2 * size)
        )
        same(parts, whole)
        assert parts.cost.bill == whole.cost.bill


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_prompt_alone_is_the_prompt_among_others(method):
    denoiser = StableDiffusion(tiny.pipeline(), num_inference_steps=5)
    together = dsearch.search(denoiser, method, PROMPTS, ids=["x", "y", "z"], seed=4)
    for row, prompt in enumerate(PROMPTS):
        alone = dsearch.search(denoiser, method, prompt, ids=["xyz"[row]], seed=4)
        same(alone, together, rows=slice(row, row + 1))


# The model in the box


@pytest.fixture(scope="module")
def boxed():
    try:
        path = import_module("dsearch.box").pipeline_path()
    except (ImportError, AttributeError):
        pytest.skip("no box")
    if not (path / "model_index.json").exists():
        pytest.skip("no model in the box")
    pipe = StableDiffusionPipeline.from_pretrained(path, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_boxed_pipelines_own_images_come_out(boxed, guidance):
    size = (boxed.unet.config.sample_size,) * 2
    result = by_search(boxed, ["cat", "house"], 5, size=size, guidance_scale=guidance)
    assert torch.equal(result.images[:, 0], by_pipeline(boxed, ["cat", "house"], 5, guidance_scale=guidance))


def test_the_boxed_pipeline_improves_by_search(boxed):
    denoiser = StableDiffusion(boxed, num_inference_steps=5, guidance_scale=3.0)
    plain, searched = (
        dsearch.search(denoiser, dsearch.methods.svdd(tiny.contrast, width), ["cat", "house"], seed=1)
        for width in (1, 4)
    )
    assert (searched.rewards > plain.rewards).all()


# The preview


def test_a_preview_values_children_and_the_vae_makes_the_images():
    from diffusers import AutoencoderTiny

    torch.manual_seed(2)
    small = AutoencoderTiny(
        encoder_block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()
    pipe = tiny.pipeline()
    quick = StableDiffusion(pipe, num_inference_steps=4, preview=small)
    full = StableDiffusion(pipe, num_inference_steps=4)
    x0 = torch.randn(3, 4, 8, 8)
    with torch.no_grad():
        shown = quick.preview(x0)
        assert torch.equal(
            shown, (small.decode(x0).sample / 2 + 0.5).clamp(0, 1)
        )  # it takes scaled latents as they are
        assert torch.equal(quick.decode(x0), full.decode(x0)) and torch.equal(full.preview(x0), full.decode(x0))
    result = dsearch.search(quick, dsearch.methods.svdd(tiny.contrast, width=3), "cat")
    assert torch.equal(result.images[0], full.decode(result.latents[0]))
    by_function = StableDiffusion(pipe, num_inference_steps=4, preview=quick.preview)
    same = dsearch.search(by_function, dsearch.methods.svdd(tiny.contrast, width=3), "cat")
    assert torch.equal(same.images, result.images)


def test_a_preview_of_another_size_is_refused():
    denoiser = StableDiffusion(tiny.pipeline(), num_inference_steps=4, preview=lambda x0: torch.zeros(len(x0), 3, 8, 8))
    with pytest.raises(ValueError, match=r"preview made \(2, 3, 8, 8\) of \(2, 4, 8, 8\); it must give one 16x16 RGB"):
        denoiser.preview(torch.zeros(2, 4, 8, 8))
