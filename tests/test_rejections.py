"""Images that a reward refuses (-inf) are counted: beside every mean, and against whoever made them."""

import csv
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_compare import cells, made, noise, row, straight, told
from test_report import Blocks, browser, show  # noqa: F401  # a fixture

from dsearch import cli
from dsearch.compare import drawing, over_seeds, rank_correlation
from dsearch.compare.along import along
from dsearch.compare.cells import Cell, Found
from dsearch.compare.intervals import Estimate
from dsearch.compare.metrics import Interval
from dsearch.compare.rows import Row, _estimate
from dsearch.compare.scores import Pairs, Scores, paired_off
from dsearch.compare.words import percent
from dsearch.experiments.folder import Run
from dsearch.report import report

inf, nan = math.inf, math.nan

PLAN = """
prompts: [a, b, c, d]
models: {box: box}
rewards: {objective: compressibility, judge: colourfulness}
methods: {best-of-8: {kind: best_of_n, n: 8}, sampler: {kind: best_of_n, n: 1}}
seeds: 4
"""


def reckless(unit, position, succeeds=lambda seed, position: seed == 0):
    """Best of 8 never fails and reaches 0.565; one sample fails in three of four seeds, and reaches 1.006."""
    wiggle = noise(unit.method, unit.seed, position).normal() / 100
    if unit.method == "sampler":
        return 1.006 + wiggle if succeeds(unit.seed, position) else -inf
    return 0.565 + wiggle


def test_a_sampler_that_fails_in_three_of_four_seeds_is_never_above_one_that_does_not(tmp_path):
    found = told(made(tmp_path / "run", PLAN, score=reckless), tmp_path / "out", drawn=True)
    safe, own = (row(found, name, 0) for name in ("best-of-8", "sampler"))
    assert (safe.reward.rejected, own.reward.rejected) == (0, 0.75) and own.held_out["judge"].rejected == 0.75
    assert own.reward.own.mean == pytest.approx(1.006, abs=0.02) and safe.reward.own.mean == pytest.approx(
        0.565, abs=0.02
    )
    assert own.reward.above is None and own.reward.beyond is None
    assert own.reward.pairs == (4, 12, 0, 12) and own.reward.pairs.share.mean == 0.25
    (line,) = [line for line in found.table().splitlines() if "| sampler | 1.0" in line]
    assert " | 75% | better 4, worse 12 of 16 n.s. | " in line
    text = found.table()
    assert "sampler under objective as given, one finite seed, whose spread" in text and "': every prompt." in text
    (entry,) = [line for line in csv.DictReader((tmp_path / "out" / "table.csv").open()) if line["method"] == "sampler"]
    assert (entry["reward_rejected"], entry["reward_difference"], entry["reward_low"]) == ("0.75", "", "")
    assert [entry[f"reward_pairs_{kind}"] for kind in Pairs._fields] == ["4", "12", "0", "12"]
    panel = drawing._held_out(found.rows, "objective", "judge")
    assert panel.front == [(safe.reward.own.mean, safe.held_out["judge"].own.mean)]
    assert panel.series["sampler"].said == ["75% rejected"] and panel.series["best-of-8"].said == [""]


def test_with_pairs_enough_the_one_that_fails_is_clearly_worse(tmp_path):
    plan = PLAN.replace("seeds: 4", "seeds: 8")

    def score(unit, position):
        return reckless(unit, position, lambda seed, position: seed % 4 == position % 4)

    found = told(made(tmp_path / "run", plan, score=score), tmp_path / "out")
    own = row(found, "sampler", 0)
    low, high = own.reward.own[1:]
    assert low < 1.006 < high and own.reward.rejected == 0.75  # two finite seeds a prompt: an interval of its own
    assert own.reward.pairs == (8, 24, 0, 24) and own.reward.pairs.is_clear and own.reward.pairs.share.high < 0.5
    assert "| better 8, worse 24 of 32 |" in found.table()


def test_prompts_and_methods_without_a_finite_reward_are_shown(tmp_path):
    def score(unit, position):
        refused = unit.method == "sampler" or position == 3 or (position == 2 and unit.seed)
        return -inf if refused else noise(unit.seed, position).normal()

    found = told(made(tmp_path / "run", PLAN, score=score), tmp_path / "out", drawn=True)
    some, none = (row(found, name, 0) for name in ("best-of-8", "sampler"))
    assert (some.reward.rejected, none.reward.rejected, none.kept, none.seeds) == (7 / 16, 1, 4, 4)
    assert math.isnan(none.reward.own.mean) and none.reward.pairs == (0, 9, 7, 16)
    table = cells(*[[noise(s, p).normal() if p < 2 or (p == 2 and not s) else nan for p in range(4)] for s in range(4)])
    assert some.reward.own == over_seeds(table) and some.reward.own.mean == pytest.approx(
        float(table.nanmean(0)[:3].mean())
    )
    text = found.table()
    assert "| sampler | – | 100% | better 0, worse 9 of 16 |" in text
    assert "best-of-8 under objective as given, all rejected, and not in the mean: 'd'; one finite seed" in text
    panel = drawing._against(found.rows, "model_calls", lambda row: row.reward, "title", "y")
    assert list(panel.series) == ["best-of-8"] and panel.title == "title\nsampler: all rejected, not drawn"


def test_where_nothing_is_rejected_it_is_said(tmp_path):
    found = told(made(tmp_path / "run", PLAN, score=lambda u, p: 1.0 * u.seed), tmp_path / "out")
    assert "No reward that counts is rejected (-inf): the means leave none out." in found.notes
    assert "| rejected |" not in found.table() and row(found, "sampler", 0).reward.above is not None


def test_of_plain_the_rejected_images_are_a_share_of_the_place(tmp_path):
    plan = PLAN.replace("{kind: best_of_n, n: 1}", "{kind: plain, beams: 4}")

    def score(unit, position):  # ranks below the first are worse by 1 each: in these, all but the first are refused
        return Falling(unit.seed + position) if unit.method == "sampler" else 0.0

    class Falling(float):
        def __sub__(self, rank):
            return float(self) if rank == 0 else -inf

    found = told(made(tmp_path / "run", plan, score=score, images=4), tmp_path / "out")
    own = row(found, "sampler", 0).reward
    assert own.rejected == 0.75 and own.own.mean == pytest.approx(1.5 + 1.5)
    assert own.above is None and own.pairs == (0, 16, 0, 16)


# Laws

reals = st.integers(-3, 3).map(float)
places = st.lists(st.one_of(st.just(-inf), reals), min_size=6, max_size=6)


def cell_of(values):
    """A cell of 3 seeds and 2 prompts."""
    at = {(i // 2, i % 2): (nan, 1.0) if v == -inf else (v, 0.0) for i, v in enumerate(values)}
    return Cell(scores={None: at}, covered=set(at))


def said(ours, theirs, **options):
    return _estimate(cell_of(ours), cell_of(theirs), 2, True, None, **options)


@given(places, places, st.integers(0, 5))
def test_to_fail_once_more_improves_nothing(ours, theirs, where):
    if ours[where] == -inf:
        return
    failed = [*ours[:where], -inf, *ours[where + 1 :]]
    before, after = said(ours, theirs), said(failed, theirs)
    assert after.rejected > before.rejected and after.above is None
    assert after.pairs.better <= before.pairs.better and after.pairs.worse >= before.pairs.worse
    assert after.pairs.share.low <= before.pairs.share.low + 1e-12
    assert after.pairs.share.high <= before.pairs.share.high + 1e-12
    # And for the one it is held against nothing gets worse.
    assert said(theirs, failed).pairs.worse <= said(theirs, ours).pairs.worse


@given(places, places)
def test_pairs_are_counted_by_the_order_of_extended_numbers(ours, theirs):
    """With one image a place the order is that of the numbers themselves, -inf included."""
    pairs = list(zip(ours, theirs, strict=True))
    exact = (sum(a > b for a, b in pairs), sum(a < b for a, b in pairs), sum(a == b for a, b in pairs))
    found = said(ours, theirs).pairs
    assert found == (*exact, sum(-inf in pair for pair in pairs))
    assert (said(ours, theirs).above is None) == bool(found.rejected)
    shifted = [a + 100 for a in ours], [b + 100 for b in theirs]
    assert said(*shifted).pairs == found


@given(st.lists(st.tuples(reals, st.sampled_from([0.0, 0.25, 0.5]), reals), min_size=2, max_size=6), st.integers(0, 5))
def test_to_fail_more_brings_nobody_onto_the_front(points, where):
    def front(points):
        return set(drawing._held_out([summed(str(i), *p) for i, p in enumerate(points)], "o", "h").front)

    least = min(rejected for _, rejected, _ in points)
    assert front(points) == set(drawing.front([(x, y) for x, rejected, y in points if rejected == least]))
    where %= len(points)
    mean, rejected, watched = points[where]
    failed = [*points[:where], (mean + 9, rejected + 0.125, watched), *points[where + 1 :]]  # and its mean rises
    assert (mean + 9, watched) not in front(failed) or (mean, watched) in front(points)


def summed(method, mean, rejected, watched):
    reward, judge = Estimate(Interval(mean, mean, mean), rejected=rejected), Estimate(Interval(*[watched] * 3))
    bill = {"model_calls": 1, "decodes": 1, "reward_calls": 1}
    return Row("m", "o", (), method, 2, 1, 1, reward, {"h": judge}, None, None, None, bill, bill, 1.0, None)


@pytest.mark.parametrize("n", [1, 4, 9, 30])
def test_the_interval_of_the_share_is_clopper_and_pearsons(n):
    """Each end is where the count, or one further out, has 2.5%."""
    for k in range(n + 1):
        mean, low, high = Pairs(k, n - k, 5, 1).share
        assert mean == k / n
        assert k == 0 or stats.binom.sf(k - 1, n, low) == pytest.approx(0.025)
        assert k == n or stats.binom.cdf(k, n, high) == pytest.approx(0.025)
    assert math.isnan(Pairs(0, 0, 3, 1).share.mean) and not Pairs(0, 0, 3, 1).is_clear


def test_in_a_pool_a_seed_is_one_pair():
    ours = Scores(cells([1, 1], [5, nan], [2, 2]), cells([0, 0], [0, 1], [0, 0]))
    theirs = Scores(cells([0, 0], [0, 0], [9, 0]), cells([0, 0], [0, 0], [0, 0]))
    assert paired_off(ours, theirs) == (4, 2, 0, 1) and paired_off(ours, theirs, pooled=True) == (1, 2, 0, 1)
    assert paired_off(ours, Scores(*(part * nan for part in theirs))) is None


def test_a_prompt_of_one_finite_seed_takes_the_others_spread():
    """Where spreads are alike, the interval covers as often as it says."""
    draws = noise("alone").normal(size=(800, 4, 5))
    draws[:, 1:, 3:] = nan
    found = [over_seeds(torch.from_numpy(d)) for d in draws]
    assert sum(low < 0 < high for _, low, high in found) / 800 > 0.93


def test_a_rejected_reward_ranks_last():
    x, y = noise("x").normal(size=(8, 1)), noise("y").normal(size=(8, 1))
    y[[1, 4]] = -inf
    found = rank_correlation({s: [(straight(x[s], y[s]), (0,))] for s in range(8)})[0]
    assert found.mean == pytest.approx(stats.spearmanr(x[:, 0], np.maximum(y[:, 0], -1e9)).statistic)


def test_shares_are_never_rounded_to_all_or_nothing():
    said = {0: "0%", 1: "100%", 0.004: "< 1%", 0.996: "> 99%", 0.25: "25%", 0.01: "1%", 0.99: "99%"}
    assert {share: percent(share) for share in said} == said


# Where it is shown


def refuse(images, prompts):
    """Refuses every picture of the second prompt, and of the first those that are dark."""
    dark = images.mean(dim=(1, 2, 3))
    refused = torch.tensor([p == "panda" for p in prompts])
    return torch.where(refused, -inf, dark)


def test_a_run_whose_images_are_refused_is_told_compared_and_reported(tmp_path, monkeypatch, capsys, browser):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    words = ["generate", "cat", "panda", "--steps", "2", "--device", "cpu", "--reward", "test_rejections:refuse"]
    words += ["--held-out", "test_rejections:refuse", "colourfulness", "--method", "best_of_n", "--rows-per-step", "2"]
    assert cli.main([*words, "--out", "run"]) == 0
    cat, panda = capsys.readouterr().out.splitlines()[2:4]
    assert "rejected" not in cat and panda.split()[0] == "rejected" and panda.endswith(" panda")
    run = Run.open("run")
    assert [record["reward"] is None for record in run.records()] == [False, True]
    found = Found([run])
    (key,) = found.planned
    assert [one.rejected for one in along(found, found.cells[key]).values()] == [0.5]
    file = report(run, tmp_path / "report.html")
    (cell,) = Blocks(file.read_text()).data["data"]["cells"]
    assert cell["rewards"]["rejected"] == {"test_rejections:refuse": 0.5, "colourfulness": 0}
    assert cell["curve"][0][4] == 0.5
    shown = show(browser, file)
    text = shown.execute_script("return document.body.innerText")
    assert "50% rejected" in text and "which means and intervals leave out" in text
    assert browser.get_log("browser") == []


def test_a_report_counts_pairs_where_a_side_rejects(tmp_path, browser):  # noqa: F811
    file = report(made(tmp_path / "run", PLAN, score=reckless), tmp_path / "report.html")
    own = next(c for c in Blocks(file.read_text()).data["data"]["cells"] if c["method"] == "sampler")["rewards"]
    assert own["above"] is None and own["pairs"] == [4, 12, 0, 12, False]
    text = show(browser, file).execute_script("return document.getElementById('rewards').innerText")
    assert "75% rejected" in text and "better 4, worse 12 of 16 n.s." in text
    assert browser.get_log("browser") == []
