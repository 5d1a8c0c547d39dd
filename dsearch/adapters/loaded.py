"""From a loaded pipeline of diffusers to the adapter that searches it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .. import adapters
from ..core.contract import Denoiser
from ._kernel import steps_itself

__all__ = ["from_pipeline"]


def from_pipeline(pipe: Any, **options: Any) -> Denoiser:
    """The denoiser of a loaded pipeline: the adapter of the nearest class it derives from, or else `AnyPipeline`.

    It is `AnyPipeline`, too, where an option is of the pipeline's own call and not of that adapter, as
    `guidance_rescale` is of a StableDiffusionPipeline, or its scheduler is one that `StableDiffusion` refuses.

        denoiser = dsearch.adapters.from_pipeline(pipe, num_inference_steps=30, guidance_scale=5.0)

    is `StableDiffusion(pipe, num_inference_steps=30, guidance_scale=5.0)` for a `StableDiffusionPipeline`, and for most
    others `AnyPipeline(pipe, ...)`. A subclass of your own of one that has an adapter is searched as the class it
    derives from: a `__call__` of its own is not run.

    Args:
        pipe: the pipeline, loaded and on its device; it is not changed.
        **options: of the adapter: `num_inference_steps`, and what else its class documents, or of the pipeline's call.

    Raises:
        TypeError: for a name or a class in the place of a loaded pipeline, a class that no adapter takes, or an option
            that the adapter does not have.
        ValueError: for an option of a value that cannot work.
    """
    adapter = adapter_for(pipe, options)
    refuse_unknown(adapter.__name__, options, options_of(adapter, pipe))
    return adapter(pipe, **options)


def adapter_of(pipe: Any) -> Any:
    """The adapter class that takes this pipeline."""
    if isinstance(pipe, str | Path):
        raise TypeError(
            f"{str(pipe)!r} names a model; load it first: diffusers.DiffusionPipeline.from_pretrained({str(pipe)!r})"
        )
    if isinstance(pipe, type):
        load = f"{pipe.__name__}.from_pretrained(...)" if hasattr(pipe, "from_pretrained") else f"{pipe.__name__}(...)"
        raise TypeError(f"{pipe.__name__} is a class; pass an instance of it: {load}")
    if found := _adapter_of(type(pipe)):
        return found
    if _is_pipeline(pipe):
        return adapters.AnyPipeline
    raise TypeError(
        f"no adapter takes a {type(pipe).__name__}; give a pipeline of diffusers. Any object with the methods of "
        "dsearch.Denoiser can be searched, too"
    )


def adapter_for(pipe: Any, options: Iterable[str]) -> Any:
    """The adapter class that takes this pipeline, or its class, with these options."""
    adapter = adapter_of(pipe) if not isinstance(pipe, type) else _adapter_of(pipe) or adapters.AnyPipeline
    scheduler = getattr(pipe, "scheduler", None)
    if adapter is adapters.StableDiffusion and hasattr(scheduler, "config") and not steps_itself(scheduler):
        return adapters.AnyPipeline
    missing = set(options) - set(options_of(adapter, pipe))
    takes = missing and _is_pipeline(pipe) and missing <= set(call_of(pipe))
    return adapters.AnyPipeline if takes else adapter


def _adapter_of(kind: type) -> Any:
    """The adapter of the nearest class that has one of its own; None for none."""
    known = taken()
    return next((known[base.__name__] for base in kind.__mro__ if base.__name__ in known), None)


def _is_pipeline(pipe: Any) -> bool:
    kind = pipe if isinstance(pipe, type) else type(pipe)
    return any(base.__name__ == "DiffusionPipeline" for base in kind.__mro__)


def call_of(pipe: Any) -> list[str]:
    """What the call of a pipeline, or of its class, takes."""
    kind: Any = pipe if isinstance(pipe, type) else type(pipe)
    return [name for name in inspect.signature(kind.__call__).parameters if name != "self"]


def taken() -> dict[str, Any]:
    """The adapter class of each class of pipelines that has one of its own, by its name."""
    found: dict[str, Any] = {}
    for name in dir(adapters):
        for pipeline in getattr(getattr(adapters, name), "pipelines", ()):
            found.setdefault(pipeline, getattr(adapters, name))
    return found


def options_of(adapter: Any, pipe: Any) -> list[str]:
    """What an adapter takes beside its pipeline; one for any pipeline takes what the pipeline's own call does."""
    known = inspect.signature(adapter).parameters
    own = [name for name, one in known.items() if one.kind is not one.VAR_KEYWORD][1:]
    return own if len(own) == len(known) - 1 else [*own, *call_of(pipe)]


def refuse_unknown(owner: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises TypeError for the first name that is not known, with the nearest that is."""
    known = list(known)
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}? It" if near else "it"
            raise TypeError(f"{owner} has no option {name!r}; {hint} takes {', '.join(known)}")
