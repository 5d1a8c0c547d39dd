"""What goes wrong in the middle of a search, each caused: memory, rewards that fail, nan, compiled shapes, threads."""

import dataclasses
import math
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from strategies import assert_identical, group, run, smooth

import dsearch
from dsearch import methods
from dsearch.adapters import toy
from dsearch.core.errors import ModelError, RewardError
from dsearch.core.value import Lookahead
from dsearch.rewards import retried


class Wrapped:
    """The toy model, with one of its functions replaced by `change(own, *arguments)`."""

    def __init__(self, name, change):
        self._own = toy.example()
        own = getattr(self._own, name)
        setattr(self, name, lambda *arguments: change(own, *arguments))

    def __getattr__(self, name):
        return getattr(self._own, name)


def small(rows, where="predict"):
    """A model whose memory holds so many rows, and how many it was asked for."""
    asked = []

    def change(own, x, *rest):
        if rest[:1] == (6,):  # the clean end asks no network
            return own(x, *rest)
        asked.append(len(x))
        if len(x) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return own(x, *rest)

    return Wrapped(where, change), asked


SVDD = methods.svdd(smooth, width=20)


# ---- memory ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "kind"), [("predict", "network"), ("decode", "decoder")])
@pytest.mark.parametrize("rows", [1, 3, 7])
def test_out_of_memory_halves_the_chunk_remembers_it_and_changes_nothing(where, kind, rows):
    model, asked = small(rows, where)
    whole, tight = run(SVDD), run(SVDD, denoiser=model, chunks=dsearch.Chunks(network=None, decoder=None))
    for b in range(2):
        assert_identical(group(whole, b), group(tight, b))
    assert tight.cost.bill == whole.cost.bill  # what was tried in vain is not billed
    failed = [n for n in asked if n > rows]
    assert failed == sorted(set(failed), reverse=True)  # a size that failed is not tried again
    assert 1 <= getattr(tight.chunks, kind) <= rows
    again, asked = small(rows, where)
    run(SVDD, denoiser=again, chunks=tight.chunks)
    assert max(asked) <= rows


def test_a_reward_that_runs_out_of_memory_is_asked_in_halves():
    asked = []

    def reward(images, prompts):
        asked.append(len(images))
        if len(images) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return smooth(images, prompts)

    tight, whole = run(dataclasses.replace(SVDD, reward=reward)), run(SVDD)
    assert_identical(group(tight, 0), group(whole, 0))
    assert tight.cost.bill == whole.cost.bill and tight.chunks.reward <= 5


@pytest.mark.parametrize("where", ["predict", "decode"])
def test_a_single_row_that_does_not_fit_is_an_error_with_a_remedy(where):
    with pytest.raises(
        ModelError, match=r"out of memory with chunks.\w+=1.*half precision.*offloading.*prompts 'a'"
    ) as error:
        run(SVDD, denoiser=small(0, where)[0])
    assert isinstance(error.value.__cause__, torch.OutOfMemoryError)


@pytest.mark.slow
def test_real_memory_that_runs_out_is_survived():
    """A process that may use little more than it holds already, and a network that wants 64 MB a row."""
    script = """
        import resource, sys
        import torch, dsearch
        from dsearch.adapters import toy

        torch.set_num_threads(1)
        model = toy.example()
        own = model.predict

        def hungry(x, *rest):
            if rest[0] < model.num_steps:
                torch.ones(len(x), 16 << 20).sum()
            return own(x, *rest)

        def reward(images, prompts):
            return -images.square().sum(-1)

        method = dsearch.methods.svdd(reward, width=64)
        whole = dsearch.search(model, method, "a")
        model.predict = hungry
        held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 30), resource.RLIM_INFINITY))
        tight = dsearch.search(model, method, "a", chunks=dsearch.Chunks(network=None))
        assert torch.equal(whole.images, tight.images)
        assert 1 <= tight.chunks.network <= 16, tight.chunks
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


PEAK = """
    import resource, sys
    import torch, dsearch
    from dsearch.core.contract import Prediction

    torch.set_num_threads(1)

    class Latents:
        num_steps = 3

        def encode(self, prompts):
            return None

        def start(self, lead, rng):
            return rng.normal("start", 0, (*lead, 4, 64, 64))

        def noise(self, step, lead, rng):
            return rng.normal("noise", step, (*lead, 4, 64, 64))

        def predict(self, x, step, cond, prompt):
            return Prediction(0.5 * x, 0.5 * x)

        def step(self, x, pred, step, noise):
            return pred.x0 + 0.5 * noise

        def decode(self, x0):
            return x0[:, :3]

    def reward(images, prompts):
        return images.mean((1, 2, 3))

    for width in (2, int(sys.argv[1])):
        result = dsearch.search(Latents(), dsearch.methods.svdd(reward, width=width), "a")
    assert result.trace[0].values.shape == (1, width)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_peak_memory_does_not_grow_with_the_children_of_which_one_survives():
    def peak(width):
        run = [sys.executable, "-c", textwrap.dedent(PEAK), str(width)]
        done = subprocess.run(run, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert peak(4096) < 1.2 * peak(64)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 11, 64])
def test_children_that_stream_are_those_of_all_at_once(chunk, steps):
    method = dataclasses.replace(
        methods.dsearch(smooth, beams=4, keep=2, rows_per_step=40), value=Lookahead(steps, max(1, steps))
    )
    whole = run(method, chunks=dsearch.Chunks(network=None))
    streamed = run(method, chunks=dsearch.Chunks(network=chunk, decoder=chunk, reward=chunk))
    for b in range(2):
        assert_identical(group(streamed, b), group(whole, b))
    assert streamed.cost.bill == whole.cost.bill


def test_the_first_of_equal_children_survives_in_any_chunks():
    method = methods.svdd(lambda x, prompts: (smooth(x, prompts) > -1).float(), width=30)
    assert_identical(
        group(run(method, chunks=dsearch.Chunks(network=1, decoder=1, reward=1)), 0),
        group(run(method, chunks=dsearch.Chunks(network=None)), 0),
    )


class PerGroup:
    """A value that draws one number a group."""

    def __call__(self, children, step, engine):
        return children.x[..., 0] + engine.rng.under("mine").normal("one", step, (2, 1))

    def cost(self, step, num_steps):
        return dsearch.Bill()


def test_a_value_whose_noise_is_not_per_candidate_cannot_stream_and_says_so():
    method = dataclasses.replace(SVDD, value=PerGroup())
    run(method, chunks=dsearch.Chunks(network=None))
    with pytest.raises(ValueError, match=r"'one' at step 1 draws \(2, 1\) for .* candidates per group.*network=None"):
        run(method, chunks=dsearch.Chunks(network=6, decoder=6, reward=6))


# ---- rewards and networks that fail ------------------------------------------------------------------------


class EveryNth:
    """A service that fails at every n-th call."""

    def __init__(self, n):
        self.n, self.calls = n, 0

    def __call__(self, images, prompts):
        self.calls += 1
        if self.calls % self.n == 0:
            raise ConnectionError(f"call {self.calls} was dropped")
        return smooth(images, prompts)


def test_a_reward_that_fails_now_and_then_is_asked_again_and_nothing_is_lost():
    flaky = EveryNth(3)
    result, whole = (
        run(dataclasses.replace(SVDD, reward=retried(flaky, wait=0)), chunks=dsearch.Chunks(reward=7)),
        run(SVDD),
    )
    assert flaky.calls > result.cost.bill.reward_calls * 2 / 7
    assert_identical(group(result, 0), group(whole, 0))
    assert result.cost.bill == whole.cost.bill


def test_a_reward_that_keeps_failing_is_named_and_what_was_paid_for_is_kept():
    flaky = EveryNth(4)
    with pytest.raises(RewardError, match="raised ConnectionError: call 4 was dropped") as error:
        run(dataclasses.replace(SVDD, reward=flaky), chunks=dsearch.Chunks(reward=None))
    assert (error.value.level, error.value.reached) == (4, 3)
    beams = error.value.beams
    assert beams.prompt_index.tolist() == [[0], [1]] and torch.equal(beams.value, smooth(beams.pred.x0, []))
    with pytest.raises(RewardError, match="call 1 was dropped") as first:
        run(dataclasses.replace(SVDD, reward=retried(EveryNth(1), times=2, wait=0, on=(ValueError,))))
    assert first.value.beams is None


def test_other_errors_than_the_named_ones_are_not_retried():
    calls = []

    def reward(images, prompts):
        calls.append(1)
        raise KeyError("no such model")

    with pytest.raises(RewardError, match="KeyError"):
        run(dataclasses.replace(SVDD, reward=retried(reward, wait=0, on=(ConnectionError,))))
    assert len(calls) == 1


@pytest.mark.parametrize(("times", "wait"), [(0, 1.0), (1, -1.0)])
def test_a_retry_that_cannot_be_is_refused(times, wait):
    with pytest.raises(ValueError, match=f"times={times} and wait={wait}"):
        retried(smooth, times, wait)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(("where", "who"), [("predict", "the network"), ("decode", "the decoder")])
def test_a_nan_or_infinity_of_the_model_is_named_with_step_and_prompt(where, who, bad):
    def change(own, x, *rest):
        made = own(x, *rest)
        if where == "decode":
            return made + bad * (x[:, :1] > x[:, :1].median())
        if rest[0] != 3:
            return made
        return made._replace(x0=torch.where((rest[2] == 1)[:, None], bad, made.x0))

    with pytest.raises(ModelError, match=f"{who} returned nan or infinity.*bfloat16 or float32") as error:
        run(SVDD, denoiser=Wrapped(where, change))
    if where == "predict":
        assert error.value.level == 3 and set(error.value.prompts) == {"b"} and error.value.reached == 2
        assert "20 of 40 rows" in str(error.value)


# ---- what compiled networks and slow hosts need ------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_padded_chunks_have_one_size_and_change_nothing(chunk):
    seen = {"predict": set(), "decode": set()}

    def counted(where):
        def change(own, x, *rest):
            if where == "decode" or rest[0] < 6:  # the clean end asks no network
                seen[where].add(len(x))
            return own(x, *rest)

        return change

    model = Wrapped("predict", counted("predict"))
    model.decode = lambda x: counted("decode")(toy.example().decode, x)
    padded, whole = run(SVDD, denoiser=model, chunks=dsearch.Chunks(network=chunk, decoder=chunk, pad=True)), run(SVDD)
    assert seen == {"predict": {chunk}, "decode": {chunk}}
    assert_identical(group(padded, 0), group(whole, 0))
    assert padded.cost.bill == whole.cost.bill


def test_padding_to_no_size_is_refused():
    with pytest.raises(ValueError, match=r"pad=True.*give chunks.network and chunks.decoder"):
        run(SVDD, chunks=dsearch.Chunks(pad=True, network=None))


def test_a_reward_on_the_host_works_while_the_next_images_are_decoded():
    """Each thread waits for the other, so that the test ends only where they really work side by side."""
    decoded, scored = threading.Semaphore(0), []

    class Host:
        on_host = True

        def __call__(self, images, prompts):
            if not scored:
                assert decoded.acquire(timeout=20) and decoded.acquire(timeout=20)  # the second decode has begun
            scored.append(threading.current_thread().name)
            assert not torch.is_grad_enabled()
            return smooth(images, prompts)

    def change(own, x):
        decoded.release()
        return own(x)

    beside = run(
        dataclasses.replace(SVDD, reward=Host()), denoiser=Wrapped("decode", change), chunks=dsearch.Chunks(decoder=3)
    )
    assert {name.split("_")[0] for name in scored} == {"reward"}
    whole = run(SVDD)
    assert_identical(group(beside, 1), group(whole, 1))
    assert beside.cost.bill == whole.cost.bill


def test_an_error_on_the_host_is_named_like_any_other():
    class Host(EveryNth):
        on_host = True

    with pytest.raises(RewardError, match=r"call 3 was dropped.*level 1, prompts 'a'"):
        run(dataclasses.replace(SVDD, reward=Host(3)), chunks=dsearch.Chunks(decoder=4))


def test_a_preview_steers_and_the_decoder_makes_the_images():
    def change(own, x):
        full.append(len(x))
        return own(x)

    full, quick = [], []
    model = Wrapped("decode", change)
    model.preview = lambda x: quick.append(len(x)) or x.round()
    result = run(SVDD, denoiser=model)
    assert sum(full) == 2 and sum(quick) == 2 * 5 * 20
    assert sum(full) + sum(quick) == result.cost.spent.decodes
    assert torch.equal(result.rewards, smooth(result.images[:, 0], [])[:, None])
    assert torch.equal(result.images, result.latents)
    values = result.trace[0].values
    assert torch.equal(values, -(values.neg())) and not torch.equal(values, run(SVDD).trace[0].values)


def test_the_errors_are_public():
    assert issubclass(dsearch.ModelError, dsearch.SearchError) and issubclass(dsearch.RewardError, dsearch.SearchError)
