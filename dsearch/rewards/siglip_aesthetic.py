"""How well people would like a picture, by SigLIP: aesthetic-predictor-v2-5, and heads of its kind."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dsearch._optional import optional
from dsearch._torchvision import mend
from dsearch._weights import fill, read_weights, refuse_bombs
from dsearch.rewards._inputs import check_images, check_prompts
from dsearch.rewards.aesthetic import PLACES, AestheticHead
from dsearch.rewards.clip_score import HUB_ID, Preprocess

__all__ = ["SigLIPAesthetic"]

SOURCE = "aesthetic_predictor_v2_5.pth of github.com/discus0434/aesthetic-predictor-v2-5"
ENCODER = "google/siglip-so400m-patch14-384"
IN_FILE = (0, 2, 4, 6, 8)  # of the head's linear layers among its dropouts
FILES = (
    ("config.json",),
    tuple(stem + end for stem in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json")),
    ("preprocessor_config.json", "processor_config.json"),
)


class SigLIPAesthetic:
    """An aesthetic score from SigLIP's embedding: images `[N, 3, H, W]` in [0, 1], prompts (unread) -> `[N]`.

    The pooled embedding of the picture, of length 1, goes through five linear layers, dim-1024-128-64-16-1. With the
    weights of aesthetic-predictor-v2-5 and SigLIP so400m (patch 14, 384 pixels), scores are about 1 to 10, and its
    author calls 5.5 and above a good picture. Images are preprocessed on their device as the encoder's directory says.

    Args:
        encoder: directory or hub id of a SigLIP, of which only the vision tower is read.
        head: file of the head's weights, as that project publishes it, or safetensors.
        device: of the networks; None follows the images.
        dtype: of the encoder; None is float32. The head is always float32.
        download: whether a hub id may be fetched.

    Raises:
        FileNotFoundError: for an encoder or a head that is not there.
        ValueError: for weights that are damaged, of another model, or of a head for embeddings of another size; for
            images that are not in [0, 1].
    """

    def __init__(
        self,
        encoder: str | Path,
        head: str | Path,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        *,
        download: bool = False,
    ) -> None:
        self.head = _head(head)
        model, config = _encoder(encoder, download)
        takes, gives = self.head.layers["0"].in_features, int(model.config.hidden_size)
        if takes != gives:
            raise ValueError(
                f"the head reads embeddings of {takes} numbers, but this SigLIP gives {gives}; get that of {ENCODER}"
            )
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype or torch.float32
        self.preprocess = Preprocess.from_config(
            {"do_center_crop": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3} | config
        )
        self._model = model.eval().requires_grad_(False).to(device=self.device, dtype=self.dtype)

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` -> their scores `[N]`, on the images' device."""
        check_prompts(images, prompts)
        embeddings = self.image_embeddings(images)
        return self.head.to(embeddings.device)(embeddings).to(images.device)

    @torch.no_grad()
    def image_embeddings(self, images: Tensor) -> Tensor:
        """`[N, 3, H, W]` in [0, 1] -> float32 `[N, D]` of length 1, on the model's device."""
        check_images(images, wait=False)
        if self.device is None and self._model.device != images.device:
            self._model.to(images.device)
        pixels = self.preprocess(images).to(self._model.device, self.dtype)
        return F.normalize(self._model(pixel_values=pixels).pooler_output.float(), dim=-1)


def _head(path: str | Path) -> AestheticHead:
    names = {
        f"scoring_head.{theirs}.{kind}": f"layers.{ours}.{kind}"
        for theirs, ours in zip(IN_FILE, PLACES, strict=True)
        for kind in ("weight", "bias")
    }
    tensors = read_weights(path, list(names), SOURCE)
    weights = {ours: tensors[theirs] for theirs, ours in names.items()}
    with torch.device("meta"):
        head = AestheticHead(max(1, *weights["layers.0.weight"].shape[1:]))
    return fill(head, weights, path, SOURCE)


def _encoder(path: str | Path, download: bool) -> tuple[Any, dict[str, Any]]:
    """The vision tower and its preprocessing; no foreign code is run."""
    folder, name, local = Path(path), str(path), {"local_files_only": not download}
    remedy = (
        f"give a directory with {', '.join(names[0] for names in FILES)} of {ENCODER}, or its hub id with download=True"
    )
    if folder.is_dir():
        refuse_bombs(folder)
        missing = [" or ".join(names) for names in FILES if not any((folder / name).is_file() for name in names)]
        if missing:
            raise FileNotFoundError(f"the SigLIP at {name!r} lacks {'; '.join(missing)}; {remedy}")
    elif isinstance(path, Path) or not HUB_ID.fullmatch(path):
        raise FileNotFoundError(f"no SigLIP at {name!r}: there is no such directory; {remedy}")
    mend()
    with optional():
        from transformers import ImageProcessingMixin, SiglipVisionModel
    try:
        model, info = SiglipVisionModel.from_pretrained(name, output_loading_info=True, weights_only=True, **local)
        config, _ = ImageProcessingMixin.get_image_processor_dict(name, **local)
    except OSError as error:
        raise FileNotFoundError(f"no SigLIP could be read from {name!r}; {remedy}") from error
    except Exception as error:  # of any kind: what is parsed may be any bytes
        raise ValueError(f"the SigLIP at {name!r} is damaged or none ({error}); {remedy}") from error
    if info["missing_keys"]:  # transformers would fill them with random numbers and score on
        raise ValueError(f"{name!r} is no whole SigLIP: it lacks {sorted(info['missing_keys'])[:3]} ...; {remedy}")
    return model, config


def example() -> SigLIPAesthetic:
    """A tiny random model of the same kind, made on the spot, for the law suite."""
    with tempfile.TemporaryDirectory() as folder:
        _save_tiny(Path(folder))
        return SigLIPAesthetic(folder, Path(folder, "head.pth"))


def _save_tiny(folder: Path) -> None:
    """An encoder and a head."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
        own = AestheticHead(32).state_dict()
    weights = {
        f"scoring_head.{theirs}.{kind}": own[f"layers.{ours}.{kind}"]
        for theirs, ours in zip(IN_FILE, PLACES, strict=True)
        for kind in ("weight", "bias")
    }
    torch.save(weights, folder / "head.pth")
    preprocessing = {
        "size": {"height": 32, "width": 32},
        "resample": 3,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
