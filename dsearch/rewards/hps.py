"""What people prefer, given the prompt: Human Preference Score v2 (Wu et al. 2023, arXiv 2306.09341)."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dsearch._precision import warn_if_emulated
from dsearch._prompts import tell
from dsearch._weights import read_weights, require_shapes
from dsearch.core.rng import move
from dsearch.rewards._inputs import check_images, check_prompts
from dsearch.rewards._texts import Remembered

__all__ = ["HPS"]

Version = Literal["2.0", "2.1"]
FILES = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}
HUB_ID = "xswu/HPSv2"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class HPS:
    """Human Preference Score v2 of each picture for its prompt: images `[N, 3, H, W]` in [0, 1], prompts -> `[N]`.

    The cosine of image and text under open_clip's ViT-H-14 as fine-tuned on people's choices: what `hpsv2.score` gives,
    batched, on the images' device. Most pictures score between 0.2 and 0.35. Needs the extra `clip`: `pip install
    'dsearch-diffusion[clip]'`.

    Args:
        weights: the checkpoint's file, or the hub id "xswu/HPSv2".
        version: which of the two checkpoints a hub id means; a file is what it is.
        device: of the model; None follows the images.
        dtype: of the model; None is float32. Preprocessing is float32.
        download: whether a hub id may be fetched, 2 GB; without, it is read from the local cache.
        text_cache: distinct prompts whose embeddings are kept.
        model: open_clip's name of the architecture.

    Raises:
        ModuleNotFoundError: without open_clip.
        FileNotFoundError: where there are no such weights; it says where to get them.
        ValueError: for a file of another model, naming keys that it lacks; for images not in [0, 1].
    """

    def __init__(
        self,
        weights: str | Path,
        version: Version = "2.1",
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        *,
        download: bool = False,
        text_cache: int = 1024,
        model: str = "ViT-H-14",
    ) -> None:
        if version not in get_args(Version):
            raise ValueError(f"version={version!r} is not known; choose one of {', '.join(get_args(Version))}")
        file = _fetched(version, download) if str(weights) == HUB_ID else weights
        if not Path(file).is_file():  # before the architecture is built, which takes seconds
            read_weights(file, [], _source(version))
        open_clip = _open_clip()
        with torch.random.fork_rng(devices=[]):
            net = open_clip.create_model(model, pretrained=None, device="cpu")
        tensors = read_weights(file, list(net.state_dict()), _source(version), prefix="module.")
        require_shapes(net, tensors, file, _source(version))
        net.load_state_dict({key: tensors[key] for key in net.state_dict()})
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype or torch.float32
        warn_if_emulated(self.dtype, self.device)
        self.size = int(net.visual.image_size[0] if isinstance(net.visual.image_size, tuple) else net.visual.image_size)
        self._model = net.eval().requires_grad_(False).to(device=self.device, dtype=self.dtype)
        self._tokenizer: Any = open_clip.get_tokenizer(model)
        self._texts = Remembered(text_cache)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` and their prompts -> the preference score of each pair, `[N]`."""
        check_prompts(images, prompts)
        pictures = self.image_embeddings(images)
        return (pictures * self.text_embeddings(prompts)).sum(-1).to(images.device)

    def image_embeddings(self, images: Tensor) -> Tensor:
        """`[N, 3, H, W]` in [0, 1] -> float32 `[N, D]` of length 1, on the model's device."""
        check_images(images, wait=False)
        if self.device is None and self._where != images.device:
            self._model.to(images.device)
        return F.normalize(self._image_features(images).float(), dim=-1)

    def text_embeddings(self, prompts: Sequence[str]) -> Tensor:
        """N prompts -> float32 `[N, D]` of length 1, on the model's device; a distinct one is encoded once."""
        return self._texts(prompts, self._text_features, self._where)

    def cut(self, prompt: str) -> str:
        """What of the prompt the text encoder does not read; "" where it reads all of it."""
        return self._split(prompt)[1]

    def _split(self, prompt: str) -> tuple[object, str]:
        every, reads = self._tokenizer.encode(prompt), self._model.context_length - 2  # a mark at either end
        return tuple(every[:reads]), self._tokenizer.decode(every[reads:]).strip()

    @property
    def _where(self) -> torch.device:
        return self._model.logit_scale.device

    @torch.inference_mode()
    def _image_features(self, images: Tensor) -> Tensor:
        return self._model.encode_image(preprocess(images, self.size).to(self._where, self.dtype))

    @torch.inference_mode()
    def _text_features(self, prompts: list[str]) -> Tensor:
        tell("HPS", prompts, self._split)
        return F.normalize(self._model.encode_text(self._tokenizer(prompts).to(self._where)).float(), dim=-1)


def preprocess(images: Tensor, size: int) -> Tensor:
    """hpsv2's own, on the images' device: bicubic, antialiased, not clamped; centre crop; normalised."""
    height, width = images.shape[-2:]
    short = min(height, width)
    pixels = images.float()
    if short != size:
        target = (size * height // short, size * width // short)
        pixels = F.interpolate(pixels, target, mode="bicubic", align_corners=False, antialias=True)
    top, left = (round((edge - size) / 2) for edge in pixels.shape[-2:])
    pixels = pixels[..., top : top + size, left : left + size]
    mean, std = (move(torch.tensor(three, device="cpu"), images.device)[:, None, None] for three in (MEAN, STD))
    return (pixels - mean) / std


def _open_clip() -> Any:
    from dsearch._torchvision import mend

    mend()
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("HPS needs open_clip: pip install 'dsearch-diffusion[clip]'") from error
    return open_clip


def _source(version: str) -> str:
    return f"{FILES[version]} of huggingface.co/{HUB_ID}, or name the hub id {HUB_ID!r} with download=True"


def _fetched(version: Version, download: bool) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return hf_hub_download(HUB_ID, FILES[version], local_files_only=not download)
    except LocalEntryNotFoundError as error:
        problem = f"{FILES[version]} is not in the local cache of the hub"
        raise FileNotFoundError(f"{problem}; pass download=True, or a file's path") from error


def example() -> HPS:
    """A tiny random model of the same kind, made on the spot, for the law suite; it needs open_clip."""
    with tempfile.TemporaryDirectory() as folder:
        open_clip, config = _open_clip(), Path(folder, "tiny.json")
        config.write_text(json.dumps(TINY))
        open_clip.add_model_config(config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            weights = open_clip.create_model("tiny", pretrained=None, device="cpu").state_dict()
        torch.save({"state_dict": weights}, Path(folder, "weights.pt"))
        return HPS(Path(folder, "weights.pt"), model="tiny")


TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
