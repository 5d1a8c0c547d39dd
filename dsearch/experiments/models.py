"""The models that experiments and the command line name, and what can be known of them before they are loaded."""

from __future__ import annotations

from typing import Any

import torch

from .._weights import refuse_bombs
from ..adapters import StableDiffusion
from ..adapters.loaded import adapter_for, call_of, from_pipeline, options_of, refuse_unknown
from ..adapters.pipeline import OURS
from ..core.contract import Denoiser
from . import pictures
from .experiment import Model
from .loading import LOADING, check_loading, default_device, device_of, dtype_of, kind_of, loaded
from .naming import attribute
from .quiet import hush
from .typed import is_attribute, refuse_bounds, refuse_types

__all__ = ["check_call", "check_model", "default_device", "denoiser", "device_of", "dtype_of"]

OWN = {**OURS, "num_inference_steps": "say `steps` beside the pipeline", "generator": "seeds name a search's noise"}
"""What an experiment says elsewhere than in a model's call."""


def denoiser(model: Model) -> Denoiser:
    """The model, loaded; its pipeline's class decides which adapter takes it.

    Raises:
        ValueError: for a device or a folder that is not there.
        TypeError: for a pipeline that no adapter takes, or an argument that its adapter does not have.
    """
    if is_attribute(model.pipeline):
        return attribute(model.pipeline)(**model.args)
    check_model(model)
    for name in model.call:
        check_call(model, name)
    boxed = model.pipeline == "box"
    args = {**({"guidance_scale": 2.5} if boxed else {}), **model.args}
    args = {name: value for name, value in args.items() if name not in LOADING}
    with hush():
        pipe = loaded(model)
        if model.preview is not None:
            args["preview"] = _preview(model, boxed, pipe.dtype, device_of(model))
    call = {name: pictures.opened(value) for name, value in model.call.items()}
    if boxed and "guidance_scale" in call:
        args.pop("guidance_scale")
    return from_pipeline(pipe, num_inference_steps=model.num_inference_steps, **args, **call)


def check_model(model: Model) -> None:
    """Refuses what of a model's words can be known to fail before it is loaded.

    Raises:
        TypeError: for an argument that its adapter does not have.
        ValueError: naming the word, its value and what would do.
    """
    if is_attribute(model.pipeline):
        return
    check_loading(model)
    args = {name: value for name, value in model.args.items() if name not in LOADING}
    kind = kind_of(model) if args else None
    adapter = StableDiffusion if kind is None else adapter_for(kind, args)
    if kind is not None:
        refuse_unknown(adapter.__name__, args, options_of(adapter, kind))
    refuse_types(adapter, args)
    refuse_bounds(args)


def check_call(model: Model, name: str) -> None:
    """Refuses what of an argument of a model's call can be known to fail before it is loaded.

    Raises:
        TypeError: for an argument that the pipeline does not have.
        ValueError: naming the argument, its value and what would do.
    """
    if is_attribute(model.pipeline):
        raise ValueError(f"{model.pipeline} is called with what stands beside it, and there is no pipeline to call")
    if name in OWN:
        raise ValueError(f"{name} is no part of a call here; {OWN[name]}")
    if name in model.args:
        raise ValueError(f"{name} stands beside the pipeline, too; say it once")
    value = {name: model.call[name]}
    if (kind := kind_of(model)) is not None:
        refuse_unknown(kind.__name__, value, call_of(kind))
        refuse_types(kind.__call__, value)
    refuse_bounds(value)


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
