"""The words of the box: its subjects, what captions say of them, and the tokenizer that all networks share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent

# vendor -> (npm package, version, style word in captions, sampling weight)
# The three Fluent sets share their shapes, so the two shaded ones count less.
SOURCES = {
    "noto": ("@iconify-json/noto", "1.2.9", "noto", 1.2),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "twemoji", 1.2),
    "flat": ("@iconify-json/fluent-emoji-flat", "1.2.6", "flat", 1.0),
    "fluent": ("@iconify-json/fluent-emoji", "1.2.7", "fluent", 0.8),
    "3d": ("@lobehub/fluent-emoji-3d", "1.1.0", "glossy", 0.8),
    "emojione": ("@iconify-json/emojione", "1.2.3", "emojione", 0.0),
}
# Mid-tone and named: on white an empty picture is the cheapest one, and a search for small files finds it.
BACKGROUNDS = {
    "blue": (84, 150, 226),
    "teal": (72, 178, 172),
    "green": (112, 182, 92),
    "yellow": (236, 198, 78),
    "orange": (238, 148, 76),
    "pink": (236, 136, 170),
    "purple": (150, 118, 212),
    "gray": (138, 146, 160),
}
CONTEXT = 16  # tokens of a prompt


def read_subjects() -> dict[str, dict]:
    """Subject -> its icon names and its code point, in the order the box lists them."""
    return json.loads((HERE / "subjects.json").read_text())


SUBJECTS = list(read_subjects())


def caption(subject: str, vendor: str, background: str, rng: np.random.Generator) -> str:
    """A training prompt. A quarter are the bare subject, since that is what people type."""
    text = subject
    if rng.random() < 0.15:
        text = f"{'an' if subject[0] in 'aeiou' else 'a'} {subject}"
    if rng.random() < 0.6:
        text += f" on a {background} background"
    if rng.random() < 0.35:
        text += f", {SOURCES[vendor][2]} style"
    return text


def vocabulary() -> list[str]:
    """Every word that captions use."""
    text = " ".join([*SUBJECTS, *BACKGROUNDS, *(s[2] for s in SOURCES.values()), "a an on background style"])
    return sorted(set(text.split()))


def shared_tokenizer(work: Path):
    """The one tokenizer of every network here.

    Made once and kept: learning the same words again may number the single letters differently.
    """
    from transformers import CLIPTokenizer

    if not (work / "tokenizer").exists():
        make_tokenizer().save_pretrained(work / "tokenizer")
    return CLIPTokenizer.from_pretrained(work / "tokenizer")


def make_tokenizer():
    """A CLIPTokenizer to which every word of ours is one token and any other word is letters.

    Merges written by hand can conflict in rank; merges learnt from the word list cannot.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = list("abcdefghijklmnopqrstuvwxyz0123456789,.-!?'")
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=20000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=letters,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(vocabulary() + letters, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    tokenizer = CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=CONTEXT)
    split = [w for w in vocabulary() if len(tokenizer(w).input_ids) != 3]
    if split:
        raise ValueError(f"words of more than one token: {split}")
    return tokenizer


def token_ids(tokenizer, texts: list[str], length: int = CONTEXT) -> torch.Tensor:
    """Texts -> [N, length] token ids."""
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def special_ids(tokenizer) -> dict[str, int]:
    """What a text configuration must know of its tokenizer."""
    return {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}
