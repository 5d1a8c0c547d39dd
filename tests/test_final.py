"""A final choice by comparisons, after any method: who wins, what it costs, and that runs keep it."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import every_method, run, smooth

import dsearch
from dsearch import Bill, Budget, cli, methods
from dsearch.adapters import toy
from dsearch.core.tournament import Format, bradley_terry, by_reward, elimination, swiss, tournament
from dsearch.experiments import run as run_experiment
from dsearch.experiments.build import method as build_method
from dsearch.experiments.build import unasked
from dsearch.experiments.experiment import Named
from dsearch.experiments.folder import Run
from dsearch.experiments.reader import from_data
from dsearch.rewards import VLMJudge

FORMATS = {"elimination": elimination(), "best of 3": elimination(3), "swiss": swiss(), "all pairs": bradley_terry()}


def left(x, prompts):
    return -x[:, 0] + 0.1 * x[:, 1]


@every_method
@pytest.mark.parametrize("form", FORMATS)
def test_after_any_method_a_consistent_judge_puts_the_best_first_and_nothing_else_changes(example, form):
    method = example(smooth)
    if method.pool or method.plan(6).keep[-1] < 2:
        pytest.skip("it pools its prompts, or ends with one image")
    free, found = run(method), run(method, final=tournament(by_reward(left), FORMATS[form]))
    judged = torch.stack([left(x, p) for x, p in zip(found.images, found.prompts, strict=True)])
    judged = judged.where(found.rewards > -torch.inf, -torch.inf)
    assert torch.equal(judged[:, 0], judged.amax(dim=1))
    # The same images, in another order, and whence they came.
    order = found.final.order[..., None].expand_as(found.latents)
    assert torch.equal(free.latents.gather(1, order), found.latents)
    assert torch.equal(free.rewards.gather(1, found.final.order), found.rewards)
    paths = found.final.order[..., None].expand_as(found.lineage.path())
    assert torch.equal(free.lineage.path().gather(1, paths), found.lineage.path())
    # Every comparison is in the bill, and none beyond what was planned.
    assert found.cost.spent == free.cost.spent._replace(comparisons=int(found.final.comparisons.sum()))
    assert found.cost.planned.comparisons == FORMATS[form].most(method.plan(6).keep[-1])
    assert not found.cost.spent.exceeds(Bill().plus(found.cost.planned, found.cost.groups))
    assert free.final is None and free.cost.bill.comparisons == 0


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=12), st.sampled_from(sorted(FORMATS)), st.integers(0, 99))
def test_comparisons_never_exceed_what_a_format_says(scores, form, seed):
    judge = torch.Generator().manual_seed(seed)

    def compare(first, second, prompts, game):
        return torch.randint(0, 3, (len(prompts),), generator=judge) / 2

    images = torch.zeros(1, len(scores), 3, 2, 2)
    outcome = tournament(compare, FORMATS[form])(images, torch.tensor([scores]).float(), [[""] * len(scores)])
    assert outcome.comparisons.item() <= FORMATS[form].most(len(scores))
    if form in ("elimination", "all pairs"):
        assert outcome.comparisons.item() == FORMATS[form].most(len(scores))


@settings(max_examples=30)
@given(st.permutations(range(6)), st.sampled_from(sorted(FORMATS)))
def test_permuting_the_rows_permutes_the_result(order, form):
    images = torch.rand(1, 6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    rewards, order = images[:, :, 0].mean((2, 3)), list(order)
    choose = tournament(by_reward(lambda x, prompts: x[:, 1].mean((1, 2))), FORMATS[form])
    one, other = choose(images, rewards, [[""] * 6]), choose(images[:, order], rewards[:, order], [[""] * 6])
    assert [order[row] for row in other.order[0].tolist()] == one.order[0].tolist()


def test_a_judge_that_likes_a_place_is_asked_both_ways_and_ties():
    asked = []

    def first_wins(first, second, prompts, game):
        asked.append((first.flatten()[0].item(), second.flatten()[0].item()))
        return torch.ones(len(prompts))

    images = torch.tensor([0.0, 1.0])[None, :, None, None, None].expand(1, 2, 3, 2, 2)
    outcome = tournament(first_wins)(images, torch.tensor([[0.0, 1.0]]), [[""] * 2])
    assert asked == [(1.0, 0.0), (0.0, 1.0)] and outcome.ties.tolist() == [1] and outcome.comparisons.tolist() == [1]
    assert outcome.order.tolist() == [[1, 0]]  # the reward breaks the tie


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rejected", [1, 3, 4])
def test_a_rejected_image_does_not_play_and_stands_last(form, rejected):
    rewards = torch.arange(4.0)[None].clone()
    rewards[0, 4 - rejected :] = -torch.inf
    images = torch.arange(4.0)[None, :, None, None, None].expand(1, 4, 3, 2, 2)
    outcome = tournament(by_reward(lambda x, prompts: x.mean((1, 2, 3))), FORMATS[form])(images, rewards, [[""] * 4])
    alive = 4 - rejected
    assert outcome.order[0].tolist() == [*reversed(range(alive)), *range(alive, 4)]
    assert outcome.comparisons.item() <= FORMATS[form].most(alive) if alive else outcome.comparisons.item() == 0


def test_a_prompts_choice_has_no_batch_mate_in_it():
    method, model = methods.best_of_n(smooth, n=5, keep=5), toy.example()
    final = tournament(by_reward(left), swiss())
    whole = dsearch.search(model, method, ["a", "b", "c"], ids=[3, 4, 5], final=final)
    alone = dsearch.search(model, method, ["b"], ids=[4], final=final)
    assert torch.equal(whole.latents[1], alone.latents[0])
    assert torch.equal(whole.final.comparisons[1:2], alone.final.comparisons)


def test_a_method_carries_its_final_choice_and_is_sized_with_it():
    method = dataclasses.replace(
        methods.best_of_n(smooth, n=4, keep=4), final=tournament(by_reward(left), bradley_terry())
    )
    assert method.bill(6).comparisons == 6 and method.bill(6).counts()["comparisons"] == 6
    assert "comparisons" not in methods.best_of_n(smooth, n=4).bill(6).counts()
    found = dsearch.search(toy.example(), method, ["a"])
    assert found.cost.bill.comparisons == 6 and "6 comparisons" in repr(found)
    beams = dataclasses.replace(methods.plain(smooth, beams=2), final=tournament(by_reward(left)))
    most = beams.within(Budget(comparisons=5), 6)
    assert most.bill(6).comparisons == 5 and most.plan(6).keep[-1] == 6
    prices = dsearch.Prices(0.0, 0.0, 0.0, comparison=2.0)
    assert beams.within(Budget(seconds=9.0, prices=prices), 6).bill(6).comparisons == 4


def test_what_cannot_be_chosen_among_is_refused_before_anything_is_spent():
    asked = []

    def reward(x, prompts):
        asked.append(len(x))
        return smooth(x, prompts)

    with pytest.raises(ValueError, match=r"best_of_n ends with 1 image, and a final choice takes 2 or more"):
        dsearch.search(toy.example(), methods.best_of_n(reward, n=4), ["a"], final=tournament(by_reward(left)))
    pooled = methods.published(reward, bs=4, duplicate_size=2)
    with pytest.raises(ValueError, match=r"compares images of one prompt, and published.* pools 2"):
        dsearch.search(toy.example(), pooled, ["a", "b"], final=tournament(by_reward(left)))
    with pytest.raises(ValueError, match=r"this judge has mode='yes', which judges one picture at a time"):
        tournament(VLMJudge("http://localhost:1/v1", "model"))
    with pytest.raises(TypeError, match=r"is no Format; give elimination\(\), swiss\(\)"):
        tournament(by_reward(left), lambda scores: None)
    assert not asked
    assert dsearch.search(toy.example(), pooled, ["a"], final=tournament(by_reward(left))).final is not None


def test_a_judge_that_fails_ends_the_search_with_the_survivors_at_hand():
    def broken(first, second, prompts, game):
        raise OSError("gone")

    with pytest.raises(dsearch.RewardError, match="the judge of the final choice raised OSError: gone") as caught:
        dsearch.search(toy.example(), methods.best_of_n(smooth, n=3, keep=3), ["a"], final=tournament(broken))
    assert caught.value.beams.x.shape[:2] == (1, 3) and caught.value.reached == toy.example().num_steps
    with pytest.raises(dsearch.RewardError, match="of 1 pairs; it gives the share"):
        dsearch.search(
            toy.example(),
            methods.best_of_n(smooth, n=2, keep=2),
            ["a"],
            final=tournament(lambda *pair: torch.full((1,), 2.0)),
        )


def test_a_format_of_ones_own_says_what_it_costs():
    def king(scores):
        """The first row stays until it loses."""
        best = 0
        for other in range(1, len(scores)):
            (share,) = yield [(best, other, 0)]
            best = best if share >= 0.5 else other
        return [best, *(row for row in range(len(scores)) if row != best)]

    form = Format(king, lambda n: n - 1)
    found = dsearch.search(
        toy.example(), methods.best_of_n(smooth, n=4, keep=4), ["a"], final=tournament(by_reward(left), form)
    )
    assert torch.equal(left(found.images[0], [""] * 4).argmax(), torch.tensor(0))
    greedy = Format(king, lambda n: 1)
    with pytest.raises(dsearch.RewardError, match="above the planned"):
        dsearch.search(
            toy.example(), methods.best_of_n(smooth, n=4, keep=4), ["a"], final=tournament(by_reward(left), greedy)
        )


# ---- words and runs


def words(**final):
    return {
        "prompts": ["cat", "dog", "horse"],
        "batch": 1,
        "models": {"box": {"pipeline": "box", "steps": 3, "device": "cpu"}},
        "rewards": {"small": "compressibility", "look": "colourfulness"},
        "methods": {"chosen": {"kind": "best_of_n", "n": 4, "keep": 4, "final": final or "look"}, "free": "best_of_n"},
        "budgets": [{"model_calls": 12}],
    }


def test_an_experiment_keeps_its_final_choice_over_a_stop(tmp_path):
    experiment = from_data(words(judge="look", form="swiss", rounds=2))
    whole = run_experiment(experiment, tmp_path / "whole")
    for record in whole.records():
        if record["method"] == "chosen":
            assert (
                record["bill"]["comparisons"] == record["judged"]["comparisons"] == 4 and record["judged"]["ties"] <= 4
            )
        else:
            assert "comparisons" not in record["bill"] and "judged" not in record
    parted = tmp_path / "parted"
    run_experiment(experiment, parted)
    for unit in Run.open(parted).units[1::2]:  # killed before these were made
        for file in (parted / "units" / unit.name).iterdir():
            file.unlink()
        (parted / "units" / unit.name).rmdir()
    again = run_experiment(from_data(experiment.as_dict()), parted)
    assert again.records() == whole.records()
    best = next(record for record in whole.records() if record["method"] == "chosen")
    free = [record for record in whole.records() if record["method"] == "free" and record["position"] == 0]
    assert best["rank"] == 0 and len(free) == 1
    looks = [record["held_out"]["look"] for record in whole.records() if record["method"] == "chosen"][:4]
    assert looks[0] == max(looks) or best["judged"]["ties"]


def test_another_judge_is_another_search():
    names = [[unit.name for unit in from_data(words(judge=judge)).units()] for judge in ("look", "small", "look")]
    assert names[0] == names[2] and names[0][0] != names[1][0] and names[0][3:] == names[1][3:]
    changed = words(judge="look")
    changed["rewards"]["look"] = {"kind": "compressibility", "quality": 50}
    assert from_data(changed).units()[0].name != names[0][0]


@pytest.mark.parametrize(
    ("final", "named"),
    [
        ({"judge": "lok"}, r"methods\.chosen: reward 'lok' is not known"),
        ({"judge": "look", "form": "knockout"}, r"form 'knockout' is not known; choose one of elimination, swiss"),
        ({"judge": "look", "best_of": 2}, r"best_of=2 can end in a draw"),
        ({"judge": "look", "rounds": 2}, r"final: elimination has no argument 'rounds'; it has best_of"),
        ({"form": "swiss"}, "final: judge is missing; name a reward"),
        ({"judge": "look", "chunk": 0}, "final: chunk is 0"),
        ({"kind": "lottery", "judge": "look"}, "final: kind is 'lottery'; a final choice is a tournament"),
        ({"judge": {"kind": "vlmjudge", "mode": "pairwise"}}, r"missing a required argument"),
    ],
)
def test_bad_words_are_named_before_anything_is_loaded(final, named, tmp_path):
    with pytest.raises(ValueError, match=named):
        run_experiment(from_data(words(**final)), tmp_path)


def test_a_final_choice_among_one_is_refused_with_its_line(tmp_path):
    one = words()
    one["methods"]["chosen"]["keep"] = 1
    with pytest.raises(ValueError, match=r"best_of_n ends with 1 image"):
        run_experiment(from_data(one), tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_a_judge_of_pairs_is_itself_and_a_reward_is_one_by_its_scores():
    pairs = {"judge": {"kind": "vlmjudge", "base_url": "http://localhost:1/v1", "model": "m", "mode": "pairwise"}}
    made = build_method(Named("best_of_n", {"n": 4, "keep": 4, "final": pairs}), unasked)
    assert made.final.form.most(4) == 3
    from dsearch.experiments.finals import final, judge_of
    from dsearch.experiments.naming import as_named, reward

    judge = final(pairs, lambda said: judge_of(reward(as_named(said))))
    assert not judge.both_orders and judge.compare.__self__.mode == "pairwise"
    single = {**pairs["judge"], "mode": "yes"}
    assert not final({"judge": single}, lambda said: judge_of(reward(as_named(said)))).both_orders


def test_the_command_line_plans_and_makes_a_final_choice(tmp_path, capsys):
    sized = ["--method", "best_of_n", "-o", "n=4", "-o", "keep=4", "--final"]
    assert cli.main(["plan", "--steps", "3", *sized, "{judge: colourfulness, form: bradley_terry}"]) == 0
    assert "4 reward calls, 6 comparisons" in capsys.readouterr().out
    words = [
        "generate",
        "cat",
        "--steps",
        "3",
        "--device",
        "cpu",
        "--reward",
        "compressibility",
        *sized,
        "colourfulness",
    ]
    assert cli.main([*words, "--held-out", "colourfulness", "--out", str(tmp_path)]) == 0
    assert "3 comparisons" in capsys.readouterr().out
    records = Run.open(tmp_path).records()
    looks = [record["held_out"]["colourfulness"] for record in records]
    assert len(looks) == 4 and looks[0] == max(looks)
    assert cli.main(["generate", "cat", *sized, "{judge: nothing}", "--out", str(tmp_path / "no")]) == 2
    assert "'nothing' is not known" in capsys.readouterr().err
