"""From words to objects: the models, rewards and methods that experiments and the command line name."""

from __future__ import annotations

import inspect
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import adapters, methods
from .._optional import optional
from .._torchvision import mend
from .._weights import refuse_bombs
from ..adapters import StableDiffusion
from ..adapters.loaded import from_pipeline
from ..core import tuning, value
from ..core.budget import Budget, Prices, measure
from ..core.chunks import Chunks
from ..core.contract import Denoiser, Reward
from ..core.method import Method
from .experiment import Experiment, ExperimentError, Model, Named, Unit
from .reader import from_data
from .typed import bind, checked_device, is_attribute, refuse_bounds, refuse_types

__all__ = ["Pilot", "Workshop", "default_device", "denoiser", "method", "reward"]

LOADING = ("variant", "revision")
"""Arguments of a model that are diffusers' `from_pretrained`'s."""

COMPOSED = ("weighted", "constrained", "cached")
"""Rewards made of rewards, beside the classes that are."""

ALIASES = {"clip": "CLIPScore", "pickscore": "PickScore"}


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


def default_device() -> str:
    """The accelerator that torch sees ("cuda", "mps", "xpu", ...), else the CPU."""
    accelerator = getattr(torch, "accelerator", None)  # torch 2.6
    if accelerator is not None and accelerator.is_available():
        return str(accelerator.current_accelerator())
    return "cuda" if torch.cuda.is_available() else "cpu"


def unasked(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """The reward of methods that are planned and not run."""
    raise NotImplementedError


def denoiser(model: Model) -> Denoiser:
    """The model, loaded; its pipeline's class decides which adapter takes it.

    Raises:
        ValueError: for a device or a folder that is not there.
        TypeError: for a pipeline that no adapter takes, or an argument that its adapter does not have.
    """
    if is_attribute(model.pipeline):
        return _attribute(model.pipeline)(**model.args)
    check_model(model)
    device, boxed = model.device or default_device(), model.pipeline == "box"
    dtype = getattr(torch, dtype_of(model))
    args = {**({"guidance_scale": 2.5} if boxed else {}), **model.args}
    loading = {name: args.pop(name) for name in LOADING if name in args}
    with hush():
        pipe = _pipeline(model, boxed, dtype, loading).to(device)
        if model.preview is not None:
            args["preview"] = _preview(model, boxed, dtype, device)
    return from_pipeline(pipe, num_inference_steps=model.num_steps, **args)


def check_model(model: Model) -> None:
    """Refuses what of a model's words can be known to fail before it is loaded.

    Raises:
        ValueError: naming the word, its value and what would do.
    """
    if is_attribute(model.pipeline):
        return
    checked_device(model.device or default_device())
    folder = _folder(model)
    if folder is None and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model.pipeline):
        raise ValueError(f"no model folder {model.pipeline}; give a folder, a hub id or box")
    adapter = _adapter(folder)
    args = {name: value for name, value in model.args.items() if name not in LOADING}
    for name in set(LOADING) & set(model.args):
        if not isinstance(model.args[name], str):
            raise ValueError(f"{name}={model.args[name]!r} is not a text")
    if adapter is not None:
        bind(adapter, args, adapter.__name__, None)
    else:
        refuse_types(StableDiffusion, args)
    refuse_bounds(args)


def _folder(model: Model) -> Path | None:
    """The folder of a model, where it is one; None for a hub id."""
    from ..box import pipeline_path

    if model.pipeline == "box":
        return Path(pipeline_path())
    path = Path(model.pipeline).expanduser()
    return path if path.is_dir() else None


def _adapter(folder: Path | None) -> Any:
    """The adapter of the pipeline in a folder; None where it cannot be known, or takes what the pipeline takes."""
    try:
        name = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"] if folder else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    named = (getattr(adapters, one) for one in dir(adapters))
    return next((one for one in named if name in getattr(one, "pipelines", ())), None)


def _pipeline(model: Model, boxed: bool, dtype: torch.dtype, loading: Mapping[str, Any]) -> Any:
    with optional():
        from diffusers import DiffusionPipeline

    folder = _folder(model) or model.pipeline
    refuse_bombs(str(folder))
    kept = {"safety_checker": None, "requires_safety_checker": False}
    return DiffusionPipeline.from_pretrained(folder, torch_dtype=dtype, **kept, **loading)


def dtype_of(model: Model) -> str:
    """The precision of the model's networks."""
    device = model.device or default_device()
    return model.dtype or ("float16" if device.startswith("cuda") and model.pipeline != "box" else "float32")


def reward(named: Named, device: str | None = None) -> Reward:
    """A reward of the library by the name of its class, in any case ("clip" for CLIPScore), or `module:attribute`.

    With arguments, `module:attribute` is called with them and returns the reward; without, it is the reward. `path` of
    a CLIP may be "guide" or "judge": those in the box.

    Raises:
        ValueError: for a name or an argument that is not known.
    """
    args = dict(named.args)
    if is_attribute(named.kind):
        found = _attribute(named.kind)
        return found(**args) if args else found
    made = reward_class(named.kind)
    if parts := _parts(made, args):
        return _composed(made, args, {name: [reward(one, device) for one in held] for name, held in parts.items()})
    if made.__name__ == "CLIPScore" and args.get("path") in ("guide", "judge"):
        from ..box import clip_path

        args["path"] = clip_path(args["path"])
    if device is not None and "device" in inspect.signature(made).parameters:
        args.setdefault("device", device)
    bind(made, args, named.kind)
    with hush():
        return made(**args)


def reward_class(kind: str) -> Any:
    """The class of that name, whatever its case."""
    from .. import rewards

    known = {name.lower(): name for name in dir(rewards) if _is_reward(getattr(rewards, name), rewards.__name__)}
    known |= {name: name for name in COMPOSED}
    name = ALIASES.get(kind.lower()) or known.get(kind.lower())
    if name is None:
        near = get_close_matches(kind.lower(), [*ALIASES, *known], 1)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(sorted({*known, 'clip'}))}"
        raise ValueError(f"reward {kind!r} is not known; {hint} or module:attribute")
    return getattr(rewards, name)


def _is_reward(found: Any, package: str) -> bool:
    return inspect.isclass(found) and found.__module__.startswith(package) and not issubclass(found, Exception)


def _parts(made: Any, args: Mapping[str, Any]) -> dict[str, list[Named]]:
    """The rewards that a reward is made of, by argument.

    Raises:
        ValueError: for what names no reward.
    """
    found: dict[str, list[Named]] = {}
    for name in ("reward", "rewards", "at_least"):
        if name in inspect.signature(made).parameters and name in args:
            held = args[name]
            if name == "at_least":
                pairs = list(held.items()) if isinstance(held, Mapping) else held
                if not isinstance(pairs, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
                    raise ValueError(f"at_least={held!r} is not {{reward: bound}}, nor a list of [reward, bound]")
                held = [one for one, _ in pairs]
            many = [held] if name == "reward" else held
            if not isinstance(many, list | tuple):
                raise ValueError(f"{name}={held!r} is not a list of rewards")
            found[name] = [_named(one) for one in many]
    return found


def _named(given: Any) -> Named:
    """A reward within a reward: its kind, or a mapping with its arguments."""
    if isinstance(given, str):
        return Named(given)
    if isinstance(given, Mapping) and isinstance(given.get("kind"), str):
        return Named(given["kind"], {name: value for name, value in given.items() if name != "kind"})
    raise ValueError(f"{given!r} names no reward; give its name, or a mapping with `kind: NAME`")


def _composed(made: Any, args: Mapping[str, Any], parts: Mapping[str, list[Any]]) -> Any:
    """A reward of rewards, these made already."""
    own = dict(args)
    positional = parts.get("rewards", ())
    own.pop("rewards", None)
    if "reward" in parts:
        own["reward"] = parts["reward"][0]
    if "at_least" in parts:
        held = args["at_least"]
        bounds = held.values() if isinstance(held, Mapping) else [bound for _, bound in held]
        own["at_least"] = list(zip(parts["at_least"], bounds, strict=True))
    return made(*positional, **own)


def check_reward(named: Named) -> None:
    """Refuses what of a reward's words can be known to fail before it is made.

    Raises:
        ValueError: naming the word, its value and what would do.
    """
    if is_attribute(named.kind):
        _attribute(named.kind)
        return
    made, args = reward_class(named.kind), dict(named.args)
    parts = _parts(made, args)
    for one in (one for held in parts.values() for one in held):
        check_reward(one)
    args.update({"reward": parts["reward"][0]} if "reward" in parts else {})
    if "at_least" in parts:
        args["at_least"] = parts["at_least"]
    if "rewards" in parts:
        del args["rewards"]
    bind(made, args, named.kind, *parts.get("rewards", ()))
    if parts:  # what is made of rewards loads nothing itself, and knows its own bounds
        _composed(made, named.args, {name: [unasked] * len(held) for name, held in parts.items()})
    if isinstance(args.get("device"), str):
        checked_device(args["device"])


def method(named: Named, of: Reward, pilot: Pilot = UNKNOWN) -> Method:
    """A method of the library, or `module:attribute`, for a reward.

    Its `value` names one of `dsearch.core.value`; an argument that is `pilot` is what the pilot calls by its name, and
    `{per_std: x}` is x over the pilot's standard deviation.

    Raises:
        ValueError: for a method, an argument or a size that cannot be.
    """
    if is_attribute(named.kind):
        make = _attribute(named.kind)
    elif named.kind in methods.__all__:
        make = getattr(methods, named.kind)
    else:
        near = get_close_matches(named.kind, methods.__all__, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose {', '.join(sorted(methods.__all__))}"
        raise ValueError(f"method {named.kind!r} is not known; {hint} or module:attribute")
    args = {name: _argument(name, given, pilot) for name, given in named.args.items()}
    bind(make, args, named.kind, of)
    return make(of, **args)


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
            self._at(("methods", name), partial(method, named, unasked))
        for name, model in experiment.models.items():
            if model.pipeline == "given":
                self._at(("models", name), partial(self._is_given, name))
            else:
                self._at(("models", name), partial(check_model, model))
            steps = self.given[name].num_steps if model.pipeline == "given" else model.num_steps
            if steps is None:
                continue
            for b, key in dict.fromkeys((b, key) for of, _, b, key, _ in experiment.cells() if of == name):
                limits, made = experiment.budgets[b], method(experiment.methods[key], unasked)
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
        named, device = self.experiment.rewards[name], self.experiment.models[model].device
        if named.kind == "given":
            return self.given[name]
        key = name, device or default_device()
        if key not in self._rewards:
            self._rewards[key] = self._at(("rewards", name), lambda: reward(named, key[1]))
        return self._rewards[key]

    def method(self, unit: Unit, prices: Prices | None, pilot: Pilot = UNKNOWN) -> Method:
        """The method of a unit, sized to its budget."""
        made = method(self.experiment.methods[unit.method], self.reward(unit.objective, unit.model), pilot)
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
        made.plan(steps)
        return made

    def _known(self, name: str, named: Named) -> None:
        if named.kind == "given":
            self._is_given(name)
        else:
            check_reward(named)

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


def _attribute(name: str) -> Any:
    """What `module:attribute` names; a module in the current folder is found, as `python -m` would."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return getattr(import_module(module), attribute)
    except (AttributeError, ImportError) as error:
        raise ValueError(f"{name}: {error}") from error
    except Exception as error:  # a module of the user's own
        raise ValueError(f"{name}: {module} raised {type(error).__name__}: {error}") from error


def _preview(model: Model, boxed: bool, dtype: torch.dtype, device: str) -> Any:
    if (model.preview == "box") != boxed:
        raise ValueError(f"preview {model.preview} does not read the latents of {model.pipeline}; give its own")
    from diffusers import AutoencoderTiny

    from ..box import preview_path

    folder = preview_path() if boxed else model.preview
    refuse_bombs(str(folder))
    try:
        preview, info = AutoencoderTiny.from_pretrained(folder, torch_dtype=dtype, output_loading_info=True)
    except Exception as error:  # of any kind: what is parsed may be any bytes
        raise ValueError(f"preview {folder} is no AutoencoderTiny that could be read ({error})") from error
    if info["missing_keys"]:  # diffusers would fill them with random numbers
        raise ValueError(
            f"preview {folder} is no whole AutoencoderTiny: it lacks {sorted(info['missing_keys'])[:3]} ..."
        )
    return preview.to(device)


@contextmanager
def hush() -> Iterator[None]:
    """Silences model libraries within (logs, FutureWarnings, progress bars); afterwards they talk as before."""
    mend()
    with optional():
        import diffusers
        import transformers
    logs = [library.utils.logging for library in (transformers, diffusers)]
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        try:
            yield
        finally:
            for log, verbosity, bar in before:
                log.set_verbosity(verbosity)
                if bar:
                    log.enable_progress_bar()
