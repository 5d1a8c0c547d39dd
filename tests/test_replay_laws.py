"""What a replayed pipeline promises whoever runs it: errors, interrupts, threads, its state, and the self-check."""

import ast
import inspect
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import families
import pytest
import tiny
import torch
from diffusers import EulerDiscreteScheduler

import dsearch
from dsearch.adapters import AnyPipeline, _check
from dsearch.core.watch import Target

KINDS = [
    *("StableDiffusionPipeline", "StableDiffusionPAGPipeline", "StableDiffusionInpaintPipeline"),
    *("FluxPipeline", "StableDiffusion3Pipeline"),
]
PROMPTS = ["cat", "a red dog"]


def score(made, prompts):
    return (made.double().flatten(1, -2) * torch.linspace(-1, 1, made.shape[-1])).mean(dim=(1, 2)) * 100


def made(kind):
    return families.FAMILIES[kind]()


def network(pipe):
    return getattr(pipe, "unet", None) or pipe.transformer


def own(pipe, call):
    return pipe("cat", **call, generator=torch.Generator().manual_seed(3), output_type="pt")[0]


def calls(pipe, prefix):
    """The lines of the pipeline's file in which its call calls what starts so."""
    function = inspect.unwrap(type(pipe).__call__)
    lines, first = inspect.getsourcelines(function)
    tree = ast.parse("if True:\n" + "".join(lines))
    return {
        line + first - 2
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith(prefix)
        for line in range(node.lineno, node.end_lineno + 1)
    }


class Bang(Exception):
    pass


def bang(*_, **__):
    raise Bang("here")


# ---- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "method", "prefix"),
    [("network", "forward", "self.transformer"), ("vae", "decode", "self.vae.decode")],
)
@pytest.mark.parametrize("kind", ["FluxPipeline", "StableDiffusion3Pipeline"])
def test_an_error_is_shown_at_the_pipelines_own_line_and_leaves_a_denoiser_that_works(
    kind, part, method, prefix, monkeypatch
):
    pipe, call = made(kind)
    denoiser, plain = AnyPipeline(pipe, **call), dsearch.methods.plain(score, 1)
    denoiser.encode(["cat"])  # and with it the check, which would meet the error first
    before = dsearch.search(denoiser, plain, ["cat"])
    with monkeypatch.context() as patched:
        patched.setattr(network(pipe) if part == "network" else pipe.vae, method, bang)
        with pytest.raises(Bang) as caught:
            dsearch.search(denoiser, plain, ["cat"])
    file = inspect.getsourcefile(type(pipe))
    shown = [frame.lineno for frame in traceback.extract_tb(caught.tb) if frame.filename == file]
    assert shown and set(shown) <= calls(pipe, prefix)
    assert torch.equal(dsearch.search(denoiser, plain, ["cat"]).images, before.images)


def test_an_error_before_the_loop_is_the_pipelines_own():
    pipe, call = made("FluxPipeline")
    with pytest.raises(ValueError) as ours:
        AnyPipeline(pipe, **{**call, "callback_on_step_end_tensor_inputs": ["no"]})
    with pytest.raises(ValueError) as theirs:
        pipe("cat", **{**call, "callback_on_step_end_tensor_inputs": ["no"]})
    assert str(ours.value) == str(theirs.value)
    assert "pipeline_flux.py" in "".join(traceback.format_tb(ours.tb))


# ---- interrupts and early ends ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["interrupt", "error", "target", "end"])
def test_however_a_search_ends_no_thread_is_left_and_the_pipeline_is_what_it_was(kind, way):
    pipe, call = made(kind)
    expected, threads = own(pipe, call), threading.enumerate()
    state, weights = dict(vars(pipe)), {n: w.clone() for n, w in network(pipe).state_dict().items()}
    processors = dict(network(pipe).attn_processors)
    denoiser = AnyPipeline(pipe, **call, check=False)
    method, seen = dsearch.methods.svdd(score, width=2), []

    def stop(module, args, kwargs):
        seen.append(1)
        if way in ("interrupt", "error") and len(seen) == 3:
            raise KeyboardInterrupt if way == "interrupt" else Bang

    watch = [Target(-1e9)] if way == "target" else []
    hook = network(pipe).register_forward_pre_hook(stop, with_kwargs=True)
    try:
        dsearch.search(denoiser, method, ["cat"], watch=watch)
        assert way in ("target", "end")
    except (KeyboardInterrupt, dsearch.Interrupted, Bang):
        assert way in ("interrupt", "error")
    hook.remove()
    assert threading.enumerate() == threads
    assert vars(pipe) == state and network(pipe).attn_processors == processors
    assert all(torch.equal(w, weights[n]) for n, w in network(pipe).state_dict().items())
    assert torch.equal(own(pipe, call), expected)


def test_a_search_leaves_the_global_generator_where_it_was():
    pipe, call = made("StableDiffusionInpaintPipeline")
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    dsearch.search(AnyPipeline(pipe, **call), dsearch.methods.svdd(score, width=2), ["cat"])
    assert torch.equal(torch.randn(3), expected)


# ---- threads ------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False], ids=["one denoiser", "two denoisers"])
def test_searches_in_threads_find_what_each_finds_alone(kind, shared, hasty):
    pipe, call = made(kind)
    one = AnyPipeline(pipe, **call)
    other = one if shared else AnyPipeline(pipe, **{**call, "guidance_scale": 1.5})
    method, jobs = dsearch.methods.svdd(score, width=2), [(one, ["cat"], 1), (other, PROMPTS, 2)] * 2
    state = torch.get_rng_state()

    def search(job):
        denoiser, prompts, seed = job
        return dsearch.search(denoiser, method, prompts, seed=seed)

    alone = [search(job) for job in jobs[:2]] * 2
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(search, jobs))
    for found, expected in zip(together, alone, strict=True):
        assert torch.equal(found.images, expected.images)
        assert found.cost.bill == expected.cost.bill
    assert torch.equal(torch.get_rng_state(), state)


# ---- the self-check -----------------------------------------------------------------------------------------


@pytest.fixture
def unchecked(monkeypatch):
    """A process in which nothing has been checked."""
    monkeypatch.setattr(_check, "_CHECKED", {})


def rows_of(pipe, work):
    """How often the network is called meanwhile."""
    count = []
    hook = network(pipe).register_forward_pre_hook(lambda *_: count.append(1))
    try:
        work()
    finally:
        hook.remove()
    return len(count)


def test_a_class_is_checked_once_for_each_scheduler_and_not_at_all_where_that_is_said(unchecked):
    pipe, call = made("StableDiffusionPipeline")
    one = AnyPipeline(pipe, **call)
    steps = _check._STEPS
    checks = rows_of(pipe, lambda: one.encode(["cat"]))
    # Its own call; each level in order, and again shuffled; rows one by one, and together.
    assert checks == steps + steps + steps + steps + 1
    assert rows_of(pipe, lambda: one.encode(["cat"])) == 0
    assert rows_of(pipe, lambda: AnyPipeline(pipe, **call).encode(["dog"])) == 0
    assert rows_of(pipe, lambda: AnyPipeline(tiny.pipeline(), check=False, **call).encode(["cat"])) == 0
    pipe.scheduler = EulerDiscreteScheduler(**tiny.SD_BETAS)
    assert rows_of(pipe, lambda: AnyPipeline(pipe, check=False, **call).encode(["cat"])) == 0
    assert rows_of(pipe, lambda: AnyPipeline(pipe, **call).encode(["cat"])) > 0


def test_another_class_of_the_same_name_is_checked_anew(unchecked):
    pipe, call = made("StableDiffusionPipeline")
    AnyPipeline(pipe, **call).encode(["cat"])
    pipe.__class__ = type(type(pipe).__name__, (type(pipe),), {})
    assert rows_of(pipe, lambda: AnyPipeline(pipe, **call).encode(["cat"])) > 0


def test_what_differs_is_refused_with_its_figure_before_anything_is_spent(unchecked):
    pipe, call = made("StableDiffusionPipeline")
    unet, count = pipe.unet, []
    asked = []

    def drift(module, args, kwargs, out):
        count.append(1)
        return (out[0] + 0.1 * len(count),)

    hook = unet.register_forward_hook(drift, with_kwargs=True)
    denoiser = AnyPipeline(pipe, **call)
    method = dsearch.methods.svdd(lambda made, prompts: asked.append(1) or score(made, prompts), width=2)
    with pytest.raises(
        ValueError, match=r"is not replayed as it runs: .* by \d[\d.e+-]* standard deviations, more than 0\.001"
    ):
        dsearch.search(denoiser, method, ["cat"])
    assert not asked and not _check._CHECKED
    unsafe = AnyPipeline(pipe, check=False, **call)
    assert dsearch.search(unsafe, method, ["cat"]).rewards.isfinite().all()
    hook.remove()


def test_a_history_is_found_by_the_shuffled_levels_alone(unchecked):
    """What depends on the turns before is right in order: only levels asked again tell."""
    pipe, call = made("StableDiffusionPipeline")
    last = {}

    def momentum(module, args, kwargs, out):
        t = float(args[1])
        added = last.get("t", 0.0) if t < last.get("t", 0.0) else 0.0
        last["t"] = t
        return (out[0] + added * 1e-3,)

    hook = pipe.unet.register_forward_hook(momentum, with_kwargs=True)
    denoiser = AnyPipeline(pipe, **call)
    far = _check.differences(pipe, denoiser._arguments("cat", 1), denoiser._exchanged, denoiser._layout)
    assert far.output == 0 and far.shuffled > 0.001
    with pytest.raises(ValueError, match="depends on the turns before, and differs by"):
        denoiser.encode(["cat"])
    hook.remove()
