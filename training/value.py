"""Value networks for the model in the box (SVDD-MC), from its own plain runs.

    python training/value.py collect --out value            # runs, with their rewards: about 10 minutes on one core
    python training/value.py fit --out value                # a network for each reward and what it sees

What they say is measured and searched with by `benchmarks/learned_value.py`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from dsearch import Chunks

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from dsearch.box import DEMO_PROMPTS, pipeline_path
from dsearch.values.network import Trajectories, ValueNetwork, collect, fit

STEPS, GUIDANCE = 20, 2.5


def gather(args: argparse.Namespace) -> None:
    from diffusers import StableDiffusionPipeline

    from dsearch.adapters import StableDiffusion
    from dsearch.rewards import CLIPScore, Compressibility

    pipe = StableDiffusionPipeline.from_pretrained(pipeline_path(), torch_dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    denoiser = StableDiffusion(pipe, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    rewards = {"compressibility": Compressibility(), "clip": CLIPScore()}
    runs = collect(
        denoiser, rewards, DEMO_PROMPTS[:4], args.samples, batch=100, progress=True, chunks=Chunks(network=64)
    )
    runs.save(args.out / "runs.safetensors")


def train(args: argparse.Namespace) -> None:
    from dsearch.rewards import CLIPScore

    embed = CLIPScore().text_embeddings
    runs, _ = Trajectories.load(args.out / "runs.safetensors").split(0.125)
    for reward in args.rewards:
        for sees in args.sees:
            began = time.perf_counter()
            network = ValueNetwork.like(runs, embed=embed, sees=sees)
            fit(network, runs, reward, steps=args.steps, progress=lambda look: print(f"  {look}", flush=True))
            network.save(args.out / f"{reward}_{sees}.safetensors")
            print(f"{reward} from {sees}: {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser("collect", help="plain runs and their rewards")
    sub.set_defaults(command=gather)
    sub.add_argument("--samples", type=int, default=800, help="of each of four prompts")
    other = commands.add_parser("fit", help="train the networks")
    other.set_defaults(command=train)
    other.add_argument("--steps", type=int, default=600)
    other.add_argument("--rewards", nargs="+", default=["compressibility", "clip"])
    other.add_argument("--sees", nargs="+", default=["x", "x0"])
    for each in (sub, other):
        each.add_argument("--out", type=Path, default=Path("value"))
        each.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    args.command(args)


if __name__ == "__main__":
    main()
