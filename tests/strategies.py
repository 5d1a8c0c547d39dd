"""What the tests share: toys, methods found by themselves, recorded noise, counters, hypothesis strategies."""

from importlib import import_module
from pkgutil import iter_modules

import pytest
import torch
from hypothesis import strategies as st

import dsearch
from dsearch.adapters import toy
from dsearch.core.contract import Scores

PROMPTS = ["a", "b"]  # the toy example shifts both, by different amounts

METHODS = [
    pytest.param(import_module(f"{dsearch.methods.__name__}.{info.name}").example, id=info.name)
    for info in iter_modules(dsearch.methods.__path__)
]
every_method = pytest.mark.parametrize("example", METHODS)


def smooth(images, prompts):
    """[N, 2] -> [N], one peak; values are distinct almost surely."""
    return -(images - torch.tensor([0.7, -0.4])).square().sum(-1)


def dyadic(constant):
    """A reward on the grid of 1/1024, so that adding a constant is exact in float32."""
    return lambda images, prompts: (smooth(images, prompts).clamp(-100, 100) * 1024).round() / 1024 + constant


def run(method, prompts=PROMPTS, denoiser=None, **options):
    return dsearch.search(denoiser or toy.example(), method, prompts, **options)


def group(result, b):
    """Everything that a result says of group b, for exact comparison."""
    return {
        "images": result.images[b],
        "rewards": result.rewards[b],
        "latents": result.latents[b],
        "log_w": result.log_w[b],
        "path": result.lineage.path()[b],
        "ancestor": result.lineage.ancestor()[b],
        "prompts": result.prompts[b],
        "values": [None if step.values is None else _drawn(result, step.values[b]) for step in result.trace],
    }


def _drawn(result, values):
    """Of a tree the nodes that there are, another prompt's may have more; nan, which was not asked, equals nothing."""
    return values if result.lineage.parent is None else values[values != -float("inf")].nan_to_num(7.0)


def assert_identical(one, other):
    """Two trees of tensors are equal bit for bit."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_identical(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_identical(a, b)
    else:
        assert one == other


def assert_same_result(one, other):
    assert len(one.images) == len(other.images)
    for b in range(len(one.images)):
        assert_identical(group(one, b), group(other, b))


def within(mean, sample, z=4.5):
    """The exact mean lies within z standard errors of the sample's."""
    sample = sample.double().flatten()
    error = (sample.mean() - mean).abs() / (sample.std() / len(sample) ** 0.5)
    return bool(error < z)


class Recorder:
    """A noise source that remembers every draw of another: `drawn[kind, use, step]`, or `name/use` under a name."""

    def __init__(self, rng, drawn=None, name=""):
        self.rng, self.drawn, self.name = rng, {} if drawn is None else drawn, name

    def normal(self, use, step, shape):
        return self._kept("normal", use, step, self.rng.normal(use, step, shape))

    def uniform(self, use, step, shape):
        return self._kept("uniform", use, step, self.rng.uniform(use, step, shape))

    def categorical(self, use, step, log_p, n):
        return self._kept("categorical", use, step, self.rng.categorical(use, step, log_p, n))

    def under(self, name):
        return Recorder(self.rng.under(name), self.drawn, f"{self.name}{name}/")

    def _kept(self, kind, use, step, draw):
        self.drawn[kind, self.name + use, step] = draw
        return draw


class Counted:
    """A denoiser that counts, on its own, the rows that pass through another."""

    def __init__(self, denoiser):
        self.denoiser, self.model_calls, self.decodes = denoiser, 0, 0

    def __getattr__(self, name):
        return getattr(self.denoiser, name)

    def predict(self, x, step, cond, prompt):
        self.model_calls += len(x) if step < self.denoiser.num_steps else 0
        return self.denoiser.predict(x, step, cond, prompt)

    def decode(self, x0):
        self.decodes += len(x0)
        return self.denoiser.decode(x0)


class CountedReward:
    """A reward that counts its images and remembers what it was asked."""

    def __init__(self, reward):
        self.reward, self.calls, self.asked = reward, 0, []

    def __call__(self, images, prompts):
        assert len(images) == len(prompts)
        self.calls += len(images)
        self.asked += zip(images, prompts, strict=True)
        return self.reward(images, prompts)


def scores(values, width=1, log_w=None, step=1):
    """[B, N] nested lists (or tensors) -> Scores without history."""
    values = torch.as_tensor(values, dtype=torch.float32)
    log_w = torch.zeros_like(values) if log_w is None else torch.as_tensor(log_w)
    return Scores(values, torch.full_like(values, torch.nan), log_w, None, step, width, 99)


@st.composite
def populations(draw, min_beams=1, max_beams=6, max_width=4, ties=True):
    """Scores of 1 to 3 groups; small whole values, so that ties are common."""
    groups, width = draw(st.integers(1, 3)), draw(st.integers(1, max_width))
    n = draw(st.integers(min_beams, max_beams)) * width
    row = st.lists(st.integers(-2, 2) if ties else st.integers(-99, 99), min_size=n, max_size=n, unique=not ties)
    values = draw(st.lists(row, min_size=groups, max_size=groups))
    log_w = torch.arange(groups * n).reshape(groups, n) / 8  # distinct, to see which was gathered
    return scores(values, width, log_w)


def log_weights(min_size=1, max_size=12):
    """Lists of log-weights on the grid of 1/8, some -inf, never all."""
    entry = st.one_of(st.integers(-80, 80).map(lambda k: k / 8), st.just(-float("inf")))
    some = st.lists(entry, min_size=min_size, max_size=max_size)
    return some.filter(lambda row: max(row) > -float("inf"))
