"""Going back in noise: `renoise` is the forward kernel, and an exact reverse kernel after it leads to the same law."""

from itertools import combinations, pairwise, permutations

import diffusers
import pytest
import tiny
import torch
from test_denoiser_laws import B, K, W, at, deep, every_model, made

from dsearch import KeyedRng
from dsearch.adapters import AnyPipeline, FlowMixture, GaussianMixture, Masked, StableDiffusion, TokenChain
from dsearch.adapters._kernel import kernel


@every_model
@torch.no_grad()
def test_children_by_broadcasting_are_noised_as_one_by_one(name):
    model = made(name)
    x, _, _ = at(model, 2)
    before, noise = x.clone(), model.noise(0, (B, K, W), KeyedRng(5, (0, 1)))
    together = model.renoise(*deep(x), 2, 1, noise)
    assert together.shape == (B, K, W, *x.shape[2:]) and together.dtype == x.dtype
    for child in range(W):
        alone = model.renoise(*deep(x), 2, 1, noise[:, :, child : child + 1])
        assert torch.equal(together[:, :, child], alone[:, :, 0])
    assert torch.equal(x, before)


def line(renoise, level, to):
    """keep and draw of x_j = keep x_i + draw z."""
    one, none = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    return float(renoise(one, level, to, none)), float(renoise(none, level, to, one))


def assert_forward(renoise, marginals, rel=1e-6):
    """From every level to every noisier one: the marginals a x_0 + s n go over into each other."""
    for level in range(1, len(marginals)):
        for to in range(level):
            (a, s), (a_to, s_to) = marginals[level], marginals[to]
            keep, draw = line(renoise, level, to)
            assert keep * a == pytest.approx(a_to, rel=rel, abs=1e-6)
            assert (keep * s) ** 2 + draw**2 == pytest.approx(s_to**2, rel=rel, abs=1e-6)


@pytest.mark.parametrize("make", [GaussianMixture, FlowMixture])
def test_a_toy_s_marginals_go_over_into_each_other(make):
    toy = make([[0.0]], std=0.5, num_steps=5)
    assert_forward(toy.renoise, [(toy._path(level)[0], toy._path(level)[2] ** 0.5) for level in range(6)])


@pytest.mark.parametrize(
    "scheduler",
    [
        diffusers.DDIMScheduler(clip_sample=False),
        diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        diffusers.DDPMScheduler(clip_sample=False),
        diffusers.LCMScheduler(clip_sample=False),
        diffusers.TCDScheduler(),
        diffusers.EulerAncestralDiscreteScheduler(),
        diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=1),
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_a_scheduler_s_marginals_go_over_into_each_other(scheduler):
    """They are those by which the scheduler itself adds noise."""
    flow = type(scheduler).__name__.startswith("FlowMatch")
    of = kernel(scheduler, 6, "cpu", flow=flow)
    one, none = torch.ones(1, 1), torch.zeros(1, 1)
    add = (lambda x, z, t: of.scheduler.scale_noise(x, t, z)) if flow else of.scheduler.add_noise
    found = [[float(add(*pair, t[None])) for pair in ((one, none), (none, one))] for t in of.timesteps]
    final = float(getattr(scheduler, "final_alpha_cumprod", 1.0)) if "DDIM" in type(scheduler).__name__ else 1.0
    assert_forward(of.renoise, [*found, (final**0.5, (1 - final) ** 0.5)], rel=1e-4)


def test_a_scheduler_without_tables_is_refused():
    of = kernel(diffusers.DDIMScheduler(clip_sample=False), 4, "cpu")
    del of.scheduler.alphas_cumprod
    with pytest.raises(ValueError, match="DDIMScheduler has no tables of its noise"):
        of.renoise(torch.zeros(1), 2, 1, torch.zeros(1))


@torch.no_grad()
def test_any_pipeline_noises_as_its_adapter_does():
    pipe = tiny.pipeline()
    one, other = StableDiffusion(pipe, num_inference_steps=4), AnyPipeline(pipe, num_inference_steps=4, check=False)
    x = one.start((1, 2), KeyedRng(0, (0,)))
    noise = other.noise(1, (1, 2, 3), KeyedRng(1, (0,)))
    assert torch.allclose(one.renoise(*deep(x), 3, 1, noise), other.renoise(*deep(x), 3, 1, noise), atol=1e-6)


def test_what_a_pipeline_starts_without_noise_is_never_noised():
    model = AnyPipeline(tiny.pipeline(), num_inference_steps=4, check=False)
    x = model.start((1, 1), KeyedRng(0, (0,)))
    noise, kept = model.noise(1, (1, 1, 1), KeyedRng(1, (0,))), torch.ones_like(x[0])
    kept[..., 0] = 0
    model._start = model._start._replace(scale=kept)
    again = model.renoise(*deep(x), 3, 1, noise)
    assert torch.equal(again[..., 0], x[:, :, None][..., 0]) and not torch.isin(again[..., 1:], x).any()
    model._shape = (*model._shape[:-1], 3)
    with pytest.raises(ValueError, match="cannot be noised again"):
        model.renoise(*deep(x), 3, 1, noise)


def test_a_mixture_that_goes_back_and_down_again_keeps_its_law():
    toy, n = GaussianMixture([[-2.0], [1.0]], std=[0.3, 0.6], weights=[0.25, 0.75], num_steps=4), 40_000
    rng, cond, index = KeyedRng(3, (0,)), toy.encode([""]), torch.zeros(n, dtype=torch.long)
    x = toy.start((1, n), rng)
    at = [0, 1, 2, 3, 4, 1, 2, 3, 4, 3, 4]
    for move, (level, to) in enumerate(pairwise(at)):
        if to > level:
            pred = toy.predict(x[0], level, cond, index)
            deeper = [leaf[None, :, None] for leaf in (x[0], *pred.out)]
            step = pred._replace(out=(deeper[1], deeper[2]), x0=pred.x0[None, :, None])
            x = toy.step(deeper[0], step, level, toy.noise(move, (1, n, 1), rng))[:, :, 0]
        else:
            x = toy.renoise(x[:, :, None], level, to, toy.noise(move, (1, n, 1), rng))[:, :, 0]
    for power, exact in ((1, 0.25), (2, 0.25 * 4.09 + 0.75 * 1.36)):
        seen = x.double() ** power
        assert abs(float(seen.mean()) - exact) < 5 * float(seen.std()) / n**0.5


def words_at(chain, level):
    """The model's law at a level, by enumeration: `{word with masks: p}`; one token a step, in random order."""
    length, law = chain.length, {}
    hidden = list(combinations(range(length), length - level))
    for word, p in zip(chain.words, chain.table.flatten(), strict=True):
        for places in hidden:
            x = word.clone()
            x[list(places)] = chain.mask
            key = tuple(x.tolist())
            law[key] = law.get(key, 0.0) + float(p) / len(hidden)
    return law


def noised_again(chain, law, level, to):
    """The law after `renoise`, over all orders in which the uniforms can fall."""
    made = {}
    orders = list(permutations(range(chain.length)))
    noise = torch.tensor(orders, dtype=torch.float64)[None, None, :, :, None].expand(-1, -1, -1, -1, 2)
    for word, p in law.items():
        x = torch.tensor(word)[None, None, None]
        for after in chain.renoise(x, level, to, noise)[0, 0].tolist():
            made[tuple(after)] = made.get(tuple(after), 0.0) + p / len(orders)
    return made


@pytest.mark.parametrize(("level", "to"), [(3, 0), (3, 1), (3, 2), (2, 1), (2, 0), (1, 0)])
def test_masking_again_has_the_exact_marginals_of_the_forward_process(level, to):
    chain = TokenChain(torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    made = noised_again(chain, words_at(chain, level), level, to)
    exact = words_at(chain, to)
    assert made.keys() == exact.keys()
    for word, p in exact.items():
        assert made[word] == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_level_has_as_many_masks_coming_back_as_going_down(schedule):
    model = Masked(
        lambda x, level: torch.zeros(*x.shape, 3), length=11, vocab=3, num_steps=4, schedule=schedule, order="random"
    )
    x, cond, counts = model.start((1, 1), KeyedRng(0, (0,))), model.encode([""]), [11]
    for level in range(4):
        pred = model.predict(x[0], level, cond, torch.zeros(1, dtype=torch.long))
        deeper = tuple(leaf[None, :, None] for leaf in pred.out)
        noise = model.noise(level, (1, 1, 1), KeyedRng(0, (0,)))
        x = model.step(x[:, :, None], pred._replace(out=deeper, x0=None), level, noise)[:, :, 0]
        counts.append(int((x == model.mask).sum()))
    assert counts[-1] == 0
    for to in range(4):
        again = model.renoise(x[:, :, None], 4, to, model.noise(0, (1, 1, 2), KeyedRng(1, (0,))))
        assert (again == model.mask).sum(-1).flatten().tolist() == [counts[to]] * 2


def test_a_template_cannot_be_masked_again():
    model = Masked(lambda x, level: torch.zeros(*x.shape, 3), length=3, vocab=3, template=lambda prompt: [0, 3, 3])
    with pytest.raises(ValueError, match="no template"):
        model.renoise(torch.zeros(1, 1, 1, 3), 3, 1, torch.zeros(1, 1, 1, 3, 2))
