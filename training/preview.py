"""The tiny decoder of the model in the box: a cheap look at its latents, distilled from its VAE.

    python training/preview.py --minutes 20

It learns from the box alone: the posterior means of its own plain runs, from noise to clean, and the pictures that its
VAE makes of them. Runs of every eighth subject are held out, and what it says of them is printed at the end.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from export import halve
from torch import Tensor

import dsearch
from dsearch import box
from dsearch.adapters import StableDiffusion

STEPS, GUIDANCE = 20, 2.5
COLOURS = ("blue", "teal", "green", "yellow", "orange", "pink", "purple", "gray")
WIDTH, BLOCKS = 24, (3, 1, 0)


def looks(minutes: float) -> tuple[Tensor, Tensor]:
    """Posterior means `[N, T, 4, 16, 16]` of plain runs, those of held-out subjects last."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(box.pipeline_path(), dtype=torch.bfloat16)
    denoiser = StableDiffusion(pipe, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    began, runs = time.time(), {False: [], True: []}
    plain = dsearch.methods.plain(lambda images, prompts: torch.zeros(len(images)))
    for round, suffix in enumerate(["", *(f" on a {colour} background" for colour in COLOURS)] * 2):
        if time.time() - began > 60 * minutes:
            break
        for held in (False, True):
            prompts = [name + suffix for i, name in enumerate(box.SUBJECTS) if (i % 8 == 7) == held]
            steps: list[Tensor] = []
            result = dsearch.search(
                denoiser, plain, prompts, seed=round, watch=[lambda _, beams, s=steps: s.append(beams.pred.x0[:, 0])]
            )
            steps[-1] = result.latents[:, 0]
            runs[held].append(torch.stack(steps, dim=1))
        print(f"runs {round}: {time.time() - began:.0f} s", flush=True)
    return torch.cat(runs[False]), torch.cat(runs[True])


def student() -> torch.nn.Module:
    from diffusers import AutoencoderTiny

    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),  # the class has an encoder too; nothing here uses it
        num_encoder_blocks=(0, 0, 0),
        decoder_block_out_channels=(WIDTH,) * 3,
        num_decoder_blocks=BLOCKS,
    )


def error(said: Tensor, meant: Tensor) -> Tensor:
    """Pixels, and the steps between neighbours: edges are what a file size and an eye go by."""
    off = said - meant
    return off.abs().mean() + off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()


def fit(tiny: torch.nn.Module, vae: torch.nn.Module, train: Tensor, minutes: float, rate: float, batch: int) -> None:
    parameters = list(tiny.decoder.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(0)
    pool, began, steps, spoke, total = train.flatten(0, 1), time.time(), 0, time.time(), 0.0
    while (share := (time.time() - began) / (60 * minutes)) < 1:
        z = pool[torch.randint(len(pool), (batch,), generator=generator)]
        with torch.no_grad():
            meant = vae.decode(z.bfloat16() / vae.config.scaling_factor, return_dict=False)[0].float()
        loss = error(tiny.decode(z, return_dict=False)[0], meant)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (steps + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
        optimizer.step()
        steps, total = steps + 1, total + loss.item()
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(0.998, steps / (steps + 10)))
        if time.time() - spoke > 30:
            print(f"  {100 * share:.0f}%, step {steps}, loss {loss.item():.4f}", flush=True)
            spoke = time.time()
    with torch.no_grad():
        for p, a in zip(parameters, average, strict=True):
            p.copy_(a)


@torch.no_grad()
def measure(tiny: torch.nn.Module, held: Tensor) -> None:
    """By step: PSNR to the VAE's picture, and how like the two rank the pictures."""
    from diffusers import AutoencoderKL
    from scipy.stats import spearmanr

    from dsearch.rewards import CLIPScore, Compressibility

    vae, clip, jpeg = AutoencoderKL.from_pretrained(box.pipeline_path() / "vae"), CLIPScore(), Compressibility()
    print("step  PSNR  Spearman of file size, of CLIP")
    for step in (0, STEPS // 4, STEPS // 2, STEPS - 1):
        z = held[:, step]
        full = torch.cat([vae.decode(part / vae.config.scaling_factor)[0] for part in z.split(16)]) / 2 + 0.5
        fast = torch.cat([tiny.decode(part)[0] for part in z.split(16)]) / 2 + 0.5
        full, fast = full.clamp(0, 1), fast.clamp(0, 1)
        psnr = -10 * torch.log10((full - fast).square().mean(dim=(1, 2, 3))).mean()
        said = [
            spearmanr(r(full, ["cat"] * len(z)).cpu(), r(fast, ["cat"] * len(z)).cpu()).statistic for r in (jpeg, clip)
        ]
        print(f"{step:4} {psnr:5.1f}  {said[0]:.3f}, {said[1]:.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--collect", type=float, default=5, metavar="MINUTES", help="of plain runs to learn from")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, default=Path(box.__file__).parent / "preview")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    from diffusers import AutoencoderKL

    train, held = looks(args.collect)
    print(f"{len(train)} runs to learn from, {len(held)} held out", flush=True)
    vae = AutoencoderKL.from_pretrained(box.pipeline_path() / "vae", dtype=torch.bfloat16)
    vae.to(memory_format=torch.channels_last)
    tiny = student().to(memory_format=torch.channels_last)
    fit(tiny, vae, train, args.minutes, args.rate, args.batch)
    measure(tiny, held)
    with tempfile.TemporaryDirectory() as folder:
        tiny.to(memory_format=torch.contiguous_format).save_pretrained(folder)
        config = Path(folder) / "config.json"
        kept = {
            k: v for k, v in json.loads(config.read_text()).items() if k != "block_out_channels"
        }  # it warns of its own
        config.write_text(json.dumps(kept))
        shutil.rmtree(args.out, ignore_errors=True)
        halve(Path(folder), args.out)


if __name__ == "__main__":
    main()
