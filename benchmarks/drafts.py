"""Drafts of best-of-N in fewer steps on the model in the box: what they find, how they rank, what they cost.

    python benchmarks/drafts.py --docs docs/drafts.md

Without noise in the sampler (eta = 0) an image is its x_T, so that a draft of few steps says which x_T to draw in full.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from diffusers import StableDiffusionPipeline
from throughput import rewrite

import dsearch
from dsearch import methods
from dsearch.box import pipeline_path
from dsearch.compare.metrics import interval
from dsearch.core.draft import draft
from dsearch.core.tuning import rank_correlation
from dsearch.experiments import load
from dsearch.experiments.build import Workshop

STUDY = load("frontier")


def measured(world: Workshop, guide: str, n: int, steps: int, drafts: list[int], seeds: int) -> list[str]:
    """A row a draft: share of the gain of best-of-N in full, rank correlation over all N, rows and seconds."""
    reward, prompts = world.reward(guide, "box"), list(STUDY.prompts)
    pipe = StableDiffusionPipeline.from_pretrained(pipeline_path())  # in float32, which any processor has
    pipe.set_progress_bar_config(disable=True)

    def model(num_steps: int) -> dsearch.Denoiser:
        return dsearch.adapters.StableDiffusion(pipe, num_inference_steps=num_steps, guidance_scale=2.5, eta=0.0)

    kept = methods.best_of_n(reward, n=n, keep=n)
    table: dict[int, dict[str, list[torch.Tensor]]] = {}
    full: list[torch.Tensor] = []
    seconds = {steps: 0.0, **dict.fromkeys(drafts, 0.0)}
    for seed in range(seeds):
        began = time.perf_counter()
        whole = dsearch.search(model(steps), kept, prompts, seed=seed)
        seconds[steps] += time.perf_counter() - began
        order = whole.lineage.order.argsort(dim=-1)
        by_start = whole.rewards.gather(1, order)  # [P, N] in the order of x_T
        full.append(by_start)
        for few in drafts:
            began = time.perf_counter()
            found = draft(model(steps), model(few), kept, prompts, seed=seed, top=1)
            seconds[few] += time.perf_counter() - began
            shown = found.draft.rewards.gather(1, found.draft.lineage.order.argsort(dim=-1))
            own = table.setdefault(few, {"gain": [], "ranks": []})
            own["gain"].append(found.result.rewards[:, 0] - by_start.mean(dim=1))
            own["ranks"].append(rank_correlation(shown, by_start))
    best = torch.cat([each.max(dim=1).values - each.mean(dim=1) for each in full])
    lines = [f"| {guide} | full | 1 | | {n * steps} | 1 |"]
    for few, own in table.items():
        share = torch.cat(own["gain"]) / best.mean()
        gain, ranks = interval(share.double()), interval(torch.cat(own["ranks"]).double())
        said = (
            f"{gain.mean:.2f} [{gain.low:.2f}, {gain.high:.2f}] | {ranks.mean:.2f} [{ranks.low:.2f}, {ranks.high:.2f}]"
        )
        lines.append(f"| {guide} | {few} | {said} | {n * few + steps} | {seconds[few] / seconds[steps]:.2f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--drafts", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--docs", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = Workshop(STUDY)
    lines = [
        f"Best-of-{args.n} in {args.steps} steps, {len(STUDY.prompts)} prompts x {args.seeds} seeds, one thread of "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__.split('+')[0]}. Intervals of 95%.",
        "",
        "| guide | steps of the draft | share of the gain | rank correlation over all N | rows | seconds, of full |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for guide in STUDY.objectives:
        lines += measured(world, guide, args.n, args.steps, args.drafts, args.seeds)
    print("\n".join(lines))
    if args.docs:
        rewrite(args.docs, "\n".join(lines), "<!-- drafts: begin -->", "<!-- drafts: end -->")


if __name__ == "__main__":
    main()
