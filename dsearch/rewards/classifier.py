"""How sure a classifier is: log p(label | picture), the reward of classifier-guided searches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsearch._torchvision import mend
from dsearch.core.rng import move
from dsearch.rewards._inputs import check_images, check_prompts
from dsearch.rewards.clip_score import HUB_ID, Preprocess

from .._optional import optional

__all__ = ["Classifier"]


class Classifier:
    """log p(label) of each picture under a transformers image classifier: images `[N, 3, H, W]` in [0, 1] -> `[N]`.

    Scores are natural logarithms of probabilities, at most 0.

    Args:
        path: directory (or hub id, with `download=True`) of an `AutoModelForImageClassification` and its preprocessor.
        label: a label's name or number; or a function from a prompt to one; by default the prompt is the label's name.
        device: of the model; None follows the images.
        dtype: of the model; None is float32.
        download: whether a hub id may be fetched.

    Raises:
        FileNotFoundError: where there is no such model.
        ValueError: for a label the model does not have, naming some that it has, and images that are not in [0, 1].
    """

    def __init__(
        self,
        path: str | Path,
        label: str | int | Callable[[str], str | int] | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        *,
        download: bool = False,
    ) -> None:
        model, config = _load(path, download)
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype or torch.float32
        self.preprocess = Preprocess.from_config(config)
        self.labels = {str(name): int(number) for name, number in model.config.label2id.items()}
        self._model = model.eval().requires_grad_(False).to(device=self.device, dtype=self.dtype)
        self._label = label
        if label is not None and not callable(label):
            self._number(label)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` -> log p(label) of each, `[N]`."""
        check_prompts(images, prompts)
        check_images(images, wait=False)
        if self.device is None and self._model.device != images.device:
            self._model.to(images.device)
        numbers = move(torch.tensor([self._wanted(p) for p in prompts], device="cpu"), self._model.device)
        logits = self._model(pixel_values=self.preprocess(images).to(self._model.device, self.dtype)).logits
        log_p = logits.float().log_softmax(dim=-1)
        return log_p.gather(1, numbers[:, None])[:, 0].to(images.device)

    def _wanted(self, prompt: str) -> int:
        if self._label is None:
            return self._number(prompt)
        return self._number(self._label(prompt) if callable(self._label) else self._label)

    def _number(self, label: str | int) -> int:
        number = self.labels.get(label) if isinstance(label, str) else label
        if number is None or number not in self.labels.values():
            some = ", ".join(sorted(self.labels)[:5])
            raise ValueError(f"label {label!r} is none of this classifier's {len(self.labels)}: {some} ...")
        return number


def _load(path: str | Path, download: bool) -> tuple[Any, dict[str, Any]]:
    mend()
    with optional():
        from transformers import AutoModelForImageClassification, ImageProcessingMixin

    name, local = str(path), {"local_files_only": not download}
    needed = ("config.json", "model.safetensors", "preprocessor_config.json")
    remedy = f"give a directory with {', '.join(needed)}, or a hub id with download=True"
    if Path(path).is_dir():
        missing = [file for file in needed if not Path(path, file).is_file()]
        if missing:
            raise FileNotFoundError(f"the classifier at {name!r} lacks {', '.join(missing)}; {remedy}")
    elif isinstance(path, Path) or not HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"no classifier at {name!r}: there is no such directory; {remedy}")
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            name, output_loading_info=True, weights_only=True, **local
        )
        config, _ = ImageProcessingMixin.get_image_processor_dict(name, **local)
    except OSError as error:
        raise FileNotFoundError(f"no classifier could be read from {name!r}; {remedy}") from error
    except Exception as error:  # of any kind: what is parsed may be any bytes
        raise ValueError(f"the classifier at {name!r} is damaged or none ({error}); {remedy}") from error
    if info["missing_keys"]:
        raise ValueError(f"{name!r} is no whole classifier: it lacks {sorted(info['missing_keys'])[:3]} ...")
    return model, config


def example() -> Classifier:
    """A tiny random vision transformer of three classes, made on the spot, for the law suite."""
    import json
    import tempfile

    mend()
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    labels = dict(enumerate(("cat", "dog", "tree")))
    config = ViTConfig(
        **sizes, image_size=32, patch_size=8, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        ViTForImageClassification(config).save_pretrained(folder)
        Path(folder, "preprocessor_config.json").write_text(json.dumps({"size": 32, "crop_size": 32}))
        return Classifier(folder, label="dog")
