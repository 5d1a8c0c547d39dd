"""Metrics of torchmetrics as rewards: one picture at a time, so that no score depends on batch-mates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsearch._optional import optional
from dsearch.rewards._inputs import check_images, check_prompts
from dsearch.rewards._pictures import of_file

__all__ = ["TorchMetric"]


class TorchMetric:
    """A metric of torchmetrics as a reward: images `[N, 3, H, W]` in [0, 1], prompts -> `[N]`, higher is better.

    A metric averages over its batch and remembers what it has seen; here it is asked about one picture at a time and
    reset after each. One of which less is better is negated. Needs the extra `metrics`: `pip install
    'dsearch-diffusion[metrics]'`.

    Args:
        metric: a metric, or the name of one in `torchmetrics.image`, "TotalVariation" say, which is made as it comes.
        reference: a picture `[3, H, W]` in [0, 1], or its file, that pictures are compared with: for metrics of pairs.
        prompts: whether the metric reads the prompt after the picture.
        higher_is_better: which way is up, where the metric does not say; None takes its word.

    Raises:
        ModuleNotFoundError: without torchmetrics.
        ValueError: for a name that is not known, a metric that does not say which way is up, a reference and prompts
            together; for images that are not in [0, 1], or of another size than the reference; where a metric gives
            not one number.
    """

    def __init__(
        self,
        metric: Any,
        *,
        reference: Tensor | str | Path | None = None,
        prompts: bool = False,
        higher_is_better: bool | None = None,
    ) -> None:
        if reference is not None and prompts:
            raise ValueError("a metric reads a reference or the prompts, not both; give one of them")
        self.metric = _named(metric) if isinstance(metric, str) else metric
        up = getattr(self.metric, "higher_is_better", None) if higher_is_better is None else higher_is_better
        if up is None:
            raise ValueError(
                f"{type(self.metric).__name__} does not say which way is up; give higher_is_better=True or False"
            )
        self.sign, self.reads_prompts, self.reference = (1.0 if up else -1.0), prompts, _picture(reference)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` and their prompts -> what the metric says of each, `[N]`."""
        check_prompts(images, prompts)
        check_images(images)
        if hasattr(self.metric, "to"):
            self.metric.to(images.device)
        said = [self._asked(images[row : row + 1].clone(), prompt) for row, prompt in enumerate(prompts)]
        return self.sign * torch.tensor(said, dtype=torch.float32, device=images.device)

    def _asked(self, image: Tensor, prompt: str) -> float:
        beside: tuple[Any, ...] = ([prompt],) if self.reads_prompts else ()
        if self.reference is not None:
            if self.reference.shape != image.shape[1:]:
                raise ValueError(
                    f"pictures are {list(image.shape[1:])} and the reference is {list(self.reference.shape)}; "
                    "give one of their size"
                )
            beside = (self.reference[None].to(image),)
        try:
            said = self.metric(image, *beside)
        finally:
            if hasattr(self.metric, "reset"):
                self.metric.reset()
        if not (isinstance(said, float) or (isinstance(said, Tensor) and said.numel() == 1)):
            shape = f"shape {list(said.shape)}" if isinstance(said, Tensor) else type(said).__name__
            raise ValueError(f"{type(self.metric).__name__} returned {shape} for one picture; a reward is one number")
        return float(said)


def _named(name: str) -> Any:
    with optional():
        import torchmetrics.image as metrics

    if name not in metrics.__all__:
        raise ValueError(f"torchmetrics.image has no {name!r}; choose among {', '.join(sorted(metrics.__all__))}")
    return getattr(metrics, name)()


def _picture(reference: Tensor | str | Path | None) -> Tensor | None:
    if reference is None:
        return None
    reference = reference if isinstance(reference, Tensor) else of_file(reference)
    check_images(reference[None])
    return reference


def example() -> TorchMetric:
    """A cheap instance for the law suite."""
    return TorchMetric("TotalVariation")
