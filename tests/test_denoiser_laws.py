"""The laws of a `Denoiser`, run on the discovered `example()` of every adapter, and on tiny random networks for those
whose weights the package does not ship."""

import random
from functools import cache, partial
from importlib import import_module
from pkgutil import iter_modules

import numpy as np
import pytest
import tiny
import torch
from strategies import assert_identical
from test_backbones import BACKBONES

from dsearch import KeyedRng, adapters
from dsearch.adapters import StableDiffusion
from dsearch.core.contract import map_tree, own

PROMPTS = ["a", "b"]
B, K, W = 2, 3, 4
BOX = "box"

MODULES = {
    info.name: import_module(f"{adapters.__name__}.{info.name}")
    for info in iter_modules(adapters.__path__)
    if not info.name.startswith("_")
}
EXAMPLES = {name: module.example for name, module in MODULES.items() if hasattr(module, "example")}
NETWORKS = {
    name: lambda make=make, adapter=adapter: adapter(make(), num_inference_steps=4)
    for name, (make, adapter) in BACKBONES.items()
}
NETWORKS["SD as a flow"] = lambda: StableDiffusion(
    adapters.as_flow(tiny.pipeline()), num_inference_steps=4, noise="dance"
)


def box():
    """The model that ships with the package."""
    from diffusers import StableDiffusionPipeline

    from dsearch.box import pipeline_path

    return StableDiffusion(StableDiffusionPipeline.from_pretrained(pipeline_path()), num_inference_steps=3)


@cache
def made(name):
    return {**EXAMPLES, **NETWORKS, BOX: box}[name]()


every_model = pytest.mark.parametrize("name", [*EXAMPLES, *NETWORKS, BOX])


def prompts(model):
    """Those of the model: an unconditional one has the empty prompt alone."""
    try:
        model.encode(PROMPTS)
        return PROMPTS
    except ValueError:
        return ["", ""]


@torch.no_grad()
def at(model, level, seed=0):
    """Samples `[B, K, ...]` on the way to a level with their prediction, and the conditions."""
    rng, cond = KeyedRng(seed, (0, 1)), model.encode(prompts(model))
    x = model.start((B, K), rng)
    for step in range(level):
        x = model.step(*deep(x, predict(model, x, step, cond)), step, model.noise(step, (B, K, 1), rng))[:, :, 0]
    return x, predict(model, x, level, cond), cond


def predict(model, x, level, cond):
    index = torch.arange(B).repeat_interleave(x.shape[1])
    pred = model.predict(x.flatten(0, 1), level, cond, index)
    return map_tree(lambda leaf: leaf.unflatten(0, x.shape[:2]), pred)


def deep(*trees):
    """A beam axis for children."""
    return tuple(map_tree(lambda leaf: leaf[:, :, None], tree) for tree in trees)


def test_every_adapter_is_among_them():
    covered = {make.func if isinstance(make, partial) else make for _, make in BACKBONES.values()}
    covered = {adapter.__module__ for adapter in covered} | {f"{adapters.__name__}.{name}" for name in EXAMPLES}
    # A look-up; a block that tests/test_backbones.py holds to AnyPipeline; and pipelines in other coordinates.
    without = {"loaded", "modular_sdxl", "velocity"}
    assert {f"{adapters.__name__}.{name}" for name in MODULES if name not in without} == covered


@every_model
@torch.no_grad()
def test_children_by_broadcasting_are_children_one_by_one(name):
    model = made(name)
    for step in (0, model.num_steps - 1):
        x, pred, _ = at(model, step)
        noise = model.noise(step, (B, K, W), KeyedRng(5, (0, 1)))
        together = model.step(*deep(x, pred), step, noise)
        assert together.shape[:3] == (B, K, W)
        for child in range(W):
            alone = model.step(*deep(x, pred), step, noise[:, :, child : child + 1])
            assert torch.equal(together[:, :, child], alone[:, :, 0])
        for beam in range(K):
            part = map_tree(lambda leaf, beam=beam: leaf[:, beam : beam + 1], (x, pred))
            assert torch.equal(together[:, beam], model.step(*deep(*part), step, noise[:, beam : beam + 1])[:, 0])


@every_model
@torch.no_grad()
def test_a_row_s_prediction_knows_no_other_row(name):
    """Bit for bit in exact models; batched networks round otherwise, in the last digits of float32."""
    model = made(name)
    x, pred, cond = at(model, 1)
    rows, index = x.flatten(0, 1), torch.arange(B).repeat_interleave(K)
    for row in (0, B * K - 1):
        alone = model.predict(rows[row : row + 1], 1, cond, index[row : row + 1]).x0[0]
        among = pred.x0.flatten(0, 1)[row]
        if name in EXAMPLES:
            assert torch.equal(alone, among)
        else:
            assert torch.allclose(alone, among, atol=1e-4 * float(among.abs().max()), rtol=0)


@every_model
@torch.no_grad()
def test_predicting_is_pure(name):
    model = made(name)
    x, _, cond = at(model, 1)
    before, index = own((x, said(cond))), torch.arange(B).repeat_interleave(K)
    first = own(model.predict(x.flatten(0, 1), 1, cond, index))
    model.predict(x.flatten(0, 1), 0, cond, index)  # of another level in between
    again = model.predict(x.flatten(0, 1), 1, cond, index)
    assert_identical(list(tensors(first)), list(tensors(again)))
    assert_identical(list(tensors(before)), list(tensors((x, said(cond)))))


def said(cond):
    """Conditions as tensors: those of a replayed call are its variables."""
    if isinstance(cond, list) and all(hasattr(each, "frames") for each in cond):
        values = [value for each in cond for frame in each.frames for value in frame.values.values()]
        return [value for value in values if isinstance(value, torch.Tensor)]
    return cond


def tensors(tree):
    found = []
    map_tree(lambda leaf: found.append(leaf) or leaf, tree)
    return found


@every_model
@torch.no_grad()
def test_all_noise_is_the_source_s(name):
    model, shape = made(name), (B, K, W)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    start, noise = model.start((B, K), KeyedRng(1, (0, 1))), model.noise(1, shape, KeyedRng(1, (0, 1)))
    stepped = model.step(*deep(*at(model, 1)[:2]), 1, noise)
    torch.manual_seed(99)
    again = model.start((B, K), KeyedRng(1, (0, 1))), model.noise(1, shape, KeyedRng(1, (0, 1)))
    assert torch.equal(start, again[0]) and torch.equal(noise, again[1])
    assert torch.equal(stepped, model.step(*deep(*at(model, 1)[:2]), 1, again[1]))
    torch.set_rng_state(states[0])
    model.noise(1, shape, KeyedRng(1, (0, 1)))
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert np.array_equal(np.random.get_state()[1], states[1])
    # A group's noise is its id's, whatever the others'.
    swapped = model.noise(1, shape, KeyedRng(1, (1, 7)))
    assert torch.equal(swapped[0], noise[1]) and not torch.equal(swapped[1], noise[0])


@every_model
@torch.no_grad()
def test_clean_samples_are_their_own_posterior_mean(name):
    model = made(name)
    x, pred, _ = at(model, model.num_steps)
    assert torch.equal(pred.x0, x)


@every_model
@torch.no_grad()
def test_clean_samples_never_meet_the_network(name):
    """Nothing is billed for them, so nothing may be asked: there are no conditions that a network could read."""
    model = made(name)
    x = at(model, model.num_steps)[0].flatten(0, 1)
    nothing = model.predict(x, model.num_steps, None, torch.zeros(len(x), dtype=torch.long))
    assert nothing.out is None and torch.equal(nothing.x0, x)


CURVED = {"toy": "the mixture's own kernel", "masked": "tokens", "DDIM in pixels": "clips x_0 and not its noise"}
"""Models whose kernel is not a Gaussian around a combination of x and its posterior mean, and why."""


def combined(mean, x, x0):
    """The combination of x and x0 that is nearest to the mean, all samples together."""
    parts = torch.stack([x.flatten(), x0.flatten()], dim=1).double()
    weights = torch.linalg.lstsq(parts, mean.double().flatten()[:, None]).solution
    return (parts @ weights).view(mean.shape)


@pytest.mark.parametrize("name", [name for name in [*NETWORKS, BOX] if name not in CURVED])
@torch.no_grad()
def test_a_step_goes_to_one_combination_of_x_and_its_posterior_mean_by_one_deviation(name):
    """x' = A x + C E[x_0 | x] + d noise, with numbers A, C and d of the step alone: what the search values is what the
    kernel goes to."""
    model = made(name)
    for step in range(model.num_steps):
        x, pred, _ = at(model, step)
        noise = model.noise(step, (B, K, W), KeyedRng(5, (0, 1)))
        mean, children = (model.step(*deep(x, pred), step, drawn) for drawn in (torch.zeros_like(noise), noise))
        scale = float(mean.abs().max())
        assert (combined(mean[:, :, 0], x, pred.x0) - mean[:, :, 0]).abs().max() < 1e-5 * scale
        moved = children - mean
        deviation = (moved * noise).sum() / noise.square().sum()
        assert (moved - deviation * noise).abs().max() < 1e-5 * scale
        assert deviation > 0 or step == model.num_steps - 1


@torch.no_grad()
def test_the_deterministic_step_of_the_toy_ends_at_the_posterior_mean():
    model = made("toy")
    for step in range(model.num_steps):
        x, pred, _ = at(model, step)
        still = model.deterministic(*deep(x, pred), step)[:, :, 0]
        assert torch.allclose(combined(still, x, pred.x0), still.double(), atol=1e-5)
    assert torch.allclose(still, pred.x0, atol=1e-6)


EXACT_END = {"SD, Euler ancestral", "SDXL, Euler ancestral", "SD3", "Flux", "SD as a flow", "toy_flow", "masked"}
"""Models whose last kernel leads to the posterior mean itself, without noise."""


@pytest.mark.parametrize("name", sorted(EXACT_END))
@torch.no_grad()
def test_the_last_step_leads_to_the_posterior_mean(name):
    model = made(name)
    last = model.num_steps - 1
    x, pred, _ = at(model, last)
    noise = model.noise(last, (B, K, W), KeyedRng(5, (0, 1)))
    clean = model.step(*deep(x, pred), last, noise)
    if name == "masked":  # tokens have no mean: what is revealed stays, and nothing is masked at the end
        assert (clean != model.mask).all() and ((x == model.mask) | (x == pred.x0)).all()
        return
    assert torch.allclose(clean, pred.x0[:, :, None].expand_as(clean), atol=2e-3 * float(pred.x0.abs().max()))
