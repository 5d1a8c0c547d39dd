"""What people prefer, given the prompt: ImageReward (Xu et al. 2023, arXiv 2304.05977)."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dsearch._torchvision import mend
from dsearch._weights import fill, read_weights, require, require_shapes
from dsearch.core.rng import move
from dsearch.rewards._inputs import check_images, check_prompts
from dsearch.rewards.aesthetic import AestheticHead
from dsearch.rewards.clip_score import MEAN, STD, Preprocess

__all__ = ["ImageReward"]

HUB_ID, FILE = "THUDM/ImageReward", "ImageReward.pt"
SOURCE = f"{FILE} of huggingface.co/{HUB_ID}, or name the hub id {HUB_ID!r} with download=True"
VOCABULARY = "bert-base-uncased"
MARKS = 2  # tokens that BLIP adds to BERT's, and which no score reads
LENGTH = 35  # tokens of a prompt that are read
HEAD_WIDTH = 64  # numbers in an attention head, in both networks: what the shapes of the weights do not tell
CENTRE, SCALE = 0.16717362830052426, 1.0333394966054072  # of the raw scores, as its authors standardise them

# Parts of BLIP's image encoder: (transformers' name, the file's).
VISION_NAMES = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"),
    ("encoder.layers", "blocks"),
    ("self_attn.projection", "attn.proj"),
    ("self_attn.qkv", "attn.qkv"),
    ("post_layernorm", "norm"),
    ("layer_norm", "norm"),
)
PARTS = VISION, TEXT, HEAD = "blip.visual_encoder.", "blip.text_encoder.", "mlp."
ANCHORS = (
    f"{VISION}pos_embed",
    f"{VISION}patch_embed.proj.weight",
    f"{VISION}blocks.0.mlp.fc1.weight",
    f"{TEXT}embeddings.word_embeddings.weight",
    f"{TEXT}embeddings.position_embeddings.weight",
    f"{TEXT}encoder.layer.0.intermediate.dense.weight",
)


class ImageReward:
    """ImageReward of each picture for its prompt: images `[N, 3, H, W]` in [0, 1], prompts -> `[N]`.

    BLIP's text encoder reads the prompt while it attends to the picture, and five linear layers turn its first token
    into a score: standardised, so that most pictures score between -2 and 2. A prompt is read up to 35 tokens.

    Args:
        weights: the checkpoint's file, or the hub id "THUDM/ImageReward". Sizes are read from it.
        tokenizer: directory or hub id of BERT's uncased vocabulary.
        device: of the networks; None follows the images.
        dtype: of the two encoders; None is float32. Preprocessing and the head are float32.
        download: whether hub ids may be fetched, 1.8 GB; without, they are read from the local cache.

    Raises:
        FileNotFoundError: where there are no such weights or vocabulary; it says where to get them.
        ValueError: for a file of another model, naming keys that it lacks; for another vocabulary; for images that are
            not in [0, 1].
    """

    def __init__(
        self,
        weights: str | Path,
        tokenizer: str | Path = VOCABULARY,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        *,
        download: bool = False,
    ) -> None:
        file = _fetched(download) if str(weights) == HUB_ID else weights
        tensors = read_weights(file, ANCHORS, SOURCE)
        self._tokenizer = _tokenizer(tokenizer, download, len(tensors[f"{TEXT}embeddings.word_embeddings.weight"]))
        self.device = None if device is None else torch.device(device)
        self.dtype = dtype or torch.float32
        self._vision, self._text, self._head = _networks(tensors, file)
        self._preprocess = Preprocess(self._vision.config.image_size, None, "bicubic", MEAN, STD)
        self._move(self.device or torch.device("cpu"))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Images `[N, 3, H, W]` and their prompts -> the preference score of each pair, `[N]`."""
        check_prompts(images, prompts)
        check_images(images, wait=False)
        if self.device is None and self._where != images.device:
            self._move(images.device)
        pixels = _cropped(self._preprocess(images), self._vision.config.image_size).to(self._where, self.dtype)
        # Padded to one length, so that no score depends on its batch-mates' prompts.
        tokens = self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        # The published code reads without a causal mask, though its cross-attention is the decoder's.
        read = self._text(
            input_ids=move(tokens["input_ids"], self._where),
            attention_mask=move(tokens["attention_mask"], self._where),
            encoder_hidden_states=self._vision(pixel_values=pixels).last_hidden_state,
            is_decoder=False,
        ).last_hidden_state[:, 0]
        return ((self._head(read.float()) - CENTRE) / SCALE).to(images.device)

    @property
    def _where(self) -> torch.device:
        return self._vision.device

    def _move(self, device: torch.device) -> None:
        self._vision.to(device, self.dtype), self._text.to(device, self.dtype), self._head.to(device)


def _networks(tensors: Mapping[str, Tensor], file: str | Path) -> tuple[Any, Any, AestheticHead]:
    """The image encoder, the text encoder and the head, with the sizes and the weights of the file.

    They are first made of nothing, to see that the file has every tensor in the shape that its sizes ask for.
    """
    try:
        sizes = _sizes(tensors)
        with torch.device("meta"):
            nets = _made(*sizes)
    except Exception as error:  # of any kind: sizes from a damaged file may be any numbers
        raise ValueError(f"{str(file)!r} is damaged: no ImageReward has its sizes ({error}); get {SOURCE}") from error
    called = [_names(net, part) for net, part in zip(nets, PARTS, strict=True)]
    require(tensors, [name for part in called for name in part.values()], file, SOURCE)
    own = [{ours: tensors[theirs] for ours, theirs in part.items()} for part in called]
    for net, weights in zip(nets, own, strict=True):
        require_shapes(net, weights, file, SOURCE)
    vision, text, head = _made(*sizes)
    return fill(vision, own[0], file, SOURCE), fill(text, own[1], file, SOURCE), fill(head, own[2], file, SOURCE)


def _sizes(tensors: Mapping[str, Tensor]) -> tuple[dict[str, int], dict[str, int]]:
    """What the shapes in the file say of the two encoders."""
    positions, patches, image_mlp, words, places, text_mlp = (tensors[name].shape for name in ANCHORS)
    image_width, text_width, patch = positions[-1], words[1], patches[-1]
    vision = {
        "hidden_size": image_width,
        "intermediate_size": image_mlp[0],
        "num_hidden_layers": _depth(tensors, f"{VISION}blocks."),
        "image_size": round((positions[1] - 1) ** 0.5) * patch,
        "patch_size": patch,
    }
    text = {
        "vocab_size": words[0],
        "hidden_size": text_width,
        "intermediate_size": text_mlp[0],
        "num_hidden_layers": _depth(tensors, f"{TEXT}encoder.layer."),
        "max_position_embeddings": places[0],
    }
    return vision, text


def _made(vision: dict[str, int], text: dict[str, int]) -> tuple[Any, Any, AestheticHead]:
    """The networks at these sizes, with random weights."""
    mend()
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    image_width, text_width = vision["hidden_size"], text["hidden_size"]
    vision_config = BlipVisionConfig(**vision, num_attention_heads=image_width // HEAD_WIDTH, layer_norm_eps=1e-6)
    text_config = BlipTextConfig(
        **text,
        encoder_hidden_size=image_width,
        num_attention_heads=text_width // HEAD_WIDTH,
        layer_norm_eps=1e-12,
        is_decoder=True,  # else there is no cross-attention
        bos_token_id=None,
        sep_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = AestheticHead(text_width)
        return BlipVisionModel(vision_config), BlipTextModel(text_config, add_pooling_layer=False), head


def _names(net: nn.Module, part: str) -> dict[str, str]:
    """What the file calls the tensors of a part."""
    return {name: part + (_in_file(name) if part == VISION else name) for name in net.state_dict()}


def _depth(tensors: Mapping[str, Tensor], stem: str) -> int:
    """Layers of a stack, numbered from 0."""
    return len({name.removeprefix(stem).split(".")[0] for name in tensors if name.startswith(stem)})


def _in_file(name: str) -> str:
    for ours, theirs in VISION_NAMES:
        name = name.replace(ours, theirs)
    return name


def _cropped(pixels: Tensor, size: int) -> Tensor:
    """The square in the middle, where torchvision's CenterCrop sees it."""
    top, left = (round((edge - size) / 2) for edge in pixels.shape[-2:])
    return pixels[..., top : top + size, left : left + size]


def _tokenizer(path: str | Path, download: bool, rows: int) -> Any:
    from transformers import BertTokenizer

    remedy = f"give a directory with the tokenizer of {VOCABULARY}, or its hub id with download=True"
    try:
        tokenizer = BertTokenizer.from_pretrained(str(path), local_files_only=not download)
    except (OSError, ValueError, TypeError) as error:
        raise FileNotFoundError(f"no vocabulary of BERT at {str(path)!r}; {remedy}") from error
    if tokenizer.vocab_size + MARKS != rows:  # an empty directory makes an empty vocabulary
        known = f"{tokenizer.vocab_size} words, and the weights know {rows - MARKS}"
        raise ValueError(f"the vocabulary at {str(path)!r} has {known}; {remedy}")
    return tokenizer


def _fetched(download: bool) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return hf_hub_download(HUB_ID, FILE, local_files_only=not download)
    except LocalEntryNotFoundError as error:
        problem = f"{FILE} is not in the local cache of the hub"
        raise FileNotFoundError(f"{problem}; pass download=True, or a file's path") from error


def example() -> ImageReward:
    """A tiny random model of the same kind, made on the spot, for the law suite."""
    with tempfile.TemporaryDirectory() as folder:
        _save_tiny(Path(folder))
        return ImageReward(Path(folder, FILE), folder)


def _save_tiny(folder: Path) -> None:
    """The weights and the vocabulary of one."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz,"]
    vocabulary += [f"##{letter}" for letter in vocabulary[5:-1]]
    sizes = {"hidden_size": HEAD_WIDTH, "intermediate_size": 64, "num_hidden_layers": 1}
    text = sizes | {"vocab_size": len(vocabulary) + MARKS, "max_position_embeddings": LENGTH}
    nets = _made(sizes | {"image_size": 32, "patch_size": 8}, text)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # BLIP's own initial weights are so small that every picture would look the same
        weights = {
            theirs: net.state_dict()[ours] + 0.1 * torch.randn_like(net.state_dict()[ours])
            for net, part in zip(nets, PARTS, strict=True)
            for ours, theirs in _names(net, part).items()
        }
    torch.save(weights, folder / FILE)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
