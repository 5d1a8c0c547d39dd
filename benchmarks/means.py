"""What each means of speed brings, switched on in turn, and whether the choices stay the same.

    python benchmarks/means.py                               # the model in the box, on this machine
    python benchmarks/means.py --model sd15 --size 512       # Stable Diffusion v1.5's true architecture, random weights
    python benchmarks/means.py --docs docs/engine.md         # and put the tables into the page

From the published way (children one at a time, the winner predicted again, float32) to half precision networks, a
memory format, a cheap decoder for the values, and compiled networks. Everything is timed side by side in one run, in
turns. What the fast stack says of the children that the float32 search meets is compared with what float32 says.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import published_way
import torch
from throughput import command, machine, rewrite, svdd, versions
from torch import Tensor

import dsearch
from dsearch.adapters import StableDiffusion
from dsearch.core.plan import Bill

MARKS = "<!-- means of {}: begin -->", "<!-- means of {}: end -->"
PROMPTS = ("cat", "house", "car", "tree")


@dataclass
class Stack:
    """A pipeline as fast as one more means makes it."""

    name: str
    model: StableDiffusion
    reward: Any
    options: dict[str, Any] = field(default_factory=dict)
    alone: bool = False  # the published way

    def run(self, plan: Any, rng: Any) -> Any:
        """The plan's search; compiled networks get chunks that its rows fill."""
        if self.alone:
            coins = [0.0] * (self.model.num_steps - 1)
            return published_way.run(self.model, self.reward, list(plan.prompts), plan.flags, coins, rng)
        method = dsearch.methods.published(self.reward, **vars(plan.flags), coins=[0.0] * (self.model.num_steps - 1))
        options = dict(self.options)
        if options.get("pad"):
            rows = len(plan.prompts) * plan.flags.duplicate_size
            options["chunk"] = options["reward_chunk"] = rows // -(-rows // options["chunk"])
            options["decode_chunk"] = min(options["decode_chunk"], options["chunk"])
        return dsearch.search(self.model, method, plan.prompts, rng=rng, **options)


def stacks(args: argparse.Namespace) -> list[Stack]:
    """The published way, and the loop with one means more each."""
    settings = {"num_inference_steps": args.steps, "guidance_scale": args.guidance}

    def model(dtype: torch.dtype, last: bool, preview: bool) -> StableDiffusion:
        pipe, tiny = load(args, dtype)
        if last:
            pipe.vae.to(memory_format=torch.channels_last), tiny.to(memory_format=torch.channels_last)
            if args.device != "cpu":
                pipe.unet.to(memory_format=torch.channels_last)
        return StableDiffusion(pipe, **settings, preview=tiny if preview else None)

    full, half = torch.float32, torch.float16 if args.device != "cpu" else torch.bfloat16
    chunks = {"chunk": args.chunk, "decode_chunk": args.decode_chunk, "reward_chunk": args.chunk}
    precise, fast = (reward_of(args, dtype) for dtype in (full, half))
    plain = model(full, False, False)
    found = [
        Stack("one child at a time, float32", plain, precise, alone=True),
        Stack("the loop, float32", plain, precise, chunks),
        Stack(f"{half} networks".removeprefix("torch."), model(half, False, False), fast, chunks),
        Stack("channels-last", model(half, True, False), fast, chunks),
        Stack("preview decoder", model(half, True, True), fast, chunks),
    ]
    if args.compile:
        quick = model(half, True, True)
        quick.pipe.unet.compile(), quick._looks.decoder.compile()
        found.append(Stack("torch.compile", quick, fast, {**chunks, "pad": True}))
    return found


def load(args: argparse.Namespace, dtype: torch.dtype) -> tuple[Any, Any]:
    """A pipeline and its preview decoder."""
    from diffusers import AutoencoderTiny, StableDiffusionPipeline
    from diffusers.utils import logging

    from dsearch import box

    logging.disable_progress_bar()
    if args.model == "sd15":
        pipe, tiny = true_architecture(args.size)
    else:
        pipe = StableDiffusionPipeline.from_pretrained(box.pipeline_path())
        tiny = AutoencoderTiny.from_pretrained(box.preview_path())
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(args.device, dtype), tiny.to(args.device, dtype)


def true_architecture(size: int) -> tuple[Any, Any]:
    """v1.5's UNet and VAE and the tiny decoder made for it, with random weights; the text encoder of the box."""
    from diffusers import AutoencoderKL, AutoencoderTiny, StableDiffusionPipeline, UNet2DConditionModel

    from dsearch import box

    torch.manual_seed(0)
    pipe = StableDiffusionPipeline.from_pretrained(box.pipeline_path())
    width = pipe.text_encoder.config.hidden_size
    unet = UNet2DConditionModel(sample_size=size // 8, cross_attention_dim=width)  # its defaults are v1.5's
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        sample_size=size,
    )
    parts = {**pipe.components, "unet": unet.eval(), "vae": vae.eval()}
    return StableDiffusionPipeline(**parts, requires_safety_checker=False), AutoencoderTiny().eval()


def reward_of(args: argparse.Namespace, dtype: torch.dtype) -> Any:
    """The box's guide, or a CLIP ViT-L/14 image tower with random weights, read along one direction."""
    from dsearch.rewards import CLIPScore

    if args.model == "box":
        return CLIPScore(device=args.device, dtype=dtype)
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
    )
    tower = CLIPVisionModel(config).eval().to(args.device, dtype)

    def reward(images: Tensor, prompts: list[str]) -> Tensor:
        small = torch.nn.functional.interpolate(images, (224, 224), mode="bicubic", antialias=True)
        return tower(((small - 0.45) / 0.27).to(dtype)).pooler_output.float()[:, 0]

    return reward


class Both:
    """The float32 value, and beside it what another stack says of the same children."""

    def __init__(self, other: Stack) -> None:
        self.other, self.cond = other, None
        self.agree, self.regret = [], []

    def __call__(self, children: Any, step: int, engine: Any) -> Tensor:
        exact = engine.reward(children.pred.x0, children.prompt_index, step)
        model, prompts = self.other.model, engine.prompts
        if self.cond is None:
            self.cond = model.encode(prompts)
        rows, texts = children.prompt_index.flatten(), [prompts[p] for p in children.prompt_index.flatten().tolist()]
        said = []
        for part in torch.arange(len(rows), device=rows.device).split(self.other.options["chunk"]):
            x0 = model.predict(children.x.flatten(0, 1)[part], step, self.cond, rows[part]).x0
            said.append(self.other.reward(model.preview(x0), [texts[i] for i in part.tolist()]))
        quick = torch.cat(said).view_as(exact).to(exact.dtype)
        chosen = exact.gather(1, quick.argmax(1, keepdim=True))[:, 0]
        self.agree += (chosen == exact.amax(1)).tolist()
        self.regret += ((exact.amax(1) - chosen) / exact.std(1)).tolist()
        return exact

    def cost(self, step: int, num_steps: int) -> Bill:
        return Bill(0, 1, 1)


def agreement(args: argparse.Namespace, precise: Stack, other: Stack, width: int) -> tuple[float, float]:
    """How often both choose the same of `width` children, and what the other's choice loses in their deviations."""
    both = Both(other)
    method = dataclasses.replace(dsearch.methods.svdd(precise.reward, width), value=both)
    for seed in range(args.seeds):
        dsearch.search(precise.model, method, PROMPTS, seed=seed)
    return sum(both.agree) / len(both.agree), sum(both.regret) / len(both.regret)


def finals(args: argparse.Namespace, judge: Stack, stack: Stack, width: int) -> Tensor:
    """`[seeds * prompts]` the float32 rewards of the final images of a stack's searches, decoded by the float32 VAE."""
    method = dsearch.methods.svdd(stack.reward, width)
    found = []
    for seed in range(args.seeds):
        result = dsearch.search(stack.model, method, PROMPTS, seed=seed, **stack.options)
        with torch.no_grad():
            found.append(judge.reward(judge.model.decode(result.latents[:, 0].float()), list(PROMPTS)))
    return torch.cat(found)


class Inside:
    """Seconds inside the networks' own calls, while it is entered."""

    def __init__(self, stack: Stack, wait: Callable[[], None]) -> None:
        self.seconds, self._wait = 0.0, wait
        pipe, looks = stack.model.pipe, stack.model._looks
        self._modules = [pipe.unet, pipe.text_encoder, pipe.vae.decoder, *([] if looks is None else [looks.decoder])]
        self._handles: list[Any] = []

    def __enter__(self) -> Inside:
        for module in self._modules:
            self._handles.append(module.register_forward_pre_hook(lambda *_: self._start()))
            self._handles.append(module.register_forward_hook(lambda *_: self._stop()))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def timed(self, reward: Any) -> Any:
        def asked(images: Tensor, prompts: list[str]) -> Tensor:
            self._start()
            said = reward(images, prompts)
            self._stop()
            return said

        return asked

    def _start(self) -> None:
        self._wait()
        self._began = time.perf_counter()

    def _stop(self) -> None:
        self._wait()
        self.seconds += time.perf_counter() - self._began


def matrix_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """TFLOP/s of a large product."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times = []
    for _ in range(5):
        wait(device)
        began = time.perf_counter()
        a @ b
        wait(device)
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times) / 1e12


def flops(args: argparse.Namespace, stack: Stack) -> dict[str, float]:
    """TFLOP of one guided network row, one decode and one preview."""
    from torch.utils.flop_counter import FlopCounterMode

    model, counts = stack.model, {}
    x = torch.randn(1, *model._shape, device=args.device)
    row = torch.zeros(1, dtype=torch.long, device=args.device)
    cond = model.encode(["cat"])
    works = {
        "network": lambda: model.predict(x, 0, cond, row),
        "decode": lambda: model.decode(x),
        "preview": lambda: model.preview(x),
        "reward": lambda: stack.reward(torch.rand(1, 3, model.height, model.width, device=args.device), ["cat"]),
    }
    for name, work in works.items():
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            work()
        counts[name] = counter.get_total_flops() / 1e12
    return counts


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    every, plans = stacks(args), [svdd(PROMPTS[:1], args.one), svdd(PROMPTS, args.many)]
    works = flops(args, every[4])
    rows: list[dict[str, Any]] = []
    for plan in plans:
        times: dict[str, list[float]] = {stack.name: [] for stack in every}
        spent: dict[str, Any] = {}
        for turn in range(args.repeats + 1):  # the first is to warm up, and to compile
            for stack in every:
                wait(args.device)
                began = time.perf_counter()
                result = stack.run(plan, dsearch.KeyedRng(0, (0,)))
                wait(args.device)
                if turn:
                    times[stack.name].append(time.perf_counter() - began)
                spent[stack.name] = None if stack.alone else result.cost.spent
                print(f"{plan.name}, {stack.name}: {time.perf_counter() - began:.2f} s", file=sys.stderr, flush=True)
        first = median(times[every[0].name])
        for stack in every:
            row = {"plan": plan.name, "name": stack.name, "seconds": median(times[stack.name])}
            row["times_as_fast"] = first / row["seconds"]
            if not stack.alone:
                with Inside(stack, lambda: wait(args.device)) as inside:
                    timed = Stack(stack.name, stack.model, inside.timed(stack.reward), stack.options)
                    began = time.perf_counter()
                    timed.run(plan, dsearch.KeyedRng(0, (0,)))
                    wait(args.device)
                    row["outside"] = 1 - inside.seconds / (time.perf_counter() - began)
                bill = spent[stack.name]
                final = len(plan.prompts)
                quick = works["preview"] if stack.model._looks is not None else works["decode"]
                total = (
                    bill.model_calls * works["network"]
                    + (bill.decodes - final) * quick
                    + final * works["decode"]
                    + bill.reward_calls * works["reward"]
                )
                row["tflops"] = total / row["seconds"]
                row["rows_a_second"] = bill.model_calls / row["seconds"]
            rows.append(row)
    precise, last = every[1], every[4]
    found = {"rows": rows, "tflop": works}
    kinds = (torch.float32, torch.float16 if args.device != "cpu" else torch.bfloat16)
    found["matrix"] = {str(kind): matrix_rate(args.device, kind, args.matrix) for kind in kinds}
    if args.seeds:
        agrees, exact = [], finals(args, precise, precise, args.many)
        for stack in every[2:]:
            same, regret = agreement(args, precise, stack, args.many)
            off = finals(args, precise, stack, args.many) - exact
            agrees.append({"name": stack.name, "same": same, "regret": regret, **interval_of(off)})
        found["agreement"] = agrees
    assert last.model._looks is not None
    return found


def interval_of(off: Tensor) -> dict[str, float]:
    from dsearch.compare.metrics import interval

    mean, low, high = interval(off.float())[:3]
    return {"off": mean, "low": low, "high": high}


def section(report: dict[str, Any]) -> str:
    lines = [
        f"{report['date']}, {report['machine']}; {report['versions']}.",
        f"{report['about']}; medians of {report['repeats']} rounds. Made by `{report['command']}`.",
        "",
        "| plan | with | s | times as fast | rows a second | outside the networks | TFLOP/s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in report["rows"]:
        shown = f"| {row['plan']} | {row['name']} | {row['seconds']:.2f} | {row['times_as_fast']:.2f} "
        if "outside" in row:
            shown += f"| {row['rows_a_second']:.3g} | {row['outside']:.1%} | {row['tflops']:.3g} |"
        else:
            shown += "| | | |"
        lines.append(shown)
    rates = ", ".join(f"{rate:.3g} in {kind.removeprefix('torch.')}" for kind, rate in report["matrix"].items())
    work = ", ".join(f"{name} {1000 * count:.3g}" for name, count in report["tflop"].items())
    lines += ["", f"A large matrix product: TFLOP/s {rates}. GFLOP each: {work}."]
    if "agreement" in report:
        lines += [
            "",
            "| with | same choice | its loss, in deviations of the siblings | final reward against float32 |",
            "| --- | ---: | ---: | ---: |",
        ]
        for row in report["agreement"]:
            off = f"{row['off']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]"
            lines.append(f"| {row['name']} | {row['same']:.1%} | {row['regret']:.4f} | {off} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("box", "sd15"), default="box")
    parser.add_argument("--size", type=int, default=512, help="of sd15's pictures, in pixels")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--one", type=int, default=8, help="children of a single prompt")
    parser.add_argument("--many", type=int, default=20, help="children each of four")
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--decode-chunk", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=4, help="searches to compare choices over; 0 for none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--matrix", type=int, default=2048, help="edge of the matrix product")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--docs", type=Path, metavar="PAGE")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    about = (
        "the model in the box" if args.model == "box" else f"Stable Diffusion v1.5's architecture, {args.size} pixels"
    )
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(torch.device(args.device), args.threads),
        "versions": versions(),
        "command": command("means.py", argv),
        "about": f"{about[0].upper()}{about[1:]}, {args.steps} steps, guidance {args.guidance:g}",
        "repeats": args.repeats,
        **measure(args),
    }
    text = section(report)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.docs:
        rewrite(args.docs, text, *(mark.format(args.model) for mark in MARKS))


if __name__ == "__main__":
    main(sys.argv[1:])
