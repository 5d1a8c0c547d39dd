"""What an experiment is: models, prompts, rewards, methods, budgets and seeds, as plain data.

Nothing here loads a model or imports one: `reader` reads it from YAML, `build` makes objects of these words, and `runs`
runs them.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from . import pictures
from .typed import is_attribute, short

__all__ = ["Experiment", "ExperimentError", "Model", "Named", "Unit", "described"]

Path_ = tuple[Any, ...]

SEEDS = 10_000
"""The most seeds that a number stands for."""

AXES = ("models", "objectives", "methods", "budgets", "seeds")
"""What an experiment, or each of its sweeps, crosses with one another and with the prompts."""

SHORTENING = ("strength", "denoising_start", "denoising_end", "timesteps", "sigmas")
"""Arguments of a call by which a pipeline takes another number of steps than it is asked for."""

PILOT = {"samples": 16, "prompts": 4, "seed": 10_000}
"""The pilot that is run where an experiment does not say another."""


class ExperimentError(ValueError):
    """An experiment that cannot be run: where (the file and line, where there is one), what, and what to do."""


class Named(NamedTuple):
    """A reward or a method by name, and its arguments.

    Attributes:
        kind: its name in the library, or `module:attribute`.
        args: keyword arguments.
    """

    kind: str
    args: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Model:
    """A model and how it samples.

    Attributes:
        pipeline: "box", a folder of a diffusers pipeline, a checkpoint in one `.safetensors` file, a hub id (which is
            downloaded), or `module:attribute`, which is called with `args` and returns a denoiser.
        steps: denoising steps; None for 20 of the box and 50 of others. Not for `module:attribute`.
        dtype: of the networks: float32, float16 or bfloat16; "auto" for that of the weights' files; None for float16 on
            a GPU (not the box) and else float32.
        device: None and "auto" for the accelerator that is there (cuda, mps, xpu), else the CPU.
        preview: a folder or hub id of an `AutoencoderTiny` for values, or "box"; None for none.
        args: further arguments of the adapter: guidance_scale, eta, height, width, negative_prompt; and how it is
            loaded: `variant`, `revision`, `class`, `config`, `lora`, `offload`, `compile`.
        call: what the pipeline's own call is given, the prompt apart; where an image belongs, the name of its file,
            which is looked for in the current folder (in YAML, beside the experiment).

    Raises:
        ValueError: for a file that is not there, or is no image.
    """

    pipeline: str = "box"
    steps: int | None = None
    dtype: str | None = None
    device: str | None = None
    preview: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    call: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = {name: pictures.named(name, value, Path()) for name, value in self.call.items()}
        object.__setattr__(self, "call", found)

    def as_dict(self) -> dict[str, Any]:
        """As a YAML file would say it, images by the name and the SHA-256 of their files."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("args", "call")}
        call = {name: pictures.plain(value) for name, value in self.call.items()}
        return {**own, **self.args, **({"call": call} if call else {})}

    @property
    def num_inference_steps(self) -> int | None:
        """What the pipeline is asked for; None where `module:attribute` settles it."""
        if is_attribute(self.pipeline):
            return None
        return self.steps or (20 if self.pipeline == "box" else 50)

    @property
    def num_steps(self) -> int | None:
        """Denoising steps, where they are known before the model is made."""
        return None if any(name in self.call for name in SHORTENING) else self.num_inference_steps


class Unit(NamedTuple):
    """One search of an experiment: what is finished whole or not at all.

    Attributes:
        index: its place in the experiment, from 0.
        model, objective, method: names in the experiment.
        budget: index among its budgets.
        seed: of the search.
        positions: of its prompts among all prompts; they are the prompts' ids, so that batches do not change the noise.
        name: index and hash: a file name.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which no one misses
    model: str
    objective: str
    method: str
    budget: int
    seed: int
    positions: tuple[int, ...]
    name: str


@dataclass(frozen=True)
class Experiment:
    """Every method under every objective at every budget for every seed, over all prompts, on every model.

    With `sweeps`, each of them does so for its own methods, objectives, budgets, seeds and models. What a sweep does
    not name it takes from the experiment, whose fields then become what all sweeps together name.

    Attributes:
        prompts: a group each.
        rewards: by name.
        methods: by name.
        models: by name; the model in the box by default.
        objectives: names of the rewards that steer, each in searches of its own; the first reward by default.
        held_out: names of the rewards that watch all searches; by default all that do not steer.
        budgets: limits per prompt by unit (model_calls, decodes, reward_calls, seconds), to which every method is
            sized; an empty one takes methods as they are given.
        seeds: repetitions.
        sweeps: parts that are crossed each on its own: names of models, objectives and methods, budgets, and seeds.
        pilot: plain samples from which methods take what they measure: samples per prompt, prompts (the first so many)
            and seed.
        batch: prompts of one search; None for all. It decides what is lost when a run is killed, and, on networks, how
            numbers are rounded.
        chunks: network, decoder and reward: the most rows at once, as `dsearch.Chunks` takes them.
        thumbnails: pixels of the pictures to keep of all candidates at all steps, for the report; 0 keeps none.
        prices: seconds a model_call, decode and reward_call, for budgets in seconds; None measures them once.
        where: lines of the file by path, for errors.

    Raises:
        ExperimentError: naming the place, the value and what would do.
    """

    prompts: tuple[str, ...]
    rewards: Mapping[str, Named]
    methods: Mapping[str, Named]
    models: Mapping[str, Model] = field(default_factory=lambda: {"box": Model()})
    objectives: tuple[str, ...] = ()
    held_out: tuple[str, ...] | None = None
    budgets: tuple[Mapping[str, float], ...] = ({},)
    seeds: tuple[int, ...] = (0,)
    sweeps: tuple[Mapping[str, tuple[Any, ...]], ...] = ()
    pilot: Mapping[str, int] = field(default_factory=lambda: PILOT)
    batch: int | None = None
    chunks: Mapping[str, int] = field(default_factory=dict)
    thumbnails: int = 0
    prices: Mapping[str, float] | None = None
    where: Callable[[Path_], str] = field(default=lambda path: "", compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("prompts", "rewards", "methods", "models", "budgets", "seeds"):
            if not getattr(self, name):
                self.refuse((name,), f"{name}: none given; give at least one")
        prompts: tuple[Any, ...] = self.prompts
        for i, prompt in enumerate(prompts):
            if not isinstance(prompt, str):
                self.refuse(("prompts", i), f"prompts: {prompt!r} is not a string; put it in quotes")
            if any("\ud800" <= letter <= "\udfff" for letter in prompt):
                self.refuse(("prompts", i), f"prompts: {prompt!r} is half a character; write it as UTF-8")
        set_ = object.__setattr__
        set_(self, "objectives", tuple(self.objectives) or (next(iter(self.rewards)),))
        set_(self, "pilot", {**PILOT, **self.pilot})
        for name in ("objectives", "held_out", "budgets", "seeds"):
            self._refuse_twice((name,), getattr(self, name) or ())
        self._cross()
        if self.held_out is None:
            set_(self, "held_out", tuple(name for name in self.rewards if name not in self.objectives))
        for name in ("objectives", "held_out"):
            for i, reward in enumerate(getattr(self, name)):
                if reward not in self.rewards:
                    self.refuse((name, i), f"{name}: no reward is called {reward!r}{near(reward, self.rewards)}")

    def _cross(self) -> None:
        """Fills the sweeps up from the experiment, and the experiment's own axes from the sweeps."""
        if not self.sweeps:
            return
        known = {"models": self.models, "objectives": self.rewards, "methods": self.methods}
        own = {axis: tuple(getattr(self, axis)) for axis in AXES}
        for i, sweep in enumerate(self.sweeps):
            for axis, given in sweep.items():
                self._refuse_twice(("sweeps", i, axis), given)
            for axis, names in known.items():
                for j, name in enumerate(sweep.get(axis, ())):
                    if name not in names:
                        self.refuse(("sweeps", i, axis, j), f"sweeps.{i}.{axis}: none is {name!r}{near(name, names)}")
        object.__setattr__(
            self, "sweeps", tuple({axis: tuple(s.get(axis) or own[axis]) for axis in AXES} for s in self.sweeps)
        )
        for name in self.methods:
            if all(name not in sweep["methods"] for sweep in self.sweeps):
                self.refuse(("methods", name), f"methods.{name}: no sweep runs it; name it in one, or take it out")
        for axis in ("objectives", "budgets", "seeds"):
            named = [thing for sweep in self.sweeps for thing in sweep[axis]]
            object.__setattr__(self, axis, tuple(t for i, t in enumerate(named) if t not in named[:i]))

    def _refuse_twice(self, path: Path_, given: Sequence[Any]) -> None:
        if (at := _twice(given)) is not None:
            place = ".".join(map(str, (*path, at)))
            self.refuse((*path, at), f"{place}: {short(given[at])} stands twice; it would be run twice")

    def refuse(self, path: Path_, message: str) -> NoReturn:
        """Raises an ExperimentError that points at the line of a part."""
        raise ExperimentError(self.where(path) + message)

    def as_dict(self) -> dict[str, Any]:
        """The configuration with all defaults, as JSON says it: what identifies a run."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "where"}
        found["models"] = {name: model.as_dict() for name, model in self.models.items()}
        for name in ("rewards", "methods"):
            found[name] = {key: {"kind": one.kind, **one.args} for key, one in found[name].items()}
        return json.loads(json.dumps(found, default=_refuse_objects))

    def under(self, *objectives: str) -> Experiment:
        """The part of it that some of its objectives steer, with the methods of that part alone."""
        sweeps = self.sweeps or ({axis: tuple(getattr(self, axis)) for axis in AXES},)
        kept = [{**sweep, "objectives": tuple(g for g in sweep["objectives"] if g in objectives)} for sweep in sweeps]
        kept = [sweep for sweep in kept if sweep["objectives"]]
        methods = {name: self.methods[name] for name in self.methods if any(name in sweep["methods"] for sweep in kept)}
        return dataclasses.replace(
            self, objectives=objectives, methods=methods, sweeps=tuple(kept) if self.sweeps else ()
        )

    def held_out_from(self, objective: str) -> tuple[str, ...]:
        """The rewards that watch where `objective` steers."""
        return tuple(name for name in self.held_out or () if name != objective)

    def units(self) -> list[Unit]:
        """All searches, in the order in which they are run and written down."""
        return list(self._units())

    def _units(self) -> Iterator[Unit]:
        config, n = self.as_dict(), len(self.prompts)
        size = n if self.batch is None else self.batch
        parts = -(-n // size)
        batches = [tuple(range(n * i // parts, n * (i + 1) // parts)) for i in range(parts)]
        for index, (cell, positions) in enumerate(product(self.cells(), batches)):
            model, objective, budget, method, seed = cell
            watch = {name: config["rewards"][name] for name in self.held_out_from(objective)}
            key = [config["models"][model], config["rewards"][objective], watch, config["budgets"][budget]]
            key += [config["methods"][method], seed, [(p, self.prompts[p]) for p in positions]]
            key += [self.chunks, self.thumbnails]
            if isinstance(judge := _judge(self.methods[method]), str) and judge in config["rewards"]:
                key.append(config["rewards"][judge])
            if asks_pilot(self.methods[method]):
                key.append(self.pilot)
            text = json.dumps(key, sort_keys=True).encode()
            name = f"{index:06}-{hashlib.sha256(text).hexdigest()[:12]}"
            yield Unit(index, model, objective, method, budget, seed, positions, name)

    def cells(self) -> list[tuple[str, str, int, str, int]]:
        """What is searched: model, objective, index of the budget, method and seed, each once, model after model."""
        if not self.sweeps:
            budgets = range(len(self.budgets))
            return list(product(self.models, self.objectives, budgets, self.methods, self.seeds))
        cells: dict[tuple[str, str, int, str, int], None] = {}
        for sweep in self.sweeps:
            budgets_ = [self.budgets.index(limits) for limits in sweep["budgets"]]
            axes = sweep["models"], sweep["objectives"], budgets_, sweep["methods"], sweep["seeds"]
            cells |= dict.fromkeys(product(*axes))
        return sorted(cells, key=lambda cell: list(self.models).index(cell[0]))


def described(limits: Mapping[str, float]) -> str:
    """A budget in words."""
    return ", ".join(f"{limit:,} {unit.replace('_', ' ')}" for unit, limit in limits.items()) or "as given"


def asks_pilot(named: Named) -> bool:
    """Whether a method takes an argument from the pilot."""
    return any(given == "pilot" or (isinstance(given, Mapping) and "per_std" in given) for given in named.args.values())


def _judge(named: Named) -> Any:
    """What a method's final choice names as its judge."""
    said = named.args.get("final")
    return said.get("judge") if isinstance(said, Mapping) else said


def near(word: Any, known: Iterable[str]) -> str:
    """The end of an error: what may have been meant, or what there is."""
    close = difflib.get_close_matches(str(word), list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _twice(given: Sequence[Any]) -> int | None:
    """Where a thing stands that stands before already."""
    seen: set[Any] = set()
    for i, one in enumerate(given):
        key = tuple(sorted(one.items())) if isinstance(one, Mapping) else one
        if key in seen:
            return i
        seen.add(key)
    return None


def _refuse_objects(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise ExperimentError(
        f"{short(value)} is no plain data, so it cannot be written down; name it as 'module:attribute', or hand it to "
        "run(..., given={...}) under its name"
    )
