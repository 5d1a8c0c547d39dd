"""Prompts of one's own embeddings, and what else a call may ask: each is the pipeline's own call, to the last bit."""

import pytest
import tiny
import torch
from diffusers import DDIMScheduler

import dsearch
from dsearch.adapters import AnyPipeline, StableDiffusion, from_pipeline

STEPS = 3
PROMPTS = ["cat", "a red dog"]


def score(images, prompts):
    return tiny.contrast(images, prompts)


def recorded(shape):
    """What a pipeline draws from generator 3, one child a step."""
    generator = torch.Generator().manual_seed(3)
    draws = [torch.randn(1, *shape, generator=generator) for _ in range(STEPS + 1)]
    return tiny.Recorded(draws[0][:, None], [draw[:, None, None] for draw in draws[1:]])


def found(denoiser, prompt):
    return dsearch.search(denoiser, dsearch.methods.plain(score, 1), [prompt], rng=recorded((4, 8, 8))).images[:, 0]


def own(pipe, **call):
    generator = torch.Generator().manual_seed(3)
    return pipe(generator=generator, num_inference_steps=STEPS, output_type="pt", eta=1.0, **call).images


@torch.no_grad()
def weighted(pipe, prompt):
    """Every other token counts 1.5 times, as weighting does it."""
    embeds, negative = pipe.encode_prompt(prompt, "cpu", 1, True)[:2]
    weights = torch.tensor([1.0, 1.5]).repeat(embeds.shape[1])[: embeds.shape[1], None]
    return {"prompt_embeds": embeds * weights, "negative_prompt_embeds": negative}


@torch.no_grad()
def weighted_xl(pipe, prompt):
    embeds, negative, pooled, negative_pooled = pipe.encode_prompt(prompt, device="cpu")
    made = {"prompt_embeds": embeds * 1.5, "negative_prompt_embeds": negative}
    return made | {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": negative_pooled}


@torch.no_grad()
def skipping(pipe, prompt, skip=1):
    """The text encoder without its last layers, normalised as its end would: what `clip_skip` is."""
    tokens = pipe.tokenizer(prompt, padding="max_length", max_length=16, truncation=True, return_tensors="pt").input_ids
    states = pipe.text_encoder(tokens, output_hidden_states=True).hidden_states[-(skip + 1)]
    embeds = pipe.text_encoder.final_layer_norm(states)
    return {"prompt_embeds": embeds, "negative_prompt_embeds": torch.zeros_like(embeds)}


class Own(AnyPipeline):
    """A pipeline called with embeddings of its own."""

    made = staticmethod(weighted)

    def call_for(self, prompt):
        return self.made(self.pipe, prompt)


class OwnXL(Own):
    made = staticmethod(weighted_xl)


class Skipping(Own):
    made = staticmethod(skipping)


class Weighted(StableDiffusion):
    """The fast path with embeddings of its own."""

    def encode(self, prompts):
        made = [weighted(self.pipe, prompt) for prompt in prompts]
        return tuple(torch.cat([each[name] for each in made]) for name in ("prompt_embeds", "negative_prompt_embeds"))


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("make", "adapter", "embed"),
    [
        (tiny.pipeline, Own, weighted),
        (tiny.pipeline, Weighted, weighted),
        (tiny.pipeline, Skipping, skipping),
        (tiny.xl, OwnXL, weighted_xl),
    ],
)
def test_embeddings_of_ones_own_are_the_pipelines_call_with_them_bit_for_bit(make, adapter, embed, prompt):
    pipe = make()
    ours = found(adapter(pipe, num_inference_steps=STEPS), prompt)
    assert (ours - own(pipe, **embed(pipe, prompt))).abs().max() == 0.0
    assert (ours - own(pipe, prompt=prompt)).abs().max() > 1e-4


def test_each_prompt_has_its_own_embeddings():
    denoiser, pipe = Own(tiny.pipeline(), num_inference_steps=STEPS), tiny.pipeline()
    both = dsearch.search(denoiser, dsearch.methods.best_of_n(score, 2), PROMPTS, ids=["a", "b"])
    for b, prompt in enumerate(PROMPTS):
        alone = AnyPipeline(pipe, num_inference_steps=STEPS, **weighted(pipe, prompt))
        one = dsearch.search(alone, dsearch.methods.best_of_n(score, 2), [prompt], ids=["ab"[b]])
        torch.testing.assert_close(both.latents[b], one.latents[0], atol=1e-4, rtol=1e-4)


def test_guidance_is_rescaled_as_the_pipeline_does_it():
    pipe = tiny.pipeline(DDIMScheduler(**tiny.SD_DDIM, rescale_betas_zero_snr=True, prediction_type="v_prediction"))
    ours = found(from_pipeline(pipe, num_inference_steps=STEPS, guidance_rescale=0.7), "cat")
    assert (ours - own(pipe, prompt="cat", guidance_rescale=0.7)).abs().max() == 0.0
    assert (ours - own(pipe, prompt="cat")).abs().max() > 1e-3
