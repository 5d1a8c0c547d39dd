"""Columns of a comparison: ties by counting, the Vendi score by closed forms, areas by numpy's trapezoids."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_compare import PLAN, made, score, told

import dsearch
from dsearch import methods
from dsearch.adapters import toy
from dsearch.compare import area_under
from dsearch.compare.metrics import interval, vendi
from dsearch.compare.words import ties_of
from dsearch.experiments import reader, run
from dsearch.report._data import overview, searches

# ---- the Vendi score


@pytest.mark.parametrize(("k", "d"), [(1, 4), (3, 5), (6, 6)])
def test_alike_images_are_one_and_orthogonal_ones_are_all(k, d):
    assert float(vendi(torch.ones(k, d))) == pytest.approx(1)
    assert float(vendi(3 * torch.eye(d)[:k])) == pytest.approx(k)


@given(st.integers(1, 5), st.integers(1, 4))
def test_copies_change_no_vendi_score(k, copies):
    e = torch.randn(k, 3, generator=torch.Generator().manual_seed(k))
    assert float(vendi(e.repeat(copies, 1))) == pytest.approx(float(vendi(e)), rel=1e-6)
    assert 1 - 1e-9 <= float(vendi(e)) <= k + 1e-9


def test_two_images_at_an_angle_are_the_closed_form():
    """Eigenvalues (1 + c) / 2 and (1 - c) / 2 of two unit vectors with cosine c."""
    c = 0.3
    p = (1 + c) / 2
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert float(vendi(torch.tensor([[1.0, 0.0], [c, (1 - c * c) ** 0.5]]))) == pytest.approx(math.exp(entropy))
    assert vendi(torch.rand(4, 2, 3, 5)).shape == (4, 2)
    with pytest.raises(ValueError, match="takes 1 image or more"):
        vendi(torch.rand(0, 3))


# ---- areas over log budget


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=6, unique=True).map(sorted))
def test_an_area_is_numpys_and_of_a_line_in_log_budget_its_middle(budgets):
    curve = np.random.default_rng(0).normal(size=(3, len(budgets)))
    logs = np.log(budgets)
    expected = np.trapezoid(curve, logs, axis=-1) / (logs[-1] - logs[0])
    assert area_under(torch.from_numpy(curve), budgets).numpy() == pytest.approx(expected, rel=1e-9)
    line = torch.from_numpy(2 + 3 * logs)
    assert float(area_under(line, budgets)) == pytest.approx(2 + 3 * (logs[0] + logs[-1]) / 2)
    assert float(area_under(torch.full((len(budgets),), 7.0), budgets)) == pytest.approx(7)


@pytest.mark.parametrize("budgets", [[5], [5, 5], [5, 4], [0, 4]])
def test_budgets_without_an_area_are_refused(budgets):
    with pytest.raises(ValueError, match="an area is over two or more that rise above 0"):
        area_under(torch.zeros(len(budgets)), budgets)


def test_a_comparison_has_the_area_of_each_method_paired_by_seed_and_prompt(tmp_path):
    found = told(made(tmp_path / "run"), tmp_path / "out")
    assert [(area.method, area.unit, area.budgets) for area in found.areas] == [
        ("best", "model_calls", (100, 200)),
        ("other", "model_calls", (100, 200)),
    ]
    units = {(u.method, u.budget, u.seed): u for u in dsearch.experiments.folder.Run.open(tmp_path / "run").units}

    def area(method, seed, position):
        return np.mean([score(units[method, budget, seed], position) for budget in (0, 1)])  # two points: their middle

    places = list(product(range(4), range(3)))
    assert found.areas[1].reward.own.mean == pytest.approx(np.mean([area("other", *place) for place in places]))
    above = np.array([[area("other", s, p) - area("best", s, p) for p in range(3)] for s in range(4)])
    assert found.areas[1].reward.above.mean == pytest.approx(above.mean())
    assert found.areas[1].reward.beyond == pytest.approx(interval(torch.from_numpy(above.mean(0))))
    assert found.areas[0].reward.above is None
    assert found.areas[1].held_out["judge"].own.mean == pytest.approx(found.areas[1].reward.own.mean / 2)
    assert "| AUC of objective |" in found.table() and "100 to 200 model calls" in found.table()
    one = told(made(tmp_path / "one", PLAN.replace(", {model_calls: 200}", "")), tmp_path / "alone")
    assert not one.areas and "AUC" not in one.table()


def test_a_place_that_is_rejected_at_some_budget_is_in_no_area(tmp_path):
    def rejected(unit, position):
        return -math.inf if position == 0 and unit.budget == 1 and unit.seed < 2 else score(unit, position)

    def without(unit, position):
        return -math.inf if position == 0 and unit.seed < 2 else score(unit, position)

    one = told(made(tmp_path / "run", score=rejected), tmp_path / "out").areas
    other = told(made(tmp_path / "other", score=without), tmp_path / "out").areas
    assert [area.reward.own for area in one] == [area.reward.own for area in other]
    none = told(made(tmp_path / "none", score=lambda unit, position: -math.inf), tmp_path / "out").areas
    assert all(math.isnan(area.reward.own.mean) and area.reward.above is None for area in none)


# ---- ties


def test_ties_are_counted_among_the_images_that_were_returned_and_printed_atop(tmp_path):
    def ties(unit, position):
        return 0.0

    whole = made(tmp_path / "run", score=ties, images=1)
    assert "Tie rate: no search ends with several candidates." in told(whole, tmp_path / "out").table()
    several = told(made(tmp_path / "several", images=3), tmp_path / "out")  # each rank is worse by 1
    assert [row.ties for row in several.rows] == [0, 0, 0, 0]
    assert several.table().split("\n\n")[1].endswith("final candidates share: 0%.")


COARSE = """
prompts: [a, b]
models: {toy: {pipeline: given}}
rewards: {coarse: {kind: given}, fine: {kind: given}}
objectives: [coarse]
methods:
  best: {kind: best_of_n, n: 6}
  chosen: {kind: best_of_n, n: 4, keep: 4, final: fine}
  one: svdd
seeds: 3
"""


def coarse(x, prompts):
    return (x[:, 0] > 0).float()


def test_ties_are_those_of_all_final_candidates_and_so_are_the_judges(tmp_path):
    model = toy.GaussianMixture([[-1.0, 0.0], [1.0, 1.0]], 0.7, num_steps=8)
    given_ = {"toy": model, "coarse": coarse, "fine": lambda x, prompts: (10 * x[:, 1]).round()}
    whole = run(reader.parse(COARSE), tmp_path / "run", given=given_)
    found = told(whole, tmp_path / "out")
    rows = {row.method: row for row in found.rows}
    seen = {"best": [], "chosen": []}
    for seed in range(3):
        for method, n in (("best", 6), ("chosen", 4)):
            result = dsearch.search(model, methods.best_of_n(coarse, n=n, keep=n), ["a", "b"], seed=seed)
            seen[method] += (result.rewards == result.rewards.amax(1, keepdim=True)).sum(1).gt(1).tolist()
    assert {method: rows[method].ties for method in seen} == {method: np.mean(own) for method, own in seen.items()}
    assert rows["best"].ties > 0.5
    judged = [record["judged"] for record in whole.records() if record["method"] == "chosen" and record["rank"] == 0]
    assert rows["chosen"].undecided == sum(one["ties"] for one in judged) / sum(one["comparisons"] for one in judged)
    assert rows["chosen"].bill["comparisons"] == 3 and "| comparisons |" in found.table()
    said = ties_of(found.rows)
    assert "So coarse a reward leaves the choice to the order of the rows" in said
    assert "Comparisons without a winner: chosen" in said
    assert overview(whole, searches(whole))["ties"] == [said]
    assert "comparisons" in (tmp_path / "out" / "table.csv").read_text().splitlines()[0]


def test_all_rejected_is_no_tie(tmp_path):
    whole = made(tmp_path / "run", score=lambda unit, position: -math.inf, images=2)
    assert all(row.ties is None for row in told(whole, tmp_path / "out").rows)


# ---- what was published


PUBLISHED = """
prompts: [a, b, c]
models: {sd15: {pipeline: stable-diffusion-v1-5/stable-diffusion-v1-5, steps: 64}}
rewards: {IR: {kind: imagereward, weights: w}, HPS: {kind: hps, weights: w}}
methods: {base: plain, best-of-4: best_of_n, PSP: psp, mine: svdd}
budgets: [{model_calls: 256}]
seeds: 2
"""


def test_published_figures_stand_beside_the_rows_of_their_names(tmp_path):
    whole = made(tmp_path / "run", PUBLISHED)
    table = told(whole, tmp_path / "out", embed=None).table()
    head, _, *lines = next(part for part in table.split("\n\n") if "| published ImageReward |" in part).splitlines()
    columns = [cell.strip() for cell in head.split("|")]
    found = {}
    for line in lines:
        cells = dict(zip(columns, (cell.strip() for cell in line.split("|")), strict=True))
        found[cells["method"]] = cells["published ImageReward"], cells["published HPS"]
    assert found == {
        "base": ("-0.159", "0.257"),
        "best-of-4": ("0.655", "0.273"),
        "PSP": ("0.827", "0.278"),
        "mine": ("", ""),
    }
    assert "From elsewhere, on sd15" in table and "its own prompts, seeds and sizes of methods" in table
    assert "published" not in told(whole, tmp_path / "without", anchors=False).table()
    other = made(tmp_path / "box", PUBLISHED.replace("stable-diffusion-v1-5/stable-diffusion-v1-5", "box"))
    assert "published" not in told(other, tmp_path / "none").table()
