"""Every method, model, reward and feature on a device: as on the CPU, and the host never waits inside a step.

Without a GPU that device is the pretend one of `accelerator.py`; `make test-gpu` runs the same on a real one.
"""

import copy
import dataclasses
import io
import time
from functools import cache, partial
from importlib import import_module
from pkgutil import iter_modules
from typing import NamedTuple

import accelerator
import pytest
import tiny
import torch
from strategies import every_method
from test_backbones import BACKBONES, modular
from torch.nn.attention import SDPBackend, sdpa_kernel

import dsearch
from dsearch import adapters, methods, rewards
from dsearch.adapters import GaussianMixture, Masked, StableDiffusion, TokenChain, search_step
from dsearch.compare import metrics
from dsearch.core import potential, resample, value
from dsearch.core.tournament import by_reward, swiss, tournament
from dsearch.plots import from_png, to_pil
from dsearch.values import network

DEVICE = accelerator.available()
PRETENDED = DEVICE == accelerator.NAME
DEVICES = [f"{accelerator.NAME}:0", f"{accelerator.NAME}:{accelerator.NO_FLOAT64}"] if PRETENDED else [DEVICE or "cpu"]
STEPS = 5
PROMPTS = ["cat", "a red dog"]

pytestmark = [
    pytest.mark.device,
    pytest.mark.skipif(DEVICE is None, reason="a real accelerator is asked for or at hand; see `make test-gpu`"),
]
only_pretended = pytest.mark.skipif(not PRETENDED, reason="of the pretend device")


@pytest.fixture(scope="module", autouse=True)
def exact():
    """The device is there, and computes in float32 what it says is float32."""
    if PRETENDED:
        accelerator.register()
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    with sdpa_kernel(SDPBackend.MATH):  # the CPU has an attention of its own, which rounds otherwise
        yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


@pytest.fixture
def page(request, record_property):
    """Adds a line to the page of results: what, how far from the CPU, how often the host waited in a step, seconds."""

    def add(device, apart, waits=None, seconds=None, within=0.0):
        kind = request.node.callspec.id.replace(str(device), "").strip("-")
        test = request.node.originalname.removeprefix("test_").split("_as_")[0].replace("_", " ")
        record_property("device", [kind or test, str(device), apart, waits, seconds])
        assert apart <= max(within, tolerance(device)), f"{apart} from the CPU"

    return add


def tolerance(device):
    """Of the pretend device none, but where the CPU has float64 and it has not."""
    if not PRETENDED:
        return 2e-3
    return 1e-4 if torch.device(device).index == accelerator.NO_FLOAT64 else 0.0


def bright(images, prompts):
    """A smooth reward without ties, computed where the images are: a corner against the others, in red."""
    ramp = torch.linspace(-1, 2, images.shape[-1], device=images.device)
    return 10 * (images[:, 0] * ramp * ramp[:, None]).mean((1, 2))


def near(samples, prompts):
    """For the toys: how near the samples, points or tokens, are to 0.7, each coordinate in its own measure."""
    scale = torch.arange(1, samples.shape[-1] + 1, device=samples.device)
    return -((samples - 0.7).square() / scale).sum(-1)


class Pictures(GaussianMixture):
    """The toy there, whose samples are pictures: the engine and the methods have all they meet in a real model."""

    def __init__(self, device):
        super().__init__([[-1.0, 0.0], [1.0, 1.5]], 0.5, num_steps=STEPS, shift={"cat": 0.5}, device=device)

    def decode(self, x0):
        ramp = torch.linspace(-1, 1, 8, device=x0.device)
        shade = torch.sigmoid(x0[:, :1, None] * ramp[:, None] + x0[:, 1:, None] * ramp)
        return shade[:, None].repeat(1, 3, 1, 1)


@cache
def diffusion(device):
    """A tiny Stable Diffusion there."""
    return copy.deepcopy(tiny.pipeline()).to(device)


class Ran(NamedTuple):
    """A search, what the host waited for in each of its steps but each round's first, and its seconds."""

    result: dsearch.Result
    waits: list[list[accelerator.Wait]]
    seconds: float

    @property
    def most(self):
        return max(map(len, self.waits), default=0)


def searched(denoiser, method, prompts=PROMPTS, watch=(), **options):
    """All searches of this file are made here."""
    ends = [0]
    waits = []

    def note(step, beams):
        if step.step > 0:
            waits.append(seen[ends[-1] :])
        ends.append(len(seen))

    began, counted = time.perf_counter(), [] if method.program is not None else [note]
    with accelerator.waits() as seen:
        result = dsearch.search(denoiser, method, prompts, seed=3, watch=[*watch, *counted], **options)
    return Ran(result, waits if counted else [seen], round(time.perf_counter() - began, 3))


def said(result):
    """All that a result says, by name."""
    return {
        "images": result.images,
        "rewards": result.rewards,
        "latents": result.latents,
        "log_w": result.log_w,
        "kl": result.kl,
        "ess": result.ess,
        "log_z": result.log_z,
        "path": result.lineage.path(),
        "ancestor": result.lineage.ancestor(),
        "ancestors": result.lineage.ancestors(),
        "values": [step.values for step in result.trace],
        "looks": [(look.level, look.value, look.scores) for look in result.looks],
        "thumbnails": result.thumbnails,
        "prompts": result.prompts,
        "spent": tuple(result.cost.spent),
        "watched": tuple(result.cost.watched),
    }


def apart(one, other):
    """The largest difference between floats of two trees whose other leaves are equal."""
    if isinstance(one, torch.Tensor):
        one, other = one.cpu(), other.cpu()
        assert one.shape == other.shape
        if not one.is_floating_point():
            assert torch.equal(one, other)
            return 0.0
        one, other = one.double(), other.double()
        same = (one == other) | (one.isnan() & other.isnan())
        return float(torch.where(same, 0, (one - other).abs()).nan_to_num(nan=torch.inf).max()) if one.numel() else 0.0
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list | tuple):
        return max((apart(a, b) for a, b in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float):
        return abs(one - other)
    assert one == other
    return 0.0


def compared(page, device, search):
    """`search(device)` there and on the CPU, with the difference on the page; the search there."""
    there, here = search(torch.device(device)), search(torch.device("cpu"))
    assert there.result.rewards.device.type == torch.device(device).type
    page(device, apart(said(there.result), said(here.result)), there.most, there.seconds)
    return there


# ---- methods ------------------------------------------------------------------------------------------------

WAITS = {
    "published": lambda trace: 1,
    "epsilon_greedy": lambda trace: 1,  # after each round but the last: which noise to go on from
    "abcd": lambda trace: 1,
    "rbf": lambda trace: 1 + 2 * max(step.width for step in trace),
    **dict.fromkeys(("dfs", "dts", "threshold"), lambda trace: 2 * len(PROMPTS) * sum(s.alive for s in trace) + 3),
}
"""The most waits in a step, of a tree in all, of the methods that cannot do without (docs/engine.md)."""


@every_method
def test_a_method_finds_what_it_finds_on_the_cpu_and_waits_as_told(example, device, page):
    ran = compared(page, device, lambda device: searched(Pictures(device), example(bright)))
    assert ran.most <= WAITS.get(example(bright).name, lambda trace: 0)(ran.result.trace), ran.waits


def test_a_longer_run_of_a_method_that_waits_for_nothing_reads_no_more(device):
    """Checks for nan are left for the end, and read at once."""

    def count(steps):
        denoiser = GaussianMixture(num_steps=steps, device=device)
        with accelerator.waits() as seen:
            dsearch.search(denoiser, methods.svdd(near, 3), PROMPTS)
        return len(seen)

    assert count(4) == count(9) > 0


# ---- features -----------------------------------------------------------------------------------------------


def judge(images, prompts):
    """What watches, and disagrees with what steers."""
    return -bright(images, prompts)


def svdd(reward=bright, **options):
    return methods.svdd(reward, **{"width": 3, "beams": 2, **options})


def fk(**options):
    return methods.fk(bright, **{"particles": 6, "lam": 3.0, "every": 1, "ess_below": 0.9, **options})


def pooled(method):
    """The same with the beams of all prompts in one group."""
    return dataclasses.replace(method, pool=True)


def learned(device):
    return value.learned(network.ValueNetwork(2, STEPS).to(device).eval().requires_grad_(False))


FEATURES = {
    "soft choice": lambda device: (svdd(temperature=0.3), {}),
    "lookahead": lambda device: (svdd(value=value.lookahead(2, 2)), {}),
    "lookahead without noise": lambda device: (svdd(value=value.lookahead(2, deterministic=True)), {}),
    "soft lookahead": lambda device: (svdd(value=value.lookahead(1, 3, over="soft", alpha=0.1)), {}),
    "learned value": lambda device: (svdd(value=learned(device)), {}),
    "switched value": lambda device: (svdd(value=value.switched(learned(device), value.posterior_mean)), {}),
    "held-out reward": lambda device: (svdd(), {"watch": [dsearch.HeldOut({"judge": judge})]}),
    "held-out reward on the way": lambda device: (svdd(), {"watch": [dsearch.HeldOut({"judge": judge}, every=2)]}),
    "patience": lambda device: (svdd(), {"watch": [dsearch.HeldOut({"judge": judge}, every=1, patience=1)]}),
    "thumbnails": lambda device: (svdd(), {"watch": [dsearch.Thumbnails(4)]}),
    "target": lambda device: (svdd(), {"watch": [dsearch.Target(3.0)]}),
    "target of noise search": lambda device: (methods.random_search(bright, 2, 3), {"watch": [dsearch.Target(3.0)]}),
    "target of streamed children": lambda device: (svdd(width=9), {"watch": [dsearch.Target(3.0)], "chunks": CHUNKS}),
    "streaming": lambda device: (svdd(width=9), {"chunks": CHUNKS}),
    "padding": lambda device: (svdd(), {"chunks": dsearch.Chunks(5, 5, pad=True)}),
    "pool": lambda device: (pooled(methods.beam(bright, beams=4)), {}),
    "reward on the host": lambda device: (svdd(rewards.Compressibility()), {}),
    "ensemble": lambda device: (svdd(rewards.ensemble([bright, judge], "rank", reference=[[-1, 0, 1], [0, 1]])), {}),
    "cautious ensemble": lambda device: (svdd(rewards.ensemble([bright, judge], "uncertainty")), {}),
    "final choice": lambda device: (
        methods.best_of_n(bright, n=4, keep=4),
        {"final": tournament(by_reward(judge), swiss())},
    ),
    "weighted rewards": lambda device: (svdd(rewards.weighted(bright, judge, weights=(1.0, 0.5))), {}),
    **{f"potential {kind}": lambda device, kind=kind: (fk(potential=kind), {}) for kind in potential.KINDS},
    **{f"resampler {name}": lambda device, name=name: (fk(resampler=name), {}) for name in resample.SCHEMES},
    "adaptive tempering": lambda device: (methods.tempered(bright, particles=6, lam=3.0, schedule="adaptive"), {}),
}
CHUNKS = dsearch.Chunks(4, 4, 4)
FEATURE_WAITS = {
    "patience": 2,
    "target": 1,
    "target of noise search": 2,
    "target of streamed children": 12,
    "pool": 1,
    "thumbnails": 3,
    "reward on the host": 3,
}
"""The most waits in a step, of the features that cannot do without (docs/engine.md)."""


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_what_it_is_on_the_cpu_and_waits_as_told(name, device, page):
    def search(device):
        method, options = FEATURES[name](device)
        return searched(Pictures(device), method, **options)

    ran = compared(page, device, search)
    assert ran.most <= FEATURE_WAITS.get(name, 0), ran.waits


def test_rewards_where_the_samples_are_not(device):
    """A model on the host with a reward on the device, and the other way round."""

    def there(images, prompts):
        return bright(images.to(device), prompts)

    def here(images, prompts):
        return bright(images.cpu(), prompts).double()

    plain = said(searched(Pictures("cpu"), svdd()).result)
    assert apart(said(searched(Pictures("cpu"), svdd(there)).result), plain) <= tolerance(device)
    assert apart(said(searched(Pictures(device), svdd(here)).result), plain) <= tolerance(device)


def test_a_pilot_sees_the_same(device, page):
    there, here = (dsearch.pilot(Pictures(place), bright, PROMPTS, 4) for place in (device, "cpu"))
    page(
        device,
        apart([there.values, there.gain, there.rank_correlation], [here.values, here.gain, here.rank_correlation]),
    )


def test_a_value_network_learns_there(device, page):
    def trained(place):
        denoiser = Pictures(place)
        runs = network.collect(denoiser, {"bright": bright}, PROMPTS, 12)
        net = network.ValueNetwork.like(runs, width=8).to(place)
        looks = network.fit(net, runs, "bright", steps=6, batch=16)
        return [look.held_out for look in looks], searched(denoiser, svdd(value=value.learned(net)))

    if PRETENDED and torch.device(device).index:
        pytest.skip("torch's autograd knows the first pretend device alone")
    (there, ran), (here, own) = trained(device), trained("cpu")
    page(device, apart([there, said(ran.result)], [here, said(own.result)]), ran.most, ran.seconds, within=1e-5)


def test_nan_is_refused_though_it_is_looked_for_at_the_end(device):
    def nan(images, prompts):
        return bright(images, prompts).sqrt().log().sqrt()

    with pytest.raises(dsearch.RewardError, match="the reward is nan"):
        dsearch.search(Pictures(device), svdd(nan), PROMPTS)


# ---- models -------------------------------------------------------------------------------------------------


def moved(make, device):
    pipe = copy.deepcopy(make())
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


@pytest.mark.parametrize(("make", "adapter"), BACKBONES.values(), ids=BACKBONES.keys())
def test_a_model_is_searched_as_on_the_cpu_without_waiting(make, adapter, device, page):
    prompts = ["", ""] if adapter is adapters.DDPM else PROMPTS
    if PRETENDED and torch.device(device).index and make is tiny.flux:
        pytest.skip("diffusers takes float64 for FLUX.1 wherever the device is not called mps")

    def search(device):
        return searched(adapter(moved(make, device), num_inference_steps=4), methods.svdd(bright, 2), prompts)

    ran = compared(page, device, search)
    assert ran.most == 0, ran.waits


def test_a_modular_pipeline_is_searched_as_on_the_cpu(device, page):
    def search(place):
        pipe = modular(search_step(methods.svdd(bright, 2), seed=5)).to(place)
        return pipe(prompt=PROMPTS, num_inference_steps=4, height=16, width=16, output_type="pt").get("search")

    page(device, apart(said(search(device)), said(search("cpu"))))


def tokens(device):
    table = torch.arange(1.0, 28.0).view(3, 3, 3) % 5 + 0.5
    return TokenChain(table.to(device))


def masked(device, **options):
    likes = torch.tensor([[0.5, -1.0, 2.0, 0.0], [1.0, 0.0, -0.5, 0.25]], device=device)

    def logits(x, step, cond):
        left = (x == 4).sum(-1)[:, None, None]
        return likes[x % 2] / (1 + left) + cond[:, None]

    def encode(prompts):
        return torch.tensor([[len(p), 1.0, 0.0, 2.0] for p in prompts], device=device)

    return Masked(logits, length=4, vocab=4, encode=encode, device=device, **options)


TOKENS = {
    "chain": tokens,
    "masked": masked,
    "masked, by confidence": partial(masked, order="confidence", confidence_noise=1.0),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_are_searched_as_on_the_cpu(name, device, page):
    ran = compared(page, device, lambda device: searched(TOKENS[name](device), methods.svdd(near, 3)))
    assert ran.most <= 1, ran.waits  # the logits are looked at, before anything is drawn from them


@pytest.mark.parametrize("which", ["mixture", "velocity"])
def test_flows_are_seen_there(which, device):
    def model(device):
        if which == "mixture":
            return adapters.FlowMixture([[-2.0, 0.0], [1.0, 1.5]], 0.5, num_steps=5, noise="cps", device=device)
        return StableDiffusion(adapters.as_flow(moved(tiny.pipeline, device)), num_inference_steps=5, noise="cps")

    def of(device):
        return dsearch.search(model(device), methods.svdd(lambda x, prompts: x.flatten(1).mean(1), width=3), ["a", "b"])

    torch.testing.assert_close(of(device).rewards.cpu(), of("cpu").rewards, rtol=1e-4, atol=1e-4)


def test_every_adapter_is_among_them():
    tried = {maker.func if isinstance(maker, partial) else maker for _, maker in BACKBONES.values()}
    tried |= {adapters.AnyPipeline, adapters.from_pipeline, search_step, GaussianMixture, TokenChain, Masked}
    tried |= {adapters.FlowMixture, adapters.as_flow}
    assert {info.name for info in iter_modules(adapters.__path__) if not info.name.startswith("_")} == {
        maker.__module__.rpartition(".")[2] for maker in tried
    }


@pytest.mark.parametrize("name", ["callable", "module"])
def test_previews_are_seen_there(name, device, page):
    def callable_(x0):
        return torch.nn.functional.interpolate(x0[:, :3], scale_factor=2).sigmoid()

    def search(device):
        preview = callable_ if name == "callable" else moved(lambda: tiny.pipeline().vae, device)
        denoiser = StableDiffusion(diffusion(device), num_inference_steps=4, guidance_scale=2.5, preview=preview)
        return searched(denoiser, svdd())

    assert compared(page, device, search).most == 0


# ---- rewards ------------------------------------------------------------------------------------------------

REWARDS = [info.name for info in iter_modules(rewards.__path__) if not info.name.startswith("_")]
ON_HOST = {"combine", "compressibility", "ensembles", "ocr", "py_iqa", "torch_metric", "vlm_judge", "wrapped"}
READS = {"image_reward": 1}  # transformers looks whether a mask masks anything


@pytest.mark.parametrize("name", REWARDS)
def test_a_reward_says_there_what_it_says_on_the_cpu(name, device, page):
    needed = {"hps": "open_clip", "ocr": "rapidocr", "torch_metric": "torchmetrics", "py_iqa": "pyiqa"}
    if needs := needed.get(name):
        pytest.importorskip(needs)
    example = import_module(f"dsearch.rewards.{name}").example
    pictures = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    texts = ["cat", "dog", "cat", "tree"]

    def score(place):
        reward, images = example(), pictures.to(place)
        reward(images, texts)  # what is read once is read here: vocabularies, mean and spread, the weights' device
        with accelerator.waits() as seen, torch.no_grad():
            return reward(images, texts), len(seen)

    (there, waits), (here, _) = score(device), score("cpu")
    assert there.device.type == torch.device(device).type
    page(device, apart(there, here), waits)
    assert name in ON_HOST or waits <= READS.get(name, 0)


# ---- what is made of results --------------------------------------------------------------------------------


def test_pictures_and_metrics_of_results(device, page):
    (there, here) = (searched(Pictures(place), fk()).result for place in (device, "cpu"))
    assert [p.tobytes() for p in to_pil(there.images[0])] == [p.tobytes() for p in to_pil(here.images[0])]

    def numbers(result):
        return [
            metrics.interval(result.rewards.flatten()),
            metrics.paired(result.rewards[0], result.rewards[1]),
            metrics.bootstrap(result.rewards.flatten(), draws=50),
            metrics.diversity(result.images.flatten(2)),
        ]

    page(device, apart(numbers(there), numbers(here)))


def test_results_travel_as_files(device):
    result = searched(Pictures(device), svdd()).result
    file = io.BytesIO()
    torch.save({"images": result.images.cpu(), "path": result.lineage.path().cpu()}, file)
    file.seek(0)
    assert torch.equal(torch.load(file)["images"], result.images.cpu())


NAMES = {"search", "unit", "image"}  # of files, by a hash that knows the device


def test_a_run_on_disk_keeps_the_same_records(device, page, tmp_path):
    from dsearch.experiments import Experiment, Model, Named, run
    from dsearch.report import report

    def records(place):
        experiment = Experiment(
            prompts=tuple(PROMPTS),
            rewards={"bright": Named("test_accelerator:bright"), "judge": Named("test_accelerator:judge")},
            methods={"svdd": Named("svdd")},
            models={"toy": Model("test_accelerator:Pictures", args={"device": place})},
            budgets=({"model_calls": 4 * STEPS},),
            thumbnails=4,
        )
        made = run(experiment, tmp_path / place.replace(":", "-"))
        assert report(made).exists()
        pictures = [from_png(file) for file in sorted((made.folder / "images").iterdir())]
        return pictures, [{k: v for k, v in record.items() if k not in NAMES} for record in made.records()]

    page(device, apart(records(device), records("cpu")))


# ---- the pretend device itself ------------------------------------------------------------------------------


@only_pretended
def test_its_tensors_refuse_the_hosts_and_each_others():
    here = torch.ones(3)
    one, other = (here.to(device) for device in DEVICES)
    for add in (lambda: one + here, lambda: one + other, lambda: here[one.long()], lambda: torch.cat([here, one])):
        with pytest.raises(RuntimeError, match="at least two devices"):
            add()
    assert (one + torch.tensor(2.0)).tolist() == [3.0] * 3  # a single number may come along


@only_pretended
def test_it_makes_no_numpy_arrays():
    with pytest.raises(TypeError, match=r"use Tensor\.cpu\(\) first"):
        torch.ones(2, device=DEVICES[0]).numpy()


@only_pretended
def test_a_copy_that_is_not_waited_for_is_not_read():
    with pytest.raises(RuntimeError, match="may be read before it is done"):
        torch.ones(2, device=DEVICES[0]).to("cpu", non_blocking=True)


@only_pretended
@pytest.mark.parametrize(
    "make",
    [
        lambda device: torch.zeros(2, dtype=torch.float64, device=device),
        lambda device: torch.zeros(2, device=device).double(),
        lambda device: torch.zeros(2, dtype=torch.float64).to(device),
        lambda device: torch.tensor([1.0], dtype=torch.float64, device=device),
    ],
)
def test_one_of_them_has_no_float64(make):
    has, lacks = DEVICES
    assert make(has).dtype == torch.float64
    with pytest.raises(TypeError, match="float64"):
        make(lacks)


@pytest.mark.parametrize(
    ("work", "kinds"),
    [
        (lambda x: x.tolist(), ["read"]),
        (lambda x: float(x.sum()), ["read"]),
        (lambda x: x.nonzero(), ["read"]),
        (lambda x: x[x > 0], ["read"]),
        (lambda x: torch.zeros(3).copy_(x), ["read"]),
        (lambda x: torch.ones(3).to(x.device), ["upload"]),
        (lambda x: torch.ones(3).to(x.device, non_blocking=True), []),
        (lambda x: x[torch.tensor([0])], ["upload"]),
        (lambda x: (x * 2).softmax(0).sort(), []),
        (lambda x: torch.where(x > 0, x, torch.full((), 2.0, device=x.device)), []),
        (lambda x: x[0].fill_(3.0), []),
    ],
)
def test_waits_are_counted_on_any_device(device, work, kinds):
    x = torch.arange(3.0, device=device)
    with accelerator.waits() as seen:
        work(x)
    assert [wait.kind for wait in seen] == kinds


@only_pretended
def test_writing_into_a_view_and_gradients_work_as_usual():
    x = torch.arange(6.0, device=DEVICES[0]).view(2, 3)
    x[0, 1:] = 9.0
    assert x.tolist() == [[0, 9, 9], [3, 4, 5]]
    w = torch.ones(3, device=DEVICES[0], requires_grad=True)
    (x @ w).square().sum().backward()
    assert w.grad.tolist() == (2 * x.T @ x @ torch.ones(3, device=DEVICES[0])).tolist()


@only_pretended
def test_the_rest_of_a_test_run_does_not_notice_it(recwarn):
    assert not torch.accelerator.is_available()
    assert torch.ones(1).device.type == "cpu"
    with torch.random.fork_rng():
        torch.manual_seed(0)
    assert not recwarn.list
