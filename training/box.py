"""Train the model in the box: a tiny Stable Diffusion and two tiny CLIPs, from openly licensed emoji.

Every stage reads and writes one work folder, and training is timed by the wall clock, so the same commands
suit two CPU cores or a GPU. In order: ``data``, ``vae``, ``latents``, ``clip`` (twice), ``unet``, ``export``,
``evaluate``.
See README.md beside this file for the commands, the sources and what each stage took.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve whoever shares the cores

import torch
from clips import stage_clip
from drawings import stage_data
from export import stage_export
from measure import stage_evaluate
from unet import stage_unet
from vae import stage_latents, stage_vae
from words import HERE

BOX = HERE.parent / "dsearch" / "box"
STAGES = {
    "data": stage_data,
    "vae": stage_vae,
    "latents": stage_latents,
    "clip": stage_clip,
    "unet": stage_unet,
    "export": stage_export,
    "evaluate": stage_evaluate,
}


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is not shipped")
    parser.add_argument("--npm", type=Path, help="data: folder with the packages as npm pack left them")
    parser.add_argument("--per-drawing", type=int, default=96, help="data: pictures composed from each drawing")
    parser.add_argument("--minutes", type=float, default=10, help="wall clock of a training stage")
    parser.add_argument("--role", choices=("guide", "judge"), default="guide", help="clip: which one")
    parser.add_argument("--decoded", type=int, default=8000, help="latents: pictures decoded again for the CLIPs")
    parser.add_argument("--init", type=Path, help="vae, unet, clip: continue from this pipeline or CLIP")
    parser.add_argument("--polish", action="store_true", help="vae: go on with the decoder of --init alone")
    parser.add_argument("--resume", action="store_true", help="unet: go on from the last checkpoint")
    parser.add_argument("--out", type=Path, default=BOX, help="export: where the box goes")
    parser.add_argument("--checkpoint", default="pipeline", help="export: pipeline folder inside the work folder")
    parser.add_argument("--seeds", type=int, default=8, help="evaluate: pictures of each subject")
    parser.add_argument("--steps", type=int, default=40, help="evaluate: DDIM steps")
    parser.add_argument("--guidance", type=float, default=2.5, help="evaluate: guidance scale")
    parser.add_argument("--images", type=Path, default=HERE.parent / "docs" / "img", help="evaluate: for sheets")
    parser.add_argument("--report", type=Path, default=HERE / "box.json", help="evaluate: the figures")
    parser.add_argument("--batch", type=int, help="pictures a step")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--workers", type=int, default=1, help="unet: processes, with one thread each by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    """Run one stage and say how long it took."""
    args = parse()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    start = time.time()
    STAGES[args.stage](args)
    print(f"{args.stage}: {(time.time() - start) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
