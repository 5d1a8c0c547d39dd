"""The models that experiments and the command line name, and what can be known of them before they are loaded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .._optional import optional
from .._weights import refuse_bombs
from ..adapters import StableDiffusion
from ..adapters.loaded import adapter_for, call_of, from_pipeline, options_of, refuse_unknown
from ..adapters.pipeline import OURS
from ..core.contract import Denoiser
from . import pictures
from .experiment import Model
from .naming import attribute
from .quiet import hush
from .typed import checked_device, is_attribute, refuse_bounds, refuse_types

__all__ = ["check_call", "check_model", "default_device", "denoiser", "dtype_of"]

LOADING = ("variant", "revision")
"""Arguments of a model that are diffusers' `from_pretrained`'s."""

OWN = {**OURS, "num_inference_steps": "say `steps` beside the pipeline", "generator": "seeds name a search's noise"}
"""What an experiment says elsewhere than in a model's call."""


def default_device() -> str:
    """The accelerator that torch sees ("cuda", "mps", "xpu", ...), else the CPU."""
    accelerator = getattr(torch, "accelerator", None)  # torch 2.6
    if accelerator is not None and accelerator.is_available():
        return str(accelerator.current_accelerator())
    return "cuda" if torch.cuda.is_available() else "cpu"


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
    device, boxed = model.device or default_device(), model.pipeline == "box"
    dtype = getattr(torch, dtype_of(model))
    args = {**({"guidance_scale": 2.5} if boxed else {}), **model.args}
    loading = {name: args.pop(name) for name in LOADING if name in args}
    with hush():
        pipe = _pipeline(model, boxed, dtype, loading).to(device)
        if model.preview is not None:
            args["preview"] = _preview(model, boxed, dtype, device)
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
    checked_device(model.device or default_device())
    folder = _folder(model)
    if folder is None and not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", model.pipeline):
        raise ValueError(f"no model folder {model.pipeline}; give a folder, a hub id or box")
    args = {name: value for name, value in model.args.items() if name not in LOADING}
    for name in set(LOADING) & set(model.args):
        if not isinstance(model.args[name], str):
            raise ValueError(f"{name}={model.args[name]!r} is not a text")
    kind = _kind(folder) if args else None
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
    if (kind := _kind(_folder(model))) is not None:
        refuse_unknown(kind.__name__, value, call_of(kind))
        refuse_types(kind.__call__, value)
    refuse_bounds(value)


def _folder(model: Model) -> Path | None:
    """The folder of a model, where it is one; None for a hub id."""
    from ..box import pipeline_path

    if model.pipeline == "box":
        return Path(pipeline_path())
    path = Path(model.pipeline).expanduser()
    return path if path.is_dir() else None


def _kind(folder: Path | None) -> Any:
    """The class of the pipeline in a folder; None where it cannot be known."""
    import diffusers

    if folder is None:
        return None
    try:
        name = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
        return getattr(diffusers, name, None)
    except (OSError, ValueError, KeyError, TypeError, ImportError):
        return None


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
