"""From words to objects: the models, rewards and methods that experiments and the command line name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

from .. import methods
from ..core import tuning, value
from ..core.budget import Budget, Prices, measure
from ..core.chunks import Chunks
from ..core.contract import Denoiser, Reward
from ..core.method import Method
from ..core.tournament import by_reward
from .experiment import Experiment, ExperimentError, Named, Unit
from .finals import final, judge_of, unjudged
from .models import check_call, check_model, default_device, denoiser, device_of
from .naming import as_named, attribute, check_reward, reward, unasked
from .reader import from_data
from .typed import bind, is_attribute

__all__ = ["Pilot", "Workshop", "default_device", "denoiser", "method", "reward", "unasked"]


class Pilot(NamedTuple):
    """What plain samples, apart from those that are compared, say of a model under a objective.

    Attributes:
        std: standard deviation of the rewards of one prompt's samples, the mean over the prompts.
        gain: what one standard deviation among siblings is worth, for each step but the last (`dsearch.pilot`).
    """

    std: float
    gain: list[float]


UNKNOWN = Pilot(1.0, [1.0])
"""Stands in until a pilot is run, so that methods can be made and refused."""


def method(named: Named, of: Reward, pilot: Pilot = UNKNOWN, judge: Callable[[Any], Any] = unjudged) -> Method:
    """A method of the library, or `module:attribute`, for a reward.

    Its `value` names one of `dsearch.core.value`; an argument that is `pilot` is what the pilot calls by its name, and
    `{per_std: x}` is x over the pilot's standard deviation. `final` says how its survivors are ranked, and `judge`
    makes the judge of it.

    Raises:
        ValueError: for a method, an argument or a size that cannot be.
    """
    if is_attribute(named.kind):
        make = attribute(named.kind)
    elif named.kind in methods.__all__:
        make = getattr(methods, named.kind)
    else:
        near = get_close_matches(named.kind, methods.__all__, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(sorted(methods.__all__))}"
        raise ValueError(f"method {named.kind!r} is not known; {hint} or module:attribute")
    args = {name: _argument(name, given, pilot) for name, given in named.args.items() if name != "final"}
    bind(make, args, named.kind, of)
    made = make(of, **args)
    said = named.args.get("final")
    return made if said is None else replace(made, final=final(said, judge))


class Workshop:
    """Makes what an experiment names, each once and not before it is needed; one model at a time is held.

    Args:
        experiment: what is named.
        given: objects for what the experiment calls `given`, by name: rewards, or models.
    """

    def __init__(self, experiment: Experiment, given: Mapping[str, Any] | None = None) -> None:
        self.experiment, self.given = experiment, dict(given or {})
        self._rewards: dict[tuple[str, str | None], Reward] = {}
        self._model: tuple[str, Denoiser] | None = None

    def check(self, prices: Prices | None = None) -> None:
        """Refuses what cannot be made or sized, before anything is loaded, pointing at the line.

        Raises:
            ExperimentError: for the first thing that is wrong.
        """
        experiment = self.experiment
        from_data(experiment.as_dict())  # what Python says is held to what YAML may say
        for name, named in experiment.rewards.items():
            self._at(("rewards", name), partial(self._known, name, named))
        for name, named in experiment.methods.items():
            self._at(("methods", name), partial(method, named, unasked, judge=self._unjudged))
        for name, model in experiment.models.items():
            if model.pipeline == "given":
                self._at(("models", name), partial(self._is_given, name))
            else:
                self._at(("models", name), partial(check_model, model))
                for argument in model.call:
                    self._at(("models", name, "call", argument), partial(check_call, model, argument))
            steps = self.given[name].num_steps if model.pipeline == "given" else model.num_steps
            if steps is None:
                continue
            for b, key in dict.fromkeys((b, key) for of, _, b, key, _ in experiment.cells() if of == name):
                limits, made = experiment.budgets[b], method(experiment.methods[key], unasked, judge=self._unjudged)
                if "seconds" not in limits or prices is not None:
                    path = ("budgets", b) if limits else ("methods", key)
                    self._at(path, partial(self._sized, made, b, steps, prices))

    def model(self, name: str) -> Denoiser:
        """The model of that name, loaded."""
        if self._model is None or self._model[0] != name:
            self._model = None  # two would not fit
            given = self.experiment.models[name]
            made = (
                self.given[name] if given.pipeline == "given" else self._at(("models", name), lambda: denoiser(given))
            )
            self._model = name, made
        return self._model[1]

    def reward(self, name: str, model: str) -> Reward:
        """The reward of that name, on the device of a model."""
        named, device = self.experiment.rewards[name], device_of(self.experiment.models[model])
        if named.kind == "given":
            return self.given[name]
        key = name, device
        if key not in self._rewards:
            self._rewards[key] = self._at(("rewards", name), lambda: reward(named, key[1]))
        return self._rewards[key]

    def method(self, unit: Unit, prices: Prices | None, pilot: Pilot = UNKNOWN) -> Method:
        """The method of a unit, sized to its budget."""
        reward = self.reward(unit.objective, unit.model)
        made = method(self.experiment.methods[unit.method], reward, pilot, partial(self._judge, unit.model))
        steps = self.model(unit.model).num_steps
        return self._at(("budgets", unit.budget), lambda: self._sized(made, unit.budget, steps, prices))

    def prices(self, model: str, objective: str) -> Prices:
        """What a row, a decode and a reward take here: the experiment's own prices, or measured ones."""
        if self.experiment.prices is not None:
            return Prices(**self.experiment.prices)
        rows = self.experiment.chunks.get("network", 16)
        return measure(self.model(model), self.reward(objective, model), self.experiment.prompts[:rows], rows=rows)

    def pilot(self, model: str, objective: str) -> Pilot:
        """Plain samples of the first prompts, looked at."""
        samples, prompts, seed = (self.experiment.pilot[name] for name in ("samples", "prompts", "seed"))
        texts, chunks = self.experiment.prompts[:prompts], Chunks(**dict[str, Any](self.experiment.chunks))
        made = tuning.pilot(self.model(model), self.reward(objective, model), texts, samples, seed=seed, chunks=chunks)
        return Pilot(float(made.values[..., -1].double().std(dim=1).mean()), made.gain)

    def _sized(self, made: Method, budget: int, steps: int, prices: Prices | None) -> Method:
        limits: dict[str, Any] = dict(self.experiment.budgets[budget])
        if limits:
            made = made.within(Budget(**limits, prices=prices if "seconds" in limits else None), steps)
        made.refuse_final(made.plan(steps), len(self.experiment.prompts))
        return made

    def _known(self, name: str, named: Named) -> None:
        if named.kind == "given":
            self._is_given(name)
        else:
            check_reward(named)

    def _judge(self, model: str, said: Any) -> Any:
        """The judge of a final choice: a reward of the experiment by its name, or another in words."""
        if isinstance(said, str) and said in self.experiment.rewards:
            return judge_of(self.reward(said, model))
        return judge_of(reward(as_named(said), self.experiment.models[model].device or default_device()))

    def _unjudged(self, said: Any) -> Any:
        return by_reward(unasked) if isinstance(said, str) and said in self.experiment.rewards else unjudged(said)

    def _is_given(self, name: str) -> None:
        if name not in self.given:
            raise ValueError(f"no object was given for it; run(..., given={{{name!r}: ...}})")

    def _at(self, path: tuple[Any, ...], work: Callable[[], Any]) -> Any:
        try:
            return work()
        except ExperimentError:
            raise
        except Exception as error:  # of any kind: it is a user's module, or a library that reads a user's file
            known = isinstance(error, ValueError | TypeError | OSError | ImportError | RuntimeError)
            said = f"{'' if known else f'{type(error).__name__}: '}{error}"
            raise ExperimentError(f"{self.experiment.where(path)}{'.'.join(map(str, path))}: {said}") from error


def _argument(name: str, given: Any, pilot: Pilot) -> Any:
    """What a method is given where an experiment says `given`."""
    if name == "value":
        return _value(given)
    if given == "pilot":
        if name not in pilot._fields:
            raise ValueError(f"{name}: a pilot measures {' and '.join(pilot._fields)}, not {name}")
        return getattr(pilot, name)
    if isinstance(given, Mapping) and "per_std" in given:
        if set(given) != {"per_std"} or not isinstance(given["per_std"], int | float):
            raise ValueError(f"{name}: {dict(given)} is not {{per_std: NUMBER}}")
        return given["per_std"] / pilot.std
    return given


def _value(given: Any) -> Any:
    """`posterior_mean`, or `{lookahead: {steps: 3}}`, as `dsearch.core.value` has them."""
    if hasattr(given, "cost"):  # an object of its own
        return given
    name, args = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else (given, {})
    if name not in ("posterior_mean", "lookahead") or not isinstance(args, Mapping):
        raise ValueError(
            f"value {given!r} is not known; choose posterior_mean, or lookahead: {{steps: K, rollouts: M}}"
        )
    if name == "posterior_mean":
        return value.posterior_mean
    bind(value.lookahead, args, "lookahead")
    return value.lookahead(**args)
