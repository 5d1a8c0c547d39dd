"""Searches that decide as they go: degenerate cases, exact laws of DTS, bills that are never exceeded."""

import math
import re
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import Counted, CountedReward, assert_identical, assert_same_result, group, run, smooth

import dsearch
from dsearch import distributed, methods
from dsearch.adapters import toy
from dsearch.compare import compare
from dsearch.core import tree as trees
from dsearch.core.budget import Budget
from dsearch.core.grow import Rows
from dsearch.core.plan import tree_plan
from dsearch.core.rng import KeyedRng
from dsearch.core.tree import Draw, Node, Noise, Tree, Value, quantile
from dsearch.core.value import Lookahead
from dsearch.experiments import runs
from dsearch.experiments.experiment import Experiment, Model, Named
from dsearch.report import _data, report

SEEDS = st.integers(0, 2**40)
few = settings(max_examples=5)
TREES = {
    "dts": methods.dts(smooth, runs=5, keep=2, lam=3.0),
    "dts_star": methods.dts_star(smooth, runs=5),
    "dfs": methods.dfs(smooth, back=3),
    "dfs with bars": methods.dfs(smooth, back=3, bar=-1.0, depth=1.0),
    "dfs far": methods.dfs(smooth, back=4, bar=0.0, depth=0.4, start=0),
    "threshold": methods.threshold(smooth, width=3),
    "parent": methods.threshold(smooth, width=3, bar="parent"),
    "rbf of its authors": methods.threshold(smooth, width=3, bar="best", starts=5, spend_all=True),
    "lookahead": methods.threshold(smooth, width=2, value=Lookahead(2, rollouts=2)),
}
every_tree = pytest.mark.parametrize("name", TREES)


class Painted(toy.GaussianMixture):
    """A toy whose samples are small pictures."""

    def decode(self, x0):
        return torch.sigmoid(x0)[:, :1, None, None].expand(-1, 3, 4, 4).contiguous()


def bright(images, prompts):
    return images.mean((1, 2, 3))


def same(one, other, seed, prompts=("a", "b")):
    """Both return the same images of the same rewards."""
    a, b = run(one, list(prompts), seed=seed), run(other, list(prompts), seed=seed)
    assert_identical([a.images, a.rewards, a.latents], [b.images, b.rewards, b.latents])
    return a, b


# Bills.


@every_tree
@given(seed=SEEDS, steps=st.integers(1, 7))
@few
def test_the_bill_is_counted_and_never_exceeded(name, seed, steps):
    method = TREES[name]
    reward, denoiser = CountedReward(smooth), Counted(toy.GaussianMixture([[0.0, 0.0], [1.0, 2.0]], num_steps=steps))
    result = run(replace(method, reward=reward), ["a", "b", "c"], denoiser, seed=seed)
    assert dsearch.Bill(denoiser.model_calls, denoiser.decodes, reward.calls) == result.cost.spent
    assert not result.cost.bill.exceeds(method.bill(steps)) and result.plan == method.plan(steps)
    assert [len(method.plan(steps).alive), method.plan(steps).num_steps] == [steps, steps]


@every_tree
@given(rows=st.integers(100, 400))
@few
def test_a_tree_is_sized_to_a_budget(name, rows):
    method = TREES[name]
    sized = method.within(Budget(model_calls=rows), 6)
    assert (
        sized.bill(6).model_calls
        <= rows
        < replace(sized, plan=replace(sized.plan, size=sized.plan.size + 1)).bill(6).model_calls
    )
    assert run(sized).cost.bill.model_calls <= rows


def test_the_worst_case_of_a_bill_is_reached():
    """Nothing ever passes, so that all is spent."""
    never = methods.dfs(smooth, back=3, bar=math.inf, start=0.8, depth=1.0)
    assert run(never).cost.bill == never.bill(6)
    never = methods.threshold(smooth, width=3, bar=math.inf)
    assert run(never).cost.bill == never.bill(6) == methods.svdd(smooth, width=3).bill(6)


# Degenerate cases.


@given(seed=SEEDS)
@few
def test_what_never_goes_back_is_plain_sampling(seed):
    plain = methods.plain(smooth, 1)
    for method in (
        methods.dfs(smooth, back=3, bar=-math.inf),
        methods.dfs(smooth, back=0, bar=math.inf),
        methods.threshold(smooth, width=3, bar=-math.inf),
        methods.dts(smooth, runs=1),
        methods.dts_star(smooth, runs=1),
        methods.dts(smooth, runs=4, spread=1.0, growth=0.0),
    ):
        same(plain, method, seed)


@given(seed=SEEDS, bar=st.floats(-5, 0))
@few
def test_one_bar_for_all_levels_is_the_same_bar_at_each(seed, bar):
    for make in (methods.dfs, methods.threshold):
        same(make(smooth, bar=bar), make(smooth, bar=[bar] * 5), seed)


@given(seed=SEEDS, width=st.integers(1, 4))
@few
def test_a_bar_out_of_reach_is_svdd(seed, width):
    same(methods.svdd(smooth, width=width), methods.threshold(smooth, width=width, bar=math.inf), seed)


@given(seed=SEEDS)
@few
def test_to_go_back_to_the_beginning_from_the_last_level_alone_is_the_best_by_its_value(seed):
    """depth >= T and only level T - 1 judged: best-of-(b + 1) by the posterior mean there."""
    method = methods.dfs(smooth, back=3, bar=math.inf, depth=1.0, start=0.8)
    result = run(method, ["a"], seed=seed)
    (before,) = [step for step in result.trace if step.level == 5]
    assert before.values.shape == (1, 4)
    assert result.lineage.path()[0, 0, 4] == before.values[0].argmax()


@given(seed=SEEDS)
@few
def test_a_root_of_many_children_with_one_below_each_is_best_of_n(seed):
    """The cap grows with visits: none of the runs shares a state."""
    star = methods.dts_star(smooth, runs=4, spread=50.0, growth=0.0)
    star = replace(star, program=OneBelow(**vars(star.program)))
    result, best = run(star, ["a"], seed=seed), run(methods.best_of_n(smooth, n=4), ["a"], seed=seed)
    assert result.cost.bill == best.cost.bill
    assert result.trace[-1].values.shape == (1, 4) and result.rewards.item() == result.trace[-1].values.max()


@dataclass(frozen=True)
class OneBelow(type(methods.dts_star(smooth).program)):
    """Many children of the root, one of each other node."""

    def cap(self, node):
        return 50 if node.level < 0 else 1


def test_rbf_of_one_beam_passes_as_rollover_does():
    """Both take the first child above its parent, and carry on what is left."""
    for seed in range(20):
        result = run(methods.threshold(smooth, width=3, bar="parent"), ["a"], seed=seed)
        values = [step.values[0] for step in result.trace[:-1]]
        path, left, parent = result.lineage.path()[0, 0].tolist(), 0, math.nan
        for level, drawn in enumerate(values):
            left += 3
            above = [not value <= parent for value in drawn.tolist()]
            assert above.index(True) == len(drawn) - 1 if any(above) else len(drawn) == left
            assert (
                path[level] == int(drawn.argmax() if not any(above) else len(drawn) - 1)
                or drawn[path[level]] == drawn.max()
            )
            left, parent = left - len(drawn), float(drawn[path[level]])


# Exact laws.


LAM = 1.5


@dataclass(frozen=True)
class Kept(type(methods.dts(smooth).program)):
    """Keeps the trees that it has grown."""

    trees: list = field(default_factory=list)

    def choose(self, tree, keep):
        self.trees.append(tree)
        return super().choose(tree, keep)


def grown(model, reward, runs, replicas=24):
    """Finished trees of DTS."""
    method = methods.dts(reward, runs=runs, lam=LAM)
    program = Kept(**vars(method.program))
    dsearch.search(model, replace(method, program=program), [""] * replicas, seed=3)
    return program.trees


def leaf_law(node, p=1.0):
    """(image, probability) of the draws from a finished tree."""
    if not node.children:
        return [(node, p)]
    q = torch.tensor([LAM * child.soft for child in node.children], dtype=torch.float64).softmax(0).tolist()
    return [pair for child, share in zip(node.children, q, strict=True) for pair in leaf_law(child, p * share)]


def test_the_root_of_a_tree_tends_to_the_soft_value_of_the_model():
    """v(root) -> (1 / lam) log E exp(lam r), the log-partition function in closed form."""
    model, hill = toy.GaussianMixture([[0.5, 0.0]], 0.8, num_steps=3), toy.Quadratic([0.5, -0.2], 0.8)
    exact = float(model.log_z(hill, LAM)) / LAM
    errors = []
    for many in (4, 64):
        roots = torch.tensor([tree.root.soft for tree in grown(model, hill, many)])
        errors.append((roots - exact).square().mean().sqrt().item())
    assert errors[1] < 0.6 * errors[0]


def test_draws_of_a_tree_tend_to_the_tilted_law():
    """The total variation to p(x) exp(lam r(x)) / Z, by enumeration, falls with the runs."""
    table = torch.tensor([[0.1, 0.4], [0.3, 0.2]], dtype=torch.float64)
    model = toy.TokenChain(table)

    def letters(x, prompts):
        return (x.double() * torch.tensor([1.0, -0.6], dtype=torch.float64)).sum(-1)

    tilted, apart = model.tilted(letters, LAM).table, []
    for many in (4, 64):
        ends = [leaf_law(tree.root) for tree in grown(model, letters, many)]
        law = []
        for tree in ends:
            found = torch.zeros(2, 2, dtype=torch.float64)
            for leaf, p in tree:
                word = [
                    w
                    for w in ((0, 0), (0, 1), (1, 0), (1, 1))
                    if math.isclose(w[0] - 0.6 * w[1], leaf.value, abs_tol=1e-6)
                ]
                found[word[0]] += p
            law.append(found)
        apart.append(float((torch.stack(law) - tilted).abs().sum((1, 2)).mean() / 2))
    assert apart[1] < 0.6 * apart[0]


def test_the_back_up_is_the_soft_bellman_equation():
    for tree in grown(toy.GaussianMixture([[0.0, 0.0]], num_steps=3), smooth, 9, replicas=2):
        for node in [tree.root, *(node for level in tree.levels for node in level)]:
            if node.children:
                softs = torch.tensor([child.soft for child in node.children], dtype=torch.float64)
                expected = (torch.logsumexp(LAM * softs, 0) - math.log(len(softs))) / LAM
                assert math.isclose(node.soft, float(expected), rel_tol=1e-9)
                assert node.visits >= len(node.children)
                assert sum(child.visits for child in node.children) == node.visits
            else:
                assert tree.clean(node) and node.soft == node.value


# Independence.


@every_tree
@given(seed=SEEDS)
@few
def test_a_tree_does_not_depend_on_the_others(name, seed):
    method = TREES[name]
    together = run(method, ["a", "b", "c"], seed=seed, ids=["x", "y", "z"], chunks=dsearch.Chunks(3, 2, 2))
    for b, (prompt, key) in enumerate(zip("abc", "xyz", strict=True)):
        alone = run(method, [prompt], seed=seed, ids=[key])
        assert_identical(drawn(group(alone, 0)), drawn(group(together, b)))


def drawn(found):
    """Without what nobody asked the value of, which is nan and equals nothing."""
    return found | {"values": [None if v is None or v.isnan().all() else v.nan_to_num(7.0) for v in found["values"]]}


@every_tree
def test_the_lineage_is_a_tree_of_the_values(name):
    result = run(TREES[name], seed=3)
    path, parent = result.lineage.path(), result.lineage.parent
    for step in range(1, 6):
        above = parent[step].gather(1, path[..., step])
        assert torch.equal(above, path[..., step - 1])
    assert torch.equal(parent[0].gather(1, path[..., 0]), result.lineage.ancestor())
    assert torch.equal(result.trace[-1].values.gather(1, path[..., -1]), result.rewards)
    assert (result.lineage.ancestors() >= 1).all()


def test_more_runs_go_on_with_the_same_tree():
    """A tree of a larger budget begins as the smaller one."""
    small, large = (run(methods.dts_star(smooth, runs=n), seed=5) for n in (4, 9))
    for few_of, many in zip(small.trace, large.trace, strict=True):
        assert few_of.alive <= many.alive
    some = small.trace[-1].values
    assert torch.equal(large.trace[-1].values[:, : some.shape[1]], some)
    assert (large.rewards >= small.rewards).all()


@every_tree
@given(seed=SEEDS)
@few
def test_trees_of_other_processes_are_joined_as_if_grown_together(name, seed):
    method, ids = TREES[name], ["x", "y", "z"]
    together = run(method, ["a", "b", "c"], seed=seed, ids=ids)
    parts = [run(method, [p], seed=seed, ids=[i]) for p, i in zip("abc", ids, strict=True)]
    whole = distributed.joined(parts)
    for b in range(3):
        assert_identical(drawn(group(whole, b)), drawn(group(together, b)))
    for one, other in zip(whole.trace, together.trace, strict=True):
        assert one.alive == other.alive and (one.values is None) == (other.values is None)
        if one.values is not None:
            assert torch.equal(one.values.nan_to_num(7.0), other.values.nan_to_num(7.0))
    assert_identical(list(whole.lineage.parent), list(together.lineage.parent))


def test_thumbnails_of_joined_trees_stand_at_their_nodes():
    method = methods.dfs(bright, back=4, pass_rate=0.2)
    options = {"seed": 4, "watch": [dsearch.Thumbnails(4)]}
    model = Painted([[0.0, 0.0]], num_steps=5)
    together = dsearch.search(model, method, ["a", "b"], ids=["x", "y"], **options)
    parts = [dsearch.search(model, method, [p], ids=[i], **options) for p, i in (("a", "x"), ("b", "y"))]
    whole = distributed.joined(parts)
    assert [small is None for small in whole.thumbnails] == [small is None for small in together.thumbnails]
    for one, other in zip(whole.thumbnails, together.thumbnails, strict=True):
        assert one is None or torch.equal(one, other)


# On disk, in reports and in comparisons.


def test_a_run_of_trees_is_kept_reported_and_compared(tmp_path):
    names = {
        "DTS": Named("dts", {"runs": 5}),
        "DFS": Named("dfs", {"back": 3}),
        "bars": Named("threshold", {"width": 3}),
        "SVDD": Named("svdd", {"width": 3}),
    }
    experiment = Experiment(
        prompts=("a", "b", "c"),
        rewards={"bright": Named("given")},
        methods=names,
        models={"toy": Model("given")},
        seeds=(0, 1, 2),
        thumbnails=4,
    )
    given = {"toy": Painted([[0.0, 0.0]], num_steps=5), "bright": bright}
    kept = runs.run(experiment, tmp_path / "run", given=given)
    for unit in kept.units:
        trace, records = kept.trace(unit), kept.records_of(unit)
        alone = dsearch.search(
            given["toy"],
            getattr(methods, names[unit.method].kind)(bright, **names[unit.method].args),
            [experiment.prompts[p] for p in unit.positions],
            ids=unit.positions,
            seed=unit.seed,
        )
        assert [r["reward"] for r in records] == alone.rewards.flatten().tolist()
        assert [r["path"] for r in records] == alone.lineage.path().flatten(0, 1).tolist()
        assert (trace.parent is None) == (unit.method == "SVDD")
        if trace.parent is not None:
            assert_identical(trace.parent, list(alone.lineage.parent))
    page = report(kept, tmp_path / "page.html").read_text()
    assert len(re.findall(r'"parent":\s*\[\[', page)) == 27  # three methods, prompts and seeds
    for search in _data.searches(kept):
        said = _data.lineage(search)
        if said["parent"] is None:
            continue
        assert [len(parents) for parents in said["parent"]] == search.rows
        for image, path in enumerate(said["path"]):
            for step in range(4, 0, -1):
                assert said["parent"][step][path[step]] == path[step - 1]
            assert said["parent"][0][path[0]] == said["ancestor"][image]
    compare([kept], tmp_path / "comparison")
    assert "DTS" in (tmp_path / "comparison" / "table.md").read_text()


# What is refused.


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: methods.dts(smooth, runs=2, keep=3), "keep=3 exceeds runs=2"),
        (lambda: methods.dts(smooth, lam=0.0), "lam=0.0 must be above 0"),
        (lambda: methods.dts(smooth, spread=0.0), "spread=0.0 must be above 0"),
        (lambda: methods.dts(smooth, growth=1.5), "growth=1.5 is outside"),
        (lambda: methods.dts_star(smooth, explore=-1.0), "explore=-1.0 must be"),
        (lambda: methods.dts(smooth, runs=0), "runs is 0"),
        (lambda: methods.dfs(smooth, back=-1), "back is -1"),
        (lambda: methods.dfs(smooth, depth=0.0), "depth=0.0 is outside"),
        (lambda: methods.dfs(smooth, pass_rate=2.0), "pass_rate=2.0 is outside"),
        (lambda: methods.dfs(smooth, pilot=0), "pilot is 0"),
        (lambda: methods.dfs(smooth, bar=[0.0]).bill(6), "bar names 1 levels, but there are 5"),
        (lambda: methods.threshold(smooth, bar=[0.0]).bill(6), "bar names 1 levels, but there are 5"),
        (lambda: methods.threshold(smooth, bar="worst"), "bar='worst' is not known"),
        (lambda: methods.threshold(smooth, pass_rate=-1.0), "pass_rate=-1.0 is outside"),
        (lambda: methods.threshold(smooth, width=0), "width is 0"),
        (lambda: methods.dts(smooth).refined(), "decides as it goes"),
        (lambda: tree_plan(1, [1], []), "1 levels of nodes and 0 of values"),
        (lambda: tree_plan(1, [1, 1], [0], keep=2), "keep=2 exceeds the 1 images"),
    ],
)
def test_what_cannot_be_is_refused_where_it_is_made(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rng": KeyedRng(0, (0,)).under("mine").parts(1)}, "give seed and ids, not rng"),
        ({"watch": [dsearch.Target(0.0)]}, "takes no step with all its beams"),
        ({"share": SimpleNamespace(rank=0, size=2)}, "decides as it goes, which 2 processes cannot share"),
        ({"watch": [lambda step, beams: None]}, "takes no step with all its beams"),
        ({"watch": [dsearch.HeldOut({"r": smooth}, every=1)]}, "takes no step with all its beams"),
    ],
)
def test_what_a_tree_cannot_have_is_refused_before_anything_is_spent(options, says):
    reward = CountedReward(smooth)
    with pytest.raises(ValueError, match=says):
        run(methods.dts(reward), ["a"], **options)
    assert not reward.calls


def test_a_model_that_cannot_go_back_is_refused():
    class Forward(toy.GaussianMixture):
        renoise = property()

    with pytest.raises(TypeError, match="has no renoise"):
        run(methods.dfs(smooth), denoiser=Forward())


def test_held_out_rewards_and_thumbnails_see_trees():
    watch = [dsearch.HeldOut({"again": bright}), dsearch.Thumbnails(4)]
    method = methods.threshold(bright, width=3)
    result = dsearch.search(Painted([[0.0, 0.0]], num_steps=5), method, ["a", "b"], watch=watch)
    assert torch.equal(result.held_out["again"], result.rewards)
    for step, small in zip(result.trace, result.thumbnails, strict=True):
        assert (small is None) == (step.values is None)
        if small is not None:
            assert small.shape[:2] == step.values.shape
            assert not small[step.values == -math.inf].any()
    best = result.trace[-1].values.argmax(-1)
    shown = result.thumbnails[-1][torch.arange(2), best].float() / 255
    assert (shown - result.images[:, 0]).abs().max() < 0.003


# The pieces.


class Forgets(trees.Best):
    """Ends without an image."""

    def grow(self, tree):
        yield Draw(tree.root)


def test_a_program_without_an_image_is_a_fault():
    with pytest.raises(RuntimeError, match="ended with 0 images"):
        run(replace(methods.dts(smooth), program=Forgets()))


class Greedy(trees.Best):
    """Asks without end; the tree ends it."""

    def __init__(self):
        self.ended = 0

    def grow(self, tree):
        try:
            while True:
                yield from trees.descend(tree, tree.root)
        finally:
            self.ended += 1


def test_what_cannot_be_paid_ends_a_program():
    program = Greedy()
    result = run(replace(methods.dts(smooth, runs=3), program=program))
    assert program.ended == 2 and result.cost.bill == methods.dts(smooth, runs=3).bill(6)


class Several(trees.Best):
    """Asks several things at once."""

    def grow(self, tree):
        nodes = yield [Draw(tree.root, 2), Draw(tree.root)]
        assert [node.number for node in nodes] == [0, 1, 2] and all(node.parent is tree.root for node in nodes)
        below = yield [Draw(node) for node in nodes]
        one, two = yield [Value(below[:1]), Value(below[:2])][1:]
        assert not math.isnan(one.value) and not math.isnan(two.value) and math.isnan(below[2].value)
        again = yield Value(below)
        assert again == below and not math.isnan(below[2].value)
        (back,) = yield Noise(below[0], 0)
        assert back.level == 0 and back.parent is tree.root and back.number == 3
        yield from trees.descend(tree, below[0])


def test_requests_are_answered_in_order_and_values_are_asked_once():
    plan = replace(
        methods.dts(smooth, runs=4).plan, make=lambda size, steps: tree_plan(1, [4] * (steps + 1), [4] * steps)
    )
    result = run(replace(methods.dts(smooth, runs=4), program=Several(), plan=plan), ["a"])
    assert result.cost.bill == dsearch.Bill(3 + 3 + 1 + 4, 3 + 1, 3 + 1)


def test_a_value_of_another_shape_is_refused():
    def odd(children, level, engine):
        return children.x.sum()

    odd.cost = lambda level, num_steps: dsearch.Bill(0, 1, 1)
    with pytest.raises(ValueError, match=r"the value returned shape \(\) for candidates"):
        run(methods.threshold(smooth, value=odd))


def test_an_interruption_keeps_the_best_so_far():
    calls = []

    def stops(images, prompts):
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return smooth(images, prompts)

    with pytest.raises(dsearch.Interrupted) as stopped:
        run(methods.dts(stops, runs=9), ["a"])
    assert stopped.value.reached == 6 and stopped.value.beams.x.shape == (1, 1, 2)

    def breaks(images, prompts):
        calls.append(len(images))
        if len(calls) == 8:
            raise ConnectionError("no answer")
        return smooth(images, prompts)

    with pytest.raises(dsearch.RewardError) as broken:
        run(methods.dts(breaks, runs=9), ["a"])
    assert broken.value.beams.value.shape == (1, 1)

    def never(images, prompts):
        raise ConnectionError("no answer")

    with pytest.raises(dsearch.RewardError) as broken:
        run(methods.dts(never, runs=9), ["a"])
    assert broken.value.beams is None


def test_rows_draw_each_from_its_own_source():
    rng = KeyedRng(3, ("a",))
    rows = Rows([rng.under("one"), rng])
    both = rows.normal("noise", 2, (1, 4, 3))
    assert torch.equal(both[:, 2:], rng.normal("noise", 2, (1, 2, 3)))
    assert torch.equal(both[:, :2], rng.under("one").normal("noise", 2, (1, 2, 3)))
    u = rows.under("x").uniform("coin", 0, (1, 2))
    assert torch.equal(u[:, 1:], rng.under("x").uniform("coin", 0, (1, 1)))
    assert rows.categorical("pick", 0, torch.tensor([[0.0, -math.inf]]), 2).tolist() == [[0, 0]]
    with pytest.raises(ValueError, match="asked for 2 rows"):
        rows.normal("noise", 0, (1, 3))
    with pytest.raises(NotImplementedError):
        rows.parts(3)


@given(values=st.lists(st.floats(-9, 9), min_size=1, max_size=9), q=st.floats(0, 1))
def test_a_quantile_is_that_of_torch(values, q):
    expected = torch.quantile(torch.tensor(values, dtype=torch.float64), q)
    assert math.isclose(quantile(sorted(values), q), float(expected), abs_tol=1e-9)
    assert quantile([], q) == -math.inf


def test_nodes_know_their_forebears():
    plan = tree_plan(1, [9] * 4, [0] * 3)
    tree = Tree(plan, lambda level, num_steps: dsearch.Bill(), KeyedRng(0, (0,)))
    (start,), _ = tree.born(Draw(tree.root))
    (_, two), names = tree.born(Draw(start, 2))
    assert names == [("", 0), ("", 1)] and two.path() == [start, two] and two.at(0) is start and two.at(1) is two
    (three,), names = tree.born(Draw(start))
    assert names == [("", 2)] and three.number == 2
    (other,), _ = tree.born(Draw(tree.root))
    (below,), names = tree.born(Draw(other))
    assert names == [("turn 1", 0)] and below.number == 3
    assert tree.root.path() == [] and isinstance(tree.root, Node)
    assert tree.choose([0.0, -math.inf]) == 0 and tree.uniform() != tree.uniform()


def test_trees_are_the_same_twice():
    for method in TREES.values():
        one, other = run(method, seed=2), run(method, seed=2)
        assert_identical([one.images, one.rewards], [other.images, other.rewards])
        if all(step.values is None or not step.values.isnan().any() for step in one.trace):
            assert_same_result(one, other)
