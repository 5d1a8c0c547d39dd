"""The learned value: on toys its closed form is known, and the bill and the refusals are exact."""

import pytest
import torch
from strategies import Counted, CountedReward, assert_same_result, smooth

import dsearch
from dsearch.adapters import toy
from dsearch.core import value
from dsearch.values.network import Trajectories, ValueNetwork, collect, fit

TOY = toy.GaussianMixture([[-1.0, 0.5], [1.0, 0.0]], [0.5, 0.9], num_steps=5, shift={"b": 1.0})
HILL = toy.Quadratic([0.5, -0.2], 0.8)


def lengths(prompts):
    return torch.tensor([[float(len(p))] for p in prompts])


@pytest.fixture(scope="module")
def runs():
    return collect(TOY, {"hill": HILL, "smooth": smooth}, ["a", "bb"], 30, batch=7, seed=3)


def test_runs_are_those_of_plain_sampling_in_the_order_of_their_rewards(runs):
    assert runs.x.shape == runs.x0.shape == (60, 4, 2) and runs.num_steps == 5
    assert sorted(set(runs.prompts)) == ["a", "bb"] and runs.prompts.count("a") == 30
    again = collect(TOY, {"hill": HILL}, ["a", "bb"], 30, batch=7, seed=3)
    assert torch.equal(runs.x, again.x) and torch.equal(runs.rewards["hill"], again.rewards["hill"])


def test_every_run_keeps_its_own_reward_and_posterior_means(runs):
    """The last level kept lies near its end, and x0 is the model's prediction for x."""
    for name, reward in (("hill", HILL), ("smooth", smooth)):
        near = reward(runs.x0[:, -1].float(), runs.prompts)
        assert torch.corrcoef(torch.stack([near.float(), runs.rewards[name]]))[0, 1] > 0.8
    cond = TOY.encode(["a", "bb"])
    prompt = torch.tensor([["a", "bb"].index(p) for p in runs.prompts])
    for level in range(1, 5):
        x0 = TOY.predict(runs.x[:, level - 1].float(), level, cond, prompt).x0
        assert torch.allclose(x0, runs.x0[:, level - 1].float(), atol=0.01)  # float16 kept


def test_collecting_costs_plain_runs_whatever_the_rewards():
    model = Counted(TOY)
    collect(model, {"hill": HILL, "smooth": smooth}, ["a", "bb"], 10, batch=4)
    assert (model.model_calls, model.decodes) == (10 * 2 * 5, 10 * 2)


def test_runs_survive_a_file_and_split_without_loss(runs, tmp_path):
    runs.save(tmp_path / "runs.safetensors")
    back = Trajectories.load(tmp_path / "runs.safetensors")
    assert torch.equal(back.x, runs.x) and torch.equal(back.x0, runs.x0) and back.prompts == runs.prompts
    assert back.rewards.keys() == runs.rewards.keys()
    some, rest = runs.split(0.25, seed=1)
    assert (len(some.prompts), len(rest.prompts)) == (45, 15)
    joined = torch.cat([some.rewards["hill"], rest.rewards["hill"]])
    assert torch.equal(joined.sort().values, runs.rewards["hill"].sort().values)


@pytest.mark.parametrize("sees", ["x", "x0"])
def test_a_network_learns_the_closed_form_value(sees):
    model = toy.GaussianMixture([[0.5]], 0.8, num_steps=4)
    reward = toy.Quadratic([1.0], 0.5)
    runs = collect(model, {"hill": reward}, [""], 2000, batch=2000, chunks=dsearch.Chunks(network=None))
    network = ValueNetwork.like(runs, sees=sees, width=16)
    looks = fit(network, runs, "hill", steps=300, batch=256, rate=1e-2)
    assert looks[-1].error < looks[0].error and looks[-1].step == 300
    g = torch.Generator().manual_seed(0)
    for level in (1, 2, 3):
        a = model.alpha[level]
        x = torch.randn(400, 1, generator=g) * (a * 0.64 + 1 - a) ** 0.5 + a**0.5 * 0.5
        exact = model.value(x, level, reward)
        shown = x if sees == "x" else model.predict(x, level, model.encode([""]), torch.zeros(400).long()).x0
        with torch.no_grad():
            error = (network(shown, level, [""] * 400) - exact).square().mean().sqrt()
        assert error < 0.25 * exact.std() + 0.03


def test_a_network_told_the_prompt_tells_prompts_apart(runs):
    network = ValueNetwork.like(runs, embed=lengths, width=8)
    fit(network, runs, "hill", steps=5)
    x = torch.zeros(2, 2)
    one, other = network(x, 2, ["a", "bbb"]).tolist()
    assert one != other and one == pytest.approx(network(x[:1], 2, ["a"]).item(), abs=1e-5)


def test_the_weights_kept_are_those_that_were_best_on_runs_held_out():
    """Rewards that have nothing to do with the samples: what is learned is by heart, and worse than nothing."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 4, 2, generator=g)
    runs = Trajectories(x, x, ["a"] * 40, {"noise": torch.randn(40, generator=g)})
    network = ValueNetwork.like(runs, width=16)
    looks = fit(network, runs, "noise", steps=200, batch=64, rate=1e-2)
    best = min(look.held_out for look in looks)
    assert looks[-1].error < 0.8 < 1 < looks[-1].held_out and best < looks[-1].held_out
    _, watched = runs.split(0.1, 0)
    with torch.no_grad():
        said = torch.stack([network(watched.x[:, t - 1], t, ["a"] * 4) for t in range(1, 5)], dim=1)
    error = ((said - watched.rewards["noise"][:, None]) / network.std).square().mean()
    assert error.item() == pytest.approx(best, rel=1e-4)


def test_training_draws_from_its_seed_alone(runs):
    state = torch.get_rng_state()
    networks = [ValueNetwork.like(runs, width=8, seed=seed) for seed in (0, 0, 1)]
    for network in networks:
        fit(network, runs, "smooth", steps=3)
    assert torch.equal(state, torch.get_rng_state())
    a, b, c = (network.leave[1].weight for network in networks)
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_a_network_survives_a_file(runs, tmp_path):
    network = ValueNetwork.like(runs, embed=lengths, width=8, sees="x0")
    fit(network, runs, "hill", steps=3)
    network.save(tmp_path / "v.safetensors")
    back = ValueNetwork.load(tmp_path / "v.safetensors", embed=lengths)
    x = runs.x[:5, 1].float()
    assert torch.equal(network(x, 2, ["a"] * 5), back(x, 2, ["a"] * 5)) and back.sees == "x0"
    with pytest.raises(ValueError, match="give both, or neither"):
        ValueNetwork.load(tmp_path / "v.safetensors")
    runs.save(tmp_path / "runs.safetensors")
    with pytest.raises(ValueError, match=r"runs\.safetensors holds no value network"):
        ValueNetwork.load(tmp_path / "runs.safetensors")


@pytest.mark.parametrize("shape", [(3,), (3, 5), (3, 7, 4), (3, 1, 1)])
def test_samples_of_any_shape_give_a_number_each(shape):
    network = ValueNetwork(3, 6, width=8).eval()
    x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    said = network(x, 2, [""] * 4)
    assert said.shape == (4,) and torch.allclose(said[1:2], network(x[1:2], 2, [""]), atol=1e-5)
    assert not torch.equal(said, network(x, 3, [""] * 4))


def test_a_search_with_a_learned_value_spends_its_bill_and_decodes_the_end_alone(runs):
    network = ValueNetwork.like(runs, width=8)
    fit(network, runs, "smooth", steps=3)
    model, reward = Counted(TOY), CountedReward(smooth)
    method = dsearch.methods.svdd(reward, width=3, beams=2, value=value.learned(network))
    result = dsearch.search(model, method, ["a", "bb"])
    assert result.cost.bill == result.cost.planned == dsearch.Bill(2 + 6 * 4, 2, 6 * 4 + 2)
    assert (model.model_calls, model.decodes, reward.calls) == (52, 4, 4)


@pytest.mark.parametrize("sees", ["x", "x0"])
def test_a_learned_value_sees_what_it_asks_for(sees):
    """A network that is the reward, of the posterior mean, is the posterior mean's value."""
    seen = []

    def network(x, step, prompts):
        seen.append((step, x))
        return smooth(x, prompts)

    one = dsearch.search(TOY, dsearch.methods.svdd(smooth, width=3, value=value.learned(network, sees)), ["a"])
    other = dsearch.search(TOY, dsearch.methods.svdd(smooth, width=3), ["a"])
    assert [step for step, _ in seen] == [1, 2, 3, 4]
    if sees == "x0":
        assert_same_result(one, other)
    else:
        assert torch.equal(one.trace[0].values[0], smooth(seen[0][1], [""] * 3))


def test_what_does_not_fit_is_refused(runs):
    network = ValueNetwork.like(runs, width=8)
    with pytest.raises(ValueError, match="the runs have no reward 'x'; they have hill, smooth"):
        fit(network, runs, "x")
    with pytest.raises(ValueError, match="runs of 5 steps cannot train a network of 9"):
        fit(ValueNetwork(2, 9, width=8), runs, "hill")
    method = dsearch.methods.svdd(smooth, width=2, value=value.learned(network))
    with pytest.raises(ValueError, match="the value network knows 5 steps, but the model takes 6"):
        dsearch.search(toy.example(), method, ["a"])
    with pytest.raises(ValueError, match="sees='y' is not known; choose one of x, x0"):
        value.learned(network, "y")
    with pytest.raises(ValueError, match=r"9 runs, held_out=0\.1: take 10 or more"):
        fit(network, runs.take(torch.arange(9)), "hill")
    with pytest.raises(ValueError, match="no rewards"):
        collect(TOY, {}, ["a"])


def test_a_network_that_returns_nan_is_named_with_its_step():
    def network(x, step, prompts):
        return x[:, 0].fill_(torch.nan if step == 2 else 0.0)

    with pytest.raises(dsearch.RewardError, match="nan"):
        dsearch.search(TOY, dsearch.methods.svdd(smooth, width=2, value=value.learned(network)), ["a"])
