"""The loop's speed: against the published way of searching, and over the bare network calls that its bill needs.

    python benchmarks/throughput.py                             # the model in the box, on this machine
    python benchmarks/throughput.py --model DIR --device auto   # a Stable Diffusion folder, torch's first accelerator
    python benchmarks/throughput.py --docs docs/benchmarks.md   # and put the tables into the page

Everything is timed side by side in one run, in turns, and medians are shown, for machines are noisy. The published way
(`published_way.py`) meets the same noise, and a run whose choices differ from the loop's is refused.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import published_way
import torch
from published_way import Flags
from torch import Tensor

import dsearch
from dsearch.adapters import StableDiffusion

BEGIN, END = "<!-- throughput: begin -->", "<!-- throughput: end -->"
PROMPTS = ("cat", "house", "car", "tree")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK_NAMES = {"wall": "wall-clock seconds", "cpu": "processor seconds on a busy machine"}
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    name: str
    prompts: tuple[str, ...]
    flags: Flags


def settings(prompts: Sequence[str], width: int | None) -> list[Setting]:
    """SVDD's plan at three sizes and DSearch's; or SVDD's with `width` children alone."""
    every, first = tuple(prompts), tuple(prompts[:1])
    if width is not None:
        return [svdd(every, width)]
    # 5 beams a prompt to start with and 25 rows a prompt and step, as `methods.dsearch` has them by default.
    dynamic = Flags(len(every), 5, 1, 5, search_schedule="all", drop_schedule="exponential")
    name = f"{len(every)} prompts, DSearch, 25 rows each"
    return [svdd(first, 8), svdd(every, 5), svdd(every, 20), Setting(name, every, dynamic)]


def svdd(prompts: tuple[str, ...], width: int) -> Setting:
    noun = "prompt" if len(prompts) == 1 else "prompts"
    return Setting(f"{len(prompts)} {noun} × {width} children", prompts, Flags(len(prompts), width))


def smoothness(images: Tensor, prompts: list[str]) -> Tensor:
    """Minus the mean step between neighbouring pixels, `[R]`: nearly free, and smooth, so that nothing ties."""
    x = images.double()
    across, down = x.diff(dim=3).abs(), x.diff(dim=2).abs()
    return -(across.mean(dim=(1, 2, 3)) + down.mean(dim=(1, 2, 3)))


class Bench:
    """A model and the clock."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.device = args, torch.device(args.device)
        pipe = load(args.model).to(self.device)
        self.pipe = pipe
        self.model = StableDiffusion(pipe, num_inference_steps=args.steps, guidance_scale=args.guidance)
        self.coins = [0.0] * (args.steps - 1)
        self.now = CLOCKS[args.clock]

    def clock(self, work: Callable[[], Any]) -> tuple[float, Any]:
        self.wait()
        began = self.now()
        result = work()
        self.wait()
        return self.now() - began, result

    def wait(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def rng(self) -> dsearch.KeyedRng:
        return dsearch.KeyedRng(self.args.seed, (0,))

    def loop(self, setting: Setting, chunks: dict[str, int]) -> tuple[float, dsearch.Result]:
        method = dsearch.methods.published(smoothness, **vars(setting.flags), coins=self.coins)
        return self.clock(lambda: dsearch.search(self.model, method, setting.prompts, rng=self.rng(), **chunks))

    def published(self, setting: Setting) -> tuple[float, published_way.Record]:
        prompts = list(setting.prompts)
        return self.clock(
            lambda: published_way.run(self.model, smoothness, prompts, setting.flags, self.coins, self.rng())
        )

    @torch.no_grad()
    def bare(self, kind: str, rows: int) -> float:
        """Seconds a row of one bare call, inputs at hand: the network (both halves of guidance), decoder or reward."""
        latents = torch.randn(rows, *self.model._shape, device=self.device)
        if kind == "network":
            x = latents.repeat(2 if self.model.guided else 1, 1, 1, 1).to(self.pipe.unet.dtype)
            text = self.model.encode(["cat"])[0].to(x.dtype).expand(len(x), -1, -1).contiguous()
            t = self.model.kernel.timesteps[0]
            return self.clock(lambda: self.pipe.unet(x, t, encoder_hidden_states=text))[0] / rows
        if kind == "decode":
            z = latents.to(self.pipe.vae.dtype)
            return self.clock(lambda: self.pipe.vae.decode(z))[0] / rows
        images = self.model.decode(latents)
        return self.clock(lambda: smoothness(images, ["cat"] * rows))[0] / rows


def load(model: str | None) -> Any:
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging

    logging.disable_progress_bar()
    if model is None:
        from dsearch import box

        model = str(box.pipeline_path())
    variant = "fp16" if list(Path(model).glob("unet/*.fp16.*")) else None
    pipe = StableDiffusionPipeline.from_pretrained(model, variant=variant, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_same_choices(ours: dsearch.Result, theirs: published_way.Record) -> None:
    mine = [child[0].tolist() for child in ours.lineage.child]
    if mine != theirs.chosen:
        step = next(i for i, (a, b) in enumerate(zip(mine, theirs.chosen, strict=True)) if a != b)
        raise SystemExit(
            f"the two made different choices from step {step} on, so their times cannot be compared; "
            "rounding swapped two that are very near: try another --seed"
        )


def measure(bench: Bench, setting: Setting) -> dict[str, Any]:
    """Times of the loop, the published way and the bare calls, in turns."""
    plan = dsearch.methods.published(smoothness, **vars(setting.flags), coins=bench.coins).plan(bench.args.steps)
    sizes = [size for size in SIZES if size < max(plan.rows)] + [max(plan.rows)]
    bare: dict[str, dict[int, list[float]]] = {kind: {n: [] for n in sizes} for kind in ("network", "decode", "reward")}
    for kind, times in bare.items():
        for size in sizes:
            bench.bare(kind, size)  # to warm up
            times[size].append(bench.bare(kind, size))
    tuned = {name: best(bare[kind])[0] for name, kind in ARGUMENTS.items()}
    loop, chunked, published = [], [], []
    for _ in range(bench.args.repeats):
        seconds, ours = bench.loop(setting, {})
        loop.append(seconds)
        for kind, times in bare.items():
            for size in sizes:
                times[size].append(bench.bare(kind, size))
        chunked.append(bench.loop(setting, tuned)[0])
        seconds, theirs = bench.published(setting)
        published.append(seconds)
        assert_same_choices(ours, theirs)
    bill = ours.cost.bill._asdict()
    floor = sum(rows * best(bare[kind])[1] for kind, rows in zip(bare, bill.values(), strict=True))
    return {
        "name": setting.name,
        "bill": bill,
        "recomputed": theirs.recomputed,
        "loop_s": median(loop),
        "loop_tuned_s": median(chunked),
        "published_s": median(published),
        "bare_s": floor,
        "tuned": tuned,
        "ms_a_row": {k: {n: 1e3 * median(each) for n, each in times.items()} for k, times in bare.items()},
        "noise_s": noise_seconds(bench, plan),
        "all_s": {"loop": loop, "loop_tuned": chunked, "published": published},
    }


ARGUMENTS = {"chunk": "network", "decode_chunk": "decode", "reward_chunk": "reward"}


def best(times: dict[int, list[float]]) -> tuple[int, float]:
    """The batch size with the least median time a row, and that time."""
    size = min(times, key=lambda n: median(times[n]))
    return size, median(times[size])


def noise_seconds(bench: Bench, plan: dsearch.Plan) -> float:
    """All the noise of one run."""

    def draw() -> None:
        for i, lead in enumerate(zip(plan.alive, plan.width, strict=True)):
            bench.model.noise(i, (1, *lead), bench.rng())

    return median(bench.clock(draw)[0] for _ in range(3))


def sources(
    now: Callable[[], float], repeats: int, groups: int = 8, shape: Sequence[int] = (64, 4, 64, 64)
) -> dict[str, float]:
    """Seconds for 8 prompts by 64 children of 4x64x64: our source, and torch's generator reseeded for each key."""
    ours = dsearch.KeyedRng(0, tuple(range(groups)))

    def torchs() -> Tensor:
        out, generator = torch.empty(groups, *shape), torch.Generator()
        for key in range(groups):
            generator.manual_seed(hash(("noise", 0, key)) & 0xFFFFFFFF)
            out[key].normal_(generator=generator)
        return out

    times: dict[str, list[float]] = {"keyed": [], "torch": []}
    for step in range(repeats + 1):  # the first is to warm up
        began = now()
        ours.normal("noise", step, (groups, *shape))
        between = now()
        torchs()
        times["keyed"].append(between - began)
        times["torch"].append(now() - between)
    return {name: median(each[1:]) for name, each in times.items()}


def machine(device: torch.device, threads: int) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    chip = names[0] if names else platform.processor() or platform.machine()
    return f"{chip} ({platform.machine()}), {threads} thread{'s' if threads > 1 else ''}"


def versions() -> str:
    import diffusers
    import numpy

    libraries = (dsearch, torch, diffusers, numpy)
    shown = ", ".join(f"{library.__name__} {library.__version__}" for library in libraries)
    return f"Python {platform.python_version()}, {shown}"


def command(script: str, argv: Sequence[str]) -> str:
    """The command line, without the folders of this machine."""
    hidden = {"--json": "OUT.json", "--docs": "PAGE.md"}
    pairs = zip(["", *argv], argv, strict=False)
    shown = (hidden.get(before, "DIR" if "/" in word else word) for before, word in pairs)
    return " ".join([f"python benchmarks/{script}", *shown])


def section(report: dict[str, Any]) -> str:
    """The Markdown that goes into the page."""
    lines = [
        f"{report['date']}, {report['machine']}; {report['versions']}.",
        f"{report['model'].capitalize()}, {report['steps']} steps, guidance {report['guidance']:g}; medians of "
        f"{report['repeats']} rounds, {CLOCK_NAMES[report['clock']]}. Made by:",
        "",
        "```",
        report["command"],
        "```",
        "",
        "| plan | loop, s | published way, s | times as fast | bare calls, s | loop / bare | chunks tuned | noise |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['name']} | {row['loop_s']:.2f} | {row['published_s']:.2f} "
            f"| {row['published_s'] / row['loop_s']:.2f} | {row['bare_s']:.2f} "
            f"| {row['loop_s'] / row['bare_s']:.3f} | {row['loop_tuned_s'] / row['bare_s']:.3f} "
            f"| {row['noise_s'] / row['loop_s']:.1%} |"
        )
    lines += ["", *rate_table(report["rows"][-1]), "", *source_table(report["sources"])]
    return "\n".join(lines)


def rate_table(row: dict[str, Any]) -> list[str]:
    """Milliseconds a row by batch size; the best in bold."""
    sizes = list(row["ms_a_row"]["network"])
    lines = [
        "| rows in one bare call | " + " | ".join(map(str, sizes)) + " |",
        "| --- |" + " ---: |" * len(sizes),
    ]
    for kind, times in row["ms_a_row"].items():
        least = min(times.values())
        cells = (f"**{ms:.2f}**" if ms == least else f"{ms:.2f}" for ms in times.values())
        lines.append(f"| {kind}, ms a row | " + " | ".join(cells) + " |")
    return lines


def source_table(seconds: dict[str, float]) -> list[str]:
    return [
        "| noise for 8 prompts × 64 children of 4×64×64 | ms |",
        "| --- | ---: |",
        f"| `KeyedRng` (numpy's Philox, 128-bit keys) | {1e3 * seconds['keyed']:.0f} |",
        f"| torch's generator, reseeded for each key | {1e3 * seconds['torch']:.0f} |",
    ]


def rewrite(page: Path, text: str, begin: str = BEGIN, end: str = END) -> None:
    """Puts the section between the page's markers."""
    old = page.read_text(encoding="utf-8")
    if begin not in old or end not in old:
        raise SystemExit(f"{page} has no markers {begin} and {end}")
    before, after = old.split(begin)[0], old.split(end)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder of a Stable Diffusion pipeline (default: the model in the box)")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS), metavar="PROMPT")
    parser.add_argument("--width", type=int, help="one line only: SVDD with so many children")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="auto: the first accelerator that torch sees; without one, nothing is measured",
    )
    parser.add_argument("--repeats", type=int, default=5, help="rounds, of which medians are taken")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor seconds, on a busy machine (CPU only)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every figure there")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="rewrite the tables between the page's markers")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    args = parsed(argv)
    if args.device == "auto":
        if not torch.accelerator.is_available():
            print("no accelerator here: nothing to measure")
            return
        args.device = str(torch.accelerator.current_accelerator())
    torch.set_num_threads(args.threads)
    bench = Bench(args)
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(bench.device, args.threads),
        "versions": versions(),
        "command": command("throughput.py", argv),
        "model": "the model in the box" if args.model is None else Path(args.model).name,
        **{name: getattr(args, name) for name in ("steps", "guidance", "repeats", "seed", "threads", "clock")},
        "rows": [measure(bench, setting) for setting in settings(args.prompts, args.width)],
        "sources": sources(bench.now, args.repeats),
    }
    print(section(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.docs:
        rewrite(args.docs, section(report))


if __name__ == "__main__":
    main(sys.argv[1:])
