"""Lets PyPI's torchvision import beside a CPU build of torch; imported before what imports torchvision.

PyPI's torchvision holds compiled operators for CUDA. Beside a CPU torch they do not load, and registering their fake
versions fails: "operator torchvision::nms does not exist". open_clip, transformers and, through it, diffusers then fail
to import, though none of them needs the operators here. Their names alone are enough.
"""

import importlib.util
import sys

import torch

__all__ = ["mend"]

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: "torch.library.Library | None" = None


def mend() -> None:
    """Imports torchvision, if it is installed; where its operators are missing, names them and tries again.

    Anything else that is wrong with it is left to whoever needs it.
    """
    global _library
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _library is not None:
            return
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            _library.define(schema)
        import torchvision  # noqa: F401
