"""Reward against bill for every method, on the model in the box.

Cells (guide, method, bill, seed) are run one after another and appended to a file of JSON lines; what is there already
is not run again, so that a run can be stopped, continued and widened, or split over processes by guide.

    python benchmarks/frontier.py run --guide compressibility --out frontier
    python benchmarks/frontier.py run --guide clip --out frontier
    python benchmarks/frontier.py report --out frontier --docs docs/frontier.md --pictures docs/img
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dsearch
from dsearch import Budget, Method, methods
from dsearch.box import DEMO_PROMPTS, SUBJECTS, clip_path, pipeline_path
from dsearch.compare.metrics import Interval, diversity, interval, paired
from dsearch.core import value
from dsearch.demo import Judge
from dsearch.plots import Panel, Series, curves, grid

STEPS, GUIDANCE = 20, 2.5
LAM = 4  # of FK steering and tempered SMC, in standard deviations of plain rewards: the best of 1.5 and 4 tried
GUIDES = ("compressibility", "clip")


class Pilot(NamedTuple):
    """What a run of plain samples, apart from those compared, says of a guide."""

    spread: float  # standard deviation of the rewards of one prompt
    gain: list[float]
    rank_correlation: list[float]


Make = Callable[[dsearch.Reward, Pilot], Method]


METHODS: dict[str, Make] = {
    "best-of-N": lambda reward, pilot: methods.best_of_n(reward),
    "zero-order": lambda reward, pilot: methods.zero_order(reward, rounds=4),
    "PSP": lambda reward, pilot: methods.psp(reward),
    "FK": lambda reward, pilot: methods.fk(reward, lam=LAM / pilot.spread, every=2),
    "tempered SMC": lambda reward, pilot: methods.tempered(reward, lam=LAM / pilot.spread),
    "CoDe": lambda reward, pilot: methods.code(reward, block=3),
    "RBF": lambda reward, pilot: methods.rbf(reward),
    "beam": lambda reward, pilot: methods.beam(reward, beams=2, width=4),
    "SVDD": lambda reward, pilot: methods.svdd(reward),
    "DSearch": lambda reward, pilot: methods.dsearch(reward, beams=16, budget=16),
    "DSearch-R": lambda reward, pilot: methods.dsearch_r(reward, beams=4, budget=8, rate=0.25, search="all"),
    "tuned": lambda reward, pilot: methods.tuned(reward, pilot.gain),
    "tuned, 2 beams": lambda reward, pilot: methods.tuned(reward, pilot.gain, beams=2),
}
"""Each is sized to the bill by `within`."""


def _dsearch(**options: Any) -> Make:
    return lambda reward, pilot: methods.dsearch(reward, **{"beams": 16, "budget": 16, **options})


CLAIMS: dict[str, dict[str, Make]] = {
    "drop schedule (searching at all steps)": {
        drop: _dsearch(drop=drop, search="all", **({"beams": 4} if drop == "none" else {}))
        for drop in ("exponential", "linear", "quadratic", "sigmoid", "none")
    },
    "search schedule (exponential drop)": {
        search: _dsearch(search=search) for search in ("all", "uniform", "linear", "exponential")
    },
    "value of SVDD": {
        "posterior mean": lambda reward, pilot: methods.svdd(reward),
        "lookahead, 1 step": lambda reward, pilot: methods.svdd(reward, value=value.lookahead(1)),
        "lookahead, 3 steps": lambda reward, pilot: methods.svdd(reward, value=value.lookahead(3)),
        "lookahead, 3 steps without noise": lambda reward, pilot: methods.svdd(
            reward, value=value.lookahead(3, deterministic=True)
        ),
    },
    "replacement (half as many beams as rows)": {
        "none": lambda reward, pilot: methods.dsearch(reward, beams=8, budget=16, drop="none", search="all"),
        "worst quarter": lambda reward, pilot: methods.dsearch_r(reward, 8, 16, 0.25, search="all"),
    },
}
"""What the paper claims of its parts, each at one bill."""


class Box(NamedTuple):
    """The model in the box, what guides and what watches."""

    denoiser: dsearch.Denoiser
    rewards: dict[str, dsearch.Reward]
    judge: Judge


def box(dtype: str) -> Box:
    from diffusers import StableDiffusionPipeline

    from dsearch.adapters import StableDiffusion
    from dsearch.cli import _hush
    from dsearch.rewards import CLIPScore, Compressibility

    _hush()
    pipe = StableDiffusionPipeline.from_pretrained(pipeline_path(), torch_dtype=getattr(torch, dtype))
    denoiser = StableDiffusion(pipe, num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    rewards = {"compressibility": Compressibility(), "clip": CLIPScore()}
    return Box(denoiser, rewards, Judge(CLIPScore(clip_path("judge")), SUBJECTS))


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{args.guide}.jsonl"
    world, done = box(args.dtype), {key(cell) for cell in read([file])}
    reward, pilot = world.rewards[args.guide], piloted(world, args.guide, args.out)
    plain_cells(world, args.guide, max(args.seeds), file, done)
    groups = CLAIMS if args.claims else {"": METHODS}
    for n, seeds in zip(args.bills, args.seeds, strict=True):  # the cheap bills first
        for group, makes in groups.items():
            for name, make in makes.items():
                new = [seed for seed in range(seeds) if (args.guide, group, name, n, seed) not in done]
                if not new or (args.only and name not in args.only):
                    continue
                method = make(reward, pilot).within(Budget(model_calls=n * STEPS), STEPS)
                write(file, search_cells(world, args.guide, group, name, n, method, new))


def plain_cells(world: Box, guide: str, seeds: int, file: Path, done: set[Any]) -> None:
    """Plain samples, one a prompt and seed."""
    new = [seed for seed in range(seeds) if (guide, "", "plain", 1, seed) not in done]
    if new:
        write(file, search_cells(world, guide, "", "plain", 1, methods.plain(world.rewards[guide]), new))


def piloted(world: Box, guide: str, folder: Path) -> Pilot:
    """The pilot of a guide, made once and kept."""
    file = folder / f"pilot_{guide}.json"
    if not file.exists():
        made = dsearch.pilot(world.denoiser, world.rewards[guide], DEMO_PROMPTS[:4], samples=32, chunk=64)
        spread = float(made.values[..., -1].std(dim=1).mean())
        file.write_text(json.dumps(Pilot(spread, made.gain, made.rank_correlation)._asdict()), encoding="utf-8")
    return Pilot(**json.loads(file.read_text("utf-8")))


def search_cells(
    world: Box, guide: str, group: str, name: str, n: int, method: Method, seeds: Sequence[int]
) -> Iterable[dict[str, Any]]:
    """One search over prompts and seeds, whose ids name the noise; what is left to a user is the best image of each."""
    prompts = list(DEMO_PROMPTS[:4]) * len(seeds)
    ids = [f"{seed}/{i % 4}" for i, seed in enumerate(s for s in seeds for _ in range(4))]
    began = time.perf_counter()
    result = dsearch.search(world.denoiser, method, prompts, ids=ids, chunk=64)
    seconds = time.perf_counter() - began
    images = result.images[:, 0]
    cosine, top1 = world.judge(images, prompts)
    looks = {other: reward(images, prompts).tolist() for other, reward in world.rewards.items()}
    embeddings = world.judge.score.image_embeddings(images)
    for s, seed in enumerate(seeds):
        rows = slice(4 * s, 4 * s + 4)
        yield {
            **{"guide": guide, "group": group, "method": name, "n": n, "seed": seed, "prompts": prompts[rows]},
            **{other: values[rows] for other, values in looks.items()},
            "judge": cosine[rows].tolist(),
            "top1": top1[rows].tolist(),
            "embedding": [[round(x, 4) for x in row] for row in embeddings[rows].tolist()],
            "kl": None if result.kl is None else result.kl[rows, 0].tolist(),
            "bill": result.bill,
            "seconds": round(seconds / len(seeds), 3),
            **({"pixels": images[rows].mul(255).round().to(torch.uint8).tolist()} if seed == 0 and not group else {}),
        }
    reached = torch.tensor(looks[guide]).mean()
    print(f"{guide:16} {n:3} {group} {name:16} {reached:8.4f} {seconds:7.1f} s {tuple(result.bill)}", flush=True)


def key(cell: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(cell[name] for name in ("guide", "group", "method", "n", "seed"))


def write(file: Path, cells: Iterable[dict[str, Any]]) -> None:
    with file.open("a", encoding="utf-8") as out:
        out.writelines(json.dumps(cell) + "\n" for cell in cells)


def read(files: Iterable[Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for file in files if file.exists() for line in file.read_text("utf-8").splitlines()]


class Point(NamedTuple):
    """What a method reached at a bill: one number a prompt and seed, in the order of both."""

    guide: str
    group: str
    method: str
    n: int
    cells: list[dict[str, Any]]

    def of(self, what: str) -> Tensor:
        """`[prompts * seeds]`."""
        return torch.tensor([x for cell in self.cells for x in cell[what]], dtype=torch.float64)

    def keys(self) -> list[tuple[int, str]]:
        return [(cell["seed"], prompt) for cell in self.cells for prompt in cell["prompts"]]

    def above(self, other: Point, what: str) -> Interval:
        """Paired over the prompts and seeds that both have."""
        theirs = dict(zip(other.keys(), other.of(what).tolist(), strict=True))
        pairs = [(x, theirs[key]) for key, x in zip(self.keys(), self.of(what).tolist(), strict=True) if key in theirs]
        return paired(*torch.tensor(pairs, dtype=torch.float64).T)

    def diversity(self) -> Interval:
        """Mean over prompts of the mean pairwise 1 - cosine of the judge's embeddings, over seeds."""
        of_prompt: dict[str, list[list[float]]] = {}
        for cell in self.cells:
            for prompt, embedding in zip(cell["prompts"], cell["embedding"], strict=True):
                of_prompt.setdefault(prompt, []).append(embedding)
        return interval(torch.stack([diversity(torch.tensor(rows)) for rows in of_prompt.values()]))


def points(cells: Sequence[dict[str, Any]]) -> dict[tuple[str, str, str, int], Point]:
    found: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    for cell in sorted(cells, key=lambda cell: cell["seed"]):
        found.setdefault((cell["guide"], cell["group"], cell["method"], cell["n"]), []).append(cell)
    return {at: Point(*at, cells) for at, cells in found.items()}


def report(args: argparse.Namespace) -> None:
    cells = read(args.out / f"{guide}.jsonl" for guide in GUIDES)
    found = points(cells)
    text = "\n\n".join([about(cells), *(frontier_table(found, guide) for guide in GUIDES), claims_table(found)])
    print(text)
    if args.docs:
        splice(args.docs, "frontier", text)
    if args.pictures:
        draw(found, args.pictures)


def about(cells: Sequence[dict[str, Any]]) -> str:
    import diffusers

    return (
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, dsearch {dsearch.__version__}, torch {torch.__version__}, "
        f"diffusers {diffusers.__version__}; the model in the box, {STEPS} steps, guidance {GUIDANCE}, "
        f"{', '.join(cells[0]['prompts'])}. Made by:\n\n```\n"
        "python benchmarks/frontier.py run --guide compressibility\npython benchmarks/frontier.py run --guide clip\n"
        "python benchmarks/frontier.py run --guide compressibility --claims --bills 16 --seeds 3\n"
        "python benchmarks/frontier.py run --guide clip --claims --bills 16 --seeds 3\n"
        "python benchmarks/frontier.py report --docs docs/frontier.md --pictures docs/img\n```"
    )


def order(found: dict[tuple[str, str, str, int], Point]) -> list[str]:
    names = {method for _, group, method, _ in found if not group}
    return [name for name in METHODS if name in names]


def frontier_table(found: dict[tuple[str, str, str, int], Point], guide: str) -> str:
    unit = {"compressibility": "minus kB", "clip": "the guide's cosine"}[guide]
    other = {"compressibility": "clip", "clip": "compressibility"}[guide]
    held = {"clip": "guide's cosine", "compressibility": "minus kB"}[other]
    head = ["method", "bill", f"reward, {unit}", "above best-of-N", "judge", "judge above plain", held, "diversity"]
    head += ["KL, nats", "rows", "decodes", "pairs"]
    lines = [f"**Guided by {guide}**", "", "| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    plain = found[guide, "", "plain", 1]
    bills = sorted({n for g, group, _, n in found if g == guide and not group})
    for n in bills:
        for name in ["plain", *order(found)]:
            point = found.get((guide, "", name, n))
            if point is not None:
                best = found.get((guide, "", "best-of-N", n))
                lines.append(row(point, plain, best if name not in ("plain", "best-of-N") else None, guide, other))
    return "\n".join(lines)


def row(point: Point, plain: Point, best: Point | None, guide: str, other: str) -> str:
    kl = [x for cell in point.cells for x in cell["kl"] or []]
    bill = point.cells[0]["bill"]
    cells = [
        point.method,
        f"{point.n}×",
        str(interval(point.of(guide))),
        signed(point.above(best, guide)) if best is not None else "",
        f"{point.of('judge').mean():.3f}",
        signed(point.above(plain, "judge")) if point.method != "plain" else "",
        f"{point.of(other).mean():.3f}",
        f"{point.diversity().mean:.3f}",
        f"{sum(kl) / len(kl):.1f}" if kl else "",
        *(str(x) for x in bill[:2]),
        str(len(point.of(guide))),
    ]
    return "| " + " | ".join(cells) + " |"


def signed(difference: Interval) -> str:
    text = f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
    return text if difference.low > 0 or difference.high < 0 else f"{text} n.s."


def claims_table(found: dict[tuple[str, str, str, int], Point]) -> str:
    head = ["part", "variant", *(f"{guide}: reward | above the first variant | judge" for guide in GUIDES)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * (2 + 3 * len(GUIDES))]
    for group, makes in CLAIMS.items():
        for name in makes:
            cells = [group, name]
            for guide in GUIDES:
                at = {p.method: p for (g, of, _, _), p in found.items() if (g, of) == (guide, group)}
                if name not in at:
                    cells += [""] * 3
                    continue
                base = at[next(iter(makes))]
                above = "" if at[name] is base else signed(at[name].above(base, guide))
                cells += [str(interval(at[name].of(guide))), above, f"{at[name].of('judge').mean():.3f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(found: dict[tuple[str, str, str, int], Point], folder: Path) -> None:
    """Reward against bill, held-out judge against reward, and pictures of the largest bill."""
    rewards, pareto = [], []
    for guide in GUIDES:
        series, marks = {}, {}
        for name in order(found):
            run = sorted((n, p) for (g, group, m, n), p in found.items() if (g, group, m) == (guide, "", name))
            y = [interval(point.of(guide)) for _, point in run]
            series[name] = Series(
                [float(n) for n, _ in run], [i.mean for i in y], [i.low for i in y], [i.high for i in y]
            )
            marks[name] = Series(
                [i.mean for i in y], *zip(*(interval(point.of("judge")) for _, point in run), strict=True)
            )
        rewards.append(Panel(f"guided by {guide}", "bill, times plain sampling", "reward", series))
        pareto.append(Panel(f"guided by {guide}", "reward", "judge's cosine (never steers)", marks))
    curves([rewards], folder / "frontier.png", log_x=True)
    curves([pareto], folder / "frontier_judge.png")
    for guide in GUIDES:
        largest = max(n for g, group, m, n in found if (g, group, m) == (guide, "", "SVDD"))
        names = ["plain", *(name for name in order(found) if (guide, "", name, largest) in found)]
        shown = [found[guide, "", name, 1 if name == "plain" else largest].cells[0] for name in names]
        pictures = [list(torch.tensor(cell["pixels"]) / 255) for cell in shown]
        grid(pictures, names, shown[0]["prompts"], folder / f"frontier_{guide}.png")


def splice(file: Path, name: str, text: str) -> None:
    """Replaces what stands between the marks of that name."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = file.read_text("utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{file} has no marks {begin} and {end}")
    file.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    sub = commands.add_parser("run", help="run cells that are not there yet")
    sub.set_defaults(command=run)
    sub.add_argument("--guide", choices=GUIDES, required=True)
    sub.add_argument("--out", type=Path, default=Path("frontier"))
    sub.add_argument("--bills", type=int, nargs="+", default=[4, 16, 64], help="in runs of plain sampling")
    sub.add_argument("--seeds", type=int, nargs="+", default=[4, 4, 2], help="of each bill, four prompts each")
    sub.add_argument("--claims", action="store_true", help="the parts of DSearch instead of the methods")
    sub.add_argument("--only", nargs="+", help="these methods alone")
    sub.add_argument(
        "--dtype", default="bfloat16", help="of the networks; bfloat16 is 1.7 times as fast on CPUs that have it"
    )
    sub.add_argument("--threads", type=int, default=1)
    sub = commands.add_parser("report", help="tables and pictures of what is there")
    sub.set_defaults(command=report)
    sub.add_argument("--out", type=Path, default=Path("frontier"))
    sub.add_argument("--docs", type=Path)
    sub.add_argument("--pictures", type=Path)
    args = parser.parse_args(argv)
    if args.command is run and len(args.bills) != len(args.seeds):
        parser.error("give as many --seeds as --bills")
    args.command(args)


if __name__ == "__main__":
    sys.exit(main())
