"""Rewards: any callable `(images [N, 3, H, W] in [0, 1], prompts) -> [N]`, higher is better.

One file a reward, and no list of them anywhere: a module here names its public classes in `__all__` and
offers `example()`, a cheap offline instance. Importing this package imports none of them.
"""

from typing import TYPE_CHECKING, Any

from ..discovery import find, modules

if TYPE_CHECKING:  # for editors only; a reward that is not named here works all the same
    from dsearch.rewards.aesthetic import Aesthetic as Aesthetic
    from dsearch.rewards.aesthetic import AestheticHead as AestheticHead
    from dsearch.rewards.classifier import Classifier as Classifier
    from dsearch.rewards.clip_score import CLIPScore as CLIPScore
    from dsearch.rewards.compressibility import Compressibility as Compressibility
    from dsearch.rewards.compressibility import Incompressibility as Incompressibility
    from dsearch.rewards.hps import HPS as HPS
    from dsearch.rewards.pick_score import PickScore as PickScore


def __getattr__(name: str) -> Any:
    return find(__name__, __path__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for module in modules(__name__, __path__) for name in module.__all__)})
