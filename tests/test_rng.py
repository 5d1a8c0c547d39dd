"""The noise source: keyed, independent of batch-mates, of the right distribution; and the inverse CDF."""

import math
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from strategies import within

from dsearch import KeyedRng
from dsearch.core.rng import invert_cdf
from dsearch.methods.zero_order import Near

IDS = st.lists(st.one_of(st.integers(), st.text(max_size=3)), min_size=1, max_size=5, unique=True)
SHAPES = st.lists(st.integers(1, 4), max_size=3)
KINDS = pytest.mark.parametrize("kind", ["normal", "uniform"])
BELOW_ONE = math.nextafter(1.0, 0.0)


def stream(rng, use="noise", step=0, kind="normal", n=64):
    return getattr(rng, kind)(use, step, (len(rng.ids), n))


@KINDS
@given(st.integers(), IDS, SHAPES)
def test_the_same_key_gives_the_same_draw(kind, seed, ids, shape):
    one, other = (getattr(KeyedRng(seed, tuple(ids)), kind)("noise", 3, (len(ids), *shape)) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (len(ids), *shape)


@KINDS
@given(st.data(), IDS, SHAPES)
def test_an_id_meets_the_same_noise_alone_or_among_many_in_any_order(kind, data, ids, shape):
    order = data.draw(st.permutations(range(len(ids))))
    many = getattr(KeyedRng(7, tuple(ids)), kind)("noise", 3, (len(ids), *shape))
    shuffled = getattr(KeyedRng(7, tuple(ids[i] for i in order)), kind)("noise", 3, (len(ids), *shape))
    assert torch.equal(shuffled, many[order])
    for i, key in enumerate(ids):
        assert torch.equal(getattr(KeyedRng(7, (key,)), kind)("noise", 3, (1, *shape))[0], many[i])


@KINDS
@pytest.mark.parametrize(
    "other",
    [
        lambda kind: stream(KeyedRng(8, (0,)), kind=kind),
        lambda kind: stream(KeyedRng(7 + 2**32, (0,)), kind=kind),
        lambda kind: stream(KeyedRng(7 + 2**64, (0,)), kind=kind),
        lambda kind: stream(KeyedRng(7 + 2**128, (0,)), kind=kind),
        lambda kind: stream(KeyedRng(-7, (0,)), kind=kind),
        lambda kind: stream(KeyedRng(7, (1,)), kind=kind),
        lambda kind: stream(KeyedRng(7, ("0",)), kind=kind),
        lambda kind: stream(KeyedRng(7, (0,)), kind=kind, step=1),
        lambda kind: stream(KeyedRng(7, (0,)), kind=kind, use="start"),
        lambda kind: stream(KeyedRng(7, (0,)).under("lookahead"), kind=kind),
        lambda kind: stream(KeyedRng(7, (0,)).under("x").under("y"), kind=kind),
    ],
    ids=["seed", "low-32-bits", "low-64-bits", "low-128-bits", "sign", "id", "id-type", "step", "use", "under", "deep"],
)
def test_another_key_gives_an_unrelated_stream(kind, other):
    one, two = stream(KeyedRng(7, (0,)), kind=kind)[0], other(kind)[0]
    assert not torch.isin(one, two).any()
    assert abs(np.corrcoef(one, two)[0, 1]) < 4.5 / 8


def test_under_names_a_source_of_its_own_that_is_itself_keyed():
    rng = KeyedRng(7, ("a", "b"))
    assert torch.equal(stream(rng.under("x")), stream(KeyedRng(7, ("a", "b")).under("x")))
    assert not torch.isin(stream(rng.under("x").under("y")), stream(rng.under("y").under("x"))).any()
    assert not torch.isin(stream(rng.under("x").under("y")), stream(rng.under("y"))).any()
    assert rng.under("x").ids == rng.ids


@pytest.mark.parametrize("whole", [np.int64(7), np.uint8(7), np.int32(7)])
def test_a_numpy_integer_is_the_integer_it_holds(whole):
    assert torch.equal(stream(KeyedRng(whole, (3,))), stream(KeyedRng(7, (3,))))
    assert torch.equal(stream(KeyedRng(3, (whole,))), stream(KeyedRng(3, (7,))))


def test_a_seed_that_is_not_whole_is_refused():
    with pytest.raises(TypeError):
        stream(KeyedRng(0.5, (0,)))


def test_global_generators_are_neither_read_nor_moved():
    torch.manual_seed(0), np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = stream(KeyedRng(7, (0,)))
    torch.manual_seed(1)
    assert torch.equal(one, stream(KeyedRng(7, (0,))))
    torch.manual_seed(0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


@KINDS
def test_the_wrong_number_of_groups_is_refused(kind):
    with pytest.raises(ValueError, match=r"3 groups.*2 ids"):
        getattr(KeyedRng(0, (0, 1)), kind)("noise", 0, (3, 4))


def test_draws_are_float32_normals_and_float64_uniforms():
    rng = KeyedRng(0, (0, 1))
    assert rng.normal("noise", 0, (2,)).dtype == torch.float32 and rng.normal("noise", 0, (2,)).shape == (2,)
    assert rng.uniform("noise", 0, (2,)).dtype == torch.float64 and rng.uniform("noise", 0, (2,)).shape == (2,)


def test_normals_and_uniforms_follow_their_distributions():
    rng = KeyedRng(11, tuple(range(50)))  # many streams together, as a batch of prompts is
    normal = rng.normal("noise", 2, (50, 400)).double()
    uniform = rng.uniform("noise", 2, (50, 400))
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 1e-3
    assert within(0, normal) and within(1, normal**2) and within(0, normal**3) and within(3, normal**4)
    assert within(1 / 2, uniform) and within(1 / 12, (uniform - 1 / 2) ** 2)
    assert uniform.min() >= 0 and uniform.max() < 1


def test_first_draws_of_many_keys_are_themselves_normal():
    rng = KeyedRng(11, tuple(range(4000)))
    assert stats.kstest(rng.normal("noise", 0, (4000,)).double().numpy(), "norm").pvalue > 1e-3


def test_categorical_draws_have_the_frequencies_of_their_weights():
    w = torch.tensor([[0.0, 0.1, 0.4, 0.0, 0.5, 0.0], [1.0, 0.0, 0.0, 2.0, 0.0, 1.0]]).double()
    drawn = KeyedRng(5, (0, 1)).categorical("pick", 0, w.log() + 3, 20_000)
    assert drawn.shape == (2, 20_000)
    for p, group in zip(w / w.sum(-1, keepdim=True), drawn, strict=True):
        count = torch.bincount(group, minlength=6)
        assert (count[p == 0] == 0).all()
        assert stats.chisquare(count[p > 0].numpy(), (p[p > 0] * 20_000).numpy()).pvalue > 1e-3


def test_categorical_of_a_group_does_not_depend_on_its_batch_mates():
    log_p = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    many = KeyedRng(1, ("a", "b", "c")).categorical("pick", 4, log_p, 9)
    assert torch.equal(KeyedRng(1, ("b",)).categorical("pick", 4, log_p[1:2], 9), many[1:2])


# ---- the inverse CDF ---------------------------------------------------------------------------------------

WEIGHTS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


def log(weights):
    return torch.tensor(weights, dtype=torch.float64).log()


def oracle(weights, u):
    """The first index whose exact cumulative weight is above u."""
    total = sum(weights)
    return next(i for i, c in enumerate(accumulate(weights)) if Fraction(c, total) > Fraction(u))


@given(WEIGHTS, st.floats(0, 1, exclude_max=True))
def test_invert_cdf_equals_exact_fractions_away_from_the_edges(weights, u):
    edges = [c / sum(weights) for c in accumulate(weights)]
    assume(u == 0 or min(abs(u - edge) for edge in edges[:-1] or [2]) > 1e-12)
    assert invert_cdf(log(weights), torch.tensor([u], dtype=torch.float64)).item() == oracle(weights, u)


@given(WEIGHTS, st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=8))
def test_invert_cdf_never_draws_zero_weight(weights, us):
    edges = [c / sum(weights) for c in accumulate(weights)]  # the edges too, where rounding is at its worst
    u = torch.tensor([*us, *(e for e in edges if e < 1), 0.0, BELOW_ONE], dtype=torch.float64)
    assert all(weights[i] > 0 for i in invert_cdf(log(weights), u).tolist())


@given(WEIGHTS)
def test_invert_cdf_at_zero_and_just_below_one_takes_the_first_and_last_of_positive_weight(weights):
    positive = [i for i, w in enumerate(weights) if w]
    u = torch.tensor([0.0, BELOW_ONE], dtype=torch.float64)
    assert invert_cdf(log(weights), u).tolist() == [positive[0], positive[-1]]


def test_invert_cdf_takes_a_uniform_that_rounded_up_to_one():
    assert invert_cdf(log([0, 1, 1, 0]), torch.tensor([1.0])).tolist() == [2]


@given(WEIGHTS, st.integers(-400, 400), st.floats(0, 1, exclude_max=True))
def test_invert_cdf_does_not_need_normalised_weights(weights, power, u):
    shifted = torch.where(log(weights).isinf(), -math.inf, log(weights) + power * math.log(2))
    edges = [c / sum(weights) for c in accumulate(weights)]
    assume(min(abs(u - edge) for edge in [*edges[:-1], 2.0]) > 1e-9)
    u = torch.tensor([u], dtype=torch.float64)
    assert torch.equal(invert_cdf(shifted, u), invert_cdf(log(weights), u))


def test_invert_cdf_works_row_by_row():
    weights, u = [[1, 1, 2], [0, 3, 1]], [[0.1, 0.3, 0.6], [0.0, 0.74, 0.76]]
    drawn = invert_cdf(log(weights), torch.tensor(u, dtype=torch.float64))
    assert drawn.tolist() == [[0, 1, 2], [1, 1, 2]]


@pytest.mark.parametrize(
    ("log_w", "shares"), [([-math.inf] * 4, [0, 1, 2, 3]), ([0.0, math.inf, -math.inf, math.inf], [1, 1, 3, 3])]
)
def test_invert_cdf_shares_equally_among_infinite_weights_and_where_all_are_zero(log_w, shares):
    u = torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64)
    assert invert_cdf(torch.tensor(log_w), u).tolist() == shares


def test_a_nan_weight_indexes_nothing_outside():
    weights, u = torch.tensor([[1.0, math.nan, 2.0]]), torch.tensor([[0.0, 0.5, 0.999]])
    assert invert_cdf(weights, u).max() < 3


def test_an_id_whose_text_may_change_is_refused():
    with pytest.raises(TypeError, match="an int or a str"):
        KeyedRng(0, (object(),))


# ---- a few candidates at a time -----------------------------------------------------------------------------


def in_parts(source, draw, cuts, total):
    """The draws of all candidates, asked for piece by piece."""
    edges = [0, *sorted(cuts), total]
    drawn = []
    for start, stop in pairwise(edges):
        source.seek(start, stop - start)
        drawn.append(draw(stop - start))
    return torch.cat(drawn, dim=1)


SOURCES = pytest.mark.parametrize("parts", [lambda rng: rng.parts(12), lambda rng: rng.parts(5).parts(12)])
CUTS = st.sets(st.integers(1, 11), max_size=4)


@SOURCES
@KINDS
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)], ids=str)
@given(cuts=CUTS)
def test_what_is_drawn_piece_by_piece_is_what_is_drawn_at_once(parts, kind, shape, cuts):
    rng = KeyedRng(3, ("a", 1))
    for whole, source in ((rng, parts(rng)), (rng.under("rollout"), parts(rng).under("rollout"))):
        pieces = in_parts(source, lambda n, s=source: getattr(s, kind)("use", 2, (2, n, *shape)), cuts, 12)
        assert torch.equal(pieces, getattr(whole, kind)("use", 2, (2, 12, *shape)))


@SOURCES
def test_beams_by_children_are_drawn_in_the_order_of_their_candidates(parts):
    rng = KeyedRng(3, ("a", 1))
    source = parts(rng)
    pieces = in_parts(source, lambda n: source.normal("use", 2, (2, n // 3, 3, 5)), {3, 9}, 12)
    assert torch.equal(pieces.flatten(1, 2), rng.normal("use", 2, (2, 12, 5)))


@SOURCES
@given(cuts=CUTS)
def test_indices_drawn_piece_by_piece_are_those_drawn_at_once(parts, cuts):
    rng, log_p = KeyedRng(3, ("a", 1)), torch.tensor([[0.0, 1.0, -1.0], [2.0, 0.0, 0.5]])
    source = parts(rng)
    pieces = in_parts(source, lambda n: source.categorical("use", 2, log_p, n), cuts, 12)
    assert torch.equal(pieces, rng.categorical("use", 2, log_p, 12))


@SOURCES
def test_sources_under_another_draw_for_its_candidates(parts):
    source = parts(KeyedRng(3, ("a", 1)))
    inner = source.under("rollout")
    source.seek(4, 2)
    whole = KeyedRng(3, ("a", 1)).under("rollout").normal("use", 0, (2, 12))
    assert torch.equal(inner.normal("use", 0, (2, 2)), whole[:, 4:6])


@SOURCES
def test_draws_that_are_not_as_many_for_each_candidate_are_refused(parts):
    source = parts(KeyedRng(3, ("a", 1)))
    source.seek(0, 4)
    with pytest.raises(ValueError, match=r"'use' at step 2 draws \(2, 6\) for 4 candidates"):
        source.normal("use", 2, (2, 6))


@KINDS
@given(cuts=CUTS)
def test_runs_around_a_pivot_drawn_piece_by_piece_are_those_drawn_at_once(kind, cuts):
    rng, shape = KeyedRng(3, ("a", 1)), (2, 12, 1, 4)
    pivot = {(kind, "use", 2): getattr(rng.under("before"), kind)("use", 2, (2, 1, 1, 4))}

    def near():
        return Near(rng, 0.6, True, dict(pivot))

    source = near().parts(12)
    pieces = in_parts(source, lambda n: getattr(source, kind)("use", 2, (2, n, 1, 4)), cuts, 12)
    assert torch.equal(pieces, getattr(near(), kind)("use", 2, shape))
    assert source.near.drawn[kind, "use", 2].shape == shape  # the noise of all, for any may be the next pivot
