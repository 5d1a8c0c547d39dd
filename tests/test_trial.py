"""A trial of several denoisers, against the searches that it stands for."""

import pytest
import torch

import dsearch
from dsearch.adapters import FlowMixture, Quadratic
from dsearch.compare.intervals import over_seeds
from dsearch.compare.metrics import paired
from dsearch.compare.trial import trial

REWARD, SPREAD = Quadratic([1.0, 0.5], curvature=0.2), Quadratic([0.0, 0.0], curvature=1.0)
METHOD, PROMPTS, SEEDS = dsearch.methods.svdd(REWARD, width=4), ["a", "b", "c"], (3, 4)


def flow(noise="posterior", eta=None, steps=6):
    return FlowMixture([[-1.0, 0.0], [1.0, 0.5]], std=0.6, num_steps=steps, noise=noise, eta=eta, shift={"b": 0.5})


def test_a_trial_is_the_searches_it_stands_for_and_its_bill_is_theirs():
    made = {"posterior": flow(), "cps": flow("cps"), "again": flow()}
    found = trial(made, METHOD, PROMPTS, seeds=SEEDS, held_out={"spread": SPREAD})
    total = dsearch.Bill()
    for name, denoiser in made.items():
        results = [
            dsearch.search(denoiser, METHOD, PROMPTS, seed=seed, watch=[dsearch.HeldOut({"s": SPREAD})])
            for seed in SEEDS
        ]
        assert torch.equal(found.scores[name], torch.stack([result.rewards[:, 0] for result in results]))
        row = next(row for row in found.rows if row.name == name)
        assert row.reward == over_seeds(found.scores[name])
        looked = torch.stack([result.held_out["s"] for result in results])
        assert row.held_out == {"spread": pytest.approx(float(looked.mean()))}
        for result in results:
            total = total.plus(result.cost.spent)
    assert found.bill == total == dsearch.Bill().plus(METHOD.bill(6), 3 * len(SEEDS) * len(PROMPTS))
    assert found.each == METHOD.bill(6)
    means = [row.reward.mean for row in found.rows]
    assert means == sorted(means, reverse=True)
    by_name = {row.name: row for row in found.rows}
    assert by_name["posterior"].above is None
    assert by_name["again"].above == (0, 0, 0)
    difference = paired(found.scores["cps"].flatten(), found.scores["posterior"].flatten())
    assert by_name["cps"].above.mean == pytest.approx(difference.mean)
    assert "| again |" in str(found) and "n.s." in str(found) and f"took {total.model_calls} rows" in str(found)


def test_children_that_hardly_differ_leave_little_to_choose_from():
    """A search by 1% of the noise is clearly below one by all of it."""
    made = {f"{eta}": flow(eta=eta) for eta in (1.0, 0.5, 0.01)}
    found = trial(made, METHOD, PROMPTS, seeds=range(20))
    assert [row.name for row in found.rows] == ["1.0", "0.5", "0.01"]
    assert found.best == "1.0"
    assert found.rows[-1].above.high < 0


@pytest.mark.parametrize(
    ("made", "more", "says"),
    [
        ({}, {}, "needs denoisers"),
        ({"a": flow()}, {"seeds": (1, 1)}, "at least 2 seeds"),
        ({"a": flow(), "b": flow(steps=7)}, {}, "one bill"),
    ],
)
def test_what_cannot_be_compared_is_refused(made, more, says):
    with pytest.raises(ValueError, match=says):
        trial(made, METHOD, PROMPTS, **more)
