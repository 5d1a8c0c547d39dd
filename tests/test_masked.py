"""Masked diffusion against small joint tables, an independent oracle, and the laws of an absorbing state."""

import importlib.util
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from strategies import PROMPTS, Recorder, assert_identical, assert_same_result, every_method, group, run

import dsearch
from dsearch.adapters import masked
from dsearch.adapters.masked import Masked
from dsearch.core.contract import Prediction, map_tree

few = settings(max_examples=12)
SEEDS = st.integers(0, 2**40)
ORDERS = ("random", "confidence")


def table(length, vocab, seed=0):
    """A joint law over all `vocab ** length` words, one of them impossible."""
    p = np.random.default_rng(seed).dirichlet(np.full(vocab**length, 0.7))
    p[1] = 0
    return torch.tensor(p / p.sum()).reshape((vocab,) * length)


def conditionals(joint):
    """The exact `token_logits` of a joint law: log p(x_l = v | the tokens that are revealed)."""
    length, vocab = joint.ndim, joint.shape[0]

    def one(row):
        logits = torch.zeros(length, vocab, dtype=torch.float64)
        for place in range(length):
            where = [slice(None) if t == vocab else slice(t, t + 1) for t in row]
            where[place] = slice(None)
            rest = tuple(d for d in range(length) if d != place)
            logits[place] = joint[tuple(where)].sum(rest).log()
        return logits

    return lambda x, step: torch.stack([one(row) for row in x.tolist()])


def neighbours(length, vocab, seed=0, mask=None):
    """Logits that depend on step, place and both neighbours, the same for a row in any batch."""
    mask = vocab if mask is None else mask
    g = torch.Generator().manual_seed(seed)
    known = max(vocab, mask + 1)
    left, right = torch.randn(2, known, length, vocab, generator=g, dtype=torch.float64) * 1.5
    place = torch.arange(length)

    def logits(x, step):
        before, after = x.roll(1, -1), x.roll(-1, -1)
        return left[before, place] + right[after, place] + 0.1 * step

    return logits


def model(length=6, vocab=3, seed=0, **options):
    return Masked(neighbours(length, vocab, seed, options.get("mask")), length=length, vocab=vocab, **options)


def lead(pred):
    """`[B, K, ...]` -> `[B, K, 1, ...]`."""
    return map_tree(lambda leaf: leaf[:, :, None], pred)


def predicted(denoiser, x, step, prompts=("",), prompt=None):
    """`[B, K, L]` -> its prediction, `[B, K, ...]`."""
    flat = x.flatten(0, 1)
    prompt = torch.zeros(len(flat), dtype=torch.long) if prompt is None else prompt
    pred = denoiser.predict(flat, step, denoiser.encode(list(prompts)), prompt)
    return map_tree(lambda leaf: leaf.unflatten(0, x.shape[:2]), pred)


def walk(denoiser, seed=0, shape=(2, 3, 2), prompts=("",)):
    """Levels 0..T of a plain run in which each step's first child goes on: `(step, parents, children)`."""
    groups, beams, _ = shape
    rng = dsearch.KeyedRng(seed, tuple(range(groups)))
    x = denoiser.start((groups, beams), rng)
    for step in range(denoiser.num_steps):
        noise = denoiser.noise(step, shape, rng)
        children = denoiser.step(x[:, :, None], lead(predicted(denoiser, x, step, prompts)), step, noise)
        yield step, x, children, noise
        x = children[:, :, 0]


def scheduled(length, num_steps, schedule):
    """How many are masked at each level 0..T, in plain Python."""
    counts = [length]
    for i in range(num_steps):
        r = (i + 1) / num_steps
        gamma = 1 - r if schedule == "linear" else math.cos(math.pi * r / 2)
        counts.append(max(0, min(round(length * gamma), length - 1 - i)))
    return counts


sizes = st.tuples(st.integers(1, 9), st.integers(2, 4), st.integers(1, 9)).map(lambda s: (s[0], s[1], min(s[0], s[2])))


@settings(max_examples=40)
@given(sizes, SEEDS, st.sampled_from(ORDERS), st.sampled_from(["linear", "cosine"]), st.sampled_from([0.0, 3.0]))
def test_revealed_tokens_never_change_and_the_scheduled_number_stays_masked(size, seed, order, schedule, gumbel):
    length, vocab, num_steps = size
    extra = {"confidence_noise": gumbel} if order == "confidence" else {}
    denoiser = model(length, vocab, num_steps=num_steps, order=order, schedule=schedule, **extra)
    counts = scheduled(length, num_steps, schedule)
    assert counts[-1] == 0 and all(a > b for a, b in itertools.pairwise(counts))
    for step, x, children, _ in walk(denoiser, seed):
        assert ((x == vocab).sum(-1) == counts[step]).all()
        assert ((children == vocab).sum(-1) == counts[step + 1]).all()
        kept = (x != vocab)[:, :, None]
        assert torch.equal(
            children[kept.expand_as(children)], x[:, :, None].expand_as(children)[kept.expand_as(children)]
        )
        assert ((children >= 0) & (children <= vocab)).all() and children.dtype == torch.int64
    assert (children < vocab).all()


def test_by_default_one_token_is_revealed_a_step():
    assert model(7).num_steps == 7
    assert [int((x == 3).sum(-1)[0, 0]) for _, x, _, _ in walk(model(7))] == [7, 6, 5, 4, 3, 2, 1]


def chi_square(x, law, z=1e-3):
    """`[N, L]` draws agree with a joint table; those of probability 0 never occur."""
    vocab, length = law.shape[0], law.ndim
    code = sum(x[:, i] * vocab ** (length - 1 - i) for i in range(length))
    seen, p = np.bincount(code.numpy(), minlength=law.numel()), law.flatten().numpy()
    assert seen[p == 0].sum() == 0
    return stats.chisquare(seen[p > 0], p[p > 0] * len(x)).pvalue > z


def sampled(denoiser, beams, seed=0):
    method = dsearch.methods.plain(lambda x, prompts: x[:, 0].float(), beams=beams)
    return dsearch.search(denoiser, method, "", seed=seed, chunks=dsearch.Chunks(network=None)).images[0]


@pytest.mark.parametrize(("length", "vocab"), [(3, 2), (3, 3), (2, 3)])
def test_exact_conditionals_and_one_token_a_step_give_the_joint_law(length, vocab):
    joint = table(length, vocab)
    denoiser = Masked(conditionals(joint), length=length, vocab=vocab)
    assert chi_square(sampled(denoiser, 6000), joint)


def test_one_step_gives_the_product_of_the_marginals_and_not_the_joint_law():
    joint = table(3, 2)
    x = sampled(Masked(conditionals(joint), length=3, vocab=2, num_steps=1), 6000)
    a, b, c = (joint.sum(tuple(d for d in range(3) if d != keep)) for keep in range(3))
    assert chi_square(x, a[:, None, None] * b[None, :, None] * c)
    assert not np.isclose(((x == torch.tensor([0, 0, 1])).all(-1)).double().mean(), 0, atol=1e-3)  # impossible jointly


def test_the_order_is_uniform_over_positions_and_independent_of_the_tokens():
    joint = table(3, 2)
    denoiser = Masked(conditionals(joint), length=3, vocab=2)
    _, _, children, _ = next(walk(denoiser, shape=(1, 1, 9000)))
    x = children[0, 0]
    place = (x < 2).int().argmax(-1)
    assert stats.chisquare(np.bincount(place)).pvalue > 1e-3
    for where in range(3):
        token = x[place == where, where]
        p = joint.sum(tuple(d for d in range(3) if d != where)).numpy()
        assert stats.chisquare(np.bincount(token, minlength=2), p * len(token)).pvalue > 1e-3


def test_pairs_of_positions_revealed_together_are_uniform():
    _, _, children, _ = next(walk(model(4, num_steps=2), shape=(1, 1, 6000)))
    code = ((children[0, 0] < 3) * torch.tensor([8, 4, 2, 1])).sum(-1).numpy()
    seen = np.bincount(code, minlength=16)
    assert seen[[3, 5, 6, 9, 10, 12]].sum() == 6000
    assert stats.chisquare(seen[[3, 5, 6, 9, 10, 12]]).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_the_temperature_divides_the_logits(temperature):
    logits = torch.tensor([1.0, 0.0, -2.0])
    denoiser = Masked(lambda x, step: logits.expand(*x.shape, 3), length=1, vocab=3, temperature=temperature)
    seen = np.bincount(sampled(denoiser, 6000)[:, 0].numpy(), minlength=3)
    assert stats.chisquare(seen, (logits.double() / temperature).softmax(-1).numpy() * 6000).pvalue > 1e-3


def oracle(denoiser, x, logits, noise, step, left):
    """One child, in plain Python: x `[L]`, logits `[L, V]`, noise `[L, 2]` as nested lists."""
    tokens, rank = list(x), {}
    for place, token in enumerate(x):
        if token != denoiser.mask:
            continue
        scaled = [z / denoiser.temperature for z in logits[place]]
        if denoiser.mask < denoiser.vocab:
            scaled[denoiser.mask] = -math.inf
        weights = [math.exp(z - max(scaled)) for z in scaled]
        mark = noise[place][1] * sum(weights)
        drawn = next(v for v, total in enumerate(itertools.accumulate(weights)) if mark < total)
        tokens[place], rank[place] = drawn, noise[place][0]
        if denoiser.order == "confidence":
            gumbel = -math.log(-math.log(noise[place][0]))
            share = 1 - (step + 1) / denoiser.num_steps
            rank[place] = math.log(weights[drawn] / sum(weights)) + denoiser.confidence_noise * share * gumbel
    shown = sorted(rank, key=rank.get, reverse=True)[: len(rank) - left]
    return [tokens[place] if place in shown else token for place, token in enumerate(x)]


@few
@given(
    SEEDS,
    st.sampled_from([("random", 0.0), ("confidence", 0.0), ("confidence", 2.0)]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.sampled_from([4, 1, 7]),
)
def test_the_kernel_equals_an_independent_oracle_child_by_child(seed, order, temperature, mask):
    order, gumbel = order
    denoiser = model(
        6, 4, num_steps=3, order=order, temperature=temperature, confidence_noise=gumbel, mask=mask, schedule="cosine"
    )
    counts = scheduled(6, 3, "cosine")
    for step, x, children, noise in walk(denoiser, seed):
        logits = denoiser.token_logits(x.flatten(0, 1), step).unflatten(0, x.shape[:2]).tolist()
        for b, k, c in itertools.product(range(2), range(3), range(2)):
            expected = oracle(denoiser, x[b, k].tolist(), logits[b][k], noise[b, k, c].tolist(), step, counts[step + 1])
            assert children[b, k, c].tolist() == expected


@few
@given(SEEDS, st.sampled_from(ORDERS))
def test_broadcasting_equals_one_by_one(seed, order):
    denoiser = model(5, num_steps=3, order=order)
    for step, x, children, noise in walk(denoiser, seed):
        for b, k, c in itertools.product(range(2), range(3), range(2)):
            one = x[b, k][None, None]
            alone = denoiser.step(
                one[:, :, None], lead(predicted(denoiser, one, step)), step, noise[b, k, c][None, None, None]
            )
            assert torch.equal(alone[0, 0, 0], children[b, k, c])


@pytest.mark.parametrize(("order", "least"), [("random", 10), ("confidence", 4)])
def test_children_of_a_parent_differ(order, least):
    *_, (_, _, children, _) = itertools.islice(walk(model(6, num_steps=3, order=order), shape=(1, 1, 50)), 2)
    assert len(children[0, 0].unique(dim=0)) > least


def test_confidence_keeps_the_drawn_tokens_of_highest_probability():
    denoiser = model(8, 4, num_steps=4, order="confidence")
    for step, x, children, noise in walk(denoiser, shape=(1, 4, 6)):
        log_p = denoiser.token_logits(x[0], step).log_softmax(-1)
        drawn = model(8, 4, num_steps=1).step(  # all at once: every token that is drawn
            x[:, :, None],
            lead(predicted(model(8, 4, num_steps=1), x, 0)._replace(out=(x, log_p[None], x.sum(-1) * 0))),
            0,
            noise,
        )
        for k, c in itertools.product(range(4), range(6)):
            own = log_p[k].gather(-1, drawn[0, k, c][:, None])[:, 0]
            hidden, shown = x[0, k] == 4, children[0, k, c] != x[0, k]
            if (hidden & ~shown).any():
                assert own[shown].min() >= own[hidden & ~shown].max()


def test_gumbel_noise_shuffles_the_confident_order_and_fades():
    logits = torch.tensor([2.0, 0.0]).expand(1, 6, 2) * torch.linspace(1, 2, 6)[:, None]

    def first(scale, step=0):
        denoiser = Masked(
            lambda x, s: logits, length=6, vocab=2, num_steps=3, order="confidence", confidence_noise=scale
        )
        x = torch.full((1, 1, 6), 2)
        noise = denoiser.noise(0, (1, 1, 400), dsearch.KeyedRng(0, (0,)))
        return denoiser.step(x[:, :, None], lead(predicted(denoiser, x, step)), step, noise)[0, 0] < 2

    assert first(0.0)[:, 5].float().mean() > 0.9 > first(30.0)[:, 5].float().mean()
    assert first(30.0)[:, 0].float().mean() > 0.2
    assert first(30.0, step=2).all()


@pytest.mark.parametrize("order", ORDERS)
def test_the_ends_of_the_uniforms_reveal_as_many(order):
    denoiser = model(5, num_steps=5, order=order, confidence_noise=2.0 * (order == "confidence"))
    x = torch.tensor([[[0, 3, 3, 1, 3]]])
    for u in (0.0, math.nextafter(1.0, 0.0)):
        noise = torch.full((1, 1, 1, 5, 2), u, dtype=torch.float64)
        child = denoiser.step(x[:, :, None], lead(predicted(denoiser, x, 2)), 2, noise)[0, 0, 0]
        assert (child == 3).sum() == 2 and child[0] == 0 and child[3] == 1


def test_the_prediction_is_the_mode_of_every_masked_position():
    denoiser = model(6)
    for step, x, _, _ in walk(denoiser):
        best = denoiser.token_logits(x.flatten(0, 1), step).argmax(-1).unflatten(0, x.shape[:2])
        assert torch.equal(predicted(denoiser, x, step).x0, torch.where(x == 3, best, x))


def test_clean_tokens_are_their_own_prediction_and_ask_no_network():
    def never(x, step):
        raise AssertionError("asked at the clean end")

    x = torch.randint(3, (5, 4))
    denoiser = Masked(never, length=4, vocab=3)
    pred = denoiser.predict(x, 4, denoiser.encode([""]), torch.zeros(5, dtype=torch.long))
    assert torch.equal(pred.x0, x) and torch.equal(denoiser.decode(x), x)


@few
@given(SEEDS, st.sampled_from(ORDERS), st.sampled_from([0, 2, 3, 9, -1]))
def test_the_mask_is_never_drawn_wherever_its_id_lies(seed, order, mask):
    """Below the vocabulary's end it has a logit, here the highest one."""

    def logits(x, step):
        favoured = torch.zeros(*x.shape, 3)
        if 0 <= mask < 3:
            favoured[..., mask] = 50.0
        return favoured

    denoiser = Masked(logits, length=5, vocab=3, mask=mask, order=order)
    for step, x, children, _ in walk(denoiser, seed):
        assert ((children == mask).sum(-1) == 4 - step).all()
        assert not (predicted(denoiser, x, step).x0 == mask).any()
    assert set(children.flatten().tolist()) <= {0, 1, 2} - {mask}


def test_forbidden_tokens_are_never_drawn():
    barred = torch.tensor([0.0, -torch.inf, 0.0])
    x = sampled(Masked(lambda x, step: barred.expand(*x.shape, 3), length=4, vocab=3), 500)
    assert set(x.flatten().tolist()) == {0, 2}


TEMPLATES = {"": [3, 3, 3, 3, 3], "begins": [2, 0, 3, 3, 3], "between": [1, 3, 3, 3, 1], "done": [0, 1, 2, 1, 0]}


@few
@given(SEEDS, st.sampled_from(ORDERS), st.integers(1, 5))
def test_templates_stay_and_the_rest_is_filled_in(seed, order, num_steps):
    seen, inner = [], neighbours(5, 3)

    def logits(x, step):
        seen.append(x)
        return inner(x, step)

    denoiser = Masked(logits, length=5, vocab=3, num_steps=num_steps, order=order, template=TEMPLATES.__getitem__)
    states = []
    method = dsearch.methods.svdd(lambda x, prompts: x.sum(-1), width=2, beams=2)
    result = dsearch.search(
        denoiser, method, list(TEMPLATES), seed=seed, watch=[lambda step, beams: states.append(beams.x)]
    )
    for b, form in enumerate(map(torch.tensor, TEMPLATES.values())):
        assert (result.images[b][:, form < 3] == form[form < 3]).all() and (result.images[b] < 3).all()
        counts = scheduled(int((form == 3).sum()), num_steps, "linear")[1:]
        assert [x[b].eq(3).sum(-1).tolist() for x in states] == [[count] * 2 for count in counts]
    firsts = seen[0].unflatten(0, (4, 2))  # the network meets the template from the first call on
    assert torch.equal(firsts[:, 0], torch.tensor(list(TEMPLATES.values())))


def test_rows_take_the_condition_and_the_template_of_their_own_prompt():
    def encode(prompts):
        favour = torch.tensor([int(p) for p in prompts])
        return torch.nn.functional.one_hot(favour, 3) * 40.0, (favour,)

    def logits(x, step, cond):
        assert torch.equal(cond[0].argmax(-1), cond[1][0])
        return cond[0][:, None].expand(*x.shape, 3)

    denoiser = Masked(logits, length=3, vocab=3, encode=encode, template=lambda p: [3, 3, int(p)])
    for chunk in (None, 1, 4):
        method = dsearch.methods.plain(lambda x, prompts: x[:, 0], beams=3)
        result = dsearch.search(denoiser, method, ["2", "0", "1"], chunks=dsearch.Chunks(network=chunk))
        assert result.images[:, 0].tolist() == [[2, 2, 2], [0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize("order", ORDERS)
def test_the_deterministic_step_takes_the_most_confident_modes(order):
    denoiser = model(7, 4, num_steps=3, order=order)
    counts = scheduled(7, 3, "linear")
    for step, x, _, _ in walk(denoiser, shape=(2, 3, 1)):
        pred = predicted(denoiser, x, step)
        after = denoiser.deterministic(x, pred, step)
        top = denoiser.token_logits(x.flatten(0, 1), step).log_softmax(-1).amax(-1).unflatten(0, x.shape[:2])
        shown, hidden = after != x, x == 4
        assert ((after == 4).sum(-1) == counts[step + 1]).all()
        assert torch.equal(after[shown], pred.x0[shown]) and not (shown & ~hidden).any()
        assert torch.equal(denoiser.deterministic(x[:, :, None], lead(pred), step), after[:, :, None])
        for b, k in itertools.product(range(2), range(3)):
            rest = hidden[b, k] & ~shown[b, k]
            if rest.any():
                assert top[b, k][shown[b, k]].min() >= top[b, k][rest].max()


def fit(x, prompts):
    """[N, 4] -> [N]: distinct for distinct words, highest for 2 1 2 1."""
    return -((x - torch.tensor([2, 1, 2, 1])).double().abs() * torch.tensor([1.0, 1.01, 1.03, 1.07])).sum(-1)


@every_method
@few
@given(seed=SEEDS, sizes=st.tuples(*[st.one_of(st.none(), st.integers(1, 9))] * 3))
def test_chunks_and_batch_mates_change_nothing(example, seed, sizes):
    method, prompts = example(fit), ["a", "bb", "a"]
    ids = ["pool"] if method.pool else ["x", "y", "z"]
    one = run(method, prompts, masked.example(), seed=seed, ids=ids)
    assert_same_result(one, run(method, prompts, masked.example(), seed=seed, ids=ids, chunks=dsearch.Chunks(*sizes)))
    for b in range(0 if method.pool else 3):
        alone = run(method, [prompts[b]], masked.example(), seed=seed, ids=[ids[b]])
        # Methods that may stop early report the mean bill of their groups.
        assert_identical(group(alone, 0) | {"bill": None}, group(one, b) | {"bill": None})


@every_method
def test_every_method_runs_within_its_bill(example):
    method = example(fit)
    result = run(method, PROMPTS, masked.example())
    assert result.cost.planned == method.bill(4) and not result.cost.bill.exceeds(result.cost.planned)
    assert (result.images < 3).all() and torch.equal(result.images, result.latents)
    for b, prompts in enumerate(result.prompts):
        assert torch.equal(result.rewards[b], fit(result.images[b], prompts))


@pytest.mark.parametrize("order", ORDERS)
def test_search_raises_the_reward(order):
    joint = table(3, 3, seed=2)
    denoiser = Masked(conditionals(joint), length=3, vocab=3, order=order)

    def reward(x, prompts):
        return (x == 1).double().sum(-1)

    def best(method):
        return dsearch.search(denoiser, method, [""] * 60, ids=range(60)).rewards[:, 0].mean()

    m = dsearch.methods
    plain = best(m.plain(reward, 1))
    others = [
        m.best_of_n(reward, 4),
        m.svdd(reward, 4),
        m.dsearch(reward, 3, rows_per_step=6),
        m.dsearch_r(reward, 4, 8, 0.25),
    ]
    assert all(best(method) > plain + 0.2 for method in others)


def test_all_randomness_is_one_recorded_draw_a_step():
    recorder = Recorder(dsearch.KeyedRng(3, (0, 1)))
    denoiser, method = masked.example(), dsearch.methods.svdd(fit, width=3)
    torch.manual_seed(0)
    one = run(method, PROMPTS, denoiser, rng=recorder)
    assert {key: tuple(draw.shape) for key, draw in recorder.drawn.items()} == {
        ("uniform", "noise", i): (2, 1, 3 if i < 3 else 1, 4, 2) for i in range(4)
    }
    replay = SimpleNamespace(uniform=lambda use, step, shape: recorder.drawn["uniform", use, step])
    torch.manual_seed(1)
    assert_same_result(one, run(method, PROMPTS, denoiser, rng=replay))


@pytest.mark.parametrize("order", ORDERS)
def test_low_precision_logits_are_read_in_float64(order):
    def low(x, step):
        return neighbours(6, 3)(x, step).bfloat16()

    options = {"length": 6, "vocab": 3, "temperature": 0.7, "order": order}
    half, full = Masked(low, **options), Masked(lambda x, step: low(x, step).double(), **options)
    for (*_, one, noise), (*_, other, _) in zip(walk(half), walk(full), strict=True):
        assert torch.equal(one, other) and noise.dtype == torch.float64
    assert torch.equal(sampled(half, 500), sampled(full, 500))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"length": 0}, "length is 0"),
        ({"vocab": 0}, "vocab is 0"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"num_steps": 5}, "num_steps=5 exceeds length=4"),
        ({"order": "best"}, "order='best' is unknown; choose one of random, confidence"),
        ({"schedule": "sine"}, "schedule='sine' is unknown; choose one of linear, cosine"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"temperature": math.nan}, "temperature=nan must be above 0"),
        ({"temperature": math.inf}, "must be above 0 and finite"),
        ({"confidence_noise": -1.0, "order": "confidence"}, "confidence_noise=-1.0 must be at least 0"),
        ({"confidence_noise": math.nan, "order": "confidence"}, "confidence_noise=nan must be at least 0"),
        ({"confidence_noise": 1.0}, "is read with order='confidence' alone"),
        ({"vocab": 1, "mask": 0}, "leave no token"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(options, says):
    with pytest.raises(ValueError, match=says):
        Masked(lambda x, step: x, **({"length": 4, "vocab": 3} | options))


def spoilt(value, place=2, when=1):
    """Zeros but for one entry of the second row."""

    def logits(x, step):
        z = torch.zeros(*x.shape, 3)
        if step == when:
            z[min(1, len(z) - 1), place] = value
        return z

    return logits


@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (lambda x, step: torch.zeros(*x.shape, 4), r"returned \(2, 4, 4\) of torch.float32 at level 0.*\(2, 4, 3\)"),
        (lambda x, step: torch.zeros(len(x), 3), r"returned \(2, 3\)"),
        (lambda x, step: torch.zeros(*x.shape, 3, dtype=torch.long), "of torch.int64 at level 0; return floats"),
        (spoilt(torch.nan, when=0), "at level 0 the highest logit of position 2 in row 1 is nan"),
        (spoilt(torch.inf, when=0), "at level 0 the highest logit of position 2 in row 1 is inf"),
        (spoilt(-torch.inf, when=0), "at level 0 the highest logit of position 2 in row 1 is -inf"),
        (spoilt(torch.tensor([0.0, torch.nan, 0.0]), when=0), "is nan"),
    ],
)
def test_logits_that_cannot_be_drawn_from_are_refused_with_their_step(logits, says):
    with pytest.raises(ValueError, match=says):
        sampled(Masked(logits, length=4, vocab=3), 2)


def test_logits_are_not_read_where_tokens_are_revealed():
    inner = neighbours(4, 3)

    def partial(x, step):
        return inner(x, step).masked_fill((x < 3)[..., None], torch.nan)

    for order in ORDERS:
        one, other = (Masked(f, length=4, vocab=3, order=order) for f in (inner, partial))
        assert torch.equal(sampled(one, 20), sampled(other, 20))


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ([3, 3, 3], r"template of 'cat' is \(3,\) of torch.int64; return 4 whole tokens"),
        ([3.0, 3.0, 3.0, 3.0], "float32; return 4 whole"),
        ([3, 4, 3, 3], r"has token 4, outside the vocabulary \[0, 3\); the mask is 3"),
        ([3, 3, -1, 3], "has token -1, outside"),
    ],
)
def test_templates_that_do_not_fit_are_refused_before_anything_is_spent(form, says):
    def never(x, step):
        raise AssertionError("asked")

    denoiser = Masked(never, length=4, vocab=3, template=lambda prompt: form)
    with pytest.raises(ValueError, match=says):
        dsearch.search(denoiser, dsearch.methods.plain(fit), "cat")


def test_a_step_takes_one_prediction_a_beam():
    denoiser = model(4)
    x = torch.full((1, 1, 2, 4), 3)
    pred = Prediction((x, torch.zeros(1, 1, 2, 4, 3), torch.ones(1, 1, 2, dtype=torch.long)), x)
    with pytest.raises(ValueError, match="2 predictions per beam at step 0"):
        denoiser.step(x, pred, 0, denoiser.noise(0, (1, 1, 2), dsearch.KeyedRng(0, (0,))))


def test_the_benchmark_of_names_writes_its_table_into_the_page(tmp_path, capsys):
    file = Path(__file__).parent.parent / "benchmarks" / "names.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_names", file)
    names = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(names)
    words, page, out = tmp_path / "words", tmp_path / "page.md", tmp_path / "out.json"
    words.write_text("\n".join(a + b + c for a in "bdfgklm" for b in "aeiou" for c in ("n", "ra", "lla")))
    page.write_text(f"before\n{names.BEGIN}\nold\n{names.END}\nafter\n")
    sizes = ["--train-steps", "5", "--width", "8", "--letters", "al", "--words-each", "2", "--n", "4", "--seeds", "2"]
    names.main(["--words", str(words), "--docs", str(page), "--json", str(out), *sizes])
    told, written = capsys.readouterr().out, page.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert told.strip() in written and str(tmp_path) not in written
    rows = json.loads(out.read_text())["rows"]
    assert {"plain", "best-of-N", "SVDD", "DSearch", "DSearch-R"} <= {row["method"] for row in rows}
    assert all(row["bill"]["model_calls"] <= 40 for row in rows)

    x = names.tokens(["alla", "zoe"])
    assert [names.text(row) for row in x] == ["alla", "zoe"]
    assert names.count(x, ["l", "z"]).tolist() == [2, 1]
    x[0, 6] = x[0, 0]  # behind the end of the word, where nothing counts
    assert names.text(x[0]) == "alla" and names.count(x, ["a", "a"]).tolist() == [2, 0]
    assert sum(math.exp(p) for p in names.Bigrams(["ab", "ac"]).log_p[0]) == pytest.approx(1)
