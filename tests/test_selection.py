"""Selectors against slow, plain-Python oracles, ties included."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from strategies import log_weights, populations, scores

from dsearch import KeyedRng, methods
from dsearch.core import resample as schemes
from dsearch.core.contract import Choice, Prediction, take, weight_dtype
from dsearch.core.selection import (
    best_child,
    chain,
    replace_worst,
    replaced,
    resample,
    softmax_child,
    standardised,
    top_k,
)

RNG = KeyedRng(0, (0,))


def rng_for(population, seed=0):
    return KeyedRng(seed, tuple(range(len(population.value))))


class GivenDraws:
    """An Rng whose categorical draws are 0, 1, 2, ... modulo the candidates; it remembers what it was asked."""

    def categorical(self, use, step, log_p, n):
        self.use, self.step, self.log_p = use, step, log_p
        return torch.arange(n).remainder(log_p.shape[1]).repeat(len(log_p), 1)


# ---- oracles: one group, plain Python ----------------------------------------------------------------------


def best_children(values, width):
    return [max(range(k, k + width), key=lambda i: (values[i], -i)) for k in range(0, len(values), width)]


def best_first(values):
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def worst_first(values):
    return sorted(range(len(values)), key=lambda i: (values[i], i))


def softmax(values):
    top = max(values)
    w = [math.exp(v - top) for v in values]
    return [x / sum(w) for x in w]


def assert_chosen(choice, population, expected):
    assert choice.index.tolist() == expected
    assert torch.equal(choice.log_w, take(population.log_w, choice.index))


# ---- deterministic selectors -------------------------------------------------------------------------------


@given(populations())
def test_best_child_is_the_best_of_each_beam_the_lowest_index_among_equals(p):
    choice = best_child(p, 99, RNG)
    assert_chosen(choice, p, [best_children(row, p.width) for row in p.value.tolist()])


@given(populations(), st.data())
def test_top_k_keeps_the_best_the_lowest_indices_among_equals_in_ascending_order(p, data):
    keep = data.draw(st.integers(1, p.value.shape[1]))
    assert_chosen(top_k()(p, keep, RNG), p, [sorted(best_first(row)[:keep]) for row in p.value.tolist()])


@given(populations(), st.data())
def test_sorted_top_k_descends_only_where_it_drops_some(p, data):
    n = p.value.shape[1]
    keep = data.draw(st.integers(1, n))
    expected = [best_first(row)[:keep] if keep < n else list(range(n)) for row in p.value.tolist()]
    assert_chosen(top_k(sort=True)(p, keep, RNG), p, expected)


@given(populations(), st.data())
def test_chain_composes_indices(p, data):
    beams = p.value.shape[1] // p.width
    keep = data.draw(st.integers(1, beams))
    expected = []
    for row in p.value.tolist():
        best = best_children(row, p.width)
        expected.append([best[k] for k in sorted(best_first([row[i] for i in best])[:keep])])
    assert_chosen(chain(best_child, top_k())(p, keep, RNG), p, expected)


@given(populations())
def test_a_chain_of_one_is_that_one_and_chains_nest(p):
    keep = p.value.shape[1] // p.width
    alone, one = best_child(p, keep, RNG), chain(best_child)(p, keep, RNG)
    assert torch.equal(alone.index, one.index) and torch.equal(alone.log_w, one.log_w)
    flat = chain(best_child, top_k(), top_k(sort=True))(p, 1, RNG)
    assert torch.equal(flat.index, chain(chain(best_child, top_k()), top_k(sort=True))(p, 1, RNG).index)


def test_a_chain_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one selector"):
        chain()


def test_what_a_later_selector_of_a_chain_sees_are_the_survivors():
    seen = []

    def spy(population, keep, rng):
        seen.append(population)
        return top_k()(population, keep, rng)

    p = scores([[1, 5, 4, 2]], width=2, log_w=[[0.0, 1.0, 2.0, 3.0]], step=3)
    chain(best_child, spy)(p, 1, RNG)
    (survivors,) = seen
    assert survivors.value.tolist() == [[5, 4]] and survivors.log_w.tolist() == [[1, 2]]
    assert (survivors.width, survivors.level, survivors.final) == (1, 3, False)


# ---- replacement -------------------------------------------------------------------------------------------

RATES = st.sampled_from([0.2, 0.25, 0.5, 0.75])


@given(populations(min_beams=5, max_width=1), RATES, st.sampled_from([0.5, 1.0, 4.0]), st.booleans())
def test_replace_worst_keeps_the_survivors_ascending_then_appends_the_draws(p, rate, temperature, zscore):
    rng, beams = GivenDraws(), p.value.shape[1]
    choice = replace_worst(rate, temperature, zscore)(p, beams, rng)
    n = math.floor(rate * beams)
    expected, weights = [], []
    for row in p.value.tolist():
        rest = sorted(worst_first(row)[n:])
        expected.append(rest + [rest[k % len(rest)] for k in range(n)])
        mean = sum(row) / beams
        spread = math.sqrt(sum((v - mean) ** 2 for v in row) / beams) if zscore else 1
        weights.append(softmax([row[i] / (spread or 1) / temperature for i in rest]))
    assert_chosen(choice, p, expected)
    assert (rng.use, rng.step) == ("replace", p.level)
    for got, want in zip(rng.log_p.double().softmax(-1).tolist(), weights, strict=True):
        assert got == pytest.approx(want, rel=1e-5)


@given(populations(min_beams=4, max_beams=8, max_width=1), st.integers(0, 20))
def test_replace_worst_draws_only_survivors_and_never_loses_one(p, seed):
    beams = p.value.shape[1]
    choice = replace_worst(0.25)(p, beams, rng_for(p, seed))
    n = beams // 4
    for row, index in zip(p.value.tolist(), choice.index.tolist(), strict=True):
        rest = sorted(worst_first(row)[n:])
        assert index[: beams - n] == rest
        assert set(index[beams - n :]) <= set(rest)


@given(populations(min_beams=4, max_width=1), st.integers(-20, 20), st.integers(-1000, 1000), st.integers(0, 20))
def test_with_zscores_a_positive_affine_map_of_the_values_changes_nothing(p, power, constant, seed):
    mapped = scores(p.value * 2.0**power + constant * 2.0**power, log_w=p.log_w)  # exact in float32
    one, other = (replace_worst(0.25)(q, p.value.shape[1], rng_for(p, seed)) for q in (p, mapped))
    assert torch.equal(one.index, other.index)


def test_zscores_survive_tiny_scales_and_great_offsets():
    z = standardised(torch.tensor([[1.0, 2.0, 4.0]]))
    for value in ([[1e-30, 2e-30, 4e-30]], [[1e30, 2e30, 4e30]], [[2.0**22 + 1, 2.0**22 + 2, 2.0**22 + 4]]):
        assert standardised(torch.tensor(value)).tolist() == [pytest.approx(z[0].tolist(), rel=1e-5)]


@given(populations(ties=False, min_beams=2))
def test_zscores_have_mean_zero_and_variance_one(p):
    z = standardised(p.value).double()
    assert z.mean(-1).abs().max() < 1e-6
    assert (z.square().mean(-1) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9, 1e-30, 1 / 3])
@pytest.mark.parametrize("beams", [1, 3, 7, 34])
def test_zscores_of_equal_values_are_zero(value, beams):
    assert not standardised(torch.full((2, beams), value)).any()


def test_equal_values_replace_the_first_beams_by_uniform_draws():
    p = scores([[0.1] * 6] * 3000)
    index = replace_worst(0.34)(p, 6, rng_for(p)).index
    assert (index[:, :4] == torch.arange(2, 6)).all()
    count = torch.bincount(index[:, 4:].flatten(), minlength=6)
    assert count[:2].tolist() == [0, 0]
    assert stats.chisquare(count[2:].numpy()).pvalue > 1e-3


@pytest.mark.parametrize(("rate", "beams", "n"), [(0.03, 34, 1), (0.03, 100, 3), (0.29, 100, 29), (0.05, 39, 1)])
def test_a_rate_replaces_the_whole_number_people_mean(rate, beams, n):
    assert replaced(rate, beams) == n


@given(st.integers(1, 99), st.integers(1, 300))
def test_a_rate_replaces_floor_of_rate_times_beams(percent, beams):
    assume(percent * beams >= 100)
    assert replaced(percent / 100, beams) == percent * beams // 100


@pytest.mark.parametrize("rate", [0, -0.1, 1, 1.5, math.nan])
def test_a_rate_outside_zero_and_one_is_refused(rate):
    with pytest.raises(ValueError, match=r"outside \(0, 1\)"):
        replace_worst(rate)


def test_a_rate_that_replaces_no_beam_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"rate=0.03 of 33 beams replaces none; raise rate to 0.0303 or beams to 34"):
        replace_worst(0.03)(scores([[0.0] * 33]), 33, RNG)


# ---- what methods make of them ------------------------------------------------------------------------


def asked(method, values):
    """The log-weights from which a method draws its replacements, relative to the best."""
    rng = GivenDraws()
    method.select(scores([values]), len(values), rng)
    return (rng.log_p[0] - rng.log_p[0].max()).tolist()


def test_published_pruning_reorders_by_value_and_dsearch_keeps_the_order_of_its_beams():
    p = scores([[1, 4, 2, 3, 0, 9]], width=2)
    assert methods.published(None, oversamplerate=2, drop_schedule="linear").select(p, 2, RNG).index.tolist() == [
        [5, 1]
    ]
    assert methods.dsearch(None).select(p, 2, RNG).index.tolist() == [[1, 5]]


def test_published_replacement_draws_from_the_raw_softmax_at_temperature_one():
    method = methods.published(None, bs=4, replacerate=0.25)
    assert asked(method, [7.0, 1.0, 40.0, 3.0]) == [7.0 - 40.0, 0.0, 3.0 - 40.0]


def test_dsearch_r_hands_on_its_rate_temperature_and_zscore():
    raw = methods.dsearch_r(None, beams=4, rows_per_step=8, rate=0.5, temperature=0.5, zscore=False)
    assert asked(raw, [7.0, 1.0, 40.0, 3.0]) == [14.0 - 80.0, 0.0]
    scaled = methods.dsearch_r(None, beams=4, rows_per_step=8, rate=0.5, temperature=0.5)
    assert asked(scaled, [-3.0, -1.0, 1.0, 3.0]) == pytest.approx([-4 / math.sqrt(5), 0.0])


# ---- softmax -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [softmax_child, lambda t: replace_worst(0.5, t)], ids=["softmax", "replace"])
@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_not_above_zero_and_finite_is_refused(make, temperature):
    with pytest.raises(ValueError, match=f"temperature={temperature} must be above 0"):
        make(temperature)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_softmax_child_frequencies(temperature):
    values, beams = [0.3, -0.5, 1.0], 20_000
    p = scores([values * beams], width=3)
    index = softmax_child(temperature)(p, beams, RNG).index[0]
    assert torch.equal(index // 3, torch.arange(beams))
    count = torch.bincount(index % 3, minlength=3)
    expected = [beams * w for w in softmax([v / temperature for v in values])]
    assert stats.chisquare(count.numpy(), expected).pvalue > 1e-3


@given(populations(ties=False))
def test_softmax_child_at_a_tiny_temperature_is_the_best_child(p):
    beams = p.value.shape[1] // p.width
    cold = softmax_child(1e-9)(p, beams, rng_for(p))
    assert torch.equal(cold.index, best_child(p, beams, RNG).index)
    assert torch.equal(cold.log_w, best_child(p, beams, RNG).log_w)


# ---- resampling --------------------------------------------------------------------------------------------

SCHEMES = [schemes.systematic, schemes.multinomial]


@pytest.mark.parametrize("scheme", SCHEMES)
@given(log_w=log_weights(min_size=2), keep=st.integers(1, 12))
def test_resampling_takes_the_scheme_s_indices_and_keeps_the_mean_weight(scheme, log_w, keep):
    p = scores([[0.0] * len(log_w)], log_w=torch.tensor([log_w], dtype=torch.float64))
    choice = resample(scheme)(p, keep, RNG)
    assert torch.equal(choice.index, scheme(p.log_w, keep, RNG, p.level))
    mean = math.log(sum(math.exp(w) for w in log_w) / len(log_w))
    assert choice.log_w.tolist() == [pytest.approx([mean] * keep, rel=1e-9, abs=1e-12)]


def test_a_group_above_the_ess_bound_is_left_alone_and_one_below_is_drawn():
    log_w = torch.tensor([[0.0, 0.1, 0.0, 0.1], [0.0, -9.0, -9.0, 9.0]])
    p = scores([[0.0] * 4] * 2, log_w=log_w)
    choice = resample(ess_below=0.5)(p, 4, rng_for(p))
    assert choice.index.tolist() == [[0, 1, 2, 3], [3, 3, 3, 3]]
    assert torch.equal(choice.log_w[0], log_w[0])
    assert choice.log_w[1].tolist() == pytest.approx([9 - math.log(4)] * 4, rel=1e-4)


def test_equal_weights_skip_when_the_bound_is_below_one():
    p = scores([[0.0] * 5])
    assert resample(schemes.multinomial, ess_below=0.99)(p, 5, RNG).index.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("bound", [0, -1, 1.5, math.nan])
def test_an_ess_bound_outside_zero_and_one_is_refused(bound):
    with pytest.raises(ValueError, match=r"ess_below=.* outside \(0, 1\]"):
        resample(ess_below=bound)


def test_adaptive_resampling_to_fewer_beams_is_refused():
    with pytest.raises(ValueError, match="keep=2 of 4"):
        resample(ess_below=0.5)(scores([[0.0] * 4]), 2, RNG)


# ---- groups and gathering ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "select",
    [best_child, top_k(), top_k(sort=True), replace_worst(0.5), replace_worst(0.5, zscore=False), softmax_child(1.0),
     resample(), resample(schemes.multinomial), resample(ess_below=0.5), chain(best_child, replace_worst(0.5))],
)  # fmt: skip
def test_a_group_is_chosen_from_as_if_it_were_alone(select):
    value = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    p = scores(value, log_w=value.flip(0))
    many = select(p, 8, KeyedRng(0, ("a", "b", "c")))
    for b, name in enumerate("abc"):
        alone = select(scores(value[b : b + 1], log_w=p.log_w[b : b + 1]), 8, KeyedRng(0, (name,)))
        assert torch.equal(alone.index[0], many.index[b]) and torch.equal(alone.log_w[0], many.log_w[b])


@given(st.data(), st.integers(1, 3), st.integers(1, 6))
def test_taking_twice_is_taking_the_taken_indices(data, groups, n):
    def indices(upto):
        k = data.draw(st.integers(1, 6))
        row = st.lists(st.integers(0, upto - 1), min_size=k, max_size=k)
        return torch.tensor(data.draw(st.lists(row, min_size=groups, max_size=groups)))

    x = torch.arange(groups * n * 2).reshape(groups, n, 2)
    i = indices(n)
    j = indices(i.shape[1])
    assert torch.equal(take(take(x, i), j), take(x, take(i, j)))
    assert take(x, i).tolist() == [[row[k].tolist() for k in ks] for row, ks in zip(x, i.tolist(), strict=True)]


def test_take_gathers_none_tuples_and_named_tuples_alike():
    x, i = torch.arange(6.0).reshape(1, 3, 2), torch.tensor([[2, 0]])
    taken = take((None, x, Prediction((x, None), x[..., 0])), i)
    assert taken[0] is None
    assert isinstance(taken[2], Prediction) and taken[2].out[1] is None
    assert taken[1].tolist() == taken[2].out[0].tolist() == [[[4, 5], [0, 1]]]
    assert taken[2].x0.tolist() == [[4, 0]]


def test_take_gathers_lists_mappings_and_dataclasses_alike():
    x, i = torch.arange(6.0).reshape(1, 3, 2), torch.tensor([[2, 0]])
    taken = take([{"a": x, "b": "as it is"}, Choice(x[..., 0], x[..., 1])], i)
    assert taken[0]["a"].tolist() == [[[4, 5], [0, 1]]] and taken[0]["b"] == "as it is"
    assert isinstance(taken[1], Choice) and taken[1].index.tolist() == [[4, 0]] and taken[1].kl is None


@pytest.mark.parametrize("tree", [object(), np.zeros((1, 2)), {torch.zeros(1, 2)}])
def test_take_refuses_what_is_no_tree_of_tensors(tree):
    with pytest.raises(TypeError, match=f"not {type(tree).__name__}"):
        take(tree, torch.tensor([[0]]))


@pytest.mark.parametrize("seed", range(8))
def test_replacement_never_draws_an_infinitely_bad_beam_while_others_are_left(seed):
    population = scores(torch.tensor([[-math.inf, 1.0, -math.inf, 2.0, 3.0]]))
    kept = replace_worst(0.2, zscore=True)(population, 5, KeyedRng(seed, (0,))).index[0].tolist()
    assert kept[:4] == [1, 2, 3, 4]
    assert kept[4] in (1, 3, 4)


def test_infinite_values_leave_the_others_standardised():
    value = torch.tensor([[1.0, math.inf, 3.0], [-math.inf, -math.inf, -math.inf]])
    expected = torch.tensor([[-1.0, math.inf, 1.0], [-math.inf] * 3], dtype=torch.float64)
    assert torch.equal(standardised(value), expected)


def test_replacing_all_or_a_single_beam_is_refused():
    with pytest.raises(ValueError, match="replaces all"):
        replaced(1 - 1e-10, 2)
    with pytest.raises(ValueError, match="at least 2 beams"):
        replaced(0.5, 1)


def test_weights_are_float64_and_a_device_that_cannot_be_asked_says_so_itself():
    assert weight_dtype(torch.device("cpu")) == torch.float64
    with pytest.raises(RuntimeError, match="FPGA"):  # and not that it has no float64
        weight_dtype(torch.device("fpga"))
