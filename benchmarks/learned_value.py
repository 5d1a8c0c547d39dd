"""A learned value (SVDD-MC) against the posterior mean (SVDD-PM), on the model in the box.

    python training/value.py collect --out value
    python training/value.py fit --out value
    python benchmarks/learned_value.py --out value --docs docs/learned_value.md

Two questions: how well each value at a step ranks the final rewards of plain runs that no network has seen, and what
SVDD finds with each at one bill of network rows.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from scipy import stats
from throughput import rewrite
from torch import Tensor

import dsearch
from dsearch import Budget, methods
from dsearch.compare.metrics import Interval, interval, paired
from dsearch.core import value
from dsearch.experiments import load
from dsearch.experiments.build import Workshop
from dsearch.values.network import Trajectories, ValueNetwork

STUDY = load("frontier")
GUIDES, STEPS = STUDY.guides, STUDY.models["box"].num_steps
LEVELS = (3, 6, 9, 12, 15, 18)
NAMES = {"mean": "posterior mean", "x": "learned from x_t", "x0": "learned from the posterior mean"}
SWITCHED = "learned from the posterior mean, its reward from half of the steps on"


def networks(world: Workshop, folder: Path, guide: str) -> dict[str, ValueNetwork]:
    embed = world.reward("clip", "box").text_embeddings  # type: ignore[attr-defined]
    return {sees: ValueNetwork.load(folder / f"{guide}_{sees}.safetensors", embed=embed) for sees in ("x", "x0")}


@torch.no_grad()
def ranks(world: Workshop, folder: Path, guide: str) -> dict[str, list[float]]:
    """Spearman's correlation with the final reward on the runs held out, by level, mean over prompts."""
    _, runs = Trajectories.load(folder / "runs.safetensors").split(0.125)
    said: dict[str, list[Tensor]] = {name: [] for name in NAMES}
    trained = networks(world, folder, guide)
    for level in LEVELS:
        x, x0 = runs.x[:, level - 1].float(), runs.x0[:, level - 1].float()
        said["x"].append(trained["x"](x, level, runs.prompts))
        said["x0"].append(trained["x0"](x0, level, runs.prompts))
        images = torch.cat([world.model("box").decode(part) for part in x0.split(50)])
        said["mean"].append(torch.as_tensor(world.reward(guide, "box")(images, runs.prompts)))
    ends, prompts = runs.rewards[guide], sorted(set(runs.prompts))

    def correlation(values: Tensor) -> float:
        rows = [torch.tensor([i for i, p in enumerate(runs.prompts) if p == prompt]) for prompt in prompts]
        return sum(float(stats.spearmanr(values[r], ends[r]).statistic) for r in rows) / len(prompts)

    return {name: [correlation(v) for v in values] for name, values in said.items()}


def search(world: Workshop, folder: Path, guide: str, bill: int, seeds: int) -> list[dict[str, Any]]:
    """SVDD with each value, sized to one bill of rows, over the same noise."""
    prompts = list(STUDY.prompts) * seeds
    ids = [f"{i // 4}/{i % 4}" for i in range(len(prompts))]
    reward, found = world.reward(guide, "box"), []
    values: dict[str, Any] = {"mean": value.posterior_mean}
    values |= {sees: value.learned(network) for sees, network in networks(world, folder, guide).items()}
    values["switched"] = value.switched(values["x0"], value.posterior_mean, 0.5)
    for name, v in values.items():
        method = methods.svdd(reward, value=v).within(Budget(model_calls=bill * STEPS), STEPS)
        began = time.perf_counter()
        result = dsearch.search(world.model("box"), method, prompts, ids=ids, chunks=dsearch.Chunks(network=64))
        seconds = time.perf_counter() - began
        judge = world.reward("judge", "box")(result.images[:, 0], prompts)
        cell = {"guide": guide, "n": bill, "value": name, "bill": result.cost.bill, "seconds": seconds}
        found.append(cell | {"reward": result.rewards[:, 0].tolist(), "judge": judge.tolist()})
        print(guide, bill, name, f"{result.rewards[:, 0].mean():.4f} {seconds:.0f} s", flush=True)
    return found


def signed(difference: Interval) -> str:
    text = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    return text if difference.is_clear else f"{text} n.s."


def rank_table(found: dict[str, dict[str, list[float]]]) -> str:
    lines = ["| guide | value | " + " | ".join(f"after {level}" for level in LEVELS) + " |"]
    lines.append("|" + " --- |" * (2 + len(LEVELS)))
    for guide, by_value in found.items():
        for name, row in by_value.items():
            lines.append(f"| {guide} | {NAMES[name]} | " + " | ".join(f"{r:.2f}" for r in row) + " |")
    return "\n".join(lines)


def search_table(cells: list[dict[str, Any]]) -> str:
    head = ["guide", "bill", "value", "reward", "above the posterior mean", "judge", "rows", "decodes", "rewards"]
    lines = ["| " + " | ".join([*head, "time, of the posterior mean's"]) + " |", "|" + " --- |" * (len(head) + 1)]
    for cell in cells:
        base = next(c for c in cells if (c["guide"], c["n"], c["value"]) == (cell["guide"], cell["n"], "mean"))
        mine, theirs = (torch.tensor(c["reward"], dtype=torch.float64) for c in (cell, base))
        row = [cell["guide"], f"{cell['n']}×", NAMES.get(cell["value"], SWITCHED), str(interval(mine))]
        row += ["" if cell is base else signed(paired(mine, theirs)), f"{sum(cell['judge']) / len(mine):.3f}"]
        row += [str(n) for n in cell["bill"]] + [f"{cell['seconds'] / base['seconds']:.2f}"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("value"), help="where training/value.py has written")
    parser.add_argument("--bills", type=int, nargs="+", default=[4, 16], help="in runs of plain sampling")
    parser.add_argument("--seeds", type=int, nargs="+", default=[8, 4], help="of each bill, four prompts each")
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if len(args.bills) != len(args.seeds):
        parser.error("give as many --seeds as --bills")
    torch.set_num_threads(args.threads)
    world = Workshop(STUDY)
    told = {guide: ranks(world, args.out, guide) for guide in GUIDES}
    print(rank_table(told), flush=True)
    cells = [
        cell
        for guide in GUIDES
        for bill, seeds in zip(args.bills, args.seeds, strict=True)
        for cell in search(world, args.out, guide, bill, seeds)
    ]
    (args.out / "learned_value.json").write_text(json.dumps({"ranks": told, "cells": cells}), encoding="utf-8")
    runs = len(Trajectories.load(args.out / "runs.safetensors").prompts)
    about = (
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, dsearch {dsearch.__version__}, torch {torch.__version__}; "
        f"{STEPS} steps, {', '.join(STUDY.prompts)}; {runs} runs, an eighth held out; "
        f"{', '.join(f'{4 * s} pairs at {b}×' for b, s in zip(args.bills, args.seeds, strict=True))}. Made by:\n\n```\n"
        "python training/value.py collect --out value\npython training/value.py fit --out value\n"
        "python benchmarks/learned_value.py --out value --docs docs/learned_value.md\n```"
    )
    text = "\n\n".join([about, rank_table(told), search_table(cells)])
    print(text)
    if args.docs:
        rewrite(args.docs, text, "<!-- learned: begin -->", "<!-- learned: end -->")


if __name__ == "__main__":
    main()
