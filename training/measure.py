"""What the shipped box can do: accuracies, spreads and timings, and sheets of its pictures."""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import re
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from clips import CLIPS, cosines, embed_pictures
from drawings import SIZE, load_pictures, to_unit
from PIL import Image
from words import CONTEXT, SUBJECTS

SPREAD = ("cat", "dog", "horse", "monkey", "rabbit", "butterfly", "panda", "house")
SPREAD_SEEDS = 32


def load_box(args: argparse.Namespace):
    """The shipped pipeline, and role -> (CLIPModel, tokenizer)."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPModel, CLIPTokenizer

    pipe = StableDiffusionPipeline.from_pretrained(args.out / "pipeline").to(args.device)
    pipe.set_progress_bar_config(disable=True)
    folders = {role: args.out / role for role in CLIPS}
    clips = {r: (CLIPModel.from_pretrained(f).eval(), CLIPTokenizer.from_pretrained(f)) for r, f in folders.items()}
    return pipe, {r: (c.to(args.device), t) for r, (c, t) in clips.items()}


def seed_of(prompt: str, number: int, base: int) -> int:
    """A seed for each picture, the same in any batch."""
    return (base * 1000 + SUBJECTS.index(prompt)) * 1000 + number


def generate(pipe, prompts: list[str], seeds: list[int], args: argparse.Namespace) -> torch.Tensor:
    """One picture for each prompt: uint8 [N, 3, 64, 64]."""
    pictures = []
    for k in range(0, len(prompts), 64):
        images = pipe(
            prompts[k : k + 64],
            generator=[torch.Generator().manual_seed(s) for s in seeds[k : k + 64]],
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
            eta=1.0,
            output_type="np",
        ).images
        pictures.append(torch.from_numpy((images * 255).round().astype(np.uint8)))
        print(f"{k + len(images)} of {len(prompts)}", flush=True)
    return torch.cat(pictures).permute(0, 3, 1, 2)


def wilson(right: int, n: int, z: float = 1.96) -> list[float]:
    """95% interval of a proportion (Wilson 1927)."""
    p, d = right / n, 1 + z * z / n
    half_width = z / d * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    middle = (p + z * z / (2 * n)) / d
    return [round(middle - half_width, 3), round(middle + half_width, 3)]


def kilobytes(picture: torch.Tensor) -> float:
    """JPEG size at quality 95 of one uint8 picture [3, H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=95)
    return len(buffer.getvalue()) / 1000


def accuracy(clips: dict, pictures: torch.Tensor, subjects: list[str]) -> tuple[dict, dict]:
    """Role -> top-1 with interval over all subjects, and subject -> top-1 by role."""
    truth, report, by_subject = (
        torch.tensor([SUBJECTS.index(s) for s in subjects]),
        {},
        {s: {} for s in SUBJECTS},
    )
    for role, (clip, tokenizer) in clips.items():
        named = cosines(clip, tokenizer, pictures).argmax(1)
        right = named == truth
        report[role] = {
            "top1": round(right.float().mean().item(), 4),
            "interval": wilson(int(right.sum()), len(right)),
            "pictures": len(right),
        }
        for i, subject in enumerate(SUBJECTS):
            by_subject[subject][role] = round(right[truth == i].float().mean().item(), 3)
            wrong = named[(truth == i) & ~right].tolist()
            by_subject[subject][f"{role}_taken_for"] = sorted({SUBJECTS[k] for k in wrong})
    return report, by_subject


def spread(values: np.ndarray, best: str) -> dict[str, float]:
    """Mean, deviation over seeds, and the mean best of 8."""
    of_eight = getattr(values.reshape(-1, 8), best)(1).mean()
    figures = {"mean": values.mean(), "std": values.std(ddof=1), "best_of_8": of_eight}
    return {k: round(float(v), 3) for k, v in figures.items()}


def spreads(pipe, clips: dict, args: argparse.Namespace) -> dict:
    """How much there is to choose from: JPEG kilobytes and the guide's cosine over seeds."""
    prompts = [p for p in SPREAD for _ in range(SPREAD_SEEDS)]
    seeds = [seed_of(p, 500 + i % SPREAD_SEEDS, args.seed) for i, p in enumerate(prompts)]
    pictures = generate(pipe, prompts, seeds, args)
    size = np.array([kilobytes(p) for p in pictures])
    column = torch.tensor([SUBJECTS.index(p) for p in prompts])[:, None]
    cosine = {r: cosines(*clips[r], pictures).gather(1, column)[:, 0].numpy() for r in clips}
    of = {p: slice(i * SPREAD_SEEDS, (i + 1) * SPREAD_SEEDS) for i, p in enumerate(SPREAD)}
    return {
        p: {
            "jpeg_kb": spread(size[k], "min"),
            "guide_cosine": spread(cosine["guide"][k], "max"),
            "judge_cosine": spread(cosine["judge"][k], "max"),
        }
        for p, k in of.items()
    }


@torch.no_grad()
def timings(pipe, clips: dict, device: str, n: int = 64, repeats: int = 5) -> dict[str, float]:
    """Milliseconds a picture at batch 64, float32, the best of a few runs."""
    x, states = torch.randn(2 * n, 4, 16, 16, device=device), torch.randn(2 * n, CONTEXT, 128, device=device)
    pictures = torch.zeros(n, 3, SIZE, SIZE, dtype=torch.uint8)
    work = {
        "guided_row": lambda: pipe.unet(x, 500, encoder_hidden_states=states),
        "decode": lambda: pipe.vae.decode(x[:n]),
        **{f"{r}_score": lambda c=c: embed_pictures(c[0], to_unit(pictures.to(device))) for r, c in clips.items()},
    }
    return {name: best_of(f, repeats) / n for name, f in work.items()}


def best_of(f, repeats: int) -> float:
    """Milliseconds of the fastest call after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        f()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return min(times[1:])


def contact_sheet(pictures: torch.Tensor, each: int, path: Path, names: list[str], columns: int = 6) -> None:
    """Blocks of ``each`` pictures under their prompt. [len(names) * each, 3, 64, 64] uint8."""
    from PIL import ImageDraw

    width, height, head = each * SIZE + 8, SIZE + 16, 13
    sheet = Image.new("RGB", (columns * width, -(-len(names) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(names):
        x, y = i % columns * width, i // columns * height
        draw.text((x + 1, y + 1), name, fill="black")
        for j in range(each):
            picture = pictures[i * each + j].permute(1, 2, 0).contiguous().numpy()
            sheet.paste(Image.fromarray(picture), (x + j * SIZE, y + head))
    # two bits less a channel: no eye sees it, and the file is half as long
    sheet.point(lambda v: min(255, v // 4 * 4 + 2)).save(path, optimize=True)


def draw_sheets(by_prompt: torch.Tensor, args: argparse.Namespace) -> None:
    """All subjects, three seeds each; and the demo's prompts, eight. [S, seeds, 3, 64, 64] uint8."""
    demo = json.loads((args.out / "subjects.json").read_text())["demo_prompts"]
    shown = by_prompt[[SUBJECTS.index(p) for p in demo]][:, :8]
    contact_sheet(by_prompt[:, :3].flatten(0, 1), 3, args.images / "box_contact_sheet.png", SUBJECTS)
    contact_sheet(shown.flatten(0, 1), shown.shape[1], args.images / "box_demo_prompts.png", demo, columns=2)


def machine() -> str:
    """The kind of machine, in words."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.+)", info)
    name = model[1] if model else platform.processor()
    return f"{os.cpu_count()} cores, {name}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def real_accuracy(clips: dict, work: Path) -> dict:
    """Role -> top-1 on held-out compositions of known drawings, and on a vendor never trained on."""
    out = {r: {} for r in clips}
    for name in ("held", "unseen"):
        pictures, labels = load_pictures(work, name)
        report, _ = accuracy(clips, pictures, [s for s, _, _ in labels])
        for role in clips:
            out[role][name] = report[role]
    return out


def stage_evaluate(args: argparse.Namespace) -> None:
    """Measure the shipped box: training/box.json and the pictures in docs/img."""
    pipe, clips = load_box(args)
    took = {k: round(v, 2) for k, v in timings(pipe, clips, args.device).items()}
    prompts = [s for s in SUBJECTS for _ in range(args.seeds)]
    seeds = [seed_of(p, i % args.seeds, args.seed) for i, p in enumerate(prompts)]
    pictures = generate(pipe, prompts, seeds, args)
    report, by_subject = accuracy(clips, pictures, prompts)
    by_prompt = pictures.unflatten(0, (len(SUBJECTS), args.seeds))
    for s, mine in zip(SUBJECTS, by_prompt, strict=True):
        by_subject[s]["jpeg_kb"] = round(float(np.mean([kilobytes(p) for p in mine])), 3)
    np.save(args.work / "evaluated.npy", by_prompt.numpy())
    draw_sheets(by_prompt, args)
    result = {
        "command": f"python training/box.py evaluate --seeds {args.seeds} --steps {args.steps} "
        f"--guidance {args.guidance} --seed {args.seed}",
        "date": str(date.today()),
        "machine": machine(),
        "settings": {"steps": args.steps, "guidance": args.guidance, "eta": 1.0, "seed": args.seed},
        "generated": report,
        "real": real_accuracy(clips, args.work),
        "milliseconds_a_picture_at_batch_64": took,
        "spread": spreads(pipe, clips, args),
        "subjects": by_subject,
    }
    args.report.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "subjects"}, indent=1))
