"""The command line: parses, calls the library, prints."""

from __future__ import annotations

import argparse
import ast
import inspect
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import __version__, distributed, methods
from ._torchvision import mend
from .core.budget import Budget, measure
from .core.contract import Method, Reward
from .core.loop import Result
from .core.plan import Bill

if TYPE_CHECKING:
    from .adapters import StableDiffusion
    from .rewards import CLIPScore

REWARDS = {
    "compressibility": "Compressibility",
    "incompressibility": "Incompressibility",
    "colourfulness": "Colourfulness",
    "clip": "CLIPScore",
    "aesthetic": "Aesthetic",
    "hps": "HPS",
    "pickscore": "PickScore",
}

GENERATE = """examples:
  dsearch generate "cat" "panda on a blue background" --method dsearch --reward clip --beams 4 --budget 8
  dsearch generate "a castle" --model stable-diffusion-v1-5/stable-diffusion-v1-5 --reward compressibility --budget 10
  dsearch generate "cat" --method svdd -o temperature=0.1
  dsearch generate "cat" --method beam --within seconds=20     (measured first, then turned into a plan)
  dsearch generate "cat" --reward my_module:my_reward      (any callable (images, prompts) -> [N])
"""
PLAN = """examples:
  dsearch plan --method dsearch --steps 50 --beams 5 --budget 25
  dsearch plan --method published -o bs=12 -o oversamplerate=5 -o w=5 -o drop_schedule=exponential
  dsearch plan --method best_of_n --budget 8 --picture plan.png
  dsearch plan --method fk --within model_calls=400 --within decodes=100 --beside dsearch psp --picture plan.png
"""
DEMO = """examples:
  dsearch demo                          (the model in the box; minutes on two cores)
  dsearch demo --seeds 2 --prompts cat panda
  dsearch demo --model stable-diffusion-v1-5/stable-diffusion-v1-5 --prompts cat dog --clip DIR --judge DIR
"""


PAPER = """examples:
  dsearch reproduce                                  (the model in the box, small: half an hour on two cores)
  dsearch reproduce compressibility --seeds 2 --bills 4
  dsearch reproduce --model stable-diffusion-v1-5/stable-diffusion-v1-5 --aesthetic-clip DIR --aesthetic-head FILE \\
      --hps FILE --hps-prompts FILE --bills 4 16 64
"""


class UsageError(ValueError):
    """Something the user can put right; shown without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status (0, or 2 with one line on standard error)."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, TypeError, OSError, ImportError, RuntimeError) as error:
        if args.debug:
            raise
        print(f"dsearch: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dsearch: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dsearch", description="Inference-time alignment of diffusion models by search."
    )
    parser.add_argument("--version", action="version", version=f"dsearch {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, help: str, epilog: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=help, description=help, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.set_defaults(run=run)
        return sub

    generate = command("generate", _generate, "search for images: pictures, a grid and result.json", GENERATE)
    generate.add_argument("prompts", nargs="+", metavar="PROMPT")
    _add_model(generate)
    _add_method(generate)
    generate.add_argument("--reward", help=f"{', '.join(REWARDS)} or module:callable (in the box: clip)")
    generate.add_argument("--clip", metavar="DIR", help="the CLIPModel of clip, aesthetic or pickscore")
    generate.add_argument("--weights", metavar="FILE", help="the checkpoint of hps, or the head of aesthetic")
    generate.add_argument(
        "--observe", nargs="+", default=[], metavar="REWARD", help="rewards that score the images and never steer"
    )
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--out", type=Path, default=Path("dsearch-out"), help="folder (default: %(default)s)")
    generate.add_argument("--overwrite", action="store_true", help="write into a folder that holds a result")

    plan = command("plan", _plan, "show the plan of a method and its bill, before spending it", PLAN)
    _add_method(plan)
    plan.add_argument("--steps", type=int, default=50, help="denoising steps (default: %(default)s)")
    plan.add_argument("--picture", type=Path, metavar="PNG", help="draw beams, children and rows of each step")
    plan.add_argument(
        "--beside", nargs="*", default=[], metavar="METHOD", help="draw these too, sized to the same network rows"
    )

    demo = command("demo", _demo, "every method at one bill, under two guides: grid, curves and results.json", DEMO)
    _add_model(demo)
    demo.add_argument("--prompts", nargs="+", metavar="PROMPT", help="(default: four that the model draws well)")
    demo.add_argument("--seeds", type=int, default=7, help="repetitions, at least 2 (default: %(default)s)")
    demo.add_argument("--n", type=int, default=8, help="plain images that the bill buys (default: %(default)s)")
    demo.add_argument("--clip", metavar="DIR", help="the CLIPModel that guides (in the box: its guide; else none)")
    demo.add_argument("--judge", metavar="DIR", help="the CLIPModel that watches (in the box: its judge; else none)")
    demo.add_argument("--out", type=Path, default=Path("demo-out"), help="folder (default: %(default)s)")

    paper = command("reproduce", _reproduce, "the experiments of Li et al. 2025, also at equal bills", PAPER)
    paper.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="compressibility, aesthetic, hps (all)")
    _add_model(paper)
    paper.add_argument("--aesthetic-head", type=Path, metavar="FILE", help="LAION's MLP (in the box: colourfulness)")
    paper.add_argument("--aesthetic-clip", metavar="DIR", help="the CLIP ViT-L/14 under it")
    paper.add_argument("--hps", metavar="FILE", help="the HPS v2 checkpoint (in the box: its guide's CLIP score)")
    paper.add_argument("--hps-prompts", type=Path, metavar="FILE", help="prompts of hps, one a line (the animals)")
    paper.add_argument("--bills", type=int, nargs="+", default=[5, 20], help="in runs of plain sampling a prompt")
    paper.add_argument("--seeds", type=int, default=3, help="repetitions, at least 2 (default: %(default)s)")
    paper.add_argument("--full", action="store_true", help="the published flags' sizes in the box too: hours")
    paper.add_argument("--out", type=Path, default=Path("reproduce-out"), help="folder (default: %(default)s)")
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="box", help="box, a diffusers folder, or a hub id, which is downloaded")
    parser.add_argument("--steps", type=int, help="denoising steps (default: 20 for the box, else 50)")
    parser.add_argument("--guidance-scale", type=float, help="(default: 2.5 for the box, else 7.5)")
    parser.add_argument("--eta", type=float, default=1.0, help="noise of the DDIM kernel (default: %(default)s)")
    parser.add_argument("--device", default=_device(), help="(default here: %(default)s)")
    parser.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], help="(default: float16 on cuda, float32 in the box)"
    )
    parser.add_argument(
        "--preview", nargs="?", const="box", metavar="DIR", help="an AutoencoderTiny for values (alone: the box's)"
    )
    for name, of in (("chunk", "network rows"), ("decode-chunk", "decodes"), ("reward-chunk", "rewards")):
        parser.add_argument(f"--{name}", type=int, help=f"{of} at once: memory and speed, not the result")


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", default="dsearch", choices=sorted(methods.__all__), help="(default: dsearch)")
    parser.add_argument("--beams", type=int, help="beams a prompt")
    parser.add_argument("--budget", type=int, help="rows a step and prompt (best_of_n: n; svdd: children of all beams)")
    parser.add_argument(
        "--within",
        action="append",
        default=[],
        metavar="UNIT=N",
        help="size the method to a bill of model_calls, decodes, reward_calls or (generate only) seconds a prompt",
    )
    parser.add_argument("-o", "--option", action="append", default=[], metavar="NAME=VALUE", help="another argument")


def _generate(args: argparse.Namespace) -> None:
    with distributed.processes() as ranks:  # one, unless torchrun started more
        _generate_on(args, ranks)


def _generate_on(args: argparse.Namespace, ranks: distributed.Ranks) -> None:
    if (args.out / "result.json").exists() and not args.overwrite:
        raise UsageError(f"{args.out} holds a result; choose another --out, or pass --overwrite")
    reward = _reward(args)
    panel = {name: _named_reward(name, args.clip, args.device, args.weights) for name in args.observe}
    method, denoiser = _method(args, reward), _denoiser(args)
    budget = _budget(args)
    if "seconds" in budget:
        if ranks.size > 1:
            raise UsageError("--within seconds is measured by each process alone; give model_calls instead")
        rows = args.chunk or 16
        budget["prices"] = measure(denoiser, reward, args.prompts, rows=rows)
        print("measured: " + ", ".join(f"{1000 * s:.2f} ms a {unit}" for unit, s in budget["prices"]._asdict().items()))
    method = _sized(method, budget, args.steps)
    if args.eta == 0 and max(method.plan(args.steps).width) > 1:
        raise UsageError(f"--eta 0 makes all children of {args.method} equal; set it above 0")
    if ranks.rank == 0:
        print(f"{method.name}, {_priced(method, args.steps)}")
        args.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    result = distributed.search(
        denoiser,
        method,
        args.prompts,
        ranks=ranks,
        seed=args.seed,
        observe=panel or None,
        progress=sys.stderr.isatty() and ranks.rank == 0,
        **_chunks(args),
    )
    if result is None:  # rank 0 writes
        return
    seconds = time.perf_counter() - began
    record = {"seed": args.seed, "method": args.method, "options": _options(args), "reward": args.reward}
    record |= {"clip": args.clip, "within": budget, **_chunks(args)}
    _write(result, args.out, {**_about(args), **record, "seconds": round(seconds, 3)})
    print("  ".join(f"{name:>10}" for name in (args.reward, *result.observed)))
    for b, prompts in enumerate(result.prompts):
        seen = [float(scores[b, 0]) for scores in (result.rewards, *result.observed.values())]
        print("  ".join(f"{score:10.4f}" for score in seen), f" {prompts[0]}")
    print(f"{args.out / 'grid.png'}, {args.out / 'result.json'}")


def _write(result: Result, out: Path, record: dict[str, Any]) -> None:
    from .demo import dumps
    from .pictures import grid, to_pil

    path, images = result.lineage.path(), []
    for b, group in enumerate(result.images):
        for k, picture in enumerate(to_pil(group)):
            name = f"{b:04}-{k:04}.png"  # counters: a prompt never becomes a path
            picture.save(out / name)
            images.append(
                {
                    "file": name,
                    "prompt": result.prompts[b][k],
                    "reward": float(result.rewards[b, k]),
                    "observed": {name: float(scores[b, k]) for name, scores in result.observed.items()},
                    "path": path[b, k].tolist(),
                }
            )
    trace = [
        {"step": s.step, "alive": s.alive, "width": s.width, "values": None if s.values is None else s.values.tolist()}
        for s in result.trace
    ]
    bill = {"bill": result.bill._asdict(), "planned": result.planned._asdict()}
    text = dumps({**record, **bill, "images": images, "trace": trace})
    (out / "result.json").write_text(text, encoding="utf-8")
    rows = [" / ".join(dict.fromkeys(group)) for group in result.prompts]
    grid(list(result.images), rows, [f"#{k + 1}" for k in range(result.rewards.shape[1])], out / "grid.png")


def _plan(args: argparse.Namespace) -> None:
    budget = _budget(args)
    if "seconds" in budget:
        raise UsageError("--within seconds=... needs a model to measure; use it with generate")
    method = _sized(_method(args, _unasked), budget, args.steps)
    plan = method.plan(args.steps)
    print("steps      beams  children  rows  scored")
    for (alive, width, score), steps in groupby(
        range(plan.num_steps), key=lambda i: (plan.alive[i], plan.width[i], plan.score[i])
    ):
        run = list(steps)
        span = f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}"
        print(f"{span:9} {alive:6} {width:9} {alive * width:5}  {'yes' if score else 'no'}")
    print(f"ends with {plan.keep[-1]} of {plan.start} beams; {_priced(method, args.steps)}")
    others = _at_the_bill(method, args.steps)
    print(f"\nothers within {method.bill(args.steps).model_calls:,} rows of the network:")
    print(f"{'method':14} {'beams':>6} {'children':>8} {'rows':>8} {'decodes':>8} {'rewards':>8}")
    for name, other in {args.method: method, **others}.items():
        own, bill = other.plan(args.steps), other.bill(args.steps)
        counts = f"{bill.model_calls:8,} {bill.decodes:8,} {bill.reward_calls:8,}"
        print(f"{name:14} {own.start:6} {max(own.width):8} {counts}")
    if args.picture:
        from .pictures import plan_picture

        unknown = [name for name in args.beside if name not in others]
        if unknown:
            raise UsageError(f"--beside {unknown[0]}: choose among {', '.join(others)}")
        beside = {name: others[name].plan(args.steps) for name in args.beside}
        plan_picture({args.method: plan, **beside}, args.picture)


def _at_the_bill(method: Method, steps: int) -> dict[str, Method]:
    """The other methods as they come, each at the largest size within the network rows of this one."""
    budget, found = Budget(model_calls=method.bill(steps).model_calls), {}
    for name in sorted(set(methods.__all__) - {method.name}):
        make = getattr(methods, name)
        needs = [p for p in inspect.signature(make).parameters.values() if p.default is p.empty]
        if len(needs) > 1:  # more than a reward
            continue
        other = make(_unasked)
        if other.sized is not None:
            with suppress(ValueError):  # even its smallest costs more
                found[name] = other.within(budget, steps)
    return found


def _unasked(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """The reward of methods that are planned and not run."""
    raise NotImplementedError


def _priced(method: Method, steps: int) -> str:
    counts = ", ".join(f"{n:,} {unit.replace('_', ' ')}" for unit, n in method.bill(steps)._asdict().items())
    return f"bill of {'the pool' if method.pool else 'a prompt'}: {counts}"


def _demo(args: argparse.Namespace) -> None:
    from . import box, demo

    boxed = args.model == "box"
    denoiser = _denoiser(args)
    guides: dict[str, Reward] = {}
    if boxed or args.clip:
        guides["clip"] = _clip(args.clip, args.device)
    guides["compressibility"] = _named_reward("compressibility", None, args.device)
    judge = None
    if boxed or args.judge:
        judge = demo.Judge(_clip(args.judge or box.clip_path("judge"), args.device), box.SUBJECTS if boxed else ())
    setting = demo.Setting(args.prompts or box.DEMO_PROMPTS[:4], args.seeds, args.n)
    demo.at_one_bill(guides["compressibility"], setting.n, denoiser.num_steps)  # refuses sizes before all is run
    args.out.mkdir(parents=True, exist_ok=True)
    about = {**_about(args), "prompts": list(setting.prompts), "seeds": args.seeds, "n": args.n}
    rows = demo.run(denoiser, guides, setting, args.out, judge=judge, about=about, **_chunks(args))
    print("\n" + demo.table(rows) + f"\n\nPictures: {args.out / 'grid.png'}, {args.out / 'trend.png'}")


def _reproduce(args: argparse.Namespace) -> None:
    from . import reproduce

    every = ("compressibility", "aesthetic", "hps")
    names = tuple(args.experiments) or every
    unknown = [name for name in names if name not in every]
    if unknown:
        raise UsageError(f"experiment {unknown[0]!r}: choose among {', '.join(every)}")
    boxed = args.model == "box"
    setting = reproduce.Setting(args.bills, args.seeds)
    prompts = reproduce.ANIMALS if args.hps_prompts is None else tuple(_lines(args.hps_prompts))
    rewards = {name: _published_reward(name, args) for name in names}
    for name in every:  # the others watch, where their weights are given
        with suppress(UsageError):
            rewards.setdefault(name, _published_reward(name, args))
    denoiser = _denoiser(args)
    flags = reproduce.SMALL if boxed and not args.full else reproduce.PUBLISHED
    experiments = {
        name: reproduce.Experiment(
            reward,
            prompts if name == "hps" else reproduce.ANIMALS,
            flags._replace(w=6) if name == "hps" and flags is reproduce.PUBLISHED else flags,
            {other: watcher for other, watcher in rewards.items() if other != name},
            {"compressibility": "minus kB"}.get(name, ""),
        )
        for name, reward in ((name, rewards[name]) for name in names)
    }
    args.out.mkdir(parents=True, exist_ok=True)
    rows = reproduce.run(denoiser, experiments, setting, args.out, about=_about(args), **_chunks(args))
    (args.out / "table.md").write_text(reproduce.table(rows) + "\n", encoding="utf-8")
    print(f"\n{reproduce.table(rows)}\n\nPictures: {args.out / 'curves.png'}, {args.out / 'grid_*.png'}")


def _published_reward(name: str, args: argparse.Namespace) -> Reward:
    """The paper's reward where its weights are given, and in the box what stands in for it."""
    from . import rewards

    if name == "compressibility":
        return rewards.Compressibility()
    if name == "aesthetic" and args.aesthetic_head:
        if args.aesthetic_clip is None:
            raise UsageError("--aesthetic-head needs --aesthetic-clip, the CLIP ViT-L/14 under it")
        return rewards.Aesthetic(args.aesthetic_clip, args.aesthetic_head)
    if name == "hps" and args.hps:
        return rewards.HPS(args.hps)
    if args.model != "box":
        raise UsageError(f"{name} needs its weights: --{'hps' if name == 'hps' else 'aesthetic-head'} FILE")
    return rewards.Colourfulness() if name == "aesthetic" else _clip(None, args.device)


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise UsageError(f"no prompts at {file}; give a text file with one prompt a line")
    found = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not found:
        raise UsageError(f"{file} holds no prompt; give one a line")
    return found


def _method(args: argparse.Namespace, reward: Reward) -> Method:
    """The method asked for; `--beams` and `--budget` go to the arguments of those meanings that it has."""
    make = getattr(methods, args.method)
    known, options = _known(args), _options(args)
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(f"{args.method} has no argument {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return make(reward, **options)


def _budget(args: argparse.Namespace) -> dict[str, Any]:
    """`--within` options as arguments of `Budget`."""
    budget: dict[str, Any] = dict(_option(text) for text in args.within)
    units = (*Bill._fields, "seconds")
    unknown = sorted(set(budget) - set(units))
    if unknown:
        raise UsageError(f"--within {unknown[0]}=...: choose {', '.join(units)}")
    for unit, limit in budget.items():
        if not isinstance(limit, int | float):
            raise UsageError(f"--within {unit}={limit} is not a number")
    return budget


def _sized(method: Method, budget: dict[str, Any], steps: int) -> Method:
    return method.within(Budget(**budget), steps) if budget else method


def _known(args: argparse.Namespace) -> set[str]:
    return set(inspect.signature(getattr(methods, args.method)).parameters) - {"reward"}


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """`-o` options, and `--beams` and `--budget` under the method's names for them."""
    known, options = _known(args), dict(_option(text) for text in args.option)
    if args.beams is not None:
        options["beams"] = args.beams
    if args.budget is not None:
        name = next((name for name in ("budget", "n", "width") if name in known), "budget")
        beams = options.get("beams", 1)
        if name == "width" and args.budget < beams:
            raise UsageError(f"--budget {args.budget} rows a step is below --beams {beams}; raise it")
        options[name] = args.budget // beams if name == "width" else args.budget
    return options


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"option {text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def _reward(args: argparse.Namespace) -> Reward:
    if args.reward is None:
        args.reward = "clip"
        if args.model != "box" and args.clip is None:
            raise UsageError("name a --reward: the boxed CLIP knows emoji only (--reward clip takes its --clip DIR)")
    return _named_reward(args.reward, args.clip, args.device, args.weights)


def _named_reward(name: str, clip: str | None, device: str, weights: str | None = None) -> Reward:
    from . import rewards

    if name == "clip":
        return _clip(clip, device)
    if name in ("aesthetic", "pickscore") and clip is None:
        raise UsageError(f"{name} needs --clip DIR, its CLIP")
    if name in ("aesthetic", "hps") and weights is None:
        raise UsageError(f"{name} needs --weights FILE")
    if name in ("aesthetic", "hps", "pickscore"):
        _hush()
    if name == "aesthetic":
        return rewards.Aesthetic(str(clip), str(weights), device)
    if name == "hps":
        return rewards.HPS(str(weights), device=device)
    if name == "pickscore":
        return rewards.PickScore(str(clip), device)
    if name in REWARDS:
        return getattr(rewards, REWARDS[name])()
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UsageError(f"reward {name!r} is not known; choose {', '.join(REWARDS)} or module:callable")
    sys.path.insert(0, "")  # a module in the current folder, as `python -m` would find it
    try:
        return getattr(import_module(module), attribute)
    except AttributeError as error:
        raise UsageError(f"reward {name!r}: {error}") from error


def _clip(path: str | Path | None, device: str) -> CLIPScore:
    from .rewards import CLIPScore

    _hush()
    return CLIPScore(path, device=device)


def _denoiser(args: argparse.Namespace) -> StableDiffusion:
    from .adapters import StableDiffusion

    _hush()
    from diffusers import StableDiffusionPipeline

    boxed = args.model == "box"
    args.steps = (20 if boxed else 50) if args.steps is None else args.steps
    args.guidance_scale = (2.5 if boxed else 7.5) if args.guidance_scale is None else args.guidance_scale
    args.dtype = args.dtype or ("float16" if args.device.startswith("cuda") and not boxed else "float32")
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {args.device}: this torch sees no GPU; use --device cpu")
    if args.model.startswith((".", "/")) and not Path(args.model).is_dir():
        raise UsageError(f"no model folder {args.model}; give a folder, a hub id or box")
    if boxed:
        from .box import pipeline_path
    pipe = StableDiffusionPipeline.from_pretrained(
        pipeline_path() if boxed else args.model,
        torch_dtype=getattr(torch, args.dtype),
        safety_checker=None,
        requires_safety_checker=False,
    )
    return StableDiffusion(
        pipe.to(args.device),
        num_inference_steps=args.steps,
        guidance_scale=args.guidance_scale,
        eta=args.eta,
        preview=_preview(args, boxed),
    )


def _preview(args: argparse.Namespace, boxed: bool) -> Any:
    if args.preview is None:
        return None
    if (args.preview == "box") != boxed:
        raise UsageError(f"--preview {args.preview} does not read the latents of --model {args.model}; give its own")
    from diffusers import AutoencoderTiny

    from .box import preview_path

    folder = preview_path() if boxed else args.preview
    return AutoencoderTiny.from_pretrained(folder, torch_dtype=getattr(torch, args.dtype)).to(args.device)


def _hush() -> None:
    """Model libraries talk while they load; a command line should not."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    mend()
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()


def _chunks(args: argparse.Namespace) -> dict[str, Any]:
    sizes = {name: getattr(args, name) for name in ("chunk", "decode_chunk", "reward_chunk")}
    return {name: size for name, size in sizes.items() if size is not None}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _about(args: argparse.Namespace) -> dict[str, Any]:
    import diffusers
    import transformers

    return {
        "model": args.model,
        "steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "eta": args.eta,
        "dtype": args.dtype,
        "preview": args.preview,
        "versions": {
            "dsearch": __version__,
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "device": args.device,
        "threads": torch.get_num_threads(),
    }
