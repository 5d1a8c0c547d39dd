"""A program that uses the library as its documentation says; `mypy --strict` and Python both take it.

`make lint` checks it with the rest, and `test_dist.py` beside an installed wheel, where no configuration helps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import dsearch
from dsearch import Bill, Budget, Choice, Denoiser, Method, Plan, Prediction, Reward, Rng, Scores, plans, potential
from dsearch.adapters import GaussianMixture
from dsearch.rewards.combine import weighted
from dsearch.values import posterior_mean


def height(images: Tensor, prompts: list[str]) -> Tensor:
    """A reward is any such function."""
    return images[:, 0]


class Near:
    """A reward may be an object, too."""

    def __init__(self, centre: float) -> None:
        self.centre = centre

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return -(images[:, 0] - self.centre).abs()


def median_child(scores: Scores, keep: int, rng: Rng) -> Choice:
    """A selector: the median child of each beam."""
    siblings = scores.value.view(len(scores.value), -1, scores.width)
    index = siblings.median(dim=-1).indices + scores.width * torch.arange(siblings.shape[1])
    return Choice(index, scores.log_w.gather(1, index))


def median(reward: Reward, width: int = 3) -> Method:
    """A method is a plan and three functions."""

    def plan(num_steps: int) -> Plan:
        return plans.uniform_plan(num_steps, 1, width)

    return Method(plan, reward, posterior_mean, potential.none, median_child, name="median")


class Walk:
    """A denoiser is whatever has these seven; here each step adds noise, and the posterior mean is where it stands."""

    num_steps = 4

    def encode(self, prompts: list[str]) -> None:
        """Prompts change nothing."""

    def start(self, lead: tuple[int, int], rng: Rng) -> Tensor:
        """One normal a beam."""
        return rng.normal("start", 0, (*lead, 1))

    def noise(self, step: int, lead: tuple[int, int, int], rng: Rng) -> Tensor:
        """One normal a child."""
        return rng.normal("noise", step, (*lead, 1))

    def predict(self, x: Tensor, step: int, cond: Any, prompt: Tensor) -> Prediction:
        """No network is asked."""
        return Prediction(None, x)

    def step(self, x: Tensor, pred: Prediction, step: int, noise: Tensor) -> Tensor:
        """The walk's."""
        return x + noise

    def decode(self, x0: Tensor) -> Tensor:
        """The samples themselves."""
        return x0


def main() -> None:
    """Searches of both models, with rewards and methods of the library and of one's own."""
    reward: Reward = weighted(height, Near(2.0), weights=[1.0, 0.5])
    models: list[Denoiser] = [Walk(), GaussianMixture(num_steps=4)]
    for model in models:
        for method in (median(reward), dsearch.methods.svdd(reward, width=4).within(Budget(model_calls=13), 4)):
            result = dsearch.search(model, method, ["a", "b"], seed=1, watch=[dsearch.HeldOut({"height": height})])
            spent: Bill = result.cost.bill
            best: Tensor = result.rewards[:, 0]
            assert spent == result.cost.planned and best.shape == (2,) and result.held_out["height"].shape == (2, 1)
    print(f"dsearch {dsearch.__version__}: {len(models)} models searched")


if __name__ == "__main__":
    main()
