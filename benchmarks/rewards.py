"""Images a second of each reward, at the true sizes of their networks, with random weights.

    python benchmarks/rewards.py --docs docs/rewards.md

HPS is timed where open_clip is installed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from throughput import rewrite

import dsearch
from dsearch._torchvision import mend
from dsearch.rewards import HPS, Aesthetic, AestheticHead, CLIPScore, Colourfulness, Compressibility, PickScore

SIZES = {"L": ((1024, 24, 16), (768, 12, 12)), "H": ((1280, 32, 16), (1024, 24, 16))}
"""Width, depth and heads of the image and the text tower: OpenAI's ViT-L/14, and the ViT-H/14 of PickScore."""


def clip(kind: type[CLIPScore], size: str, dtype: torch.dtype | None = None) -> CLIPScore:
    """A CLIP of the true size with random weights and the box's tokenizer."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    from dsearch.box import clip_path

    vision, text = (
        {
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
        }
        for width, depth, heads in SIZES[size]
    )
    config = CLIPConfig(
        text_config={**text, "vocab_size": 49408, "max_position_embeddings": 77},
        vision_config={**vision, "image_size": 224, "patch_size": 14},
        projection_dim=SIZES[size][1][0],
    )
    with tempfile.TemporaryDirectory() as folder:
        CLIPModel(config).save_pretrained(folder)
        CLIPTokenizer.from_pretrained(clip_path()).save_pretrained(folder)
        Path(folder, "preprocessor_config.json").write_text(json.dumps({"size": 224, "crop_size": 224}))
        return kind(folder, dtype=dtype)


def hps() -> HPS:
    mend()
    import open_clip

    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state_dict": open_clip.create_model("ViT-H-14").state_dict()}, Path(folder, "random.pt"))
        return HPS(Path(folder, "random.pt"))


MADE: dict[str, Callable[[], dsearch.Reward]] = {
    "Compressibility": lambda: Compressibility(workers=1),
    "Colourfulness": Colourfulness,
    "CLIPScore, the box's guide": CLIPScore,
    "CLIPScore, the box's guide, bfloat16": lambda: CLIPScore(dtype=torch.bfloat16),
    "CLIPScore, ViT-L/14": lambda: clip(CLIPScore, "L"),
    "Aesthetic, ViT-L/14": lambda: Aesthetic(clip(CLIPScore, "L"), AestheticHead(768)),
    "Aesthetic, ViT-L/14, bfloat16": lambda: Aesthetic(clip(CLIPScore, "L", torch.bfloat16), AestheticHead(768)),
    "PickScore, ViT-H/14": lambda: clip(PickScore, "H"),
    "HPS, ViT-H-14": hps,
}


def timed(reward: dsearch.Reward, images: torch.Tensor, prompts: list[str], repeats: int) -> tuple[float, torch.Tensor]:
    """Seconds a batch, the best of a few, for what else the machine does only adds; and the scores."""
    best, said = float("inf"), torch.empty(0)
    for _ in range(repeats + 1):
        began = time.perf_counter()
        said = torch.as_tensor(reward(images, prompts)).cpu()
        best = min(best, time.perf_counter() - began)
    return best, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(args.batch, 3, 64, 64), size=512, mode="bicubic").clamp(0, 1)
    images, prompts = images.to(args.device), [f"a picture of {i}" for i in range(args.batch)]
    lines = ["| reward | images a second | bfloat16 moves a score by up to |", "| --- | --- | --- |"]
    said: dict[str, torch.Tensor] = {}
    for name, make in MADE.items():
        torch.manual_seed(0)
        try:
            seconds, said[name] = timed(make(), images, prompts, args.repeats)
        except ModuleNotFoundError as error:
            print(f"{name}: {error}")
            continue
        full = said.get(name.removesuffix(", bfloat16"), said[name])
        span, most = full.max() - full.min(), (full - said[name]).abs().max()
        moved = "" if full is said[name] else f"{most:.2g} (they span {span:.2g})"
        lines.append(f"| {name} | {args.batch / seconds:.3g} | {moved} |")
        print(lines[-1], flush=True)
    about = (
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {args.device}, {args.threads} thread(s), torch "
        f"{torch.__version__}; pictures of 512x512, {args.batch} at once, prompts embedded beforehand, random weights "
        "of the true sizes. Made by `python benchmarks/rewards.py --docs docs/rewards.md`."
    )
    if args.docs:
        rewrite(args.docs, f"{about}\n\n" + "\n".join(lines), "<!-- speed: begin -->", "<!-- speed: end -->")


if __name__ == "__main__":
    main()
