"""RBF: rollover budget forcing (Kim et al. 2025, arXiv 2503.19385)."""

from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from ..core import potential, selection
from ..core.contract import Beams, Memory, Reward, Scores, Step
from ..core.engine import Engine
from ..core.expand import expand, step_done
from ..core.method import Method, Sized, Value
from ..core.plan import Plan, uniform_plan
from ..core.steps import children, scores_of, valued, where
from ..core.value import posterior_mean
from ..core.watch import Watching

__all__ = ["rbf"]


def rbf(reward: Reward, width: int = 4, beams: int = 1, *, value: Value = posterior_mean) -> Method:
    """Rollover budget: a beam draws children one by one until one is better than it was itself.

    What is then left of the step's `width` is carried forward, so that later steps may draw more; where no child is
    better, the best goes on. At the first step, where the parent was never valued, one child is enough. The run spends
    at most its bill. Children come one after another by definition, beams and prompts side by side, so a run takes
    longer than the bill of a method that draws them at once. The last, clean step takes one child.

    Args:
        reward: `(images, prompts) -> [N]`.
        width: children per beam and step on average, at most.
        beams: independent samples per prompt.
        value: how a child's final reward is estimated.
    """

    def plan(width: int, num_steps: int) -> Plan:
        return uniform_plan(num_steps, beams, width)

    return Method(
        plan=Sized(plan, width),
        reward=reward,
        value=value,
        potential=Rollover(),
        select=selection.best_child,
        name="rbf",
        expand=one_by_one,
    ).checked()


class Rollover(potential.NoPotential):
    """No weights; what is remembered of each beam is how many draws it has left over."""

    def initial(self, batch_shape: tuple[int, int], device: torch.device) -> Memory:
        """None yet, `[B, K]`."""
        return torch.zeros(batch_shape, dtype=torch.long, device=device)


def one_by_one(
    engine: Engine, method: Method, plan: Plan, i: int, beams: Beams, watching: Watching, stop: Tensor | None
) -> tuple[Beams, Step, Tensor | None]:
    """Step i: one child after another of every beam, until one improves on its parent or the draws are spent.

    Beams that are done wait without cost for the others; groups that `stop [B]` draw one child per beam.
    """
    if not plan.score[i] or plan.reached[i] == plan.num_steps:
        return expand(engine, method, plan, i, beams, watching, stop)
    # No beam draws more than all widths so far, less the one child that each earlier step took at least.
    reach = 1 + sum(w - 1 for w, scored in zip(plan.width[: i + 1], plan.score, strict=False) if scored)
    left = beams.memory + plan.width[i]
    draws = left if stop is None else torch.where(stop[:, None], 1, left)
    batch_shape, best, rng = beams.prompt_index.shape, beams, engine.rng
    values = torch.full((*batch_shape, reach), -torch.inf, dtype=beams.value.dtype, device=left.device)
    done = torch.zeros(batch_shape, dtype=torch.bool, device=left.device)
    for j in range(reach):
        drawing = (draws > j) & ~done
        if not drawing.any():
            break
        with engine.drawing(rng.under(f"draw {j}")):
            child = children(engine, beams, plan.levels[i], 1, drawing)
        number = torch.arange(batch_shape[1], device=left.device) * reach + j
        child = replace(child, child=number.expand(batch_shape))
        value = valued(engine, method, child, plan.reached[i], watching)
        values = values.to(value.dtype)
        better = drawing & (value > values.amax(dim=-1)) if j else drawing
        values[..., j] = torch.where(drawing, value, -torch.inf)
        best = where(better, replace(child, value=value), best)
        left = left - drawing.long()
        done = done | (drawing & improved(scores_of(engine, child, value, plan.reached[i], 1)))
    survivors = replace(best, kl=torch.full_like(best.kl, torch.nan), memory=left)
    values = rearrange(values, "b k j -> b (k j)")
    return survivors, replace(step_done(plan, i, values), width=reach), None


def improved(scores: Scores) -> Tensor:
    """`[B, N]`: the child is better than its parent, or its parent was never valued."""
    return (scores.value > scores.parent) | scores.parent.isnan()


def example(reward: Reward) -> Method:
    """A small instance for the law suite."""
    return rbf(reward, width=3, beams=2)
