"""A pipeline that searches: for scripts that call their pipeline, and go on calling it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch

from .adapters.pipeline import AnyPipeline
from .core.method import Method
from .entry import search
from .result import Result

__all__ = ["searching"]

_COUNTS = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt")


def searching(pipe: Any, method: Method, *, eta: float = 1.0, preview: Any = None, **options: Any) -> Any:
    """A copy of a diffusers pipeline whose call returns what the pipeline returns, found by a search.

        pipe = dsearch.searching(pipe, method)
        image = pipe("a red dog", num_inference_steps=30).images[0]
        pipe.result.rewards

    It is of a subclass of the pipeline's class and shares its components, so that all else that a pipeline can do works
    as before. The call's generator names the seed of the search; without one a seed is drawn from torch's. As many
    images of each prompt as the call asks for are returned, the best first; the method must end with so many.

    Args:
        pipe: the pipeline, as for `dsearch.adapters.AnyPipeline`.
        method: for instance `dsearch.methods.svdd(reward, width=4)`.
        eta: noise of the kernel, as for `AnyPipeline`.
        preview: a cheap decoder for the values of a search, likewise.
        **options: others of `dsearch.search`.

    Returns:
        The pipeline; after a call, its `result` is the `Result` of the search: rewards, bill, trace, lineage.

    Raises:
        TypeError: for a pipeline that `AnyPipeline` does not understand, in its call.
    """
    kind, found = type(pipe), copy.copy(pipe)
    own = type(kind.__name__, (_Searching, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})
    object.__setattr__(found, "__class__", own)
    object.__setattr__(found, "_search", (kind, method, {"eta": eta, "preview": preview}, options))
    object.__setattr__(found, "result", None)
    return found


class _Searching:
    """The call of a pipeline that searches."""

    result: Result | None
    _search: tuple[type, Method, dict[str, Any], dict[str, Any]]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kind, method, settings, options = self._search
        pipe = copy.copy(self)
        object.__setattr__(pipe, "__class__", kind)
        call = inspect.signature(kind.__call__).bind(pipe, *args, **kwargs).arguments
        call = {name: value for name, value in list(call.items())[1:]}
        prompt, generator = call.pop("prompt", None), call.get("generator")
        prompts: Sequence[str] = [prompt or ""] if prompt is None or isinstance(prompt, str) else list(prompt)
        count = next((call.pop(name) for name in _COUNTS if name in call), 1) or 1
        returned: dict[str, Any] = {name: call.pop(name) for name in ("output_type", "return_dict") if name in call}
        if isinstance(generator, list | tuple):
            raise TypeError("give one generator: the noise of a search is keyed by it and the prompt's place")
        drawn = torch.randint(2**62, (), device="cpu") if generator is None else None
        seed = int(drawn) if drawn is not None else generator.initial_seed()  # type: ignore[union-attr]
        denoiser = AnyPipeline(pipe, **settings, **call)
        result = search(denoiser, method, prompts, **{"seed": seed, **options})
        object.__setattr__(self, "result", result)
        if result.latents.shape[1] < count:
            raise ValueError(
                f"{count} images of each prompt are asked for, and {method.name} ends with {result.latents.shape[1]}; "
                "let the method keep more"
            )
        defaults = inspect.signature(kind.__call__).parameters
        asked = [name for name in ("output_type", "return_dict") if name in defaults]
        told = {name: returned.get(name, defaults[name].default) for name in asked}
        return denoiser.output(result.latents[:, :count].flatten(0, 1), **told)
