"""Values at the edge: settings, ids, sizes, rewards and devices that few pass; the right value or error for each."""

import ast
import dataclasses
import enum
import inspect
import math
import warnings
from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import every_method, run, scores, smooth

import dsearch
from dsearch import KeyedRng, methods
from dsearch.adapters import DDPM, AnyPipeline, StableDiffusion, masked, toy
from dsearch.adapters._kernel import kernel
from dsearch.core import potential, resample, selection
from dsearch.core.resample import ess
from dsearch.core.tuning import Pilot, allocate
from dsearch.rewards import CLIPScore, clip_score

INF = math.inf

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
    x, out = (
        torch.randn(6, 4, 4, 4) * torch.tensor([1, 2, 4, 8, 16, 32.0])[:, None, None, None],
        torch.randn(6, 4, 4, 4),
    )
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
    with pytest.raises(ValueError, match=r"invert_sigmas=True.*set invert_sigmas=False"):
        kernel(diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True), 5, "cpu", 1.0, flow=True)


# Rewards and log-weights in the extended reals

ODD = st.sampled_from([INF, -INF, -INF, 0.0, 1.0, -2.5, 3e38, -3e38, 1.7e308, -1.7e308, 1e-320])
REALS = st.one_of(ODD, st.floats(-50, 50))
every_scheme = pytest.mark.parametrize("scheme", resample.SCHEMES.values(), ids=resample.SCHEMES)


def drawn(scheme, log_w, n, seed=0):
    return scheme(torch.tensor([log_w], dtype=torch.float64), n, KeyedRng(seed, (0,)), 1)[0].tolist()


@every_scheme
@given(log_w=st.lists(REALS, min_size=1, max_size=8), n=st.integers(1, 12), seed=st.integers(0, 9))
def test_a_scheme_draws_only_what_has_weight(scheme, log_w, n, seed):
    index = drawn(scheme, log_w, n, seed)
    assert len(index) == n and all(0 <= i < len(log_w) for i in index)
    if max(log_w) == INF:
        assert all(log_w[i] == INF for i in index)
    elif max(log_w) > -INF:
        assert all(log_w[i] > -INF for i in index)


@every_scheme
def test_infinite_weights_share_equally_and_so_do_weights_that_are_all_zero(scheme):
    for log_w, kept in (([INF, 0.0, INF, 0.0], [0, 2]), ([-INF] * 4, [0, 1, 2, 3])):
        counts = np.bincount([i for seed in range(100) for i in drawn(scheme, log_w, 4, seed)], minlength=4)
        share = 400 / len(kept)
        assert set(np.flatnonzero(counts)) == set(kept)
        assert all(abs(counts[i] - share) < 4.5 * math.sqrt(share) for i in kept)
    assert sorted(drawn(resample.residual, [INF, 0.0, INF, 0.0], 4)) == [0, 0, 2, 2]


@given(st.lists(REALS, min_size=1, max_size=9))
def test_the_effective_number_lies_between_one_and_n_for_any_weights(log_w):
    assert 1 - 1e-9 <= ess(torch.tensor([log_w], dtype=torch.float64)).item() <= len(log_w) + 1e-9


@pytest.mark.parametrize(
    ("log_w", "exact"), [([-INF] * 3, 3), ([INF, 0.0, INF], 2), ([INF, -INF], 1), ([0.0, -INF], 1)]
)
def test_the_effective_number_of_infinite_weights(log_w, exact):
    assert ess(torch.tensor([log_w])).item() == pytest.approx(exact)


def odd(table):
    """A reward that takes its values from a table, by where a sample lies."""
    told = torch.tensor(table, dtype=torch.float64)
    return lambda images, prompts: told[(images[:, 0].double() * 1000).long() % len(table)]


@every_method
@settings(max_examples=10)
@given(table=st.lists(REALS, min_size=1, max_size=6), seed=st.integers(0, 99))
def test_any_reward_gives_weights_that_make_sense_or_is_refused_by_its_value(example, table, seed):
    method = example(odd(table))
    try:
        result = run(method, seed=seed)
    except ValueError as error:
        assert "cannot be steered by" in str(error) and max(map(abs, table)) > 1e90
        return
    assert ((result.log_w == -INF) | result.log_w.isfinite()).all()
    assert not result.log_z.isnan().any() and (result.log_z < INF).all()
    n = result.log_w.shape[1]
    assert ((result.ess >= 1 - 1e-9) & (result.ess <= n + 1e-9)).all()
    valued = [step.values for step in result.trace if step.values is not None]
    assert method.program is not None or not any(values.isnan().any() for values in valued)  # a tree asks some alone
    assert set(result.rewards.flatten().tolist()) <= {*table}
    known = run(example(smooth), seed=seed).kl is not None
    assert (result.kl is not None) == known


STEERED = {
    **{f"fk, {kind}": lambda r, kind=kind: methods.fk(r, 6, potential=kind, every=1) for kind in potential.KINDS},
    **{
        f"tempered, {schedule}": lambda r, schedule=schedule: methods.tempered(r, 6, schedule=schedule)
        for schedule in ("geometric", "linear", "adaptive")
    },
}


@pytest.mark.parametrize("make", STEERED.values(), ids=STEERED)
def test_a_reward_of_minus_infinity_is_a_weight_of_zero_and_one_of_plus_infinity_is_refused(make):
    def cut(images, prompts):
        return torch.where(images[:, 0] > 0, smooth(images, prompts), -INF)

    result = run(make(cut), ["a"] * 8)
    assert (result.log_w[result.rewards == -INF] == -INF).all()
    assert (result.log_w > -INF).any() and not result.log_w.isnan().any()
    with pytest.raises(ValueError, match=r"a value of inf at level \d+ cannot be steered by.*bound the reward"):
        run(make(lambda images, prompts: torch.where(images[:, 0] > 0, INF, 0.0)))
    nothing = run(make(lambda images, prompts: torch.full((len(images),), -INF)))
    assert (nothing.log_w == -INF).all() and (nothing.log_z == -INF).all()
    assert nothing.ess.tolist() == pytest.approx([6.0, 6.0])


@pytest.mark.parametrize("make", [methods.fk, methods.tempered])
@pytest.mark.parametrize("lam", [1e308, INF, 0.0, -1.0, math.nan])
def test_a_strength_without_weights_is_refused(make, lam):
    with pytest.raises(ValueError, match=rf"lam={lam}".replace("+", r"\+") + " must be above 0 and finite, at most 1e"):
        make(smooth, lam=lam)


@pytest.mark.parametrize("select", [selection.softmax_child(1e-40), selection.replace_worst(0.5, 1e-40, zscore=False)])
def test_a_tiny_temperature_takes_the_best_and_does_not_overflow(select):
    population = scores([[1.0, 3.0, 2.0, 5.0], [-1.0, -3.0, -2.0, -5.0]], width=4)
    choice = select(population, 1, KeyedRng(0, (0, 1)))
    best = [choice.index[b, -1].item() for b in range(2)]
    assert best == [3, 0] and choice.kl.isfinite().all()


# Ties in a pilot

RANKED = st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=3, max_size=9)


@given(RANKED)
def test_rank_correlations_of_tied_values_are_spearmans(rows):
    values = torch.tensor(rows, dtype=torch.float64)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's, of constant values
        exact = [stats.spearmanr(values[0, :, t], values[0, :, -1]).statistic for t in range(4)]
    assert Pilot(values).rank_correlation == pytest.approx(exact, nan_ok=True)


def test_constant_rewards_have_no_rank_correlation_and_infinite_ones_no_gain():
    assert all(math.isnan(each) for each in Pilot(torch.ones(2, 5, 3)).rank_correlation)
    values = torch.randn(1, 5, 3)
    values[0, 2, 1] = -INF
    assert not any(math.isnan(each) for each in Pilot(values).rank_correlation)
    with pytest.raises(ValueError, match=r"infinite values.*finite"):
        Pilot(values).gain  # noqa: B018
    for bad in (math.nan, INF):
        with pytest.raises(ValueError, match="and finite"):
            allocate([1.0, bad], 5)


# Ids that compare equal


class Word(str, enum.Enum):
    CAT = "cat"


class Number(enum.IntEnum):
    ONE = 1


class Plain(str):
    __slots__ = ()


ALIKE = ["cat", np.str_("cat"), np.array(["cat"])[0], Word.CAT, Plain("cat"), "1"]
ALIKE += [1, True, np.int64(1), np.uint8(1), Number.ONE, 0, False]
UNLIKE = [1.0, np.float64(1), np.bool_(True), np.array(1), torch.tensor(1), b"cat", ("cat",), None]


@given(st.tuples(st.sampled_from(ALIKE), st.sampled_from(ALIKE)))
def test_ids_that_compare_equal_draw_equal_noise_and_others_do_not(pair):
    one, other = (KeyedRng(7, (key,)).normal("noise", 0, (1, 8)) for key in pair)
    assert torch.equal(one, other) == (pair[0] == pair[1])


@pytest.mark.parametrize("key", UNLIKE, ids=repr)
def test_ids_of_other_types_are_refused(key):
    with pytest.raises(TypeError, match="name a group by an int or a str"):
        KeyedRng(7, (key,))


# The user's default device

ROOT = Path(dsearch.__file__).parent
MAKERS = {
    *("tensor", "as_tensor", "zeros", "ones", "empty", "full", "arange", "linspace", "eye", "rand", "randn"),
    *("randint", "randperm", "Generator"),
}


@pytest.fixture
def elsewhere():
    """A default device that holds no data, as if the user had chosen one that is not the model's."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


def test_every_tensor_that_the_library_makes_names_its_device():
    """A method of a tensor (`new_zeros`, `full_like`) has the tensor's."""
    nameless = []
    for file in ROOT.rglob("*.py"):
        name = str(file.relative_to(ROOT))
        calls = (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call))
        made = [call for call in calls if ast.unparse(call.func) in {f"torch.{maker}" for maker in MAKERS}]
        nameless += [
            f"{name}:{call.lineno} {ast.unparse(call)[:80]}"
            for call in made
            if "device" not in {key.arg for key in call.keywords}
            and not (ast.unparse(call.func) == "torch.Generator" and call.args)
        ]
    assert not nameless, "\n".join(nameless)


@every_method
@pytest.mark.parametrize("model", [toy.example, masked.example], ids=["gaussians", "tokens"])
def test_a_search_does_not_read_the_users_default_device(example, model, elsewhere):
    def reward(x, prompts):
        return x.double().sum(-1)

    moved = run(example(reward), denoiser=model())
    torch.set_default_device(None)
    assert torch.equal(moved.images, run(example(reward), denoiser=model()).images)


def test_what_is_known_of_a_toy_does_not_read_the_users_default_device(elsewhere):
    mixture, reward = toy.example(), toy.Quadratic([1.0, 0.5])
    known = mixture.log_z(reward), mixture.expected_reward(reward), mixture.tilted(reward).log_z(reward)
    torch.set_default_device(None)
    assert known == (mixture.log_z(reward), mixture.expected_reward(reward), mixture.tilted(reward).log_z(reward))


@pytest.mark.parametrize("name", ["DDIMScheduler", "PNDMScheduler", "TCDScheduler"])
def test_a_kernel_does_not_read_the_users_default_device(name):
    scheduler, x = getattr(diffusers, name)(**tiny.SD_BETAS), torch.ones(1, 4, 4, 4)
    if name == "PNDMScheduler":
        scheduler.register_to_config(skip_prk_steps=True)
    torch.set_default_device("meta")
    try:
        of = kernel(scheduler, 5, "cpu", 1.0)
        stepped, mean = of.step(x, 1, x, x), of.x0(x, 1, x)
    finally:
        torch.set_default_device(None)
    of = kernel(scheduler, 5, "cpu", 1.0)
    assert torch.equal(stepped, of.step(x, 1, x, x)) and torch.equal(mean, of.x0(x, 1, x))


# Sizes that are numpy's


SIZES = {
    "tuned": {"gain": [1.0, 2.0, 1.0]},
    "fk": {"start": np.int64(2), "stop": np.int64(4)},
    "psp": {"drops": [(0.5, np.int64(3))], "beams": np.int64(5)},
    "dsearch": {"max_width": np.int64(3), "drop": [np.int64(4)] * 2 + [np.int64(2)] * 2},
}
"""What some methods take besides the whole numbers that are their defaults."""


@pytest.mark.parametrize("name", methods.__all__)
def test_sizes_of_numpy_make_bills_and_plans_of_plain_whole_numbers(name):
    make, more = getattr(methods, name), SIZES.get(name, {})
    parameters = inspect.signature(make).parameters.values()
    plain = {p.name: p.default for p in parameters if type(p.default) is int}
    assert plain
    method = make(smooth, **{name: np.int64(size) for name, size in plain.items()}, **more)
    same = make(smooth, **plain, **more)
    plan, bill = method.plan(5), method.bill(5)
    assert (plan, bill) == (same.plan(5), same.bill(5))
    counts = [*bill, *method.bill(np.int64(5)), plan.start, *plan.width, *plan.keep, *plan.rows, plan.model_calls]
    assert {type(count) for count in counts} == {int}
    if isinstance(method.plan, dsearch.Sized):
        other = dataclasses.replace(method, plan=dataclasses.replace(method.plan, size=np.int64(4)))
        assert {type(count) for count in other.bill(5)} == {int}


# Networks that want more than a prompt


def with_ip_adapter(pipe):
    """An IP-Adapter with random weights, loaded as diffusers loads a file."""
    unet, key, weights = pipe.unet, 1, {}
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            hidden = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            for part in ("k", "v"):
                weights[f"{key}.to_{part}_ip.weight"] = torch.randn(hidden, unet.config.cross_attention_dim)
            key += 2
    wide = unet.config.cross_attention_dim
    projection = {"proj.weight": torch.randn(4 * wide, wide), "proj.bias": torch.randn(4 * wide)}
    projection |= {"norm.weight": torch.ones(wide), "norm.bias": torch.zeros(wide)}
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": weights}])
    return pipe


def test_a_loaded_ip_adapter_is_refused_and_the_remedy_works():
    pipe = tiny.pipeline()
    pipe.unet = tiny.like(pipe.unet)  # the shared one stays as it is
    with pytest.raises(ValueError, match=r"IP-Adapter is loaded.*pipe\.unload_ip_adapter\(\)"):
        StableDiffusion(with_ip_adapter(pipe))
    pipe.unload_ip_adapter()
    run(methods.plain(tiny.contrast), ["cat"], StableDiffusion(pipe, num_inference_steps=2))


@pytest.mark.parametrize("channels", [5, 8, 9])
def test_a_unet_for_inpainting_depth_or_editing_is_refused(channels):
    pipe = tiny.pipeline()
    pipe.unet = tiny.like(pipe.unet, in_channels=channels)
    with pytest.raises(ValueError, match=rf"takes {channels} channels, but samples have 4.*text-to-image model"):
        StableDiffusion(pipe)


def test_a_unet_that_wants_a_class_beside_the_prompt_is_refused():
    pipe = tiny.pipeline()
    pipe.unet = tiny.like(pipe.unet, num_class_embeds=7)
    with pytest.raises(ValueError, match=r"wants a class beside each prompt.*text-to-image model"):
        StableDiffusion(pipe)


def test_a_pixel_network_that_learned_variances_is_refused():
    config = {name: value for name, value in tiny.pixels().config.items() if not name.startswith("_")}
    with pytest.raises(ValueError, match=r"takes 3 channels and predicts 6.*take one that predicts what it takes"):
        DDPM(diffusers.UNet2DModel(**{**config, "out_channels": 6}), diffusers.DDPMScheduler())


# Half precision on a CPU without its instructions

LACKING = {"architecture": "x86_64", "avx2": True}


@pytest.mark.parametrize(
    ("dtype", "has", "slow"),
    [
        (torch.float32, {}, False),
        (torch.bfloat16, {}, True),
        (torch.float16, {}, True),
        (torch.bfloat16, {"avx512_bf16": True}, False),
        (torch.float16, {"avx512_bf16": True}, True),
        (torch.bfloat16, {"amx_bf16": True}, False),
        (torch.float16, {"avx512_fp16": True}, False),
        (torch.float16, {"fp16_arith": True}, False),
    ],
)
def test_half_precision_without_the_cpus_instructions_is_warned_of(dtype, has, slow, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: LACKING | has, raising=False)
    pipe, network = tiny.pipeline(dtype=dtype), tiny.pixels().to(dtype)
    makers = [
        lambda: StableDiffusion(pipe, num_inference_steps=2),
        lambda: DDPM(network, diffusers.DDPMScheduler()),
        lambda: CLIPScore(device="cpu", dtype=dtype),
    ]
    for make in makers:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            make()
        slowly = [str(each.message) for each in said if "this CPU has no instructions for" in str(each.message)]
        assert len(slowly) == slow
        assert all(str(dtype).removeprefix("torch.") in text and "take float32" in text for text in slowly)


def test_a_torch_that_does_not_tell_what_the_cpu_has_is_believed(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        StableDiffusion(tiny.pipeline(dtype=torch.bfloat16), num_inference_steps=2)


# Prompts that are longer than an encoder reads

LONG = "a b c d e f g h i j k l m n"  # one token each: the tiny encoders read 14 of them, and two marks
ADAPTERS = {
    "StableDiffusion": lambda: StableDiffusion(tiny.pipeline(), num_inference_steps=2),
    "StableDiffusionXLPipeline": lambda: AnyPipeline(tiny.xl(), num_inference_steps=2),
    "StableDiffusion3Pipeline": lambda: AnyPipeline(tiny.sd3(), num_inference_steps=2),
    "FluxPipeline": lambda: AnyPipeline(tiny.flux(), num_inference_steps=2, max_sequence_length=16),
}


def told(work):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        work()
    return [str(each.message) for each in said if "read" in str(each.message)]


@pytest.mark.parametrize("name", ADAPTERS)
def test_prompts_that_are_cut_are_told_and_so_are_those_that_are_then_the_same(name):
    model = ADAPTERS[name]()
    assert [model.cut(prompt) for prompt in (LONG, f"{LONG} x y", "a", "")] == ["", "x y", "", ""]
    with torch.no_grad():
        assert not told(lambda: model.encode([LONG, "a", "a"]))
        said = told(lambda: model.encode([f"{LONG} x y", "cat", f"{LONG} z"]))
        x, row = model.start((1, 1), KeyedRng(0, (0,)))[0], torch.tensor([0])
        one, other = (model.predict(x, 0, model.encode([f"{LONG} {end}"]), row).x0 for end in ("x y", "z"))
    assert torch.equal(one, other)  # the same image indeed
    assert said == [
        f"{name} does not read the end of '{LONG} x y', 'x y'; shorten it",
        f"{name} does not read the end of '{LONG} z', 'z'; shorten it",
        f"to {name} '{LONG} z' is the same prompt as '{LONG} x y': they differ only in what it does not read",
    ]


def test_what_one_of_two_encoders_reads_is_not_cut():
    model = AnyPipeline(tiny.flux(), num_inference_steps=2, max_sequence_length=32)
    assert model.cut(f"{LONG} x y") == "" and not told(lambda: model.encode([f"{LONG} x y", f"{LONG} z"]))


def test_a_reward_tells_what_it_cuts():
    reward, words = clip_score.example(), " ".join(["a"] * 75)
    assert [reward.cut(prompt) for prompt in (words, f"{words} b c", "a")] == ["", "b c", ""]
    said = told(lambda: reward(torch.rand(3, 3, 32, 32), [f"{words} b c", "a", f"{words} d"]))
    assert len(said) == 3 and said[0].startswith("CLIPScore does not read the end of") and "'b c'" in said[0]
    assert "is the same prompt as" in said[2]


def test_hps_tells_what_it_cuts():
    pytest.importorskip("open_clip")
    from dsearch.rewards import hps

    reward, words = hps.example(), " ".join(["cat"] * 75)
    assert [reward.cut(prompt) for prompt in (words, f"{words} dog owl", "cat")] == ["", "dog owl", ""]
    said = told(lambda: reward(torch.rand(3, 3, 32, 32), [f"{words} dog owl", "cat", f"{words} fox"]))
    assert len(said) == 3 and said[0].startswith("HPS does not read the end of") and "'dog owl'" in said[0]
    assert "is the same prompt as" in said[2]
