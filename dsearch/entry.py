"""`dsearch.search`: a model or a loaded pipeline, a method and prompts -> what was found."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from . import _memory, methods
from ._optional import optional
from .adapters.loaded import adapter_for, adapter_of, options_of, refuse_unknown
from .core.chunks import Chunks
from .core.contract import Denoiser, Rng
from .core.engine import Share
from .core.loop import Watch
from .core.loop import search as search_denoiser
from .core.method import Method
from .core.tournament import Tournament
from .result import Result

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

__all__ = ["search"]

DENOISER = ("num_steps", "encode", "start", "noise", "predict", "step", "decode")
"""What makes an object a `Denoiser`."""


def search(
    model: Denoiser | DiffusionPipeline,
    method: Method,
    prompts: str | Sequence[str],
    *,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    ids: Sequence[Hashable] | None = None,
    rng: Rng | None = None,
    chunks: Chunks = Chunks(),  # noqa: B008  # frozen
    watch: Sequence[Watch] = (),
    progress: bool | Callable[..., Any] = False,
    share: Share | None = None,
    final: Tournament | None = None,
    **model_options: Any,
) -> Result:
    """Sample every prompt with the method and return the survivors, best first.

        result = dsearch.search(pipe, dsearch.methods.svdd(reward), ["cat"], num_inference_steps=50)

    It is `dsearch.core.loop.search`, which documents the options from `seed` to `final`, for pipelines too.

    Args:
        model: a loaded pipeline of diffusers, or a `Denoiser`: an adapter of `dsearch.adapters`, or one of your own.
        method: what a function of `dsearch.methods` returns.
        prompts: one, or several.
        num_inference_steps: denoising steps, for a pipeline; by default its adapter's.
        guidance_scale: for a pipeline, likewise.
        **model_options: others of the pipeline's adapter (`eta`, `negative_prompt`, `height`, ...), which
            `dsearch.adapters.from_pipeline` is handed.

    Raises:
        TypeError: for a model, a method or prompts of another kind, and for options that are not known, or that a
            `Denoiser` has settled already.
        ValueError, RewardError, ModelError: as `dsearch.core.loop.search`.
    """
    given = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    model_options.update((name, value) for name, value in given.items() if value is not None)
    if isinstance(model, Method):
        raise TypeError("the model comes before the method: search(model, method, prompts)")
    _check_method(method)
    prompts = _checked_prompts(prompts)
    if progress is True:
        with optional():
            import tqdm  # noqa: F401
    denoiser = _denoiser(model, model_options)
    _memory.begin()
    found = search_denoiser(
        denoiser,
        method,
        prompts,
        seed=seed,
        ids=ids,
        rng=rng,
        chunks=chunks,
        watch=watch,
        progress=progress,
        share=share,
        final=final,
    )
    return Result.of(replace(found, peak_bytes=_memory.peak(found.latents)))


def _denoiser(model: Any, options: Mapping[str, Any]) -> Denoiser:
    """The model itself where it is a denoiser, else its adapter, made with the options."""
    parameters = inspect.signature(search).parameters.values()
    named = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    missing = [name for name in DENOISER if not hasattr(model, name)]
    kind = type(model).__name__
    if isinstance(model, type) or "predict" in missing:
        adapter = adapter_of(model) if isinstance(model, type) else adapter_for(model, options)
        refuse_unknown("search", options, dict.fromkeys([*named, *options_of(adapter, model)]))
        return adapter(model, **options)
    if missing:
        raise TypeError(f"{kind} lacks {', '.join(missing)}; a dsearch.Denoiser has {', '.join(DENOISER)}")
    for name in options:
        if name not in named and get_close_matches(name, named, 1):
            refuse_unknown("search", [name], named)
        raise TypeError(f"{name} is for a pipeline, and {kind} is a denoiser already; give {name} where {kind} is made")
    return model


def _check_method(method: Any) -> None:
    """Refuses what is not a method, and a class in the place of its reward."""
    if isinstance(method, Method):
        if isinstance(method.reward, type):
            reward = method.reward.__name__
            raise TypeError(f"{reward} is a class; a method is made with an instance: {method.name}({reward}(...))")
        return
    if isinstance(method, str):
        near = method if method in methods.__all__ else "svdd"
        raise TypeError(f"{method!r} is a string; make the method with a reward: dsearch.methods.{near}(reward)")
    name = getattr(method, "__name__", type(method).__name__)
    if isinstance(method, type):
        raise TypeError(f"{name} is a class; make the method with an instance: dsearch.methods.svdd({name}(...))")
    if not callable(method):
        raise TypeError(f"a {name} is no method; make one with a reward: dsearch.methods.svdd(reward)")
    if next(iter(inspect.signature(method).parameters), "") == "reward":
        raise TypeError(f"{name} is a function that makes a method; call it with a reward: {name}(reward)")
    raise TypeError(f"{name} is no method; if it is a reward, make one with it: dsearch.methods.svdd({name})")


def _checked_prompts(prompts: Any) -> list[str]:
    """The prompts in a list; refuses what is no string."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise TypeError(f"prompts is of type {type(prompts).__name__}; give a string, or a list of strings")
    prompts = list(prompts)
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"prompt {prompt!r} is not a string; give a string, or a list of strings")
    return prompts
