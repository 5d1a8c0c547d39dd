"""The two CLIPs: their shapes, how they see pictures and prompts, and their training."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from drawings import SIZE, load_pictures, to_unit
from loop import Clock, Draws, Ema, count, descend, half, weights_of
from words import CONTEXT, SUBJECTS, caption, shared_tokenizer, special_ids, token_ids

# The judge's patches line up neither with the guide's nor with the latents, so that what fools one need not
# fool the other.
CLIPS = {
    "guide": {"patch": 8, "width": 128, "layers": 4, "text": 96, "seed": 11},
    "judge": {"patch": 7, "width": 112, "layers": 5, "text": 80, "seed": 23},
}


def make_clip(role: str, tokenizer):
    """A transformers.CLIPModel for 64x64 pictures."""
    from transformers import CLIPConfig, CLIPModel

    c, ids = CLIPS[role], special_ids(tokenizer)
    vision = {
        "image_size": SIZE,
        "patch_size": c["patch"],
        "hidden_size": c["width"],
        "intermediate_size": 4 * c["width"],
        "num_hidden_layers": c["layers"],
        "num_attention_heads": 4,
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "hidden_size": c["text"],
        "intermediate_size": 2 * c["text"],
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        **ids,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def embed_pictures(clip, pixels: torch.Tensor) -> torch.Tensor:
    """[N, 3, 64, 64] in [-1, 1] -> unit vectors [N, 64]."""
    return F.normalize(clip.visual_projection(clip.vision_model(pixels).pooler_output).float(), dim=-1)


def embed_texts(clip, ids: torch.Tensor) -> torch.Tensor:
    """[N, L] token ids -> unit vectors [N, 64]."""
    return F.normalize(clip.text_projection(clip.text_model(ids).pooler_output).float(), dim=-1)


def roughen(x: torch.Tensor) -> torch.Tensor:
    """What a decoder may do to a picture: a slip of a pixel or two, softness, grain, a change of contrast."""
    n = len(x)
    dx, dy = torch.randint(-2, 3, (2,)).tolist()
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")[..., 2 + dy : 2 + dy + SIZE, 2 + dx : 2 + dx + SIZE]
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = x.lerp(soft, (torch.rand(n, 1, 1, 1, device=x.device) - 0.3).clamp(min=0))
    grain = (torch.rand(n, 1, 1, 1, device=x.device) - 0.3).clamp(min=0) * 0.15
    contrast = 1 + 0.1 * torch.randn(n, 1, 1, 1, device=x.device)
    return (x * contrast + grain * torch.randn_like(x)).clamp(-1, 1)


def same_thing(subjects: list[str]) -> torch.Tensor:
    """[N, N] mask of pairs that must not count as wrong: another picture of the same subject."""
    names = np.array(subjects)
    same = torch.from_numpy(names[:, None] == names[None, :])
    return same & ~torch.eye(len(names), dtype=torch.bool)


def clip_loss(clip, x: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Name the subject among all bare subjects, and match captions in the batch; also the top-1."""
    with half(x.device.type):
        image = embed_pictures(clip, x)
        text = embed_texts(clip, batch["captions"])
        names = embed_texts(clip, batch["names"])
    scale = clip.logit_scale.exp().clamp(max=30)  # a low ceiling keeps cosines spread out, for use as rewards
    by_name = scale * image @ names.T
    pairs = (scale * image @ text.T).masked_fill(batch["same"], float("-inf"))
    own = torch.arange(len(x), device=x.device)
    matching = (F.cross_entropy(pairs, own) + F.cross_entropy(pairs.T, own)) / 2
    right = (by_name.argmax(1) == batch["subject"]).float().mean()
    return F.cross_entropy(by_name, batch["subject"], label_smoothing=0.05) + 0.5 * matching, right


def stage_clip(args: argparse.Namespace) -> None:
    """Train one CLIP on pictures, decoded pictures and roughened ones."""
    from transformers import CLIPModel

    seed = CLIPS[args.role]["seed"] + args.seed
    torch.manual_seed(seed)
    rng, tokenizer = np.random.default_rng(seed), shared_tokenizer(args.work)
    pictures, labels = load_pictures(args.work)
    decoded = torch.load(args.work / "decoded.pt")
    clip = CLIPModel.from_pretrained(args.init) if args.init else make_clip(args.role, tokenizer)
    clip = clip.to(args.device).train()
    print(args.role, count(clip), "vision", count(clip.vision_model), "text", count(clip.text_model), flush=True)
    optimiser = torch.optim.AdamW(clip.parameters(), betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    ema, clock = Ema(list(clip.parameters()), 0.998), Clock(args.minutes, args.rate or 1e-3)
    n = args.batch or 96
    draws = Draws(weights_of(labels), n - n // 3, seed)
    more = Draws(weights_of([labels[i] for i in decoded["index"]]), n // 3, seed + 1)
    plain, articled = (token_ids(tokenizer, [a + s for s in SUBJECTS], 6) for a in ("", "a "))
    while not clock.done:
        i, j = next(draws), next(more)
        chosen = [labels[k] for k in torch.cat([i, decoded["index"][j]])]
        x = roughen(to_unit(torch.cat([pictures[i], decoded["pictures"][j]]).to(args.device)))
        batch = {
            "captions": token_ids(tokenizer, [caption(*c, rng) for c in chosen]),
            "names": torch.where(torch.rand(len(SUBJECTS), 1) < 0.2, articled, plain),
            "same": same_thing([s for s, _, _ in chosen]),
            "subject": torch.tensor([SUBJECTS.index(s) for s, _, _ in chosen]),
        }
        loss, right = clip_loss(clip, x, {k: v.to(args.device) for k, v in batch.items()})
        descend(optimiser, loss, clock.learning_rate())
        ema.update()
        clock.tick(len(x), loss=loss.detach(), top1=right)
    with ema.applied():
        save_clip(clip.eval(), tokenizer, args.work / args.role)
        for name in ("held", "unseen"):
            print(args.role, name, accuracy_on(clip, tokenizer, args, name), flush=True)


def save_clip(clip, tokenizer, folder: Path) -> None:
    """Weights, tokenizer and the processor that maps a 64x64 picture to [-1, 1]."""
    clip.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # written by hand: without torchvision transformers would save the name of its fallback class
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": SIZE, "width": SIZE},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


@torch.no_grad()
def cosines(clip, tokenizer, pictures: torch.Tensor) -> torch.Tensor:
    """uint8 pictures [N, 3, 64, 64] -> cosines with every bare subject [N, S]."""
    device = next(clip.parameters()).device
    names = embed_texts(clip, token_ids(tokenizer, SUBJECTS).to(device))
    parts = [embed_pictures(clip, to_unit(x.to(device))) @ names.T for x in pictures.split(128)]
    return torch.cat(parts).cpu()


def accuracy_on(clip, tokenizer, args: argparse.Namespace, name: str) -> float:
    """Top-1 among all subjects on a set of real pictures."""
    pictures, labels = load_pictures(args.work, name)
    named = cosines(clip, tokenizer, pictures).argmax(1)
    return (named == torch.tensor([SUBJECTS.index(s) for s, _, _ in labels])).float().mean().item()
