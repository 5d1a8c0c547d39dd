"""The laws every method obeys, run over every module of `dsearch.methods` by its `example(reward)`."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import (
    METHODS,
    PROMPTS,
    Counted,
    CountedReward,
    Recorder,
    assert_identical,
    assert_same_result,
    dyadic,
    every_method,
    group,
    run,
    smooth,
)

import dsearch
from dsearch.adapters import toy
from dsearch.core.contract import take

few = settings(max_examples=5)
SEEDS = st.integers(0, 2**40)


def separate(example):
    """The method, where its groups are its prompts."""
    method = example(smooth)
    if method.pool:
        pytest.skip("its prompts share one pool")
    return method


def step_by_step(example):
    """The method, where all its beams take steps together."""
    method = example(smooth)
    if method.program is not None:
        pytest.skip("it grows a tree, node by node; tests/test_tree.py has its laws")
    return method


def test_methods_are_found():
    named = {"best_of_n", "dsearch", "dsearch_r", "plain", "published", "svdd", "beam", "psp", "fk", "tempered", "code"}
    assert named | {"rbf", "random_search", "zero_order", "tuned", "rerd", "sop", "abcd", "pg"} <= {
        method.id for method in METHODS
    }


@every_method
def test_a_method_has_a_name_and_a_valid_plan_for_any_number_of_steps(example):
    method = example(smooth)
    assert method.name
    for num_steps in (1, 2, 3, 10, 50):
        plan = method.plan(num_steps)
        assert isinstance(plan, dsearch.Plan) and plan.num_steps == num_steps
        assert plan == method.plan(num_steps)


@every_method
@few
@given(seed=SEEDS)
def test_same_seed_same_result(example, seed):
    torch.manual_seed(random.randrange(2**31))  # a global generator must not matter
    assert_same_result(run(example(smooth), seed=seed), run(example(smooth), seed=seed))


@every_method
def test_another_seed_another_result(example):
    one, other = (run(example(smooth), seed=seed) for seed in (0, 2**32))
    assert not torch.isin(one.latents, other.latents).any()


@every_method
@few
@given(seed=SEEDS, order=st.permutations(["a", "b", "other", "a"]), data=st.data())
def test_a_prompt_does_not_depend_on_its_batch_mates_or_their_order(example, seed, order, data):
    method = separate(example)
    ids = [f"{prompt}{i}" for i, prompt in enumerate(order)]  # the same prompt twice, under two ids
    together = run(method, order, seed=seed, ids=ids)
    shuffle = data.draw(st.permutations(range(len(order))))
    shuffled = run(method, [order[i] for i in shuffle], seed=seed, ids=[ids[i] for i in shuffle])
    for b, i in enumerate(shuffle):
        assert_identical(group(shuffled, b), group(together, i))
    alone = run(method, [order[0]], seed=seed, ids=[ids[0]])
    assert_identical(group(alone, 0), group(together, 0))


@every_method
def test_equal_prompts_of_other_ids_differ(example):
    result = run(separate(example), ["a", "a"])
    assert not torch.isin(result.latents[0], result.latents[1]).any()


@every_method
@few
@given(seed=SEEDS, sizes=st.tuples(*[st.one_of(st.none(), st.integers(1, 30))] * 3))
def test_chunk_sizes_do_not_change_the_result(example, seed, sizes):
    chunk, decode, reward = sizes
    chunked = run(example(smooth), seed=seed, chunks=dsearch.Chunks(network=chunk, decoder=decode, reward=reward))
    assert_same_result(run(example(smooth), seed=seed), chunked)


@every_method
@few
@given(seed=SEEDS, constant=st.integers(-512, 512))
def test_adding_a_constant_to_the_reward_changes_no_choice(example, seed, constant):
    plain, moved = (run(example(dyadic(c)), seed=seed) for c in (0, constant))
    assert torch.equal(plain.lineage.path(), moved.lineage.path())
    assert torch.equal(plain.images, moved.images)
    assert torch.equal(plain.rewards + constant, moved.rewards)


@every_method
@pytest.mark.parametrize("num_steps", [1, 2, 6])
@pytest.mark.parametrize("prompts", [["a"], ["a", "b", "c"]])
def test_counted_bill_equals_planned_bill_equals_an_independent_count(example, num_steps, prompts):
    """And where a method stops early, it is never more."""
    reward = CountedReward(smooth)
    denoiser = Counted(toy.GaussianMixture([[0.0, 0.0], [1.0, 2.0]], num_steps=num_steps))
    method = example(reward)
    result = run(method, prompts, denoiser)
    groups = 1 if method.pool else len(prompts)
    counted = dsearch.Bill(denoiser.model_calls, denoiser.decodes, reward.calls)
    assert counted == result.cost.spent
    assert result.cost.planned == method.bill(num_steps)
    assert result.plan == method.plan(num_steps)
    if not method.decides:
        assert counted == dsearch.Bill().plus(result.cost.bill, groups) and result.cost.bill == result.cost.planned
    else:
        assert not result.cost.bill.exceeds(result.cost.planned)
        assert all(
            spent <= groups * each < spent + groups for spent, each in zip(counted, result.cost.bill, strict=True)
        )


class Reordered:
    """Recorded normals, handed to beams in another order; `order` `[B, K]` says whose noise each beam meets."""

    def __init__(self, drawn, order, name="", root=None):
        self.drawn, self.order, self.name, self.root = drawn, order, name, root or self

    def normal(self, use, step, shape):
        return take(self.drawn["normal", self.name + use, step], self.root.order)

    def under(self, name):
        return Reordered(self.drawn, None, f"{self.name}{name}/", self.root)


@every_method
@few
@given(seed=SEEDS, data=st.data())
def test_permuting_the_beams_of_a_group_permutes_the_result(example, seed, data):
    method = step_by_step(example)
    prompts = PROMPTS[:1] if method.pool else PROMPTS  # a pool's beams carry prompts by their position
    if method.name == "ses":
        pytest.skip("its x_T share the bands of their prompt, which are drawn once")
    recorder, seen = Recorder(dsearch.KeyedRng(seed, tuple(range(len(prompts))))), []
    one = run(method, prompts, rng=recorder, watch=[lambda step, beams: seen.append(beams.x)])
    if {kind for kind, _, _ in recorder.drawn} != {"normal"}:
        pytest.skip("its selector draws")
    if any(one.plan.away(i) for i in range(one.plan.num_moves)):
        pytest.skip("its excursions draw for children")

    rounds = 1 if method.rounds is None else method.rounds.count
    beams = one.plan.start // rounds
    order = torch.tensor([data.draw(st.permutations(range(beams))) for _ in prompts])
    rng, calls = Reordered(recorder.drawn, order), iter(range(len(seen)))

    def follow(step, beams):
        """Each beam goes on with the noise of the beam that it was."""
        alike = (beams.x[:, :, None] == seen[next(calls)][:, None]).all(-1)  # [B, K, K]
        assert (alike.sum(-1) == 1).all()
        rng.order = alike.int().argmax(-1)

    other = run(method, prompts, rng=rng, watch=[follow])
    assert_identical([one.images, one.rewards, one.latents], [other.images, other.rewards, other.latents])
    whose = torch.cat([order + r * beams for r in range(rounds)], dim=1)
    assert torch.equal(one.lineage.ancestor(), take(whose, other.lineage.ancestor()))


@every_method
@few
@given(seed=SEEDS)
def test_a_result_is_sorted_and_holds_the_final_reward_of_every_survivor(example, seed):
    method = example(smooth)
    result = run(method, seed=seed)
    groups = 1 if method.pool else len(PROMPTS)
    assert result.rewards.shape == result.log_w.shape == (groups, result.plan.keep[-1])
    assert torch.equal(result.rewards, result.rewards.sort(dim=-1, descending=True).values)
    for b, prompts in enumerate(result.prompts):
        assert len(prompts) == result.plan.keep[-1]
        assert torch.equal(result.rewards[b], smooth(result.images[b], prompts))
        assert torch.equal(result.images[b], result.latents[b])  # the toy decodes to itself


@every_method
@few
@given(seed=SEEDS)
def test_lineage_replays_the_latents_through_the_recorded_noise(example, seed):
    method, denoiser = step_by_step(example), toy.example()
    if (method.rounds is not None and not method.rounds.independent) or method.name == "epsilon_greedy":
        pytest.skip("its noise is mixed from that of several rounds")
    recorder = Recorder(dsearch.KeyedRng(seed, (0,) if method.pool else tuple(range(len(PROMPTS)))))
    result = run(method, denoiser=denoiser, rng=recorder)
    plan = result.plan
    if any(plan.away(i) for i in range(plan.num_moves)):
        pytest.skip("a path does not say which of the excursions' rows were whose")
    path, ancestor, cond = result.lineage.path(), result.lineage.ancestor(), denoiser.encode(PROMPTS)
    assert path.shape == (*result.rewards.shape, plan.num_moves)
    beams = result.plan.start // (method.rounds.count if method.rounds else 1)

    def noise(b, use, step, beam, *child):
        """Of a beam of its round, and of a child or, where children come in turn, of the turn that it was."""
        name = ""
        if method.rounds is not None:
            name, beam = f"round {beam // beams + 1}/", beam % beams
        if method.expand is not None and child and result.plan.score[step]:
            name, child = f"draw {child[0]}/", (0,)
        return recorder.drawn["normal", name + use, step][(b, beam, *child)]

    for b, k in [(b, k) for b in range(len(path)) for k in range(path.shape[1])]:
        x = noise(b, "start", 0, ancestor[b, k].item())
        prompt = torch.tensor([PROMPTS.index(result.prompts[b][k])])
        for i, width in enumerate(result.lineage.width):
            beam, child = divmod(path[b, k, i].item(), width)
            level, to, leg = plan.levels[i], plan.reached[i], f"leg {plan.legs[i]}/" if plan.legs[i] else ""
            if to < level:
                z = noise(b, f"{leg}renoise {child}/noise", to, beam, 0)
                x = denoiser.renoise(x[None, None, None], level, to, z[None, None, None])[0, 0, 0]
                continue
            out, x0 = denoiser.predict(x[None], level, cond, prompt)
            pred = dsearch.Prediction(tuple(leaf[None, :, None] for leaf in out), x0[None, :, None])
            z = noise(b, f"{leg}noise", level, beam, child)[None, None, None]
            x = denoiser.step(x[None, None, None], pred, level, z)[0, 0, 0]
        assert torch.equal(x, result.latents[b, k])


@every_method
def test_the_trace_has_every_step_s_beams_width_and_values(example):
    method = step_by_step(example)
    result = run(method)
    plan = result.plan
    reach = [1 + sum(w - 1 for w in plan.width[: i + 1]) for i in range(5)] + [1]  # what can have rolled over
    widths = reach if method.name == "rbf" else plan.width
    moves = [*zip(range(plan.num_moves), plan.alive, widths, plan.reached, strict=True)]
    seen = [(s.step, s.alive, s.width, s.level) for s in result.trace]
    assert seen == moves
    for i, step in enumerate(result.trace):
        if plan.score[i] or plan.reached[i] == plan.num_steps:
            assert step.values.shape == (len(result.images), plan.alive[i] * widths[i])
            assert not step.values.isnan().any()
            drawn = step.values > -torch.inf
            assert drawn.all() if method.expand is None else drawn.unflatten(1, (plan.alive[i], -1)).any(-1).all()
        else:
            assert step.values is None


@every_method
def test_final_rewards_are_those_of_the_last_trace(example):
    result = run(example(smooth))
    assert torch.equal(take(result.trace[-1].values, result.lineage.path()[..., -1]), result.rewards)


@every_method
def test_a_watching_function_meets_every_step_of_every_round_with_its_survivors(example):
    met = []
    method = step_by_step(example)
    result = run(method, watch=[lambda step, beams: met.append((step, beams))])
    rounds = 1 if method.rounds is None else method.rounds.count
    assert [step.step for step, _ in met] == [*range(len(result.trace))] * rounds
    for at, (step, beams) in enumerate(met):
        i, whole = step.step, result.trace[step.step]
        past = at // len(result.trace) * step.alive * step.width
        here = slice(past, past + step.alive * step.width)
        assert (step.values is None) == (whole.values is None)
        if step.values is not None:
            assert torch.equal(step.values, whole.values[:, here])  # the rounds stand side by side in the result
        kept = step.alive * step.width if rounds > 1 and i == 5 else result.plan.keep[i] // rounds
        assert beams.x.shape[1] == beams.value.shape[1] == beams.pred.x0.shape[1] == kept
        if rounds == 1:
            assert torch.equal(beams.child, result.lineage.child[i])
        if step.values is not None and result.plan.score[i]:
            assert torch.equal(beams.value, take(step.values, beams.child))
    if rounds == 1:
        assert torch.equal(take(met[-1][1].x, result.lineage.order), result.latents)


@every_method
def test_progress_counts_exactly_the_planned_rows(example):
    bars = []

    class Bar:
        def __init__(self, total, **options):
            self.total, self.done, self.open = total, 0, True
            bars.append(self)

        def update(self, rows):
            assert self.open and rows > 0
            self.done += rows

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.open = False

    method = example(smooth)
    run(method, progress=Bar, chunks=dsearch.Chunks(network=5))
    (bar,) = bars
    assert bar.total == method.bill(6).model_calls * (1 if method.pool else len(PROMPTS))
    assert bar.done == bar.total if not method.decides else bar.done <= bar.total
    assert not bar.open


@every_method
@few
@given(seed=SEEDS)
def test_a_target_out_of_reach_changes_nothing(example, seed):
    step_by_step(example)
    assert_same_result(run(example(smooth), seed=seed), run(example(smooth), seed=seed, watch=[dsearch.Target(1.0)]))


@every_method
@few
@given(seed=SEEDS, target=st.sampled_from([-4.0, -1.0, -0.2]))
def test_a_target_saves_rows_and_leaves_each_prompt_to_itself(example, seed, target):
    step_by_step(example)
    method = separate(example)
    together = run(method, seed=seed, ids=["x", "y"], watch=[dsearch.Target(target)])
    assert not together.cost.spent.exceeds(run(method, seed=seed, ids=["x", "y"]).cost.spent)
    for b, (prompt, name) in enumerate(zip(PROMPTS, "xy", strict=True)):
        alone, among = (
            group(run(method, [prompt], seed=seed, ids=[name], watch=[dsearch.Target(target)]), 0),
            group(together, b),
        )
        # Where a prompt's rounds or cycles end while others go on, its trace has empty places.
        if method.rounds is not None or together.plan.route is not None:
            alone, among = (
                {key: g[key] for key in ("images", "rewards", "latents", "prompts")} for g in (alone, among)
            )
        assert_identical(alone, among)
    assert together.rewards.isfinite().all()
    for b, prompts in enumerate(together.prompts):
        assert torch.equal(together.rewards[b], smooth(together.images[b], prompts))


@every_method
def test_kl_is_a_number_of_nats_or_absent(example):
    result = run(example(smooth))
    if result.kl is not None:
        assert result.kl.shape == result.rewards.shape and (result.kl >= 0).all()
    assert result.log_w.isfinite().all() and result.log_z.isfinite().all()
    method = example(smooth)
    assert (result.kl is None) == (
        method.decides or method.name in {"zero_order", "pg", "iterref", "epsilon_greedy", "ses"}
    )


@every_method
@few
@given(seed=SEEDS)
def test_no_image_is_mislabelled(example, seed):
    """Prompts so far apart that an image betrays its own."""
    shift = {"left": -1000.0, "middle": 0.0, "right": 1000.0}
    denoiser, reward = toy.GaussianMixture([[0.0, 0.0]], num_steps=4, shift=shift), CountedReward(smooth)
    method, prompts = example(reward), ["right", "left", "middle"]
    result = run(method, prompts, denoiser, seed=seed)

    def nearest(image):
        return min(shift, key=lambda name: abs(image.mean().item() - shift[name]))

    shown = [image for images in result.images for image in images]
    assert [nearest(image) for image in shown] == [name for names in result.prompts for name in names]
    late = reward.asked[-result.plan.rows[-1] * len(result.images) :]
    assert all(nearest(image) == name for image, name in late)
    if method.pool:
        start = [prompts[k % 3] for k in result.lineage.ancestor()[0].tolist()]
        assert result.prompts == [start]
    else:
        assert result.prompts == [[name] * result.plan.keep[-1] for name in prompts]
