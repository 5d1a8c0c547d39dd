"""Loads the pipeline that an experiment or the command line names: folders, single files, LoRAs, offloading."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .._optional import optional
from .._weights import refuse_bombs
from .experiment import Model
from .typed import checked_device, short

__all__ = ["LOADING", "check_loading", "default_device", "device_of", "dtype_of", "folder_of", "kind_of", "loaded"]

LOADING = ("variant", "revision", "class", "config", "lora", "offload", "compile")
"""Words beside a model's pipeline that say how it is loaded, and are no arguments of its adapter."""

OFFLOAD = ("model", "sequential", "group")
COMPILE = ("default", "reduce-overhead", "max-autotune", "blocks")
NETWORKS = ("unet", "transformer", "transformer_2")
"""What a pipeline calls the networks that denoise."""

_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def default_device() -> str:
    """The accelerator that torch sees ("cuda", "mps", "xpu", ...), else the CPU."""
    accelerator = getattr(torch, "accelerator", None)  # torch 2.6
    if accelerator is not None and accelerator.is_available():
        return str(accelerator.current_accelerator())
    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(model: Model) -> str:
    """Where the model runs; None and "auto" are the accelerator that is there."""
    return default_device() if model.device in (None, "auto") else str(model.device)


def dtype_of(model: Model) -> str:
    """The precision of the model's networks; "auto" where a hub id's is known when it is loaded."""
    if model.dtype == "auto":
        return _stored(model)
    return model.dtype or ("float16" if device_of(model).startswith("cuda") and model.pipeline != "box" else "float32")


def folder_of(model: Model) -> Path | None:
    """The folder of a model, where it is one; None for a hub id or a file."""
    from ..box import pipeline_path

    if model.pipeline == "box":
        return Path(pipeline_path())
    path = Path(model.pipeline).expanduser()
    return path if path.is_dir() else None


def kind_of(model: Model) -> Any:
    """The class of a model's pipeline; None where it cannot be known before it is loaded."""
    with optional():
        import diffusers

    if "class" in model.args:
        return getattr(diffusers, model.args["class"], None)
    folders = [folder_of(model), Path(str(model.args["config"])).expanduser() if "config" in model.args else None]
    for folder in folders:
        try:
            if folder is not None:
                name = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
                return getattr(diffusers, name, None)
        except (OSError, ValueError, KeyError, TypeError, ImportError):
            continue
    return None


def check_loading(model: Model) -> None:
    """Refuses what of the words that load a model can be known to fail before it is.

    Raises:
        ValueError: naming the word, its value and what would do.
    """
    checked_device(device_of(model))
    words = {name: model.args[name] for name in LOADING if name in model.args}
    for name in set(words) - {"lora"}:
        if not isinstance(words[name], str):
            raise ValueError(f"{name}={words[name]!r} is not a text")
    for name, known in (("offload", OFFLOAD), ("compile", COMPILE)):
        if name in words and words[name] not in known:
            raise ValueError(f"{name} is {words[name]!r}; choose {', '.join(known)}")
    if words.get("offload") == "sequential" and device_of(model) == "cpu":
        raise ValueError(
            "offload is 'sequential', which needs an accelerator, and device is cpu; leave it out, or take 'group'"
        )
    if "class" in words:
        _check_class(words["class"])
    if "config" in words and not _names_model(words["config"]):
        raise ValueError(f"no folder {words['config']} for config; give that of a diffusers pipeline, or a hub id")
    path = Path(model.pipeline).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(f"{model.pipeline} is no .safetensors file, and others can hold code; convert it")
        if kind_of(model) is None:
            raise ValueError(
                f"{model.pipeline} does not say which pipeline it is; give class: StableDiffusionXLPipeline, say, or "
                "config: a folder of such a pipeline"
            )
    elif not _names_model(model.pipeline):
        raise ValueError(f"no model folder {model.pipeline}; give a folder, a .safetensors file, a hub id or box")
    for each in loras(words.get("lora")):
        found = Path(each["path"]).expanduser()
        if not found.exists() and not _names_model(each["path"]):
            raise ValueError(f"no LoRA at {each['path']}; give a .safetensors file, a folder with one, or a hub id")


def _check_class(name: str) -> None:
    with optional():
        import diffusers

    found = getattr(diffusers, name, None)
    if not isinstance(found, type) or not issubclass(found, diffusers.DiffusionPipeline):
        known = [each for each in dir(diffusers) if each.endswith("Pipeline")]
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"class {name!r} is no pipeline of diffusers {diffusers.__version__}{hint}")


def _names_model(text: str) -> bool:
    """Whether it is a folder, or can be a hub id."""
    if Path(text).expanduser().is_dir() or text == "box":
        return True
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", text) is not None and not text.endswith(".safetensors")


def loras(given: Any) -> list[dict[str, Any]]:
    """`path`, `{path: ..., weight: 0.8}`, or a list of them -> all as mappings.

    Raises:
        ValueError: for anything else.
    """
    if given is None:
        return []
    found = []
    for each in given if isinstance(given, list | tuple) else [given]:
        made = {"path": each} if isinstance(each, str) else dict(each) if isinstance(each, Mapping) else {}
        weight = made.get("weight", 1.0)
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not isinstance(made.get("path"), str) or set(made) - {"path", "weight"} or not number:
            raise ValueError(
                f"lora is {short(each, 60)}; give its path, or {{path: FILE, weight: 0.8}}, or a list of them"
            )
        found.append({"path": made["path"], "weight": float(weight)})
    return found


def loaded(model: Model) -> Any:
    """The pipeline, on its device, with its LoRAs, offloaded and compiled as the model says; `check_model` has seen it.

    Raises:
        ValueError: where a part cannot be loaded, naming it.
    """
    words, boxed = {name: model.args[name] for name in LOADING if name in model.args}, model.pipeline == "box"
    dtype, device = (
        getattr(torch, _stored(model, fetch=True) if model.dtype == "auto" else dtype_of(model)),
        device_of(model),
    )
    pipe = _read(model, words, dtype)
    _add_loras(pipe, loras(words.get("lora")))
    if "offload" not in words:
        pipe = pipe.to(device)
    elif words["offload"] == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif words["offload"] == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        streams = device.startswith(("cuda", "xpu"))
        pipe.enable_group_offload(torch.device(device), offload_type="leaf_level", use_stream=streams)
    if not boxed and "compile" in words:
        _compile(pipe, words["compile"])
    return pipe


def _read(model: Model, words: Mapping[str, str], dtype: torch.dtype) -> Any:
    with optional():
        import diffusers

    folder = folder_of(model) or Path(model.pipeline).expanduser()
    kept: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
    named = {name: words[name] for name in ("variant", "revision") if name in words}
    kind = kind_of(model) if "class" in words else diffusers.DiffusionPipeline
    if folder.is_file():
        if (config := words.get("config")) is not None:
            here = Path(config).expanduser().is_dir()
            kept |= {"config": str(Path(config).expanduser()) if here else config, "local_files_only": here}
        return kind_of(model).from_single_file(str(folder), torch_dtype=dtype, **kept, **named)
    refuse_bombs(str(folder))
    where = folder if folder.is_dir() else model.pipeline
    try:
        return kind.from_pretrained(where, torch_dtype=dtype, **kept, **named)
    except (OSError, ValueError) as error:
        if "variant" in named and folder.is_dir():
            raise ValueError(
                f"{model.pipeline} has no whole set of weights of variant {named['variant']!r} ({error}); leave it "
                "out, or give another"
            ) from error
        raise


def _add_loras(pipe: Any, found: list[dict[str, Any]]) -> None:
    if not found:
        return
    with optional():
        import_module("peft")

    kind = type(pipe).__name__
    if not hasattr(pipe, "load_lora_weights"):
        raise ValueError(f"{kind} takes no LoRA; leave lora out")
    names = [f"lora_{k}" for k in range(len(found))]
    for name, each in zip(names, found, strict=True):
        path = Path(each["path"]).expanduser()
        of = {"weight_name": path.name} if path.is_file() else {}
        where = str(path.parent if path.is_file() else path) if path.exists() else each["path"]
        try:
            pipe.load_lora_weights(where, adapter_name=name, **of)
        except Exception as error:  # of any kind: what is parsed may be any bytes
            raise ValueError(f"{each['path']} is no LoRA that {kind} could load ({error})") from error
    loaded = {one for held in pipe.get_list_adapters().values() for one in held}
    for name, each in zip(names, found, strict=True):
        if name not in loaded:  # diffusers would go on without it
            raise ValueError(f"{each['path']} holds no weights for the networks of {kind}; give a LoRA made for it")
    pipe.set_adapters(names, adapter_weights=[each["weight"] for each in found])


def _compile(pipe: Any, how: str) -> None:
    networks = [part for name in NETWORKS if (part := getattr(pipe, name, None)) is not None]
    if not networks:
        raise ValueError(f"{type(pipe).__name__} has no {', '.join(NETWORKS)} to compile; leave compile out")
    for network in networks:
        if how == "blocks":
            network.compile_repeated_blocks(fullgraph=True)
        else:
            network.compile(mode=how)


def _stored(model: Model, fetch: bool = False) -> str:
    """The precision that most bytes of the denoising network are stored in; float32 where no file says it."""
    folder, path = folder_of(model), Path(model.pipeline).expanduser()
    if folder is None and not path.is_file():
        if not fetch:
            return "auto"
        from diffusers import DiffusionPipeline

        named = {name: model.args[name] for name in ("variant", "revision") if name in model.args}
        folder = Path(DiffusionPipeline.download(model.pipeline, **named))
    files = [path] if folder is None else _weights(folder, model.args.get("variant"))
    counts: Counter[str] = Counter()
    for file in files:
        with file.open("rb") as stream:
            try:
                (size,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(size)) if size < 2**27 else {}
            except (struct.error, ValueError):
                continue
        for name, about in header.items():
            if name != "__metadata__":
                begin, end = about["data_offsets"]
                counts[about["dtype"]] += end - begin
    known = [(count, name) for name, count in counts.items() if name in _STORED]
    return _STORED[max(known)[1]] if known else "float32"


def _weights(folder: Path, variant: str | None) -> list[Path]:
    """The files of the denoising network's weights: those of the variant, or of none."""
    found = [file for name in NETWORKS for file in sorted((folder / name).glob("*.safetensors"))]
    plain = re.compile(r"[^.]+\.safetensors" if variant is None else rf"[^.]+\.{re.escape(variant)}[-\w]*\.safetensors")
    return [file for file in found if plain.fullmatch(file.name)] or found
