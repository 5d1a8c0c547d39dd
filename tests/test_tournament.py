"""Tournaments: what a consistent judge, a torn one and a noisy one make of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from dsearch.core.tournament import (
    bradley_terry,
    by_reward,
    elimination,
    play,
    strengths,
    swiss,
    tied_at_top,
    tournament,
)

FORMATS = {
    "elimination": elimination(),
    "best of 3": elimination(3),
    "swiss": swiss(),
    "swiss, 2 rounds": swiss(2),
    "bradley_terry": bradley_terry(),
}
CONSISTENT = sorted(FORMATS.keys() - {"swiss, 2 rounds"})  # two rounds do not find the best of many
QUALITIES = st.lists(st.integers(-50, 50), min_size=1, max_size=17, unique=True)
SIZES = st.integers(1, 17)


def better(qualities):
    """A consistent judge: the better of two wins, equals tie."""

    def ask(pairs):
        return [0.5 + 0.5 * float(np.sign(qualities[b][i] - qualities[b][j])) for b, (i, j, _) in pairs]

    return ask


def hashed(seed, tie=0.2):
    """A judge without sense, who says the same of the same pair in both orders."""

    def share(i, j, game):
        u = np.random.default_rng([seed, *sorted((i, j)), game]).random()
        return 0.5 if u < tie else float((u > (1 + tie) / 2) == (i < j))

    return share


def played(form, scores, share):
    return play(form, torch.tensor([scores], dtype=torch.float64), lambda pairs: [share(*p) for _, p in pairs])


@pytest.mark.parametrize("name", CONSISTENT)
@given(qualities=QUALITIES, seed=st.integers(0, 99))
def test_a_consistent_judge_gets_the_best(name, qualities, seed):
    scores = np.random.default_rng(seed).permutation(len(qualities)).tolist()
    outcome = play(FORMATS[name], torch.tensor([scores]), better([qualities]))
    assert outcome.order[0, 0] == int(np.argmax(qualities)) and outcome.ties.tolist() == [0]


@given(qualities=QUALITIES)
def test_all_pairs_rank_all(qualities):
    outcome = play(bradley_terry(), torch.zeros(1, len(qualities)), better([qualities]))
    assert outcome.order[0].tolist() == np.argsort(qualities)[::-1].tolist()


@pytest.mark.parametrize("name", FORMATS)
@given(n=SIZES, seed=st.integers(0, 999))
def test_a_ranking_holds_each_candidate_once(name, n, seed):
    scores = np.random.default_rng(seed).integers(0, 3, n).tolist()
    assert sorted(played(FORMATS[name], scores, hashed(seed)).order[0].tolist()) == list(range(n))


@pytest.mark.parametrize("name", FORMATS)
@given(n=SIZES, seed=st.integers(0, 999))
def test_permuting_the_candidates_permutes_the_ranking(name, n, seed):
    rng, share = np.random.default_rng(seed), hashed(seed)
    scores, new = rng.permutation(n), rng.permutation(n)  # candidate k moves to row new[k]
    old = np.argsort(new)
    before = played(FORMATS[name], scores.tolist(), share)
    after = played(FORMATS[name], scores[old].tolist(), lambda i, j, game: share(int(old[i]), int(old[j]), game))
    assert after.order[0].tolist() == new[before.order[0].numpy()].tolist()
    assert after.comparisons.tolist() == before.comparisons.tolist()


@pytest.mark.parametrize("name", FORMATS)
@given(n=SIZES, seed=st.integers(0, 999))
def test_a_judge_without_an_opinion_leaves_the_scores_order_and_equal_scores_the_rows(name, n, seed):
    scores = np.random.default_rng(seed).integers(0, 4, n)
    outcome = played(FORMATS[name], scores.tolist(), lambda i, j, game: 0.5)
    if name.startswith("swiss") and n % 2 and n > 1:  # who rests has a point
        return
    expected = sorted(range(n), key=lambda row: (-scores[row], row))
    assert outcome.order[0].tolist() == expected
    assert torch.equal(outcome.ties, outcome.comparisons)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 11, 16, 32])
def test_comparisons_are_those_of_the_format(n):
    scores, judge = list(range(n)), hashed(1, tie=0)
    counts = {name: int(played(form, scores, judge).comparisons[0]) for name, form in FORMATS.items()}
    rounds = min(math.ceil(math.log2(n)) + 1, n - 1)
    assert counts["elimination"] == n - 1 and 2 * (n - 1) <= counts["best of 3"] <= 3 * (n - 1)
    assert counts["swiss"] == rounds * (n // 2)
    assert counts["bradley_terry"] == n * (n - 1) // 2


def test_the_best_seeds_meet_last():
    asked = []
    played(elimination(), [8, 7, 6, 5, 4, 3, 2, 1], lambda i, j, game: asked.append((i, j)) or 1.0)
    assert asked == [(0, 7), (1, 6), (2, 5), (3, 4), (0, 3), (1, 2), (0, 1)]


def test_a_match_ends_when_it_is_decided_and_counts_its_games():
    games = []

    def judge(i, j, game):
        games.append(game)
        return {0: 1.0, 1: 0.0, 2: 0.0}[game]

    assert played(elimination(3), [2, 1], judge).order.tolist() == [[1, 0]] and games == [0, 1, 2]
    games.clear()
    assert played(elimination(5), [1, 2], lambda i, j, game: games.append(game) or 1.0).order.tolist() == [[1, 0]]
    assert games == [0, 1, 2]


@pytest.mark.parametrize("n", [4, 7, 8])
def test_nobody_meets_twice_in_a_swiss_and_nobody_rests_twice(n):
    met = []
    outcome = played(swiss(3), list(range(n)), lambda i, j, game: met.append(frozenset((i, j))) or 1.0)
    assert len(set(met)) == len(met) == int(outcome.comparisons[0]) == 3 * (n // 2)
    rests = [set(range(n)) - set().union(*met[r * (n // 2) : (r + 1) * (n // 2)]) for r in range(3)]
    assert len(set().union(*rests)) == 3 * (n % 2)


def test_a_swiss_goes_on_where_all_that_are_left_have_met():
    """Greedy pairing can leave two who met; they meet again."""
    for seed in range(200):
        outcome = played(swiss(5), list(range(6)), hashed(seed))
        assert int(outcome.comparisons[0]) == 15


# ---- strengths


def test_two_candidates_have_the_strengths_of_the_closed_form():
    """s and -s, where (3 + 1/2) = 4 p + q with p = 1 / (1 + exp(-2 s)) and the prior's q = 1 / (1 + exp(-s))."""
    s, other = strengths(np.array([[0.0, 3.0], [1.0, 0.0]]))
    assert s == pytest.approx(-other)
    assert 4 / (1 + math.exp(-2 * s)) + 1 / (1 + math.exp(-s)) == pytest.approx(3.5)


@given(n=st.integers(1, 6), seed=st.integers(0, 99), prior=st.floats(0.1, 4))
def test_strengths_are_the_mode_that_scipy_finds(n, seed, prior):
    wins = np.triu(np.random.default_rng(seed).integers(0, 3, (n, n)) / 2, 1)
    wins = wins + np.tril(1 - wins.T, -1)

    def loss(s):
        gaps = s[:, None] - s[None, :]
        games = (wins * np.logaddexp(0, -gaps)).sum()
        return games + prior / 2 * (np.logaddexp(0, -s) + np.logaddexp(0, s)).sum()

    mode = minimize(loss, np.zeros(n), method="BFGS", options={"gtol": 1e-8}).x
    assert strengths(wins, prior) == pytest.approx(mode, abs=1e-4)


@given(n=st.integers(1, 8), seed=st.integers(0, 99))
def test_relabelling_relabels_strengths(n, seed):
    rng = np.random.default_rng(seed)
    wins, order = rng.random((n, n)), rng.permutation(n)
    assert strengths(wins[np.ix_(order, order)]) == pytest.approx(strengths(wins)[order], abs=1e-9)


# ---- several groups, images, judges


@given(groups=st.integers(1, 5), n=st.integers(1, 9), seed=st.integers(0, 99), name=st.sampled_from(sorted(FORMATS)))
def test_a_group_is_ranked_as_if_it_were_alone(groups, n, seed, name):
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.random((groups, n)))
    judges = [hashed(seed + b) for b in range(groups)]
    together = play(FORMATS[name], scores, lambda pairs: [judges[b](*pair) for b, pair in pairs])
    for b in range(groups):
        alone = play(FORMATS[name], scores[b : b + 1], lambda pairs, b=b: [judges[b](*pair) for _, pair in pairs])
        assert torch.equal(together.order[b], alone.order[0])
        assert together.comparisons[b] == alone.comparisons[0] and together.ties[b] == alone.ties[0]


def brightness(images, prompts):
    return images.mean(dim=(1, 2, 3))


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_images_are_ranked_by_a_judge_of_pairs(chunk):
    images = torch.rand(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    prompts, seen = [["cat"] * 5, ["dog"] * 5], []

    def compare(first, second, texts, game):
        seen.extend(texts)
        assert len(first) == len(second) == len(texts) <= chunk
        return by_reward(brightness)(first, second, texts)

    outcome = tournament(compare, bradley_terry(), chunk=chunk)(images, torch.zeros(2, 5), prompts)
    assert torch.equal(outcome.order, images.mean(dim=(2, 3, 4)).argsort(dim=1, descending=True))
    assert seen.count("cat") == seen.count("dog") == 20  # both orders


def test_games_are_asked_apart():
    games = []

    def compare(first, second, texts, game):
        games.append(game)
        better = (first.mean((1, 2, 3)) > second.mean((1, 2, 3))).float()
        return better if game == 0 else 1 - better

    outcome = tournament(compare, elimination(3))(torch.rand(1, 2, 3, 4, 4), torch.zeros(1, 2), [["cat"] * 2])
    assert games == [0, 0, 1, 1, 2, 2] and outcome.comparisons.tolist() == [3]


def test_an_object_that_compares_is_a_judge():
    class Judge:
        compare = staticmethod(by_reward(brightness))

    images = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])[None]
    assert tournament(Judge())(images, torch.tensor([[1.0, 0.0]]), [["cat"] * 2]).order.tolist() == [[1, 0]]


def test_a_reward_compares_and_equals_tie():
    first, second = torch.zeros(3, 3, 4, 4), torch.stack([torch.full((3, 4, 4), level) for level in (-1.0, 0.0, 1.0)])
    assert by_reward(brightness)(first, second, ["cat"] * 3, 0).tolist() == [1, 0.5, 0]


def test_ties_at_the_top_are_counted():
    rewards = torch.tensor([[3.0, 3.0, 1.0], [3.0, 2.0, 2.0], [1.0, 1.0, 1.0]])
    assert tied_at_top(rewards).tolist() == [True, False, True]


@pytest.mark.parametrize("said", [[math.nan], [1.5], [-0.1], [], [1, 0]])
def test_answers_that_are_no_shares_are_refused(said):
    with pytest.raises(ValueError, match="of 1 pairs; it gives the share of a win of each first"):
        play(elimination(), torch.zeros(1, 2), lambda pairs: said)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: elimination(2), "best_of=2 can end in a draw"),
        (lambda: elimination(0), "best_of is 0"),
        (lambda: swiss(0), "rounds is 0"),
        (lambda: bradley_terry(0), "prior=0 must be above 0"),
        (lambda: strengths(np.zeros((2, 2)), math.inf), "prior=inf"),
        (lambda: tournament(by_reward(brightness), chunk=0), "chunk is 0"),
    ],
)
def test_bad_sizes_are_named(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_what_compares_nothing_is_refused():
    with pytest.raises(TypeError, match=r"3 compares no pairs; give an object with compare"):
        tournament(3)


def rate(form, trials=1000):
    """How often the best of 8 is found, where P(i beats j) = sigmoid(gap / 0.5) and qualities are N(0, 1)."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(trials):
        quality = rng.normal(size=8)

        def share(i, j, game, quality=quality):
            return float(rng.random() < 1 / (1 + math.exp((quality[j] - quality[i]) / 0.5)))

        found += int(played(form, [0.0] * 8, share).order[0, 0]) == int(np.argmax(quality))
    return found / trials


def test_formats_find_the_best_far_above_chance_and_longer_matches_more_often():
    single, longer, *others = (rate(form) for form in (elimination(), elimination(3), swiss(), bradley_terry()))
    assert min(single, *others) > 0.55 and longer > single + 0.05
