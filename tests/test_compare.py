"""Comparisons: intervals against scipy and by hand, laws of what may not matter, and the files that are written."""

import csv
import dataclasses
import itertools
import json
import re
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import stats
from strategies import Counted

import dsearch
from dsearch import methods
from dsearch.adapters import toy
from dsearch.compare import compare, jackknife, over_prompts, over_seeds, rank_correlation
from dsearch.compare.along import along
from dsearch.compare.anchors import ANCHORS, differing, matching
from dsearch.compare.cells import Found
from dsearch.compare.drawing import draw, front
from dsearch.compare.metrics import diversity, interval
from dsearch.compare.ranks import descent
from dsearch.experiments import reader, runs
from dsearch.experiments.experiment import ExperimentError, Model, Named
from dsearch.experiments.files import dumps
from dsearch.experiments.folder import Run, Trace
from dsearch.plots import spread

PLAN = """
prompts: [a, b, c]
models: {box: box}
rewards: {objective: compressibility, judge: colourfulness}
methods: {best: best_of_n, other: svdd}
budgets: [{model_calls: 100}, {model_calls: 200}]
seeds: 4
"""


def cells(*rows):
    return torch.tensor(np.array(rows), dtype=torch.float64)


def noise(*key):
    return np.random.default_rng([*map(ord, "".join(map(str, key)))])


def score(unit, position):
    """A reward on the grid of 1/64, so that constants add exactly; what seeds and prompts share is large."""
    shared = noise(unit.seed, position).normal() + position
    own = noise(unit.method, unit.objective, unit.budget, unit.seed, position).normal() + 2 * (unit.method == "other")
    return round(64 * (shared + own / 4)) / 64


def made(folder, plan=PLAN, score=score, images=1, spend=None, seconds=None, skip=(), order=1):
    """A run's folder as if it had been run, with rewards of our own; ranks below the first are worse by 1 each."""
    whole = reader.parse(plan)
    folder.mkdir()
    (folder / "run.json").write_text(dumps({"experiment": whole.as_dict()}))
    run = Run.open(folder)
    for unit in run.units:
        if unit.index in skip:
            continue
        limit = whole.budgets[unit.budget].get("model_calls", 100)
        calls = limit if spend is None else spend(unit, limit)
        records = [
            {
                **{"unit": unit.name, "position": position, "prompt": whole.prompts[position], "rank": rank},
                **{"image": None, "reward": score(unit, position) - rank, "kl": 1.5, "ancestor": rank},
                "held_out": {name: score(unit, position) / 2 - rank for name in whole.held_out_from(unit.objective)},
                **{kind: {"model_calls": calls, "decodes": 7, "reward_calls": 8} for kind in ("bill", "planned")},
                "log_w": 0.0,
            }
            for position in unit.positions
            for rank in range(images)
        ]
        place = folder / "units" / unit.name
        place.mkdir(parents=True)
        (place / "records.jsonl").write_text("".join(dumps(record) for record in records[::order]))
        took = {"seconds": 6.0 if seconds is None else seconds(unit), "peak_bytes": 2**20 * (1 + unit.seed)}
        (place / "timing.json").write_text(dumps({"unit": unit.name, **took}))
        about = json.dumps({"prompts": list(whole.prompts), "alive": [1], "width": [1]})
        order_ = torch.zeros(len(unit.positions), 1, dtype=torch.int16)
        held = {"order": order_, "child.0": order_.clone(), "values.0": torch.zeros(len(unit.positions), 1)}
        save_file(held, place / "trace.safetensors", {"trace": about})
    return Run.open(folder)


def told(runs, out, drawn=False, **options):
    """Compares without a word and, unless `drawn`, without pictures, which take longest."""
    with patch("dsearch.compare.draw", draw if drawn else lambda *given: ({}, [])):
        return compare(runs if isinstance(runs, list) else [runs], out, say=lambda text: None, **options)


def row(comparison, method, budget=100, objective="objective"):
    limits = (("model_calls", budget),) if budget else ()
    return next(r for r in comparison.rows if (r.method, r.budget, r.objective) == (method, limits, objective))


# Intervals


def test_the_interval_over_seeds_of_one_prompt_is_students():
    ours, theirs = cells([1.0, 2.5, 2.0, 4.0, 3.0]).T, cells([0.5, 2.6, 1.2, 3.1, 2.2]).T
    low, high = stats.ttest_rel(ours[:, 0], theirs[:, 0]).confidence_interval(0.95)
    assert over_seeds(ours - theirs) == pytest.approx((float((ours - theirs).mean()), low, high))


@pytest.mark.parametrize("lost", [0, 2])
def test_the_interval_over_seeds_of_two_prompts_is_welchs(lost):
    one, two = noise("one").normal(size=6), 3 * noise("two").normal(size=6 - lost)
    found = over_seeds(cells(one, [*two, *[np.nan] * lost]).T)
    low, high = stats.ttest_ind(one, -two, equal_var=False).confidence_interval(0.95)
    assert found == pytest.approx(((one.mean() + two.mean()) / 2, low / 2, high / 2))


def test_the_interval_over_seeds_by_hand():
    # Means 2 and 5; variances of the means 2 / 2 and 8 / 2; (1 + 4)^2 / (1 / 1 + 16 / 1) degrees of freedom.
    half = stats.t.ppf(0.975, 25 / 17) * 5**0.5 / 2
    assert over_seeds(cells([1, 3], [3, 7])) == pytest.approx((3.5, 3.5 - half, 3.5 + half))
    assert over_seeds(cells([1, 3], [3, 7]), pooled=True) == pytest.approx(interval(torch.tensor([2.0, 5.0])))
    assert over_seeds(cells([2, 3], [2, 3])) == (2.5, 2.5, 2.5)
    nan = float("nan")
    assert over_seeds(cells([1, nan], [nan, 2])) is None and over_seeds(cells([1, 2])) is None
    # The second prompt's only seed is in the mean, with the variance 2 of the first: 2 / 2 + 2, one degree of freedom.
    half = stats.t.ppf(0.975, 1) * 3**0.5 / 2
    assert over_seeds(cells([1, 9], [3, nan])) == pytest.approx((5.5, 5.5 - half, 5.5 + half))
    assert over_seeds(cells([1, nan], [3, nan])) == over_seeds(cells([1], [3]))


@pytest.mark.parametrize(("seeds", "prompts"), [(2, 3), (3, 8), (5, 4)])
def test_the_interval_over_seeds_covers_as_often_as_it_says(seeds, prompts):
    draws = noise("cover").normal(size=(800, seeds, prompts)) * np.linspace(0.3, 2, prompts)
    covered = sum(low < 0 < high for _, low, high in map(over_seeds, torch.from_numpy(draws)))
    assert covered / 800 > 0.93
    mine = np.mean([one.high - one.low for one in map(over_seeds, torch.from_numpy(draws))])
    means = np.mean([one.high - one.low for one in map(interval, torch.from_numpy(draws.mean(2)))])
    assert mine < 0.95 * means  # and it says more than the seeds' means alone


def test_the_interval_over_prompts_is_students_of_the_prompts():
    x = torch.from_numpy(noise("prompts").normal(size=(3, 7)))
    low, high = stats.ttest_1samp(x.mean(0), 0).confidence_interval(0.95)
    assert over_prompts(x) == pytest.approx((float(x.mean()), low, high))
    assert over_prompts(x[:, :1]) is None


def test_pseudo_values_of_a_mean_are_its_samples_and_keep_a_mean_over_pairs():
    assert jackknife([1.0, 4.0, 5.0], lambda x: sum(x) / len(x)).tolist() == pytest.approx([1, 4, 5])
    e = torch.from_numpy(noise("pairs").normal(size=(5, 3)))
    pseudo = jackknife(list(e), lambda x: float(diversity(torch.stack(x))))
    assert float(pseudo.mean()) == pytest.approx(float(diversity(e)))


# Rank correlations


def straight(values, finals):
    """`[B]` numbers -> the trace of a search of one beam with two children, of which the second survives."""
    values, finals = cells(*values).reshape(-1, 1), cells(*finals).reshape(-1, 1)
    zero = torch.zeros(len(values), 1, dtype=torch.long)
    return Trace([], [1, 1], [2, 1], [torch.cat([values * 0 - 9, values], 1), finals], [zero + 1, zero], zero)


def test_the_rank_correlation_is_spearmans_within_prompts():
    x, y = noise("x").normal(size=(8, 2)), noise("y").normal(size=(8, 2))
    y = x + y + 100 * np.arange(2)  # prompts differ by more than anything within one
    found = rank_correlation({s: [(straight(x[s], y[s]), (0, 1))] for s in range(8)})
    rhos = [stats.spearmanr(x[:, p], y[:, p]).statistic for p in range(2)]
    assert list(found) == [0] and found[0].mean == pytest.approx(np.mean(rhos))
    apart = {s: [(straight(x[s][[p]], y[s][[p]]), (p,)) for p in range(2)] for s in range(8)}
    assert rank_correlation(apart) == found
    assert rank_correlation({s: [(straight(x[s] + 5, 3 * y[s]), (0, 1))] for s in range(8)}) == found


def test_the_interval_of_the_rank_correlation_is_about_the_bootstraps():
    x = noise("boot").normal(size=(60, 2)) @ np.array([[1, 0.6], [0, 0.8]])
    found = rank_correlation({s: [(straight([a], [b]), (0,))] for s, (a, b) in enumerate(x)})[0]
    boot = stats.bootstrap(
        (x[:, 0], x[:, 1]),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=400,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert found.high - found.low == pytest.approx(boot.high - boot.low, rel=0.25)


def test_too_few_or_equal_candidates_have_no_rank_correlation():
    def of(values, finals):
        pairs = enumerate(zip(values, finals, strict=True))
        return rank_correlation({s: [(straight([a], [b]), (0,))] for s, (a, b) in pairs})

    assert of([1, 2, 3, 4], [1, 2, 3, 4]) == {}
    assert of([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])[0] == (1, 1, 1)
    assert of([1, 1, 1, 1, 2], [1, 2, 3, 4, 5]) == {}  # without the last seed all values are equal
    nothing = straight([1], [1])._replace(values=[None, torch.ones(1, 1)])
    assert rank_correlation({s: [(nothing, (0,))] for s in range(9)}) == {}


def smooth(images, prompts):
    return -images.square().sum(-1)


@pytest.mark.parametrize(
    "method",
    [
        methods.dsearch(smooth, beams=4, keep=3, rows_per_step=8),
        methods.fk(smooth, 6, 2.0, every=2),
        methods.psp(smooth, 4),
    ],
    ids=lambda m: m.name,
)
def test_descent_agrees_with_the_paths_of_a_search(method):
    result = dsearch.search(toy.example(), method, ["a", "b"])
    lineage, steps = result.lineage, result.trace
    values = [step.values for step in steps]
    trace = Trace([], [s.alive for s in steps], [s.width for s in steps], values, list(lineage.child), lineage.order)
    last = lineage.child[-1].gather(1, lineage.order)  # which final candidate each image is
    for whence, path in zip(descent(trace), lineage.path().unbind(-1), strict=True):
        assert torch.equal(whence.gather(1, last), path)
    found = rank_correlation({s: [(trace, (0, 1))] for s in range(2)})
    scored = [i for i, v in enumerate(values[:-1]) if v is not None]
    assert set(found) <= set(scored)


def test_points_of_a_pool_go_to_the_prompts_their_beams_carry():
    """Two beams, one prompt each, that never cross: the same as two searches of one beam, but for the interval."""
    x, y = noise("p").normal(size=(6, 2)), noise("q").normal(size=(6, 2))
    pairs = {s: [(straight(x[s], y[s]), (4, 7))] for s in range(6)}

    def pool(s):
        one = torch.arange(2)[None]
        values = torch.stack([cells(*x[s]) * 0 - 9, cells(*x[s])], 1).reshape(1, 4)
        return Trace([], [2, 2], [2, 1], [values, cells(y[s])], [2 * one + 1, one], one)

    found, apart = rank_correlation({s: [(pool(s), (4, 7))] for s in range(6)}), rank_correlation(pairs)
    assert found[0].mean == pytest.approx(apart[0].mean)


# What must not matter, and what must


def test_differences_are_paired_and_means_are_those_of_the_records(tmp_path):
    run = made(tmp_path / "run")
    found = told(run, tmp_path / "out")
    assert found.baseline == "best" and [r.method for r in found.rows] == ["best", "other"] * 2
    for budget in (0, 1):
        table = {
            method: [[score(u, p) for p in range(3)] for u in run.units if (u.method, u.budget) == (method, budget)]
            for method in ("best", "other")
        }
        ours, theirs = cells(*table["other"]), cells(*table["best"])
        own = row(found, "other", 100 * (budget + 1))
        assert own.reward[:4] == (over_seeds(ours), over_seeds(ours - theirs), over_prompts(ours - theirs), 0)
        better = int((ours > theirs).sum())
        assert own.reward.pairs == (better, int((ours < theirs).sum()), int((ours == theirs).sum()), 0)
        assert own.held_out["judge"].own == over_seeds(ours / 2)
        assert own.reward.above.high - own.reward.above.low < own.reward.own.high - own.reward.own.low
        assert row(found, "best").reward.above is None
    assert (own.kl, own.seeds, own.kept, own.asked) == (1.5, 4, 3, 3)
    assert own.bill == {"model_calls": 200, "decodes": 7, "reward_calls": 8, "comparisons": 0}
    assert own.peak_bytes == 4 * 2**20


def test_a_constant_changes_no_difference(tmp_path):
    one = told(made(tmp_path / "a"), tmp_path / "a-out")
    other = told(made(tmp_path / "b", score=lambda u, p: score(u, p) + 1024), tmp_path / "b-out")
    for before, after in zip(one.rows, other.rows, strict=True):
        assert after.reward.above == before.reward.above and after.reward.beyond == before.reward.beyond
        assert after.reward.own.mean == before.reward.own.mean + 1024


def test_the_order_of_records_changes_nothing(tmp_path):
    outs = []
    for i, order in enumerate((1, -1)):
        told(made(tmp_path / f"{i}", images=3, order=order), tmp_path / f"out{i}", drawn=True)
        outs.append({file.name: file.read_bytes() for file in (tmp_path / f"out{i}").iterdir()})
    assert outs[0] == outs[1] and "pareto_0.png" in outs[0]


def test_a_method_compared_with_itself_is_not_above_itself(tmp_path):
    def alike(unit, position):
        return score(unit._replace(method="best"), position)

    own = row(told(made(tmp_path / "run", score=alike), tmp_path / "out"), "other")
    assert own.reward[1:] == ((0, 0, 0), (0, 0, 0), 0, (0, 0, 12, 0)) and not own.reward.above.is_clear
    assert "+0.000 [+0.000, +0.000] n.s." in re.sub(r"0\.0+", "0.000", (tmp_path / "out" / "table.md").read_text())


@pytest.mark.parametrize(
    "cuts",
    [
        (("methods: {best: best_of_n, other: svdd}", "methods: {best: best_of_n}", "methods: {other: svdd}"),),
        (("seeds: 4", "seeds: [0, 1]", "seeds: [2, 3]"),),
        (("seeds: 4", "seeds: [0, 1, 2]", "seeds: [1, 2, 3]"),),
    ],
)
def test_runs_of_parts_compare_as_one(cuts, tmp_path):
    whole = told(made(tmp_path / "whole"), tmp_path / "out")
    parts = [PLAN, PLAN]
    for text, *instead in cuts:
        parts = [part.replace(text, new) for part, new in zip(parts, instead, strict=True)]

    split = [made(tmp_path / f"{i}", part) for i, part in enumerate(parts)]
    found = told(split, tmp_path / "out2")
    assert found.rows == whole.rows
    overlap = "several of the runs" in found.table()
    assert overlap == ("[1, 2, 3]" in parts[1])


def test_shards_in_folders_of_their_own_compare_as_one(tmp_path):
    whole = made(tmp_path / "whole")
    shards = [made(tmp_path / f"{i}", skip=range(i, len(whole.units), 2)) for i in range(2)]
    files = [tmp_path / "out2" / name for name in ("table.md", "table.csv")]
    assert told(shards, tmp_path / "out2") == dataclasses.replace(told(whole, tmp_path / "out"), files=files)


def test_of_plain_the_mean_counts_and_of_others_the_best(tmp_path):
    plan = PLAN.replace("other: svdd", "other: {kind: plain, beams: 3}")
    found = told(made(tmp_path / "run", plan, images=3), tmp_path / "out")
    best = told(made(tmp_path / "one", images=1), tmp_path / "out1")
    assert row(found, "best").reward == row(best, "best").reward
    assert row(found, "other").reward.own.mean == pytest.approx(row(best, "other").reward.own.mean - 1)


def test_budgets_stand_by_size_and_each_pairs_at_its_own(tmp_path):
    plan = PLAN.replace("[{model_calls: 100}, {model_calls: 200}]", "[{model_calls: 200}, {}, {model_calls: 100}]")
    found = told(made(tmp_path / "run", plan), tmp_path / "out", drawn=True)
    assert [r.budget for r in found.rows[::2]] == [(), (("model_calls", 100),), (("model_calls", 200),)]
    assert (tmp_path / "out" / "reward_0_model_calls.png").exists()
    assert "Methods as given are not sized to one bill" in found.table()


def test_plain_sampling_pairs_with_every_budget_where_it_has_but_one(tmp_path):
    plan = (
        PLAN.replace("best: best_of_n", "best: plain") + "sweeps: [{methods: best, budgets: [{}]}, {methods: other}]\n"
    )
    run = made(tmp_path / "run", plan)
    found = told(run, tmp_path / "out", baseline="best")
    at = {(u.method, u.seed, run.experiment.budgets[u.budget].get("model_calls")): u for u in run.units}
    for budget in (100, 200):
        ours, theirs = (
            cells(*[[score(at[method, s, own], p) for p in range(3)] for s in range(4)])
            for method, own in (("other", budget), ("best", None))
        )
        assert row(found, "other", budget).reward.above == over_seeds(ours - theirs)
    other = told(run, tmp_path / "out2", baseline="other")
    assert row(other, "best", 0).reward.above is None
    assert "other has no budget in common with: best as given." in other.table()


def test_each_seed_of_a_sweep_counts(tmp_path):
    plan = PLAN + "sweeps: [{budgets: [{model_calls: 100}]}, {budgets: [{model_calls: 200}], seeds: 2}]\n"
    found = told(made(tmp_path / "run", plan), tmp_path / "out")
    assert [(r.budget[0][1], r.seeds) for r in found.rows] == [(100, 4), (100, 4), (200, 2), (200, 2)]


# Notes


def test_bills_that_differ_by_more_than_a_twentieth_are_named(tmp_path):
    found = told(made(tmp_path / "run", spend=lambda u, n: n - 5 * (u.method == "other")), tmp_path / "out")
    assert "Unequal bills" not in found.table()
    found = told(made(tmp_path / "run2", spend=lambda u, n: n - 6 * (u.method == "other")), tmp_path / "out2")
    notes = [note for note in found.notes if "Unequal bills" in note]
    assert notes == [
        "Unequal bills, 100 model calls: the most is 100 model calls per prompt, other 94 "
        "(box, searched for objective)."
    ]


def test_seconds_are_medians_a_prompt_without_the_search_that_warms_up(tmp_path):
    plan = PLAN.replace("[{model_calls: 100}, {model_calls: 200}]", "[{seconds: 3}]\nprices: {}").replace(
        "prices: {}", "prices: {model_call: 1, decode: 1, reward_call: 1}"
    )

    def seconds(unit):
        return 600 if unit.index == 0 else 3 * (1 + unit.seed) + 9 * (unit.method == "other")

    found = told(made(tmp_path / "run", plan, seconds=seconds), tmp_path / "out", drawn=True)
    assert [r.seconds for r in found.rows] == [3, 5.5]  # medians of 2, 3, 4 and of 4, 5, 6, 7
    assert any("the most is 5.5 seconds per prompt, best 3" in note for note in found.notes)
    assert (tmp_path / "out" / "reward_0_seconds.png").exists()


def test_a_difference_that_holds_on_these_prompts_alone_is_marked(tmp_path):
    def uneven(unit, position):
        steady = noise(unit.method, unit.seed, position).normal() / 100
        return steady + (unit.method == "other") * (0.1 if position else 1.0)

    found = told(made(tmp_path / "run", score=uneven), tmp_path / "out")
    own = row(found, "other").reward
    assert own.above.is_clear and not own.beyond.is_clear
    assert "] † |" in found.table() and any(note.startswith("†") for note in found.notes)


def test_unfinished_runs_compare_what_pairs_and_say_what_is_missing(tmp_path):
    whole = made(tmp_path / "whole")
    gone = {u.index for u in whole.units if (u.method, u.budget) == ("other", 0) and u.seed in (1, 3)}
    few = {u.index for u in whole.units if (u.method, u.budget) == ("other", 1) and u.seed > 0}
    found = told(made(tmp_path / "run", skip=gone | few), tmp_path / "out")
    assert [(r.method, r.budget[0][1]) for r in found.rows] == [("best", 100), ("other", 100), ("best", 200)]
    own = row(found, "other")
    table = {m: cells(*[[score(u, p) for p in range(3)] for u in whole.units if key(u, m)]) for m in ("best", "other")}
    assert own.seeds == 2 and own.reward.above == over_seeds((table["other"] - table["best"])[[0, 2]])
    assert row(found, "best").reward == row(told(whole, tmp_path / "all"), "best").reward
    text = found.table()
    assert "other under objective at 100 model calls lacks all of seeds 1, 3; what is there is compared." in text
    assert (
        "other under objective at 200 model calls lacks all of seeds 1-3; too little to compare, and left out." in text
    )


def key(unit, method):
    return (unit.method, unit.budget) == (method, 0)


def test_where_the_baseline_is_missing_nothing_is_paired(tmp_path):
    whole = made(tmp_path / "whole")
    gone = {u.index for u in whole.units if (u.method, u.budget) == ("best", 1)}
    found = told(made(tmp_path / "run", skip=gone), tmp_path / "out")
    assert row(found, "other", 200).reward.above is None
    assert "No two seeds of a prompt pair with best: other under objective at 200 model calls." in found.table()


def test_a_batch_that_is_missing_costs_its_prompts_alone(tmp_path):
    plan = PLAN + "batch: 1\n"
    units = made(tmp_path / "whole", plan).units
    gone = {u.index for u in units if u.method == "other" and u.seed == 2 and u.positions == (1,)}
    found = told(made(tmp_path / "run", plan, skip=gone), tmp_path / "out")
    assert "lacks some prompts of seeds 2" in found.table()
    assert (row(found, "other").seeds, row(found, "other").kept) == (4, 3)


# What is refused


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (("seeds: 4", "seeds: 1"), None, "best under objective at 100 model calls has a single seed, 0"),
        (("[a, b, c]", "[a, x, c]"), None, r"different prompts \('b' and 'x', the first\)"),
        (("[a, b, c]", "[a, b]"), None, r"different prompts \(3 and 2 of them\)"),
        (
            ("{best: best_of_n, other: svdd}", "{last: svdd}"),
            ("seeds: 4", "seeds: [7, 8]"),
            "last under objective at 100 ",
        ),
        (("other: svdd", "other: {kind: svdd, temperature: 1}"), None, "methods: 'other' is one thing in"),
        (("{box: box}", "{box: {pipeline: box, steps: 7}}"), None, "models: 'box' is one thing in"),
        (("judge: colourfulness", "judge: aesthetic"), None, "rewards: 'judge' is one thing in"),
    ],
)
def test_runs_that_do_not_fit_are_refused(one, other, says, tmp_path):
    changed = PLAN.replace(*one).replace(*(other or one))
    both = [made(tmp_path / "a"), made(tmp_path / "b", changed)]
    with pytest.raises(ExperimentError, match=says):
        told(both[1:] if "single" in says else both, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_on_other_devices_fit(tmp_path):
    plan = PLAN.replace("{box: box}", "{box: {pipeline: box, device: cpu}}").replace("seeds: 4", "seeds: [4, 5]")
    assert told([made(tmp_path / "a"), made(tmp_path / "b", plan)], tmp_path / "out").rows[0].seeds == 6


def test_what_is_asked_for_must_be_there(tmp_path):
    run = made(tmp_path / "run")
    with pytest.raises(ExperimentError, match="baseline: no method is called 'bset'; did you mean 'best'"):
        told(run, tmp_path / "out", baseline="bset")
    with pytest.raises(ExperimentError, match="embed: no reward is called 'clip'; known: objective, judge"):
        told(run, tmp_path / "out", embed="clip")
    with pytest.raises(ExperimentError, match="judge cannot be made: it has no image_embeddings"):
        told(run, tmp_path / "out", embed="judge")
    with pytest.raises(ExperimentError, match="nothing to compare"):
        told([], tmp_path / "out")
    empty = made(tmp_path / "empty", skip=range(1, 99))
    with pytest.raises(ExperimentError, match=r"1 of 16 searches are finished.*let the run go on"):
        told(empty, tmp_path / "out")
    assert told(run, tmp_path / "out", baseline="other").baseline == "other"


# Files


def test_names_never_become_paths_nor_break_tables_or_pictures(tmp_path):
    plan = PLAN.replace("best: best_of_n", r"'../../a|b $\frac{': best_of_n").replace("[a, b, c]", "[$x, ../b, '|c']")
    plan = plan.replace("objective: ", "_g/../$g: ").replace("judge: ", "<j>|: ").replace("other:", '"_other\\n":')
    before = sorted(tmp_path.iterdir())
    found = told(made(tmp_path / "run", plan), tmp_path / "out" / "deep", drawn=True)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "run", tmp_path / "out"])
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out" / "deep"]
    assert all(re.fullmatch(r"[a-z0-9_.]+", file.name) for file in found.files)
    lines = [line for line in found.table().splitlines() if line.startswith("|")]
    columns = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(columns) == 3 and "<j>" not in found.table()


def test_objectives_stand_beside_one_another_with_what_watches_each(tmp_path):
    plan = PLAN.replace("seeds: 4", "seeds: 2\nobjectives: [objective, judge]\nheld_out: [objective]")
    found = told(made(tmp_path / "run", plan), tmp_path / "out", drawn=True)
    assert [len(row(found, "best", 100, objective).held_out) for objective in ("objective", "judge")] == [0, 1]
    assert row(found, "other", 200, "judge").held_out["objective"].above is not None
    both, one = (Image.open(tmp_path / "out" / file) for file in ("reward_0_model_calls.png", "pareto_0.png"))
    assert both.width == 2 * one.width  # searched for `objective`, nothing watches
    assert found.table().count("searched for") == 2


def test_labels_beside_a_panel_stay_apart_and_within():
    for heights in ([0.1, 0.11, 0.5, 0.97, 0.98, 0.99], [0.4], [], [1.0] * 5):
        found = spread(heights)
        assert len(found) == len(heights) and all(0 <= h <= 1 for h in found)
        assert all(b - a > 0.0499 for a, b in itertools.pairwise(found))
    assert spread([0.1, 0.5]) == [0.1, 0.5]


def test_the_csv_holds_all_numbers_in_full(tmp_path):
    found = told(made(tmp_path / "run"), tmp_path / "out")
    lines = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    for line, own in zip(lines, found.rows, strict=True):
        assert (line["method"], int(line["limit_model_calls"])) == (own.method, own.budget[0][1])
        assert tuple(float(line[f"reward{end}"]) for end in ("", "_low", "_high")) == own.reward.own
        assert float(line["held_out.judge"]) == own.held_out["judge"].own.mean and float(line["kl"]) == own.kl
        assert (line["reward_difference"] == "") == (own.reward.above is None)
        if own.reward.above:
            assert float(line["reward_difference_over_prompts_high"]) == own.reward.beyond.high
    assert (tmp_path / "out" / "table.md").read_text() == found.table()


def test_the_front_is_what_no_other_point_beats():
    points = [(0, 5), (1, 4), (1, 3), (2, 4), (3, 1), (2, 0)]
    kept = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    assert set(front(points)) == kept == {(0, 5), (2, 4), (3, 1)}
    assert front(points) == sorted(kept)


# A true run


class Painted(Counted):
    """The toy's plane as pictures of one colour: it can be drawn, and scored from its pixels."""

    def decode(self, x0):
        self.decodes += len(x0)
        pixels = torch.cat([x0, x0[:, :1]], dim=1).sigmoid()
        return pixels[:, :, None, None].expand(-1, 3, 8, 8)


class Colours:
    """Scores by green, and embeds a picture as its mean colour."""

    def __call__(self, images, prompts):
        return images[:, 1].mean(dim=(-2, -1))

    def image_embeddings(self, images):
        return images.mean(dim=(-2, -1))


COLOURS = Colours()

TRUE = """
prompts: [a, b]
models: {toy: given}
rewards: {red: given, green: 'test_compare:COLOURS'}
methods:
  plain: {kind: plain, beams: 2}
  best: best_of_n
  SVDD: {kind: svdd, beams: 2}
  FK: {kind: fk, every: 2}
  pool: {kind: published, bs: 4, duplicate_size: 2, oversamplerate: 2, drop_schedule: exponential}
seeds: 5
"""


def red(images, prompts):
    return images[:, 0, 0, 0]


@pytest.fixture(scope="module")
def truly(tmp_path_factory):
    out = tmp_path_factory.mktemp("true")
    model = Painted(toy.GaussianMixture([[-1.0, 0.0], [1.0, 1.0]], 0.7, num_steps=8, shift={"a": 0.5}))
    run = runs.run(reader.parse(TRUE), out / "run", given={"toy": model, "red": red})
    return run, told(run, out / "out", drawn=True, embed=COLOURS), out


def test_a_true_run_is_told_in_full(truly):
    run, found, out = truly
    drawn = ("reward_0_model_calls", "pareto_0", "along_0", "correlation_0", "grid_0_0")
    names = {"table.md", "table.csv", *(f"{name}.png" for name in drawn)}
    assert {file.name for file in found.files} == names == {file.name for file in (out / "out").iterdir()}
    assert all(Image.open(file).width > 150 for file in found.files if file.suffix == ".png")
    assert [r.method for r in found.rows] == ["plain", "best", "SVDD", "FK", "pool"]
    records = run.records()
    best = [r["reward"] for r in records if r["method"] == "SVDD" and r["rank"] == 0]
    assert row(found, "SVDD", 0, "red").reward.own.mean == pytest.approx(np.mean(best))
    assert {name for _, _, name in found.correlations} == {"SVDD", "FK", "pool"}
    assert all(-1 <= low <= rho <= high <= 1 for one in found.correlations.values() for rho, low, high in one.values())


def test_values_along_the_way_are_the_best_of_each_prompts_candidates(truly):
    run, _, _ = truly
    found = Found([run])
    for key in found.ready:
        steps, plain = along(found, found.cells[key]), key.method == "plain"
        for step, told_ in steps.items():
            table = torch.full((5, 2), torch.nan, dtype=torch.float64)
            for unit in run.units:
                if unit.method == key.method:
                    trace = run.trace(unit)
                    for p in range(2):
                        owners = candidates(trace, step, p, pooled=key.method == "pool")
                        own = trace.values[step][0 if key.method == "pool" else p][owners]
                        if len(own):
                            table[unit.seed, p] = float(own.double().mean() if plain else own.max())
            assert told_.own == pytest.approx(over_seeds(table, key.method == "pool")) and told_.rejected == 0
        assert steps[7].own.mean == pytest.approx(
            row(told([run], run.folder / "x"), key.method, 0, "red").reward.own.mean
        )


def candidates(trace, step, prompt, pooled):
    """The candidates of a step whose beam of x_T carries a prompt."""
    n = trace.alive[step] * trace.width[step]
    if not pooled:
        return torch.arange(n)
    found = []
    for j in range(n):
        beam = j // trace.width[step]
        for i in reversed(range(step)):
            beam = int(trace.child[i][0, beam]) // trace.width[i]
        found += [j] if beam % 2 == prompt else []
    return torch.tensor(found, dtype=torch.long)


def test_a_pools_bill_is_shared_by_its_prompts(truly):
    run, found, _ = truly
    own, bill = row(found, "pool", 0, "red"), next(r["bill"] for r in run.records() if r["method"] == "pool")
    assert own.bill == {unit: n / 2 for unit, n in bill.items()} | {"comparisons": 0}
    kept = {(r["seed"], r["prompt"]) for r in run.records() if r["method"] == "pool"}
    assert own.kept == len(kept) / 5 and own.reward.beyond is None
    assert "pool: all prompts share one pool" in found.table()


def test_diversity_is_that_of_a_prompts_images_across_seeds(truly):
    run, found, _ = truly
    for method in ("plain", "best"):
        own = [r for r in run.records() if r["method"] == method]
        chosen = [r for r in own if (r["ancestor"] == 0 if method == "plain" else r["rank"] == 0)]
        by_prompt = []
        for position in (0, 1):
            files = [run.folder / r["image"] for r in chosen if r["position"] == position]
            colours = [np.asarray(Image.open(file)).mean((0, 1)) for file in files]
            pairs = itertools.combinations(colours, 2)
            by_prompt.append(np.mean([1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]))
        told_ = row(found, method, 0, "red").diversity
        assert told_.own.mean == pytest.approx(np.mean(by_prompt), rel=1e-4) and told_.own.low >= 0
    above = row(found, "plain", 0, "red").diversity.above
    means = [row(found, m, 0, "red").diversity.own.mean for m in ("plain", "best")]
    assert above.mean == pytest.approx(means[0] - means[1], abs=1e-9)


def test_the_same_runs_give_the_same_files(truly):
    run, found, out = truly
    told(run, out / "again", drawn=True, embed=COLOURS)
    assert all((out / "again" / file.name).read_bytes() == file.read_bytes() for file in found.files)
    alone = told(run, out / "alone")
    assert alone.rows[0].diversity is None and any("No diversity: every CLIPScore" in note for note in alone.notes)
    with pytest.raises(ExperimentError, match="red cannot be made: the run was given it as an object"):
        told(run, out / "no", embed="red")


# Figures from elsewhere


@pytest.mark.parametrize(
    ("pipeline", "known"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", True),
        ("runwayml/stable-diffusion-v1-5", True),
        ("/models/SD15", True),
        ("/cache/models--runwayml--stable-diffusion-v1-5/snapshots/451f4fe", True),
        ("box", False),
        ("stabilityai/stable-diffusion-xl-base-1.0", False),
        ("CompVis/stable-diffusion-v1-4", False),
    ],
)
def test_figures_from_elsewhere_match_their_model_alone(pipeline, known):
    found = matching(Model(pipeline), "size", Named("Compressibility"))
    assert [anchor.objective for anchor in found] == ["compressibility"] * known


def test_figures_from_elsewhere_match_their_guide_in_its_unit():
    model = Model("stable-diffusion-v1-5")
    assert matching(model, "clip", Named("clip")) == []
    assert [a.measure for a in matching(model, "any", Named("aesthetic"))] == ["aesthetic"]
    assert matching(model, "x", Named("compressibility", {"quality": 90})) == []
    assert matching(model, "x", Named("compressibility", {"size": 256})) == []
    assert matching(Model("sd15", args={"height": 768}), "x", Named("compressibility")) == []
    for name, kind in (("ImageReward", "given"), ("ir", "image_reward:ImageReward"), ("image-reward", "my:reward")):
        found = matching(model, name, Named(kind))
        assert found == [anchor for anchor in ANCHORS if anchor.objective == "imagereward"]
        assert [anchor.measure for anchor in found if anchor.drawn] == ["ImageReward"]


def test_what_differs_from_elsewhere_is_said():
    geneval, svdd = ANCHORS[0], next(a for a in ANCHORS if a.objective == "compressibility")
    assert differing(geneval, Model("sd15")).startswith("64 steps there, 50 here; ")
    assert not differing(geneval, Model("sd15", steps=64)).startswith("64 steps")
    assert differing(svdd, Model("sd15")).startswith("steps not stated there, 50 here; medians there, means here")


def test_figures_from_elsewhere_stand_beside_and_can_be_left_out(tmp_path):
    run = made(tmp_path / "run", PLAN.replace("{box: box}", "{base: sd-legacy/stable-diffusion-v1-5}"))
    found = told(run, tmp_path / "out", drawn=True)
    assert "## From elsewhere, on base" in found.table() and "SVDD -49.7" in found.table()
    bare = told(run, tmp_path / "bare", drawn=True, anchors=False)
    assert "From elsewhere" not in bare.table() and bare.rows == found.rows
    drawn = [(tmp_path / out / "reward_0_model_calls.png").read_bytes() for out in ("out", "bare")]
    assert drawn[0] != drawn[1]
    assert "From elsewhere" not in told(made(tmp_path / "box"), tmp_path / "boxed").table()
