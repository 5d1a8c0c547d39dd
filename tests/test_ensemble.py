"""Ensembles of rewards: their arithmetic written out, ranks against scipy's, and no batch-mate in any score."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

import dsearch
from dsearch.adapters import toy
from dsearch.experiments import naming, run
from dsearch.experiments.experiment import Named
from dsearch.experiments.reader import from_data
from dsearch.plots import from_png
from dsearch.rewards import CLIPScore, Colourfulness, Compressibility, Ensemble, ZScored, ensemble

IMAGES = torch.rand(6, 3, 5, 4, generator=torch.Generator().manual_seed(0))
PROMPTS = ["a", "bb", "a", "", "ccc", "bb"]
HOWS = ["mean", "min", "uncertainty", "rank"]


def bright(images, prompts):
    return images.mean((1, 2, 3))


def red(images, prompts):
    return 7 * images[:, 0].mean((1, 2)) - 3


def long(images, prompts):
    return torch.tensor([float(len(p)) for p in prompts])


def test_each_kind_is_its_arithmetic():
    members = [bright, red, long]
    each = torch.stack([member(IMAGES, PROMPTS) for member in members])
    assert torch.allclose(ensemble(members)(IMAGES, PROMPTS), each.mean(0))
    assert torch.allclose(ensemble(members, "min")(IMAGES, PROMPTS), each.min(0).values)
    doubt = ((each - each.mean(0)) ** 2).mean(0).sqrt()
    assert torch.allclose(ensemble(members, "uncertainty", penalty=0.3)(IMAGES, PROMPTS), each.mean(0) - 0.3 * doubt)
    assert torch.allclose(ensemble(members).each(IMAGES, PROMPTS), each)


def test_a_reference_puts_members_on_one_scale():
    scaled = [ZScored.against(member, IMAGES, PROMPTS) for member in (bright, long)]
    for how in ("mean", "min", "uncertainty"):
        found = ensemble([bright, long], how, reference=(IMAGES, PROMPTS))(IMAGES[:2], PROMPTS[:2])
        assert torch.allclose(found, ensemble(scaled, how)(IMAGES[:2], PROMPTS[:2]), atol=1e-5)


numbers = st.lists(st.integers(-5, 5), min_size=2, max_size=9).filter(lambda scores: len(set(scores)) > 1)


def of(value):
    """A reward that says of each picture the number it is filled with."""
    return lambda images, prompts: value(images[:, 0, 0, 0])


def filled(values):
    return torch.tensor([float(v) for v in values])[:, None, None, None].expand(-1, 3, 2, 2)


@settings(max_examples=60, deadline=None)
@given(numbers, st.floats(0.1, 10), st.floats(-5, 5))
def test_ranks_at_the_references_are_scipys_and_better_is_always_above(scores, scale, shift):
    reference = (filled(scores), [""] * len(scores))
    reward = ensemble([of(lambda v: v), of(lambda v: scale * v + shift)], "rank", reference=reference)
    expected = torch.tensor((rankdata(scores) - 0.5) / len(scores)).float()
    assert torch.allclose(reward(*reference), expected, atol=1e-4)
    grid = torch.linspace(-20, 20, 161)
    said = reward(filled(grid), [""] * len(grid))
    assert (said.diff() > 0).all() and said[0] > 0 and said[-1] < 1
    assert torch.allclose(*reward.each(filled(grid), [""] * len(grid)), atol=1e-3)  # scale and shift change no rank


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(HOWS), st.permutations(range(6)), st.integers(1, 5))
def test_a_rows_score_has_no_batch_mate_in_it(how, order, cut):
    reward = ensemble([bright, red], how, reference=(IMAGES, PROMPTS))
    whole = reward(IMAGES, PROMPTS)
    parts = [reward(IMAGES[rows], PROMPTS[rows]) for rows in (slice(0, cut), slice(cut, 6))]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(reward(IMAGES[order], [PROMPTS[i] for i in order]), whole[order])


def test_cautious_kinds_are_below_the_mean_and_equal_it_where_members_agree():
    reference = (IMAGES, PROMPTS)
    mean, least, doubted = (ensemble([bright, red], how, reference=reference)(*reference) for how in HOWS[:3])
    assert (least <= mean).all() and (doubted <= mean).all() and (least < mean).any() and (doubted < mean).any()
    same = [ensemble([bright, bright], how)(*reference) for how in HOWS[:3]]
    assert all(torch.allclose(one, bright(*reference)) for one in same)


@pytest.mark.parametrize("how", HOWS)
def test_what_one_member_rejects_is_rejected(how):
    reward = ensemble([of(lambda v: v), of(lambda v: v.where(v < 2, -torch.inf))], how, reference=[[0, 1], [0, 1]])
    assert reward(filled([0, 1, 2]), [""] * 3).isinf().tolist() == [False, False, True]
    assert (reward(filled([2]), [""]) == -torch.inf).all()


@pytest.mark.parametrize("how", HOWS)
def test_a_search_under_an_ensemble_has_the_same_result_in_any_company(how):
    def reward(k):
        return lambda x, prompts: x[:, k]

    model = toy.GaussianMixture([[0.0, 1.5]], 0.7, num_steps=6)
    both = ensemble([reward(0), reward(1)], how, reference=[[-1.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
    method = dsearch.methods.svdd(both, width=4)
    whole = dsearch.search(model, method, ["", "", ""], ids=[3, 4, 5])
    one = dsearch.search(model, method, [""], ids=[4])
    assert torch.equal(one.latents[0], whole.latents[1])


def test_what_cannot_be_an_ensemble_is_named():
    with pytest.raises(ValueError, match="an ensemble of 1 members; give 2 or more"):
        ensemble([bright])
    with pytest.raises(ValueError, match="how='median' is not known; choose one of mean, min, rank, uncertainty"):
        ensemble([bright, red], "median")
    with pytest.raises(ValueError, match="penalty=-1 must be 0 or above"):
        ensemble([bright, red], penalty=-1)
    with pytest.raises(ValueError, match=r"ranks within a batch would depend on batch-mates; give reference="):
        ensemble([bright, red], "rank")
    with pytest.raises(ValueError, match="long scores the 3 reference pictures alike"):
        ensemble([bright, long], reference=(IMAGES[:3], ["a", "b", "c"]))
    with pytest.raises(ValueError, match=r"a reference of \[2\] scores for 2 members"):
        ensemble([bright, red], reference=[[0, 1]])
    with pytest.raises(ValueError, match=r"a reference of \[2, 2\] scores for 2 members; give each finite ones"):
        ensemble([bright, red], reference=[[0, 1], [0, float("inf")]])
    with pytest.raises(ValueError, match=r"<lambda> returned shape \(6, 1\) for 6 images"):
        ensemble([bright, lambda images, prompts: images[:, :1, 0, 0]])(IMAGES, PROMPTS)
    assert isinstance(ensemble([Compressibility(), Compressibility()]), Ensemble)
    assert (
        ensemble([Compressibility(), Compressibility()]).on_host and not ensemble([bright, Compressibility()]).on_host
    )


def words(**changes):
    return {
        "prompts": ["cat", "dog"],
        "models": {"box": {"pipeline": "box", "steps": 3, "device": "cpu"}},
        "rewards": {"both": {"kind": "ensemble", "members": ["clip", {"kind": "colourfulness"}], **changes}},
        "methods": {"best": {"kind": "best_of_n", "n": 2}},
    }


def test_yaml_names_what_python_makes_and_a_run_may_be_the_reference(tmp_path):
    plain = run(from_data({**words(), "rewards": {"c": "colourfulness"}}), tmp_path / "plain")
    pictures = torch.stack([from_png(plain.image(record)) for record in plain.records()])
    prompts = [record["prompt"] for record in plain.records()]
    members = [CLIPScore(), Colourfulness()]
    for how in HOWS:
        made = naming.reward(
            Named("ensemble", {"members": ["clip", "colourfulness"], "how": how, "reference": str(tmp_path / "plain")})
        )
        assert torch.equal(
            made(pictures, prompts), ensemble(members, how, reference=(pictures, prompts))(pictures, prompts)
        )
    found = run(from_data(words(how="rank", reference=str(tmp_path / "plain"))), tmp_path / "rank")
    assert all(0 < record["reward"] < 1 for record in found.records())
    with pytest.raises(ValueError, match=r"rewards\.both: reference='nowhere' is no run; give the folder of one"):
        run(from_data(words(how="rank", reference="nowhere")), tmp_path / "no")
    with pytest.raises(ValueError, match=r"rewards\.both: ranks within a batch would depend on batch-mates"):
        run(from_data(words(how="rank")), tmp_path / "no")
    with pytest.raises(ValueError, match=r"rewards\.both: how is 'rnak'"):
        run(from_data(words(how="rnak")), tmp_path / "no")
    listed = Named(
        "ensemble", {"members": ["clip", "colourfulness"], "how": "rank", "reference": [[0.1, 0.3], [5, 50]]}
    )
    naming.check_reward(listed)
    assert naming.reward(listed).reference == ((0.1, 0.3), (5.0, 50.0))
