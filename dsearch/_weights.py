"""Reads files of weights that others made: safely, and with errors that say what to do."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ._optional import optional

Net = TypeVar("Net", bound=nn.Module)

ARCHIVES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
"""Names of files that PyTorch writes, zip archives or older pickles."""


def read_weights(path: str | Path, keys: Sequence[str], source: str, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors or PyTorch file on the CPU, `state_dict` unwrapped; nothing in it is run.

    Args:
        path: the file.
        keys: what it must hold; it may hold more.
        source: where such a file is to be had.
        prefix: taken off the names in the file.

    Raises:
        FileNotFoundError: naming the file and its source.
        ValueError: naming the file and its source: for one that cannot be read, that holds something else, or that
            would unpack to more than it is; for keys that it lacks; for required numbers that are not finite.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no weights at {str(path)!r}; get {source}")
    try:
        tensors = _tensors(file)
    except Exception as error:  # of any kind: what is parsed may be any bytes
        raise ValueError(f"{str(path)!r} holds no weights that can be read safely ({error}); get {source}") from error
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    require(tensors, keys, path, source)
    return tensors


def require(tensors: Mapping[str, Tensor], keys: Sequence[str], path: str | Path, source: str) -> None:
    """Refuses tensors that lack a key, or hold what is no finite number under one.

    Raises:
        ValueError: naming the file, the keys and its source.
    """
    missing = [key for key in keys if key not in tensors]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise ValueError(f"{str(path)!r} lacks {shown} of {len(keys)} expected keys; get {source}")
    for key in keys:
        found = tensors[key]
        if found.is_floating_point() and not found.float().isfinite().all():
            raise ValueError(f"{str(path)!r} is damaged: {key} is not finite; get {source}")


def require_shapes(net: nn.Module, tensors: Mapping[str, Tensor], path: str | Path, source: str) -> None:
    """Refuses weights of another shape or kind than the network's, which may be on the "meta" device: made of nothing.

    Raises:
        ValueError: naming the file, the first such tensor, and the source.
    """
    for key, mine in net.state_dict().items():
        theirs = tensors[key]
        if theirs.shape != mine.shape or theirs.is_floating_point() != mine.is_floating_point():
            raise ValueError(
                f"{str(path)!r} holds another network: {key} is {_said(theirs)} and must be {_said(mine)}; get {source}"
            )


def fill(net: Net, tensors: Mapping[str, Tensor], path: str | Path, source: str) -> Net:
    """The network with these weights in the place of its own, in evaluation mode; `require` has seen to its keys.

    Raises:
        ValueError: as `require_shapes`.
    """
    require_shapes(net, tensors, path, source)
    own = {key: tensors[key].to(mine.dtype) for key, mine in net.state_dict().items()}
    net.load_state_dict(own, assign=True)
    return net.eval().requires_grad_(False)


def refuse_bombs(path: str | Path) -> None:
    """Refuses a file of PyTorch's, or a folder with one, that unpacks to more bytes than it has.

    `torch.save` never compresses, so that an archive which grows is none of its own, however it came about.

    Raises:
        ValueError: naming the file and both sizes, or one whose directory cannot be read.
    """
    folder = Path(path)
    files = [file for name in ARCHIVES for file in folder.rglob(name)] if folder.is_dir() else [folder]
    for file in files:
        if file.is_file() and zipfile.is_zipfile(file):
            try:
                with zipfile.ZipFile(file) as archive:
                    claimed = sum(entry.file_size for entry in archive.infolist())
            except Exception as error:  # of any kind: what is parsed may be any bytes
                raise ValueError(f"{file} is no whole archive ({error})") from error
            if claimed > (held := file.stat().st_size):
                raise ValueError(
                    f"{file} has {held:,} bytes and unpacks to {claimed:,}: torch.save wrote no such file, and it may "
                    "be made to exhaust the memory"
                )


def _said(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _tensors(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        return read_safetensors(file)[0]
    refuse_bombs(file)
    # Mapped, torch holds what an archive says of its parts to the bytes that are there; else it would read beyond them.
    loaded: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(loaded, Mapping) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise ValueError("it is no mapping from names to tensors")
    if not all(isinstance(name, str) for name in loaded):
        raise ValueError("names are not text")
    for name, tensor in loaded.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError(f"{name} is no plain tensor")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} repeats the {tensor.untyped_storage().nbytes():,} bytes that are there")
    return {name: tensor.detach().clone() for name, tensor in loaded.items()}


def read_safetensors(file: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and what is written beside them.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: naming the file, where it is damaged or none of the format.
    """
    with optional():
        from safetensors import safe_open

    if not Path(file).is_file():
        raise FileNotFoundError(f"no file at {str(file)!r}")
    try:
        with safe_open(file, framework="pt") as held:
            # Copied: what is mapped would end the process where the file is later cut or written over.
            tensors = {name: held.get_tensor(name).clone() for name in held.keys()}  # noqa: SIM118
            return tensors, held.metadata() or {}
    except Exception as error:  # of any kind: what is parsed may be any bytes
        raise ValueError(f"{str(file)!r} is no whole safetensors file ({error})") from error
