"""Which noise a search of a flow model does best with, on the model in the box as a flow.

    python benchmarks/flow_noise.py --out flow_noise --docs docs/flow_noise.md

Trials of SVDD and DSearch over kinds and strengths of noise at one bill of network rows, for two objectives; the CLIP
that judges steers none of them. What is in --out already is not run again.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from throughput import rewrite

import dsearch
from dsearch import Budget, methods
from dsearch.adapters import StableDiffusion, as_flow
from dsearch.box import SUBJECTS, clip_path, pipeline_path
from dsearch.compare.intervals import over_seeds
from dsearch.compare.metrics import Interval
from dsearch.compare.trial import trial
from dsearch.rewards import CLIPScore, Compressibility

BEGIN, END = "<!-- flow noise: begin -->", "<!-- flow noise: end -->"
STEPS, GUIDANCE, SHIFT = 20, 2.5, 1.0
PROMPTS = ("cat", "dog", "horse", "monkey")
ETAS = {
    "posterior": (1.0, 0.25, 0.5, 0.75),
    "cps": (0.3, 0.5, 0.7, 0.9),
    "flow-sde": (0.3, 0.7, 1.0, 1.5),
    "dance": (0.3, 0.7, 1.0, 1.5),
    "full": (1.0,),
}
NOISES = [(kind, eta) for kind, etas in ETAS.items() for eta in etas]
FEW = [
    *(("posterior", 1.0), ("posterior", 0.5), ("posterior", 0.75), ("cps", 0.5), ("cps", 0.7)),
    *(("flow-sde", 0.7), ("flow-sde", 1.0), ("dance", 1.0), ("full", 1.0)),
]
BUDGETS = {4: (NOISES, 6), 16: (FEW, 3)}
"""Plain samples' worth of rows: the noises tried, and over how many seeds."""
SEARCHES = ("SVDD", "DSearch")
TITLES = {"clip": "guide's cosine", "compressibility": "minus kB"}
OBJECTIVES = tuple(TITLES)


def name_of(noise: tuple[str, float]) -> str:
    return f"{noise[0]} {noise[1]:g}"


class World:
    """The box as a flow, and its rewards."""

    def __init__(self) -> None:
        from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(pipeline_path(), dtype=torch.bfloat16, local_files_only=True)
        self.flow = as_flow(pipe, SHIFT)
        clips = {role: CLIPScore(str(clip_path(role))) for role in ("guide", "judge")}
        self.rewards: dict[str, Any] = {"clip": clips["guide"], "compressibility": Compressibility()}
        self.judge = clips["judge"]

    def model(self, noise: str = "posterior", eta: float | None = None) -> StableDiffusion:
        return StableDiffusion(self.flow, num_inference_steps=STEPS, guidance_scale=GUIDANCE, noise=noise, eta=eta)

    def method(self, search: str, objective: str, budget: int) -> dsearch.Method:
        reward, rows = self.rewards[objective], Budget(model_calls=budget * STEPS)
        if search == "DSearch":
            return methods.dsearch(reward, beams=16, rows_per_step=16).within(rows, STEPS)
        return (methods.svdd if search == "SVDD" else methods.best_of_n)(reward).within(rows, STEPS)


def run(world: World, search: str, objective: str, budget: int) -> dict[str, Any]:
    noises, seeds = BUDGETS[budget]
    began, method = time.perf_counter(), world.method(search, objective, budget)
    models = {"posterior 0": world.model(eta=0.0)}  # the ODE: nothing but starts to choose among
    if search != "best-of-N":
        models = {name_of(noise): world.model(*noise) for noise in noises}
    found = trial(models, method, PROMPTS, seeds=range(seeds), held_out={"judge": world.judge})
    seconds = time.perf_counter() - began
    return {
        "search": search,
        "objective": objective,
        "budget": budget,
        "bill": found.each,
        "spent": found.bill,
        "seconds": seconds,
        "scores": {name: cells.tolist() for name, cells in found.scores.items()},
        "judge": {row.name: row.held_out["judge"] for row in found.rows},
    }


PLAIN = [("posterior", 0.0), ("posterior", 1.0), ("cps", 0.7), ("flow-sde", 0.7), ("flow-sde", 1.0), ("dance", 0.3)]
PLAIN += [("dance", 1.0), ("full", 1.0)]


@torch.no_grad()
def plain(world: World, noise: tuple[str, float], seeds: int = 2) -> dict[str, Any]:
    """Plain samples of every subject: how many the judge names among all of them, its cosine, and their size."""
    subjects, hits, cosines, sizes = list(SUBJECTS), 0, 0.0, 0.0
    texts = torch.nn.functional.normalize(world.judge.text_embeddings(subjects), dim=-1)
    for seed in range(seeds):
        method = methods.plain(world.judge, 1)
        found = dsearch.search(
            world.model(*noise), method, subjects, seed=seed, chunks=dsearch.Chunks(network=len(subjects))
        )
        images = found.images[:, 0]
        cosine = torch.nn.functional.normalize(world.judge.image_embeddings(images), dim=-1) @ texts.T
        hits += int((cosine.argmax(1) == torch.arange(len(subjects))).sum())
        cosines += float(found.rewards.mean()) / seeds
        sizes -= float(world.rewards["compressibility"](images, subjects).mean()) / seeds
    return {"named": hits, "of": seeds * len(subjects), "judge": cosines, "kB": sizes}


def plain_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| noise | named by the judge | judge's cosine | kB |", "| --- | --- | --- | --- |"]
    for name, row in found.items():
        shown = "the ODE" if name == "posterior 0" else name
        lines.append(f"| {shown} | {row['named']} of {row['of']} | {row['judge']:.3f} | {row['kB']:.2f} |")
    return "\n".join(lines)


def cells_of(block: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(cells, dtype=torch.float64) for name, cells in block["scores"].items()}


def signed(difference: Interval) -> str:
    text = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    return text if difference.is_clear else f"{text} n.s."


def table(blocks: Sequence[Mapping[str, Any]], objective: str, budget: int) -> str:
    """A line a noise: each search's reward, above its own with posterior 1, and the judge."""
    own = {b["search"]: b for b in blocks if (b["objective"], b["budget"]) == (objective, budget)}
    head = "| noise | " + " | ".join(f"{s} | above posterior 1 | judge" for s in SEARCHES) + " |"
    lines = [head, "|" + " --- |" * (1 + 3 * len(SEARCHES))]
    for noise in BUDGETS[budget][0]:
        row = [name_of(noise)]
        for search in SEARCHES:
            cells, name = cells_of(own[search]), name_of(noise)
            above = over_seeds(cells[name] - cells["posterior 1"])
            row += [
                f"{cells[name].mean():.3f}",
                "" if name == "posterior 1" or above is None else signed(above),
                f"{own[search]['judge'][name]:.3f}",
            ]
        lines.append("| " + " | ".join(row) + " |")
    ode = own["best-of-N"]
    bills = ", ".join(f"{search} {own[search]['bill'][0]}" for search in (*SEARCHES, "best-of-N"))
    lines += ["", f"Best-of-{budget} of the ODE: {cells_of(ode)['posterior 0'].mean():.3f}, judge "
              f"{ode['judge']['posterior 0']:.3f}. Rows a prompt: {bills}."]  # fmt: skip
    return "\n".join(lines)


def draw(blocks: Sequence[Mapping[str, Any]], path: Path, budget: int) -> None:
    """Reward by strength, a curve a kind; the band is best-of-N of the ODE. `dance` from 1 on leaves the frame."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6.5), sharex=True, sharey="row", layout="constrained")
    for row, objective in zip(axes, OBJECTIVES, strict=True):
        own = {b["search"]: b for b in blocks if (b["objective"], b["budget"]) == (objective, budget)}
        ode = over_seeds(cells_of(own["best-of-N"])["posterior 0"])
        kept = [
            float(cells.mean())
            for search in SEARCHES
            for name, cells in cells_of(own[search]).items()
            if not name.startswith("dance 1")  # far below the rest
        ]
        margin = 0.35 * (max(kept) - min(kept))
        row[0].set_ylim(min(kept) - margin, max(kept) + margin)
        for ax, search in zip(row, SEARCHES, strict=True):
            cells = cells_of(own[search])
            if ode is not None:
                ax.axhspan(ode.low, ode.high, color="0.9")
                ax.axhline(ode.mean, color="0.6", lw=1, label=f"best-of-{budget} of the ODE")
            for k, (kind, etas) in enumerate(ETAS.items()):
                at = sorted(etas)
                found = [over_seeds(cells[name_of((kind, eta))]) for eta in at]
                means = [f.mean for f in found if f is not None]
                bars = [f.high - f.mean for f in found if f is not None]
                ax.errorbar([eta + 0.008 * (k - 2) for eta in at], means, bars, marker="o", ms=4, capsize=2, label=kind)
            ax.set_title(f"{search}, {budget} samples' worth of rows")
            ax.set_ylabel(TITLES[objective])
            ax.set_xlabel("eta")
            ax.label_outer()
    axes[0, 1].legend(fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


@torch.no_grad()
def pictures(world: World, path: Path, budget: int) -> None:
    """Plain samples, then what SVDD finds, a row a noise: two prompts of each objective, two seeds each."""
    from PIL import Image, ImageDraw

    shown = [("posterior", 0.0), ("posterior", 1.0), ("cps", 0.7), ("flow-sde", 0.7), ("flow-sde", 1.0), ("dance", 1.0)]
    shown += [("full", 1.0)]
    size, left, top, prompts, seeds = 96, 110, 34, PROMPTS[:2], (0, 1)
    columns = [("plain", None), *((f"SVDD: {title}", objective) for objective, title in TITLES.items())]
    each = len(prompts) * len(seeds)
    sheet = Image.new("RGB", (left + len(columns) * (each * size + 12), top + len(shown) * size), "white")
    pen = ImageDraw.Draw(sheet)
    for c, (title, objective) in enumerate(columns):
        x = left + c * (each * size + 12)
        pen.text((x, 10), title, fill="black")
        for r, noise in enumerate(shown):
            pen.text((6, top + r * size + size // 2 - 6), name_of(noise) if noise[1] else "the ODE", fill="black")
            if objective is None:
                method = methods.plain(world.rewards["clip"], 1)
            else:
                method = world.method("SVDD" if noise[1] else "best-of-N", objective, budget)
            for s, seed in enumerate(seeds):
                found = dsearch.search(world.model(*noise), method, prompts, seed=seed)
                for p, image in enumerate(found.images[:, 0]):
                    array = (image * 255).round().byte().permute(1, 2, 0).numpy()
                    picture = Image.fromarray(array).resize((size - 4, size - 4), Image.Resampling.NEAREST)
                    sheet.paste(picture, (x + (p * len(seeds) + s) * size, top + r * size))
    sheet.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of what was found, one file a trial")
    parser.add_argument("--docs", type=Path, help="page whose tables and pictures are made anew")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    world, blocks = World(), []
    alone = {}
    for noise in PLAIN:
        file = args.out / f"plain_{name_of(noise)}.json"
        if not file.exists():
            file.write_text(json.dumps(plain(world, noise)))
        alone[name_of(noise)] = json.loads(file.read_text())
    for budget in BUDGETS:
        for objective in OBJECTIVES:
            for search in ("best-of-N", *SEARCHES):
                file = args.out / f"{search}_{objective}_{budget}.json"
                if not file.exists():
                    file.write_text(json.dumps(run(world, search, objective, budget)))
                blocks.append(json.loads(file.read_text()))
                print(file, f"{blocks[-1]['seconds']:.0f} s", flush=True)
    if args.docs is None:
        return
    images = args.docs.parent / "img"
    draw(blocks, images / "flow_noise.png", 4)
    if not (images / "flow_noise_pictures.png").exists():
        pictures(world, images / "flow_noise_pictures.png", 16)
    rows = sum(block["spent"][0] for block in blocks)
    seconds = sum(block["seconds"] for block in blocks)
    parts = [
        f"{date.today()}, {platform.machine()}, dsearch {dsearch.__version__}, torch {torch.__version__}; bfloat16, "
        f"{STEPS} steps, guidance {GUIDANCE}, {', '.join(PROMPTS)}; {rows} network rows, {seconds / 60:.0f} minutes on "
        "one thread. Made by:",
        "```\npython benchmarks/flow_noise.py --out flow_noise --docs docs/flow_noise.md\n```",
    ]
    parts += ["**Plain samples of all subjects**", plain_table(alone)]
    for budget, (_, seeds) in BUDGETS.items():
        for objective, title in TITLES.items():
            parts += [f"**{title}, {budget} samples' worth of rows, {seeds} seeds**", table(blocks, objective, budget)]
    rewrite(args.docs, "\n\n".join(parts), BEGIN, END)


if __name__ == "__main__":
    main()
