"""Reads files of weights that others made: safely, and with errors that say what to do."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._optional import optional


def read_weights(path: str | Path, keys: Sequence[str], source: str, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file on the CPU, `state_dict` unwrapped; nothing in it is run.

    Args:
        path: the file.
        keys: what it must hold; it may hold more.
        source: where such a file is to be had.
        prefix: taken off the names in the file.

    Raises:
        FileNotFoundError: naming the file and its source.
        ValueError: naming the file, the keys it lacks and its source.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no weights at {str(path)!r}; get {source}")
    try:
        tensors = _tensors(file)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{str(path)!r} holds no weights that can be read safely ({error}); get {source}") from error
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    require(tensors, keys, path, source)
    return tensors


def require(tensors: Mapping[str, Tensor], keys: Sequence[str], path: str | Path, source: str) -> None:
    """Raises a ValueError that names the file, the keys it lacks and its source, unless the tensors have every key."""
    missing = [key for key in keys if key not in tensors]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ValueError(f"{str(path)!r} lacks {shown} of {len(keys)} expected keys; get {source}")


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        with optional():
            from safetensors import SafetensorError
            from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    loaded: Any = torch.load(file, map_location="cpu", weights_only=True)
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(loaded, Mapping) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise ValueError("it is no mapping from names to tensors")
    return dict(loaded)
