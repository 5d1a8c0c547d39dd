"""No callable reaches into a result: one that scribbles on all it was given and on all it returned changes nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import PROMPTS, assert_same_result, every_method, run, smooth

import dsearch
from dsearch import methods, rewards
from dsearch.adapters import masked, toy
from dsearch.core import selection
from dsearch.values import posterior_mean


def scribbled(tree, how):
    """Overwrites every tensor within, as torch or as numpy would."""
    if isinstance(tree, torch.Tensor):
        if how == "numpy" and tree.device.type == "cpu":
            tree.numpy()[...] = np.array(3, dtype=tree.numpy().dtype)
        else:
            tree.fill_(3)
    elif dataclasses.is_dataclass(tree):
        for field in dataclasses.fields(tree):
            scribbled(getattr(tree, field.name), how)
    elif isinstance(tree, dict):
        scribbled(list(tree.values()), how)
    elif isinstance(tree, list):
        for i, entry in enumerate(tree):
            scribbled(entry, how)
            if isinstance(entry, str):
                tree[i] = "scribbled"
    elif isinstance(tree, tuple):
        for entry in tree:
            scribbled(entry, how)


class Scribbles:
    """Calls a function, then writes over what it was given, and at the next call over what it returned before."""

    def __init__(self, function, how):
        self.function, self.how, self.returned = function, how, None

    def __call__(self, *given):
        scribbled(self.returned, self.how)
        copies = [entry.clone() if isinstance(entry, torch.Tensor) else entry for entry in given]
        prompts = [list(entry) if isinstance(entry, list) else entry for entry in copies]
        self.returned = self.function(*prompts)
        scribbled(given, self.how)
        return self.returned


class Buffered:
    """A reward that returns a view of one buffer, call after call."""

    def __init__(self):
        self.out = torch.zeros(1000)

    def __call__(self, images, prompts):
        self.out[: len(images)] = smooth(images, prompts)
        return self.out[: len(images)]


HOW = st.sampled_from(["torch", "numpy"])
CHUNKS = st.sampled_from([dsearch.Chunks(), dsearch.Chunks(2, 3, 2), dsearch.Chunks(None, None, None)])
few = settings(max_examples=6)


@every_method
@few
@given(how=HOW, chunks=CHUNKS)
def test_a_reward_that_scribbles_changes_nothing(example, how, chunks):
    assert_same_result(run(example(Scribbles(smooth, how)), chunks=chunks), run(example(smooth)))


@every_method
@few
@given(chunks=CHUNKS)
def test_a_reward_that_reuses_its_output_changes_nothing(example, chunks):
    assert_same_result(run(example(Buffered()), chunks=chunks), run(example(smooth)))


def left(images, prompts):
    return -images[:, 0]


@every_method
@few
@given(how=HOW, chunks=CHUNKS)
def test_what_watches_and_scribbles_changes_nothing(example, how, chunks):
    class Scribbler(dsearch.Watcher):
        def begin(self):
            return self

        def candidates(self, *given):
            scribbled([entry for entry in given if not isinstance(entry, int | dsearch.core.engine.Engine)], how)

        def end(self, images, rewards, prompts, engine):
            scribbled([images, rewards, prompts], how)

    class OnTheWay(dsearch.Watcher):
        def survivors(self, step, beams, engine):
            scribbled([step, beams], how)

    by_step = example(smooth).program is None  # a tree takes no step with all its beams
    plain = run(example(smooth), watch=[dsearch.HeldOut({"left": left}, every=int(by_step))])
    watch = [dsearch.HeldOut({"left": Scribbles(left, how)}, every=int(by_step)), Scribbler()]
    if by_step:
        watch += [OnTheWay(), lambda step, beams: scribbled([step, beams], how)]
    watched = run(example(smooth), watch=watch, chunks=chunks)
    assert_same_result(watched, plain)
    for ours, theirs in zip(watched.looks, plain.looks, strict=True):
        assert torch.equal(ours.value.nan_to_num(), theirs.value.nan_to_num())
        assert torch.equal(ours.scores["left"], theirs.scores["left"])


@every_method
@few
@given(how=HOW)
def test_values_potentials_and_selectors_that_scribble_change_nothing(example, how):
    method = example(smooth)

    class Value(type(posterior_mean)):
        returned = None

        def __call__(self, children, level, engine):
            scribbled(self.returned, how)
            self.returned = method.value(children, level, engine)
            scribbled(children, how)
            return self.returned

        def cost(self, level, num_steps):
            return method.value.cost(level, num_steps)

    class Potential:
        def initial(self, *given):
            return method.potential.initial(*given)

        def __call__(self, scores):
            said = method.potential(dsearch.core.contract.own(scores))
            scribbled(scores, how)
            return said

    def select(scores, keep, rng):
        choice = method.select(dsearch.core.contract.own(scores), keep, rng)
        scribbled(scores, how)
        return choice

    edited = dataclasses.replace(method, value=Value(), potential=Potential(), select=select)
    assert_same_result(run(edited), run(method))


@few
@given(how=HOW, chunks=CHUNKS)
def test_decoders_and_previews_that_scribble_change_nothing(how, chunks):
    class Model:
        def __init__(self):
            self.inner = toy.example()
            self.decode = Scribbles(self.inner.decode, how)
            self.preview = Scribbles(self.inner.decode, how)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    method = methods.svdd(smooth, 5, 2)
    assert_same_result(run(method, denoiser=Model(), chunks=chunks), run(method))


@few
@given(how=HOW)
def test_token_logits_that_scribble_change_nothing(how):
    plain, model = masked.example(), masked.example()
    model.token_logits = Scribbles(plain.token_logits, how)
    method = methods.svdd(lambda x, prompts: (x == 1).float().sum(-1), 4)
    assert_same_result(run(method, PROMPTS, model), run(method, PROMPTS, plain))


MEMBERS = {
    "weighted": lambda r: rewards.weighted(r, left, weights=(1.0, 0.5)),
    "constrained": lambda r: rewards.constrained(r, [(left, 0.2)]),
    "constraint": lambda r: rewards.constrained(left, [(r, 0.2)]),
    "zscored": lambda r: rewards.ZScored(r, 0.5, 2.0),
    "cached": lambda r: rewards.cached(r),
    "threaded": lambda r: rewards.Threaded(r, 1),
    "retried": lambda r: rewards.retried(r),
}


@pytest.mark.parametrize("make", MEMBERS.values(), ids=MEMBERS)
@pytest.mark.parametrize("how", ["torch", "numpy"])
def test_a_member_that_scribbles_shows_the_next_one_what_was_there(make, how):
    images = torch.rand(6, 2, generator=torch.Generator("cpu").manual_seed(0))
    there, prompts = images.clone(), ["a"] * 6
    combined = make(Scribbles(smooth, how))
    for _ in range(2):
        assert torch.equal(combined(images, prompts), make(smooth)(there, ["a"] * 6))
    assert torch.equal(images, there) and prompts == ["a"] * 6


def test_a_selector_s_choice_is_its_own():
    kept = {}

    def select(scores, keep, rng):
        kept.setdefault("choices", []).append(selection.best_child(scores, keep, rng))
        for choice in kept["choices"][:-1]:
            choice.index.zero_()
            choice.log_w.fill_(7)
        return kept["choices"][-1]

    method = dataclasses.replace(methods.svdd(smooth, 3, 2), select=select)
    assert_same_result(run(method), run(methods.svdd(smooth, 3, 2)))
