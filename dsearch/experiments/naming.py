"""The rewards that experiments and the command line name, and what `module:attribute` names."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ..core.contract import Reward
from .experiment import Named
from .quiet import hush
from .typed import bind, checked_device, is_attribute

__all__ = ["as_named", "attribute", "check_reward", "reward", "reward_class", "unasked"]

COMPOSED = ("weighted", "constrained", "cached", "ensemble", "per_frame", "on_pil")
"""Functions that make rewards, beside the classes that are rewards."""

ALIASES = {"clip": "CLIPScore", "pickscore": "PickScore"}


def unasked(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """The reward of methods that are planned and not run."""
    raise NotImplementedError


def reward(named: Named, device: str | None = None) -> Reward:
    """A reward of the library by the name of its class, in any case ("clip" for CLIPScore), or `module:attribute`.

    With arguments, `module:attribute` is called with them and returns the reward; without, it is the reward. `path` of
    a CLIP may be "guide" or "judge": those in the box.

    Raises:
        ValueError: for a name or an argument that is not known.
    """
    args = dict(named.args)
    if is_attribute(named.kind):
        found = attribute(named.kind)
        return found(**args) if args else found
    made = reward_class(named.kind)
    _call(made, args)
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


def _call(made: Any, args: dict[str, Any]) -> None:
    """Puts the callable that `score` names, as `module:attribute`, in its place."""
    if "score" in inspect.signature(made).parameters and "score" in args:
        name = args["score"]
        if not isinstance(name, str) or not is_attribute(name):
            raise ValueError(f"score={name!r} is no module:attribute")
        args["score"] = attribute(name)


def _parts(made: Any, args: Mapping[str, Any]) -> dict[str, list[Named]]:
    """The rewards that a reward is made of, by argument.

    Raises:
        ValueError: for what names no reward.
    """
    found: dict[str, list[Named]] = {}
    for name in ("reward", "rewards", "members", "at_least"):
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
            found[name] = [as_named(one) for one in many]
    return found


def as_named(given: Any) -> Named:
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
    if "members" in parts:
        own["members"] = parts["members"]
        if isinstance(own.get("reference"), str):
            own["reference"] = _pictures(own["reference"])
    if "at_least" in parts:
        held = args["at_least"]
        bounds = held.values() if isinstance(held, Mapping) else [bound for _, bound in held]
        own["at_least"] = list(zip(parts["at_least"], bounds, strict=True))
    return made(*positional, **own)


def _run(folder: str) -> Any:
    """The run whose pictures are a reference."""
    from .folder import Run

    if not Path(folder, "run.json").is_file():
        raise ValueError(f"reference={folder!r} is no run; give the folder of one, of plain samples for instance")
    return Run.open(folder)


def _pictures(folder: str) -> tuple[torch.Tensor, list[str]]:
    """The pictures of a run, and their prompts."""
    from ..plots import from_png

    run = _run(folder)
    files = [(file, record["prompt"]) for record in run.records() if (file := run.image(record)) is not None]
    if not files:
        raise ValueError(f"reference={folder!r} has no pictures yet; finish that run first")
    return torch.stack([from_png(file) for file, _ in files]), [prompt for _, prompt in files]


def check_reward(named: Named) -> None:
    """Refuses what of a reward's words can be known to fail before it is made.

    Raises:
        ValueError: naming the word, its value and what would do.
    """
    if is_attribute(named.kind):
        attribute(named.kind)
        return
    made, args = reward_class(named.kind), dict(named.args)
    _call(made, args)
    parts = _parts(made, args)
    for one in (one for held in parts.values() for one in held):
        check_reward(one)
    args.update({"reward": parts["reward"][0]} if "reward" in parts else {})
    args.update({"members": parts["members"]} if "members" in parts else {})
    own = dict(named.args)
    if "members" in parts and isinstance(args.get("reference"), str):
        _run(args["reference"])
        own["reference"] = args["reference"] = [[0.0, 1.0]] * len(parts["members"])  # until they are asked
    if "at_least" in parts:
        args["at_least"] = parts["at_least"]
    if "rewards" in parts:
        del args["rewards"]
    bind(made, args, named.kind, *parts.get("rewards", ()))
    if parts:  # what is made of rewards loads nothing itself, and knows its own bounds
        _composed(made, own, {name: [unasked] * len(held) for name, held in parts.items()})
    if isinstance(args.get("device"), str):
        checked_device(args["device"])


def attribute(name: str) -> Any:
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
