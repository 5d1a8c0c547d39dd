"""A pretend accelerator: a device of torch whose tensors lie in the host's memory and behave as a GPU's do.

After `register()` torch knows the device `accel`. Its tensors refuse to meet the host's and cannot become numpy arrays,
and whenever the host would have to wait for a real device, `waits()` has it on record. `accel:0` computes what the CPU
does, bit for bit; `accel:1` has no float64, like Apple's MPS.

`torch.accelerator` still says that none is available, so the rest of a test run does not notice.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import dsearch

NAME = "accel"
NO_FLOAT64 = 1
"""The index of the device without float64."""

aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
CREATED = ("arange", "arange.start", "arange.start_step", "linspace")  # torch makes these by resizing, which we cannot
PACKAGE = str(Path(dsearch.__file__).parent)


class Wait(NamedTuple):
    """The host waited for the device.

    Attributes:
        kind: "read" where it read from the device, "upload" for a copy to it that is not asynchronous.
        operation: torch's name of it.
        where: the innermost line of dsearch on the way, as `file:line`.
    """

    kind: str
    operation: str
    where: str


_records: list[list[Wait]] = []


@contextmanager
def waits() -> Iterator[list[Wait]]:
    """Within, every wait of the host for a device is added to the list, on a real device as on the pretend one."""
    record: list[Wait] = []
    _records.append(record)
    with ExitStack() as stack:
        stack.enter_context(_Watching())
        stack.callback(_records.remove, record)
        yield record


def available() -> str | None:
    """The device to test: `DSEARCH_DEVICE`, where "auto" is the first of torch's accelerators, else the pretend one.

    None where "auto" finds none; and where nothing is asked for but a real one is there, which registering would hide.
    """
    asked = os.environ.get("DSEARCH_DEVICE", "")
    real = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if asked == "auto":
        return None if real is None else str(real)
    can = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")  # torch 2.13 has it, 2.4 not
    return asked or (NAME if real is None and can else None)


class Pretended(torch.Tensor):
    """A tensor of the device, around the host's tensor that holds its values (`raw`)."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor, index: int = 0) -> Pretended:
        if raw.dtype == torch.float64 and index == NO_FLOAT64:
            raise TypeError(f"cannot make a float64 tensor on {NAME}:{index}, which has none; use float32 instead")
        with torch.inference_mode(False):  # a view must be as ordinary as what it is of
            made = torch.Tensor._make_wrapper_subclass(
                cls,
                raw.size(),
                strides=raw.stride(),
                storage_offset=raw.storage_offset(),
                dtype=raw.dtype,
                device=torch.device(NAME, index),
            )
        made.raw = raw
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"cannot convert a tensor of {self.device} to numpy; use Tensor.cpu() first")

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.raw!r} on {self.device}"


@cache
def register() -> Any:
    """Makes the device known to torch: once in a process, for good."""
    backend = backend_registration

    class Absent(backend._DummyPrivateUse1Hook):
        def is_available(self) -> bool:
            return False

    class Module(backend._DummyBackendModule):
        def is_available(self) -> bool:
            return False

        def device_count(self) -> int:
            return 0

    backend._setup_privateuseone_for_python_backend(NAME, backend_module=Module(), hook=Absent())

    def empty(size: Any, *stride: Any, dtype: Any = None, device: Any = None, **_: Any) -> Pretended:
        make = torch.empty_strided if stride else torch.empty
        return Pretended(make(size, *stride, dtype=dtype), device.index or 0)

    def copy_from(source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        _note("upload", "copy_from")  # torch.tensor and torch.as_tensor of Python's numbers
        _raw(target).copy_(_raw(source))
        return target

    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    for name in CREATED:
        packet, _, overload = name.partition(".")
        func = getattr(getattr(aten, packet), overload or "default")
        library.impl(name, lambda *args, func=func, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    return library  # what is registered lasts as long as it


class _Watching(TorchDispatchMode):
    """Notes waits for a real device; a pretend one notes its own, in every thread."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat = tree_leaves((args, kwargs))
        if not any(isinstance(leaf, Pretended) for leaf in flat) and not _is_pretended(kwargs.get("device")):
            _watch(func, args, kwargs)
        return func(*args, **kwargs)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation on the host's values, with what it would be on the device."""
    if func._can_decompose():  # inference mode leaves that to us
        return func.decompose(*args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, Pretended)]
    _refuse_two_devices(func, args, tensors)
    _refuse_unfinished(func, kwargs, tensors)
    _watch(func, args, kwargs)
    target = kwargs.get("device")
    index = ours[0].device.index if ours else 0
    if target is not None:
        target = torch.device(target)
        kwargs = {**kwargs, "device": torch.device("cpu"), "pin_memory": False}
        kwargs = {name: value for name, value in kwargs.items() if name in _names(func)}
        stays, index = target.type == NAME, target.index or 0
    else:
        stays = func is not aten.copy_.default or isinstance(args[0], Pretended)
    out = func(*tree_map(_raw, args), **tree_map(_raw, kwargs))
    # In place, or out=: the tensor that was given comes back, and must still be as large as it says.
    same = {id(tensor.raw): tensor for tensor in ours}

    def wrapped(made: Any) -> Any:
        if not isinstance(made, torch.Tensor) or isinstance(made, Pretended) or not stays:
            return made
        given = same.get(id(made))
        if given is not None and given.shape != made.shape:
            raise NotImplementedError(f"{func} changes the shape of a tensor of {given.device} in place")
        return Pretended(made, index) if given is None else given

    return tree_map(wrapped, out)


def _watch(func: Any, args: Any, kwargs: Any) -> None:
    kind = _kind(func, args, kwargs)
    if kind:
        _note(kind, str(func).removeprefix("aten."))


def _kind(func: Any, args: Any, kwargs: Any) -> str | None:
    """What the host waits for in an operation on a device: a read, an upload, or nothing."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = any(_is_far(tensor.device) for tensor in tensors)
    if func in COPIES:
        given = kwargs.get("device")
        target = args[0].device if func is aten.copy_.default else torch.device(given or args[0].device)
        source = args[func is aten.copy_.default].device
        if _is_far(source) == _is_far(target):
            return None
        asynchronous = kwargs.get("non_blocking", False) or (func is aten.copy_.default and args[2:3] == (True,))
        return "read" if _is_far(source) else None if asynchronous else "upload"
    if not far:
        return None
    if func in INDEXED:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            return "read"
        return "upload" if any(not _is_far(index.device) and index.dim() for index in indices) else None
    unknown = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
    return "read" if unknown & set(func.tags) else None


def _refuse_unfinished(func: Any, kwargs: Any, tensors: list[torch.Tensor]) -> None:
    """A copy to the host that is not waited for may be read before it is there."""
    target = kwargs.get("device")
    back = func is aten._to_copy.default and target is not None and not _is_far(torch.device(target))
    if back and kwargs.get("non_blocking") and any(_is_far(tensor.device) for tensor in tensors):
        raise RuntimeError("a copy to the host with non_blocking=True may be read before it is done")


def _refuse_two_devices(func: Any, args: Any, tensors: list[torch.Tensor]) -> None:
    """Tensors of the host may be copied to a device, index one there, or be a single number; no more."""
    if func in COPIES:
        return
    near = [tensor for tensor in tensors if tensor.dim() and not _is_far(tensor.device)]
    if func in INDEXED and isinstance(args[0], Pretended):
        near = [tensor for tensor in near if not any(tensor is index for index in args[1])]
    found = sorted({str(tensor.device) for tensor in tensors if _is_far(tensor.device)} | {"cpu" for _ in near})
    if len(found) > 1:
        raise RuntimeError(f"{func} met tensors on at least two devices, {' and '.join(found)}")


def _note(kind: str, operation: str) -> None:
    if not _records:
        return
    frame: Any = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    where = "" if frame is None else f"{os.path.relpath(frame.f_code.co_filename, PACKAGE)}:{frame.f_lineno}"
    for record in _records:
        record.append(Wait(kind, operation, where))


def _names(func: Any) -> set[str]:
    return {argument.name for argument in func._schema.arguments}


def _raw(leaf: Any) -> Any:
    return leaf.raw if isinstance(leaf, Pretended) else leaf


def _is_far(device: torch.device) -> bool:
    return device.type not in ("cpu", "meta")


def _is_pretended(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME
