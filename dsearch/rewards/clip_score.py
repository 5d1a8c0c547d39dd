"""How well a picture fits its prompt: CLIP's cosine (Radford et al. 2021, arXiv 2103.00020)."""

import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dsearch._precision import warn_if_emulated
from dsearch._prompts import by_tokenizer, tell
from dsearch._torchvision import mend
from dsearch._weights import refuse_bombs
from dsearch.rewards._inputs import check_images, check_prompts
from dsearch.rewards._texts import Remembered

from .._optional import optional

__all__ = ["CLIPScore"]

# One file of each row must be there. The names are those that transformers' save_pretrained writes.
FILES = (
    ("config.json",),
    tuple(stem + end for stem in ("model.safetensors", "pytorch_model.bin") for end in ("", ".index.json")),
    ("tokenizer.json", "vocab.json"),
    ("preprocessor_config.json", "processor_config.json"),
)
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, if none given
FILTERS = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers for the filters that torch has too


class CLIPScore:
    """Cosine of image and text embedding under any `transformers.CLIPModel`: images, prompts -> [N].

    `path` is a model directory (None: the small guide that comes with dsearch) or a hub id, which is read
    from the local cache and fetched only with `download=True`. The model lives on `device` (None: it follows
    the images) in `dtype` (None: float32). The last `text_cache` distinct prompts keep their embeddings.
    Images are [N, 3, H, W] in [0, 1]; scores are float32 in [-1, 1] on their device: CLIP's logits without
    its learned scale (Hessel et al. 2021, arXiv 2104.08718, clip at 0 and multiply by 2.5). No gradients.
    Raises FileNotFoundError naming what a directory lacks, and ValueError for images that are not finite or
    not in [0, 1] (looked at on the CPU only: a look would stall a GPU); warns when it cuts a prompt.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        *,
        download: bool = False,
        text_cache: int = 1024,
    ) -> None:
        self._texts = Remembered(text_cache)
        if path is None:
            from dsearch.box import clip_path

            path = clip_path("guide")
        model, self._tokenizer, config = _load(path, download)
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype or torch.float32
        warn_if_emulated(self.dtype, self.device)
        self.preprocess = Preprocess.from_config(config)
        self._model = model.eval().requires_grad_(False).to(device=self.device, dtype=self.dtype)

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return int(self._model.config.projection_dim)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` and their prompts -> the similarity of each pair, `[N]`."""
        check_prompts(images, prompts)
        pictures = self.image_embeddings(images)
        texts = self.text_embeddings(prompts)
        return (pictures * texts).sum(-1).to(images.device)

    def image_embeddings(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [0, 1] -> float32 [N, D] of length 1, on the model's device."""
        check_images(images, wait=False)
        if self.device is None and self._model.device != images.device:
            self._model.to(images.device)
        # Normalised outside inference mode, so that what the caller gets are ordinary tensors.
        return F.normalize(self._image_features(images).float(), dim=-1)

    def text_embeddings(self, prompts: Sequence[str]) -> Tensor:
        """N prompts -> float32 [N, D] of length 1, on the model's device; a distinct one is encoded once."""
        return self._texts(prompts, self._text_features, self._model.device)

    @torch.inference_mode()
    def _image_features(self, images: Tensor) -> Tensor:
        pixels = self.preprocess(images).to(self._model.device, self.dtype)
        return _embedding(self._model.get_image_features(pixel_values=pixels))

    @torch.inference_mode()
    def _text_features(self, prompts: list[str]) -> Tensor:
        """Padded to the encoder's full length, so that no embedding depends on its batch-mates' lengths."""
        bound = self._model.config.text_config.max_position_embeddings
        tell(type(self).__name__, prompts, self._split)
        tokens = self._tokenizer(
            prompts, padding="max_length", truncation=True, max_length=bound, return_tensors="pt"
        ).to(self._model.device)
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        return F.normalize(
            _embedding(self._model.get_text_features(input_ids=ids, attention_mask=mask)).float(), dim=-1
        )

    def cut(self, prompt: str) -> str:
        """What of the prompt the text encoder does not read; "" where it reads all of it."""
        return self._split(prompt)[1]

    def _split(self, prompt: str) -> tuple[object, str]:
        return by_tokenizer(self._tokenizer, self._model.config.text_config.max_position_embeddings)(prompt)


@dataclass(frozen=True)
class Preprocess:
    """CLIPImageProcessor as tensor operations: [N, 3, H, W] in [0, 1] -> float32 [N, 3, h, w], device kept.

    Equal to transformers' own on pictures of the right size. Where they are resized, its Pillow rounds to
    8 bits after each direction and this does not: they agree to 1.5 / 255 before normalisation. Edges that
    saturate may differ by more where Pillow 13 shrinks down before across: some upright shapes, never squares.
    """

    size: int | tuple[int, int] | None  # the shortest edge, or (h, w)
    crop: tuple[int, int] | None
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Preprocess":
        """Reads preprocessor_config.json. Raises ValueError for steps that have no tensor form here."""
        resample = config.get("resample", 3)
        if config.get("do_resize", True) and resample not in FILTERS:
            raise ValueError(f"preprocessor's resample={resample}; supported are Pillow's {FILTERS}")
        if not config.get("do_rescale", True) or abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
            raise ValueError("preprocessor must rescale by 1/255: this reads images in [0, 1]")
        size = _edges(config.get("size", 224)) if config.get("do_resize", True) else None
        crop = _edges(config.get("crop_size", 224)) if config.get("do_center_crop", True) else None
        normalise = config.get("do_normalize", True)
        return cls(
            size=size,
            crop=(crop, crop) if isinstance(crop, int) else crop,
            filter=FILTERS.get(resample, "bicubic"),
            mean=tuple(config.get("image_mean", MEAN)) if normalise else (0.0, 0.0, 0.0),
            std=tuple(config.get("image_std", STD)) if normalise else (1.0, 1.0, 1.0),
        )

    def __call__(self, images: Tensor) -> Tensor:
        pixels = self._cropped(self._resized(images.float()))
        channels = zip(pixels.unbind(1), self.mean, self.std, strict=True)
        return torch.stack([(channel - mean) / std for channel, mean, std in channels], dim=1)

    def _resized(self, pixels: Tensor) -> Tensor:
        height, width = self._target(pixels.shape[-2], pixels.shape[-1])
        # Across, then down, as Pillow does: bicubic overshoots and Pillow saturates after each direction,
        # which one clamp at the end would miss by up to 20 grey levels on noise.
        for target in ((pixels.shape[-2], width), (height, width)):
            if target != tuple(pixels.shape[-2:]):
                # Antialiased also when it enlarges: only then is torch's kernel Pillow's (a = -1/2).
                pixels = F.interpolate(pixels, target, mode=self.filter, antialias=True).clamp(0, 1)
        return pixels

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if self.size is None:
            return height, width
        if not isinstance(self.size, int):
            return self.size
        short = min(height, width)
        return self.size * height // short, self.size * width // short

    def _cropped(self, pixels: Tensor) -> Tensor:
        if self.crop is None:
            return pixels
        height, width = self.crop
        top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
        if top < 0 or left < 0:
            raise ValueError(f"pictures {list(pixels.shape[-2:])} are smaller than the crop {self.crop}")
        return pixels[..., top : top + height, left : left + width]


def _edges(size: int | dict[str, int | None]) -> int | tuple[int, int]:
    """transformers writes a size as n, {"shortest_edge": n} or {"height": h, "width": w}."""
    if isinstance(size, int):
        return size
    match {name: edge for name, edge in size.items() if edge is not None}:
        case {"shortest_edge": int(edge), **others} if not others:
            return edge
        case {"height": int(height), "width": int(width), **others} if not others:
            return height, width
    raise ValueError(f"preprocessor's size {size}; supported are an edge, shortest_edge, or height and width")


def _embedding(output: Any) -> Tensor:
    """transformers 5 returns an object where older ones returned the tensor."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _load(path: str | Path, download: bool) -> tuple[Any, Any, dict[str, Any]]:
    """A directory or hub id -> the model, its tokenizer and its preprocessing; none runs foreign code."""
    _check_files(path)
    mend()
    with optional():
        from transformers import AutoTokenizer, CLIPModel, ImageProcessingMixin

    name, local = str(path), {"local_files_only": not download}
    try:
        model, info = CLIPModel.from_pretrained(name, output_loading_info=True, weights_only=True, **local)
        tokenizer = AutoTokenizer.from_pretrained(name, **local)
        config, _ = ImageProcessingMixin.get_image_processor_dict(name, **local)
    except OSError as error:
        where = "" if download else ": it is no directory here, nor whole in the local cache of the hub"
        raise FileNotFoundError(_remedy(f"no CLIP model could be read from {name!r}{where}")) from error
    except Exception as error:  # of any kind: what is parsed may be any bytes
        raise ValueError(_remedy(f"the CLIP model at {name!r} is damaged or none ({error})")) from error
    if info["missing_keys"]:  # transformers would fill them with random numbers and score on
        raise ValueError(f"{name!r} is no whole CLIPModel: it lacks {sorted(info['missing_keys'])[:3]} ...")
    return model, tokenizer, config


def _check_files(path: str | Path) -> None:
    folder = Path(path)
    if not folder.is_dir():
        if isinstance(path, Path) or not HUB_ID.fullmatch(path):
            raise FileNotFoundError(_remedy(f"no CLIP model at {str(path)!r}: there is no such directory"))
        return
    refuse_bombs(folder)
    missing = [" or ".join(names) for names in FILES if not any((folder / name).is_file() for name in names)]
    if missing:
        raise FileNotFoundError(_remedy(f"the CLIP model at {str(path)!r} lacks {'; '.join(missing)}"))


def _remedy(problem: str) -> str:
    files = "; ".join(names[0] for names in FILES)
    return (
        f"{problem}. Give a directory with {files}, as CLIPModel.save_pretrained and "
        "CLIPProcessor.save_pretrained write them, or a hub id with download=True"
    )


def example() -> CLIPScore:
    """A tiny random CLIP, made on the spot, for the law suite."""
    return tiny(CLIPScore)


Kind = TypeVar("Kind", bound=CLIPScore)


def tiny(kind: type[Kind]) -> Kind:
    """A tiny random CLIP, for the examples of rewards that are built on one."""
    with tempfile.TemporaryDirectory() as folder:
        _save_tiny(Path(folder))
        return kind(folder)


def _save_tiny(folder: Path) -> None:
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    ids = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = tower | ids | {"vocab_size": len(words), "max_position_embeddings": 77}
    vision = tower | {"image_size": 32, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    model.save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 32, "crop_size": 32}))
