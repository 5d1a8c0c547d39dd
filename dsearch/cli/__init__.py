"""The command line: parses, calls the library, prints."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import distributed, methods
from .._text import prompts_of
from ..core.budget import Budget
from ..core.method import Method, Sized
from ..core.plan import Bill, positive
from ..experiments import build
from ..experiments.document import read
from ..experiments.experiment import Experiment, Model, Named
from ..experiments.loading import LOADING
from ..experiments.naming import as_named
from ..experiments.prompt_sets import prompt_set
from ..experiments.quiet import hush
from ..experiments.reader import load
from .arguments import parser
from .plans import plan_lines
from .terminal import Plain, plain_output

if TYPE_CHECKING:
    from ..experiments.folder import Run


REPORT = (
    "this is a fault of dsearch, not of yours: please report the whole command and what it shows as "
    "dsearch --debug COMMAND ..."
)

LONGEST = 2000
"""Letters of an error that are shown."""


class UsageError(ValueError):
    """Something the user can put right; shown without a traceback."""


REFUSED, BUG, INTERRUPTED = 2, 70, 130
"""Exit statuses besides 0: what the user can put right, what only dsearch can (EX_SOFTWARE), and Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status: 0, or another one with one line on standard error."""
    args = parser(COMMANDS).parse_args(argv)
    with plain_output():
        try:
            args.run(args)
        except KeyboardInterrupt:
            _told("interrupted")
            return INTERRUPTED
        except Exception as error:
            if args.debug:
                raise
            said, status = _refusal(error)
            _told(said)
            return status
    return 0


def _told(line: str) -> None:
    error = Plain(sys.stderr)
    print(f"dsearch: {line}", file=error)
    error.flush()


def _refusal(error: Exception) -> tuple[str, int]:
    """An exception as one line of bounded length, and its exit status."""
    line = " ".join(str(error).split())
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
    if isinstance(error, MemoryError):
        return "error: out of memory; make less at once (--chunk), or a smaller search", REFUSED
    if isinstance(error, ValueError | TypeError | OSError | ImportError | RuntimeError) and line:
        return f"error: {line}", REFUSED
    return f"bug: {type(error).__name__}: {line}; {REPORT}", BUG


def _generate(args: argparse.Namespace) -> None:
    from ..experiments import runs
    from ..experiments.folder import Run

    if args.reward is None:
        args.reward = "clip"
        if args.model != "box" and args.clip is None:
            raise UsageError("name a --reward: the boxed CLIP knows emoji only (--reward clip takes its --clip DIR)")
    rewards = _rewards(args)
    args.reward, *held_out = rewards
    budget = _budget(args)
    experiment = Experiment(
        prompts=tuple(args.prompts),
        rewards=rewards,
        methods={args.method: Named(args.method, _options(args))},
        models={_named(args): _model(args)},
        objectives=(args.reward,),
        held_out=tuple(held_out),
        budgets=(budget,),
        seeds=(args.seed,),
        chunks=_chunks(args),
        thumbnails=args.keep_thumbnails or 0,
    )
    _checked(experiment, args)
    with distributed.processes() as ranks:  # one, unless torchrun started more
        progress = sys.stderr.isatty()
        run = runs.run(experiment, args.out, ranks=ranks, progress=progress, overwrite=args.overwrite)
        if ranks.rank == 0:
            _shown(Run.open(run.folder), args)


def _checked(experiment: Experiment, args: argparse.Namespace) -> None:
    """Refuses what the command line alone can see, and says what the search will cost."""
    build.Workshop(experiment).check()
    steps, (limits,) = next(iter(experiment.models.values())).num_steps, experiment.budgets
    if steps is None or "seconds" in limits:
        return
    method = _sized(build.method(experiment.methods[args.method], build.unasked), dict(limits), steps)
    if args.eta == 0 and max(method.plan(steps).width) > 1:
        raise UsageError(f"--eta 0 makes all children of {args.method} equal; set it above 0")
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{method.name} on {args.device}, {_priced(method, steps)}")


def _shown(run: Run, args: argparse.Namespace) -> None:
    """The grid of a run of one, and what its rewards say of the best image of each prompt."""
    from ..plots import from_png, grid

    records = run.records()
    groups = [list(group) for _, group in groupby(records, key=lambda r: Path(r["image"]).stem.split("-")[1])]
    rows = [" / ".join(dict.fromkeys(r["prompt"] for r in group)) for group in groups]
    pictures = [[from_png(run.folder / record["image"]) for record in group] for group in groups]
    grid(pictures, rows, [f"#{k + 1}" for k in range(len(groups[0]))], args.out / "grid.png")
    print("  ".join(f"{name:>10}" for name in (args.reward, *records[0]["held_out"])))
    for best in (group[0] for group in groups):
        seen = [best["reward"], *best["held_out"].values()]
        said = ("  rejected" if score is None else f"{score:10.4f}" for score in seen)  # JSON cannot say -inf
        print("  ".join(said), f" {best['prompt']}")
    print(f"{args.out / 'grid.png'}, {args.out / 'records.jsonl'}; dsearch report {args.out} shows the search")


def _run(args: argparse.Namespace) -> None:
    found = load(args.experiment)
    if args.keep_thumbnails:
        found = dataclasses.replace(found, thumbnails=args.keep_thumbnails)
    out = args.out or Path("dsearch-runs") / Path(args.experiment).stem
    run = _ran(found, out, _shard(args.shard))
    if run is not None:
        left = len(run.units) - len(run.finished)
        print(f"{left} searches are left to other shards" if left else f"{out / 'records.jsonl'} is complete")


def _shard(text: str) -> tuple[int, int]:
    try:
        i, n = (int(part) for part in text.split("/"))
    except ValueError:
        raise UsageError(f"--shard {text} is not I/N, as in 3/8") from None
    return i, n


def _merge(args: argparse.Namespace) -> None:
    from ..experiments import runs

    run = runs.merge(args.runs, args.out)
    print(f"{args.out}: {len(run.units)} searches")


def _check(args: argparse.Namespace) -> None:
    from ..experiments.folder import Run

    run = Run.open(args.run_folder)
    damages = run.damages()
    for name, said in damages.items():
        print(f"{run.folder / 'units' / name}: {said}")
    there, of = len(run.finished), len(run.units)
    if damages:
        raise UsageError(f"{len(damages)} of {there} searches are damaged; dsearch run makes them again")
    print(f"{there} of {of} searches are there, all as they were written")


def _export(args: argparse.Namespace) -> None:
    from ..experiments.folder import Run
    from ..experiments.geneval import export_geneval

    chosen = {name: getattr(args, name) for name in ("method", "objective", "model", "budget")}
    count = export_geneval(Run.open(args.run_folder).refuse_damage(), args.out, args.geneval, **chosen)
    print(f"{args.out}: {count} images; python evaluation/evaluate_images.py {args.out} of GenEval reads them")


def _report(args: argparse.Namespace) -> None:
    from ..experiments.folder import Run
    from ..report import report

    print(report(Run.open(args.run_folder), args.out))


def _compare(args: argparse.Namespace) -> None:
    from ..compare import compare
    from ..experiments.folder import Run

    found = [Run.open(folder) for folder in args.runs]
    with hush():
        compare(found, args.out, baseline=args.baseline, embed=args.embed, anchors=args.anchors)


def _plan(args: argparse.Namespace) -> None:
    budget = _budget(args)
    if "seconds" in budget:
        raise UsageError("--within seconds=... needs a model to measure; use it with generate")
    method = _sized(build.method(Named(args.method, _options(args)), build.unasked), budget, args.steps)
    plan = method.plan(args.steps)
    for line in plan_lines(plan):
        print(line)
    print(f"ends with {plan.keep[-1]} of {plan.start} beams; {_priced(method, args.steps)}")
    others = _at_the_bill(method, args.steps)
    print(f"\nothers within {method.bill(args.steps).model_calls:,} rows of the network:")
    print(f"{'method':14} {'beams':>6} {'children':>8} {'rows':>8} {'decodes':>8} {'rewards':>8}")
    for name, other in {args.method: method, **others}.items():
        own, bill = other.plan(args.steps), other.bill(args.steps)
        counts = f"{bill.model_calls:8,} {bill.decodes:8,} {bill.reward_calls:8,}"
        print(f"{name:14} {own.start:6} {max(own.width):8} {counts}")
    if args.picture:
        from ..plots import plan_picture

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
        other = make(build.unasked)
        if isinstance(other.plan, Sized):
            with suppress(ValueError):  # even its smallest costs more
                found[name] = other.within(budget, steps)
    return found


def _priced(method: Method, steps: int) -> str:
    counts = ", ".join(f"{n:,} {unit.replace('_', ' ')}" for unit, n in method.bill(steps).counts().items())
    return f"bill of {'the pool' if method.pool else 'a prompt'}: {counts}"


def _demo(args: argparse.Namespace) -> None:
    named, boxed = load("demo").as_dict()["rewards"], args.model == "box"
    for name in ("clip", "judge"):  # these know the pictures of their own model only
        if path := getattr(args, name):
            named[name] = {"kind": "clip", "path": path}
        elif not boxed:
            del named[name]
    objectives = [name for name in ("clip", "compressibility") if name in named]
    prompts = {"prompts": args.prompts} if args.prompts else {}
    changes = {**_changes(args, [args.n]), **prompts, "rewards": named, "objectives": objectives}
    _searched_and_compared(load("demo", **changes), args.out)


def _reproduce(args: argparse.Namespace) -> None:
    small = args.model == "box" and not args.full
    study = load("paper-small" if small else "paper", **_changes(args, args.bills or [5, 20]))
    unknown = [name for name in args.experiments if name not in (*study.objectives, "psp")]
    if unknown:
        raise UsageError(f"experiment {unknown[0]!r}: choose among {', '.join(study.objectives)}, psp")
    psp = _psp(args) if "psp" in args.experiments else None
    names = tuple(name for name in study.objectives if name in (args.experiments or study.objectives))
    if psp is not None and not names:
        build.Workshop(psp).check()
        _searched_and_compared(psp, args.out)
        return
    rewards = _published_rewards(args)
    for name in names:
        if name not in rewards:
            raise UsageError(f"{name} needs its weights: --{'hps' if name == 'hps' else 'aesthetic-head'} FILE")
    study = dataclasses.replace(study.under(*names), rewards=rewards, held_out=tuple(rewards))
    parts = {args.out: study}
    if args.hps_prompts is not None and "hps" in names:  # prompts of its own: an experiment of its own
        others = [name for name in names if name != "hps"]
        own = dataclasses.replace(study.under("hps"), prompts=tuple(_lines(args.hps_prompts)))
        parts = {**({args.out / "animals": study.under(*others)} if others else {}), args.out / "hps": own}
    if psp is not None:
        parts = {(out / "animals" if out == args.out else out): part for out, part in parts.items()}
        parts[args.out / "psp"] = psp
    for part in parts.values():
        build.Workshop(part).check()  # all of them, before any is run
    for out, part in parts.items():
        _searched_and_compared(part, out)


def _psp(args: argparse.Namespace) -> Experiment:
    """The matched table of PSP, with the weights and prompts that are given."""
    boxed = args.model == "box"
    if not boxed and args.image_reward is None:
        raise UsageError("psp needs its weights: --image-reward FILE")
    if not boxed and args.steps is None:
        args = argparse.Namespace(**{**vars(args), "steps": 64})
    changes = _changes(args, args.bills or [4])
    if args.geneval_prompts is not None:
        if not args.geneval_prompts.is_file():
            raise UsageError(f"no prompts at {args.geneval_prompts}; give GenEval's evaluation_metadata.jsonl")
        changes["prompts"] = list(prompt_set("geneval", args.geneval_prompts))
    study = load("psp-small" if boxed else "psp", **changes)
    rewards = dict(study.rewards)
    if args.image_reward:
        rewards["ImageReward"] = Named("imagereward", {"weights": args.image_reward, "tokenizer": args.bert})
    if args.hps:
        rewards["HPS"] = Named("hps", {"weights": args.hps})
    return dataclasses.replace(
        study, rewards=rewards, held_out=tuple(name for name in rewards if name != "ImageReward")
    )


def _published_rewards(args: argparse.Namespace) -> dict[str, Named]:
    """The paper's rewards whose weights are given, and in the box what stands in for the others."""
    rewards = (
        dict(load("paper-small").rewards) if args.model == "box" else {"compressibility": Named("compressibility")}
    )
    if args.aesthetic_head:
        if args.aesthetic_clip is None:
            raise UsageError("--aesthetic-head needs --aesthetic-clip, the CLIP ViT-L/14 under it")
        rewards["aesthetic"] = Named("aesthetic", {"clip": args.aesthetic_clip, "head": args.aesthetic_head})
    if args.hps:
        rewards["hps"] = Named("hps", {"weights": args.hps})
    return rewards


def _changes(args: argparse.Namespace, bills: Sequence[int]) -> dict[str, Any]:
    """What the command line says of a study's model, budgets, in plain samples, seeds and chunks."""
    model = _model(args)
    if model.num_steps is None:
        raise UsageError(
            f"--model {args.model}: its steps are not known before it is made; write an experiment of its own"
        )
    for bill in bills:
        positive("a bill in plain samples", bill)
    found: dict[str, Any] = {
        "models": {_named(args): model},
        "budgets": [{"model_calls": bill * model.num_steps} for bill in bills],
    }
    if args.seeds is not None:
        found["seeds"] = positive("seeds", args.seeds, at_least=2)
    if chunks := _chunks(args):
        found["chunks"] = chunks
    return found


def _searched_and_compared(experiment: Experiment, out: Path) -> None:
    """Runs what is missing in a folder, and puts the comparison beside it."""
    from ..compare import compare
    from ..experiments.folder import Run

    run = _ran(experiment, out)
    if run is not None and run.complete:
        print()
        compare([Run.open(out)], out)
        print(f"dsearch report {out} shows what each search did")


def _ran(experiment: Experiment, out: Path, shard: tuple[int, int] = (1, 1)) -> Run | None:
    """Runs what is missing, and returns the run on the first of the processes that share it."""
    from ..experiments import runs

    with distributed.processes() as ranks:  # one, unless torchrun started more
        progress = sys.stderr.isatty()
        run = runs.run(experiment, out, shard=shard, ranks=ranks, progress=progress, say=partial(print, flush=True))
        return run if ranks.rank == 0 else None


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise UsageError(f"no prompts at {file}; give a text file with one prompt a line")
    return prompts_of(file)


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
    """`-o` options, and `--beams` and `--rows-per-step` under the method's names for them."""
    known, options = _known(args), dict(_option(text) for text in args.option)
    if args.beams is not None:
        options["beams"] = positive("--beams", args.beams)
    if (rows := args.rows_per_step) is not None:
        positive("--rows-per-step", rows)
        name = next((name for name in ("rows_per_step", "budget", "n", "width") if name in known), "rows_per_step")
        beams = positive("beams", options.get("beams", 1))
        if name == "width" and rows < beams:
            raise UsageError(f"--rows-per-step {rows} is below --beams {beams}; raise it")
        options[name] = rows // beams if name == "width" else rows
    if args.final is not None:
        options["final"] = read(args.final)[0] if args.final.startswith("{") else args.final
    return options


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"option {text!r} is not NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two where it nests too deeply
        return name, value


def _rewards(args: argparse.Namespace) -> dict[str, Named]:
    """The reward that steers, then those that are held out, by name; those of one kind are numbered."""
    found: dict[str, Named] = {}
    for text in dict.fromkeys([args.reward, *args.held_out]):
        named = _reward(text, args)
        same = sum(name.partition(" ")[0] == named.kind for name in found)
        found[f"{named.kind} {same + 1}" if same else named.kind] = named
    return found


def _reward(name: str, args: argparse.Namespace) -> Named:
    """A reward by name, with the weights that the command line gives it, or as an experiment's file says it."""
    if name.startswith("{"):
        return as_named(read(name)[0])
    kind = name.lower()
    if kind in ("aesthetic", "pickscore") and args.clip is None:
        raise UsageError(f"{name} needs --clip DIR, its CLIP")
    if kind in ("aesthetic", "hps") and args.weights is None:
        raise UsageError(f"{name} needs --weights FILE")
    if kind == "aesthetic":
        return Named(name, {"clip": args.clip, "head": args.weights})
    if kind == "hps":
        return Named(name, {"weights": args.weights})
    if kind in ("clip", "pickscore") and args.clip is not None:
        return Named(name, {"path": args.clip})
    return Named(name)


def _model(args: argparse.Namespace) -> Model:
    """The model of the command line; what it does not say is the adapter's to choose."""
    if args.steps is not None and args.steps < 1:
        raise UsageError(f"--steps {args.steps}: num_inference_steps={args.steps} must be at least 1")
    said = {name: getattr(args, name) for name in ("guidance_scale", "eta", "noise")}
    said |= {name: getattr(args, name) for name in LOADING if name not in ("class", "lora")} | {"class": args.kind}
    said["lora"] = [_lora(text) for text in args.lora] or None
    given = {name: value for name, value in said.items() if value is not None}
    call = dict(_option(text) for text in args.call)
    try:
        return Model(args.model, args.steps, args.dtype, args.device, args.preview, given, call)
    except ValueError as error:
        raise UsageError(f"--call {error}") from error


def _lora(text: str) -> Any:
    """FILE, or FILE=WEIGHT; a name may have an = of its own."""
    path, _, weight = text.rpartition("=")
    with suppress(ValueError):
        return {"path": path, "weight": float(weight)} if path else text
    return text


def _named(args: argparse.Namespace) -> str:
    return Path(args.model).name or "model"


def _chunks(args: argparse.Namespace) -> dict[str, Any]:
    sizes = {"network": args.chunk, "decoder": args.decode_chunk, "reward": args.reward_chunk}
    return {name: size for name, size in sizes.items() if size is not None}


COMMANDS = {
    "generate": _generate,
    "run": _run,
    "merge": _merge,
    "check": _check,
    "export": _export,
    "report": _report,
    "compare": _compare,
    "plan": _plan,
    "demo": _demo,
    "reproduce": _reproduce,
}
