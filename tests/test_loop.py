"""The loop: which methods coincide, exact means, and what is refused."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from strategies import PROMPTS, assert_identical, assert_same_result, group, run, smooth, within

import dsearch
from dsearch import Bill, Plan, RewardError, methods
from dsearch.adapters import toy
from dsearch.core import potential
from dsearch.core.selection import best_child, chain, top_k
from dsearch.core.value import posterior_mean

few = settings(max_examples=8)
SEEDS = st.integers(0, 2**40)


def outcome(result, *left_out):
    """What a result says, leaving out what may differ: its bill, say."""
    return [{k: v for k, v in group(result, b).items() if k not in left_out} for b in range(len(result.images))]


# ---- methods that coincide ---------------------------------------------------------------------------------


@few
@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(0, 3),
       st.sampled_from(["exponential", "linear", "quadratic", "sigmoid", "none"]))  # fmt: skip
def test_dsearch_with_all_beams_kept_is_svdd_bit_for_bit(seed, beams, width, spare, drop):
    budget = beams * width + min(spare, beams - 1)
    one = methods.dsearch(smooth, beams=beams, keep=beams, rows_per_step=budget, search="all", drop=drop)
    assert_same_result(run(one, seed=seed), run(methods.svdd(smooth, width=width, beams=beams), seed=seed))


@pytest.mark.parametrize(
    "method",
    [
        methods.best_of_n(smooth, n=1),
        methods.svdd(smooth, width=1),
        methods.svdd(smooth, width=1, temperature=0.3),
        methods.dsearch(smooth, beams=1, keep=1, rows_per_step=1, search="all"),
        methods.published(smooth, bs=1, duplicate_size=1, w=1),
    ],
    ids=["best_of_n", "svdd", "softmax", "dsearch", "published"],
)
def test_width_one_and_one_beam_is_plain_sampling_bit_for_bit(method):
    for seed in range(5):
        plain = run(methods.plain(smooth, 1), ["a"], seed=seed)
        assert_identical(outcome(run(method, ["a"], seed=seed), "values", "bill"), outcome(plain, "values", "bill"))


@few
@given(SEEDS, st.integers(1, 6), st.data())
def test_dsearch_of_width_one_without_dropping_is_best_of_n(seed, n, data):
    keep = data.draw(st.integers(1, n))
    one = methods.dsearch(smooth, beams=n, keep=keep, rows_per_step=n, drop="none", search="all")
    other = methods.best_of_n(smooth, n=n, keep=keep)
    assert_identical(outcome(run(one, seed=seed), "values", "bill"), outcome(run(other, seed=seed), "values", "bill"))


@few
@given(SEEDS, st.integers(1, 6))
def test_best_of_n_is_the_best_of_plain_sampling(seed, n):
    best = run(methods.best_of_n(smooth, n=n), seed=seed)
    plain = run(methods.plain(smooth, beams=n), seed=seed)
    assert torch.equal(best.images[:, 0], plain.images[:, 0])
    assert torch.equal(best.rewards[:, 0], plain.rewards.max(dim=-1).values)


@few
@given(SEEDS)
def test_softmax_svdd_at_a_tiny_temperature_is_argmax(seed):
    cold = methods.svdd(smooth, width=4, beams=2, temperature=1e-9)
    assert_same_result(run(cold, seed=seed), run(methods.svdd(smooth, width=4, beams=2), seed=seed))


@few
@given(SEEDS)
def test_published_svdd_with_one_prompt_is_svdd(seed):
    one = run(methods.published(smooth, bs=3, duplicate_size=4), ["a"], seed=seed)
    assert_same_result(one, run(methods.svdd(smooth, width=4, beams=3), ["a"], seed=seed))


# ---- exact means -------------------------------------------------------------------------------------------


def expected_best(n):
    """E[max of n standard normals]."""
    return integrate.quad(lambda z: n * z * stats.norm.pdf(z) * stats.norm.cdf(z) ** (n - 1), -9, 9)[0]


def first(images, prompts):
    return images[:, 0]


@pytest.mark.parametrize("n", [1, 4])
def test_best_of_n_has_the_exact_mean_reward(n):
    denoiser = toy.GaussianMixture([[1.0]], std=2.0, num_steps=3)
    rewards = run(
        methods.best_of_n(first, n=n), [""] * 3000, denoiser, chunks=dsearch.Chunks(network=None, reward=None)
    ).rewards
    assert within(1 + 2 * expected_best(n), rewards)


@pytest.mark.parametrize("width", [1, 4])
def test_svdd_has_the_exact_mean_reward_at_two_steps(width):
    """One searching step: the best of `width` posterior means sqrt(a) z, kept in the mean by the last step."""
    method = methods.svdd(first, width=width, beams=4000)
    rewards = run(
        method, "", toy.GaussianMixture(num_steps=2), chunks=dsearch.Chunks(network=None, reward=None)
    ).rewards
    assert within(math.sqrt(0.5) * expected_best(width), rewards)


def test_softmax_svdd_has_the_exact_mean_reward_at_two_steps():
    """Of two posterior means the better by D > 0 is drawn with odds exp(D / alpha): mean E[D tanh(D / 2 alpha)] / 2."""
    method = methods.svdd(first, width=2, beams=8000, temperature=0.7)
    rewards = run(
        method, "", toy.GaussianMixture(num_steps=2), chunks=dsearch.Chunks(network=None, reward=None)
    ).rewards
    gap = lambda d: d / 2 * math.tanh(d / 1.4) * 2 * stats.norm.pdf(d)  # noqa: E731  D is half-normal, of variance 1
    assert within(integrate.quad(gap, 0, 9)[0], rewards)


def test_search_beats_best_of_n_at_an_equal_bill():
    searched, drawn = methods.svdd(smooth, width=5), methods.best_of_n(smooth, n=5)
    assert searched.bill(6).model_calls <= drawn.bill(6).model_calls
    prompts = [""] * 300
    gain = run(searched, prompts).rewards - run(drawn, prompts).rewards
    assert gain.mean() > 4.5 * gain.std() / 300**0.5


# ---- what the loop hands on --------------------------------------------------------------------------------


def made(select=best_child, value=posterior_mean, plan=None, reward=smooth, weigh=potential.none):
    def three(num_steps):
        return Plan(2, (2,) * num_steps, (2,) * num_steps, (True,) * num_steps)

    return dsearch.Method(plan or three, reward, value, weigh, select, name="made")


def test_scores_tell_the_level_the_width_and_the_parents_values():
    seen = []

    def spy(scores, keep, rng):
        seen.append((scores, keep))
        return best_child(scores, keep, rng)

    result = run(made(spy), ["a"])
    assert [s.level for s, _ in seen] == [1, 2, 3, 4, 5, 6] and [k for _, k in seen] == [2] * 6
    assert [s.final for s, _ in seen] == [False] * 5 + [True]
    assert all(s.width == 2 for s, _ in seen)
    assert seen[0][0].parent.isnan().all()
    for i in range(1, 6):
        parents = seen[i - 1][0].value.gather(1, result.lineage.child[i - 1])
        assert torch.equal(seen[i][0].parent, parents.repeat_interleave(2, dim=1))


def test_a_parent_s_value_is_its_last_where_a_step_is_not_scored():
    seen = []

    def spy(scores, keep, rng):
        seen.append(scores)
        return top_k()(scores, keep, rng)

    plan = Plan(2, (1,) * 6, (2,) * 6, (False, True, False, False, True, False))
    run(made(spy, plan=lambda num_steps: plan), ["a"])
    assert [s.level for s in seen] == [2, 5]
    assert torch.equal(seen[1].parent, seen[0].value)


def test_a_potential_s_increments_and_memory_follow_the_beams():
    class Total:
        """log w = the sum of the values so far; the memory counts and sums them too."""

        def initial(self, lead, device):
            zero = torch.zeros(*lead, dtype=torch.float64)
            return zero, (zero[..., None].expand(-1, -1, 2), None)

        def __call__(self, scores):
            total, (pair, _) = scores.memory
            return scores.value.double(), (total + scores.value, (pair + scores.value[..., None], None))

    seen = []
    method = made(chain(best_child, top_k()), weigh=Total())
    result = run(method, watch=[lambda step, beams: seen.append(beams)])
    for beams in seen:
        total, (pair, nothing) = beams.memory
        assert nothing is None
        assert torch.equal(beams.log_w, total) and torch.equal(pair, total[..., None].expand(-1, -1, 2))
    path = result.lineage.path()
    summed = sum(step.values.gather(1, path[..., i]) for i, step in enumerate(result.trace))
    assert torch.allclose(result.log_w, summed.double(), rtol=1e-5)


class Rollout:
    """Two model calls and two rewards per candidate; honest about it, or not."""

    def __init__(self, honest=True):
        self.honest = honest

    def __call__(self, children, level, engine):
        for _ in range(2):
            ahead = engine.predict(children.x, children.prompt_index, level)
        return (engine.reward(ahead.x0, children.prompt_index, level) + posterior_mean(children, level, engine)) / 2

    def cost(self, level, num_steps):
        return Bill(2, 2, 2) if self.honest else Bill(0, 2, 2)


def test_a_value_s_own_model_calls_are_counted_and_planned():
    result = run(dataclasses.replace(methods.svdd(smooth, width=3), value=Rollout()))
    assert result.cost.bill == result.cost.planned == Bill(1 + 5 * 3 + 5 * 3 * 2, 5 * 3 * 2 + 1, 5 * 3 * 2 + 1)


def test_a_value_that_overspends_its_cost_is_stopped():
    calls = []
    method = methods.svdd(lambda images, prompts: calls.append(len(images)) or smooth(images, prompts), width=3)
    with pytest.raises(RuntimeError, match=r"would spend Bill\(.*above the planned Bill\(.*cost\(\) must cover"):
        run(dataclasses.replace(method, value=Rollout(honest=False)))
    assert sum(calls) < (5 * 3 * 2 + 1) * 2


# ---- rewards that go wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        (lambda images, prompts: torch.zeros(len(images) + 1), r"shape \(5,\) for 4 images"),
        (lambda images, prompts: torch.zeros(len(images), 1), r"shape \(4, 1\) for 4 images"),
        (lambda images, prompts: 0.0, r"shape \(\) for 4 images"),
        (lambda images, prompts: None, "the reward returned a NoneType; return one real number per image"),
        (lambda images, prompts: (smooth(images, prompts), {}), "returned a tuple of 2; return one real number"),
        (lambda images, prompts: smooth(images, prompts).to(torch.complex64), r"returned torch.complex64 numbers"),
        (lambda images, prompts: 1 / 0, "the reward raised ZeroDivisionError: division by zero"),
        (lambda images, prompts: images.mean(1) * math.nan, "nan for 4 of 4 images"),
    ],
    ids=["too-long", "column", "scalar", "nothing", "tuple", "complex", "raises", "nan"],
)
def test_a_reward_that_goes_wrong_is_named_with_level_and_prompts(reward, says):
    with pytest.raises(RewardError, match=says) as error:
        run(methods.svdd(reward, width=2))
    assert error.value.level == 1
    assert error.value.prompts == ["a", "a", "b", "b"]
    assert str(error.value).endswith("(level 1, prompts 'a', 'b')")


def test_the_cause_of_a_reward_s_failure_is_kept():
    with pytest.raises(RewardError) as error:
        run(methods.plain(lambda images, prompts: 1 / 0))
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_nan_names_only_the_prompts_concerned():
    def reward(images, prompts):
        return torch.tensor([math.nan if prompt == "b" else 1.0 for prompt in prompts])

    with pytest.raises(RewardError, match=r"nan for 3 of 9 images \(level 1, prompts 'b'\)") as error:
        run(methods.svdd(reward, width=3), ["a", "b", "c"])
    assert error.value.prompts == ["b"] * 3


def test_only_the_prompts_of_the_failing_chunk_are_named():
    def reward(images, prompts):
        if "b" in prompts:
            raise ValueError("no b")
        return smooth(images, prompts)

    with pytest.raises(RewardError) as error:
        run(methods.svdd(reward, width=3), ["a", "b", "c"], chunks=dsearch.Chunks(reward=3))
    assert error.value.prompts == ["b"] * 3


def test_a_failure_at_the_clean_end_names_the_last_level():
    with pytest.raises(RewardError) as error:
        run(methods.plain(lambda images, prompts: images))
    assert error.value.level == 6


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int32, torch.bool])
def test_rewards_of_any_real_dtype_are_ranked_in_float32_or_more(dtype):
    result = run(methods.best_of_n(lambda images, prompts: (images[:, 0] > 0).to(dtype), n=3, keep=3))
    whole = dtype == torch.int32  # which float32 would round above 2^24
    assert result.rewards.dtype == (torch.float64 if whole else torch.promote_types(dtype, torch.float32))


def test_whole_numbers_that_float32_cannot_tell_apart_are_ranked():
    result = run(methods.best_of_n(lambda images, prompts: 2**40 + torch.arange(len(images)), n=4, keep=4), ["a"])
    assert result.rewards[0].tolist() == [2**40 + k for k in (3, 2, 1, 0)]


def test_a_reward_may_return_a_list():
    one = run(methods.svdd(lambda images, prompts: smooth(images, prompts).tolist(), width=3))
    assert_same_result(one, run(methods.svdd(smooth, width=3)))


def test_infinite_rewards_are_ranked():
    def reward(images, prompts):
        return torch.where(images[:, 0] > 0, math.inf, -math.inf)

    assert (run(methods.best_of_n(reward, n=8), [""] * 20).images[..., 0] > 0).float().mean() > 0.9


def test_a_softmax_over_siblings_that_are_all_forbidden_still_draws_one():
    result = run(methods.svdd(lambda images, prompts: torch.full((len(images),), -math.inf), width=3, temperature=1.0))
    assert result.rewards.isinf().all()


# ---- arguments that cannot be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompts": []}, "no prompts"),
        ({"prompts": ["a", 3]}, "prompt 3 is not a string"),
        ({"prompts": [["a"]]}, r"prompt \['a'\] is not a string"),
        ({"ids": [1]}, "1 ids for 2 groups"),
        ({"ids": [1, 2, 3]}, "3 ids for 2 groups"),
        ({"ids": [1, 2], "rng": dsearch.KeyedRng(0, (0, 1))}, "ids or rng, not both"),
        ({"watch": [dsearch.HeldOut({"a": smooth})] * 2}, "two HeldOut; give one"),
        ({"watch": [dsearch.Thumbnails(8)] * 2}, "two Thumbnails; give one"),
    ],
)
def test_arguments_that_cannot_be_are_refused_before_anything_is_spent(options, says):
    class Untouched:
        num_steps = 6
        encode = start = noise = predict = step = decode = None

    with pytest.raises(ValueError, match=says):
        run(methods.svdd(smooth), **{"prompts": PROMPTS, "denoiser": Untouched(), **options})


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"network": 0}, "chunks.network is 0"),
        ({"decoder": -1}, "chunks.decoder is -1"),
        ({"reward": 1.5}, r"chunks.reward is 1\.5"),
        ({"network": None, "pad": True}, "give chunks.network and chunks.decoder as numbers"),
    ],
)
def test_chunks_that_cannot_be_are_refused(sizes, says):
    with pytest.raises(ValueError, match=says):
        dsearch.Chunks(**sizes)


@pytest.mark.parametrize("watcher", [3, dsearch.Target, {"clip": smooth}])
def test_what_cannot_watch_is_refused(watcher):
    with pytest.raises(TypeError, match=r"give watchers .* or functions"):
        run(methods.svdd(smooth), watch=[watcher])


def test_a_value_of_another_shape_is_refused():
    class Column(type(posterior_mean)):
        def __call__(self, children, level, engine):
            return super().__call__(children, level, engine)[..., None]

    with pytest.raises(
        ValueError, match=r"the value of svdd returned shape \(2, 3, 1\) for candidates \(2, 3\) at level 1"
    ):
        run(methods.svdd(smooth, width=3, value=Column()))


def test_a_pool_smaller_than_its_prompts_is_refused():
    with pytest.raises(ValueError, match="2 pooled beams cannot carry 3 prompts"):
        run(methods.published(smooth, bs=2), ["a", "b", "c"])


def test_a_plan_of_another_length_than_the_model_s_is_refused():
    with pytest.raises(ValueError, match="the plan of made has 3 steps, but the model takes 6"):
        run(made(plan=lambda num_steps: Plan(1, (1,) * 3, (1,) * 3, (True,) * 3)))


def test_a_selector_that_does_not_keep_what_the_plan_says_is_refused():
    with pytest.raises(ValueError, match=r"made chose \(2, 3\) candidates at step 0, but its plan keeps \(2, 2\)"):
        run(made(lambda scores, keep, rng: top_k()(scores, keep + 1, rng)))


def test_a_single_prompt_may_be_a_string_and_ids_default_to_positions():
    assert_same_result(run(methods.svdd(smooth), "a"), run(methods.svdd(smooth), ["a"], ids=[0]))
    assert_same_result(run(methods.svdd(smooth)), run(methods.svdd(smooth), ids=(0, 1)))


def test_an_injected_source_is_the_default_one_s_equal():
    rng = dsearch.KeyedRng(5, (0, 1))
    assert_same_result(run(methods.svdd(smooth), seed=5), run(methods.svdd(smooth), rng=rng))


@pytest.mark.parametrize("fails", [False, True])
def test_a_denoiser_s_release_is_called_once_whether_or_not_the_search_ends_well(fails):
    released = []
    denoiser = toy.example()
    denoiser.release = lambda: released.append(True)
    if fails:
        with pytest.raises(RewardError):
            run(methods.plain(lambda images, prompts: 1 / 0), denoiser=denoiser)
    else:
        run(methods.plain(smooth), denoiser=denoiser)
    assert released == [True]


def test_gradients_are_not_recorded():
    weight = torch.ones(2, requires_grad=True)
    result = run(methods.svdd(lambda images, prompts: images @ weight))
    assert not result.rewards.requires_grad and not result.images.requires_grad
