"""The words of the command line."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from .. import __version__, methods, studies
from ..experiments.loading import COMPILE, OFFLOAD, default_device

__all__ = ["parser"]

GENERATE = """examples:
  dsearch generate "cat" "panda on a blue background" --method dsearch --reward clip --beams 4 --rows-per-step 8
  dsearch generate "a castle" --model stable-diffusion-v1-5/stable-diffusion-v1-5 --reward compressibility \\
      --rows-per-step 10
  dsearch generate "cat" --method svdd -o temperature=0.1
  dsearch generate "cat" --method beam --within seconds=20     (measured first, then turned into a plan)
  dsearch generate "cat" --reward my_module:my_reward      (any callable (images, prompts) -> [N])
  dsearch generate "cat" --reward '{kind: weighted, rewards: [clip, colourfulness], weights: [1, 0.001]}'
"""
PLAN = """examples:
  dsearch plan --method dsearch --steps 50 --beams 5 --rows-per-step 25
  dsearch plan --method published -o bs=12 -o oversamplerate=5 -o w=5 -o drop_schedule=exponential
  dsearch plan --method best_of_n --rows-per-step 8 --picture plan.png
  dsearch plan --method fk --within model_calls=400 --within decodes=100 --beside dsearch psp --picture plan.png
"""
DEMO = """examples:
  dsearch demo                          (the model in the box; minutes on two cores)
  dsearch demo --seeds 2 --prompts cat panda
  dsearch demo --model stable-diffusion-v1-5/stable-diffusion-v1-5 --prompts cat dog --clip DIR --judge DIR
"""


RUN = """examples:
  dsearch run experiment.yaml --out RUN                (again, after a crash or a kill: it goes on where it was)
  dsearch run frontier                                 (a study that ships with the library, into dsearch-runs/)
  dsearch run experiment.yaml --out RUN --shard 3/8    (the third of eight parts, on as many machines)
  dsearch report RUN                                   (one HTML file that shows what the search did)
  dsearch compare RUN --out comparison                 (tables and curves, with intervals)
"""
PAPER = """examples:
  dsearch reproduce                                  (the model in the box, small: half an hour on two cores)
  dsearch reproduce compressibility --seeds 2 --bills 4
  dsearch reproduce --model stable-diffusion-v1-5/stable-diffusion-v1-5 --aesthetic-clip DIR --aesthetic-head FILE \\
      --hps FILE --hps-prompts FILE --bills 4 16 64
  dsearch reproduce psp --model stable-diffusion-v1-5/stable-diffusion-v1-5 --image-reward ImageReward.pt \\
      --bert DIR --hps FILE --geneval-prompts evaluation_metadata.jsonl
"""


def parser(run: Mapping[str, Callable[[argparse.Namespace], None]]) -> argparse.ArgumentParser:
    """The parser; `run` has the function of each command."""
    top = argparse.ArgumentParser(prog="dsearch", description="Inference-time alignment of diffusion models by search.")
    top.add_argument("--version", action="version", version=f"dsearch {__version__}")
    top.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, help: str, epilog: str = "") -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=help, description=help, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.set_defaults(run=run[name])
        return sub

    generate = command("generate", "search for images: a run of one search, and a grid", GENERATE)
    generate.add_argument("prompts", nargs="+", metavar="PROMPT")
    _add_model(generate)
    _add_method(generate)
    generate.add_argument("--reward", help="name of a reward, module:callable, or {kind: NAME, ...} (in the box: clip)")
    generate.add_argument("--clip", metavar="DIR", help="the CLIPModel of clip, aesthetic or pickscore")
    generate.add_argument("--weights", metavar="FILE", help="the checkpoint of hps, or the head of aesthetic")
    generate.add_argument(
        "--held-out", nargs="+", default=[], metavar="REWARD", help="rewards that score the images and never steer"
    )
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--out", type=Path, default=Path("dsearch-out"), help="folder (default: %(default)s)")
    generate.add_argument("--overwrite", action="store_true", help="in the place of another run that is there")
    _add_thumbnails(generate)

    again = command("run", "run an experiment, or what is missing of it", RUN)
    again.add_argument(
        "experiment", metavar="FILE", help=f"a YAML file (docs/runs.md says how), or {', '.join(studies.NAMES)}"
    )
    again.add_argument("--out", type=Path, metavar="RUN", help="folder (default: dsearch-runs/NAME of the file)")
    again.add_argument("--shard", default="1/1", metavar="I/N", help="run the I-th of N parts")
    _add_thumbnails(again)

    merge = command("merge", "shards in folders of their own as one run")
    merge.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    merge.add_argument("--out", type=Path, required=True, metavar="RUN")

    check = command("check", "whether a run's searches are as they were written")
    check.add_argument("run_folder", type=Path, metavar="RUN")

    export = command("export", "a run's images in the folders that another program reads")
    export.add_argument("run_folder", type=Path, metavar="RUN")
    export.add_argument("out", type=Path, metavar="OUT", help="a new folder")
    export.add_argument(
        "--geneval", type=Path, metavar="FILE", required=True, help="GenEval's layout, by its evaluation_metadata.jsonl"
    )
    for name in ("method", "objective", "model"):
        export.add_argument(f"--{name}", help="whose images, where the run has several")
    export.add_argument("--budget", type=int, help="number of the budget, from 0, where the run has several")

    report = command("report", "one HTML file that shows what a run's searches did")
    report.add_argument("run_folder", type=Path, metavar="RUN")
    report.add_argument("--out", type=Path, metavar="FILE", help="(default: RUN/report.html)")

    compare = command("compare", "methods at equal bills: tables and curves with intervals")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    compare.add_argument("--baseline", metavar="NAME", help="what differences are from (default: best-of-N)")
    compare.add_argument("--embed", metavar="REWARD", help="whose image embeddings say how diverse images are")
    compare.add_argument(
        "--anchors", action=argparse.BooleanOptionalAction, default=True, help="published figures, where they match"
    )
    compare.add_argument("--out", type=Path, default=Path("comparison"), help="folder (default: %(default)s)")

    plan = command("plan", "show the plan of a method and its bill, before spending it", PLAN)
    _add_method(plan)
    plan.add_argument("--steps", type=int, default=50, help="denoising steps (default: %(default)s)")
    plan.add_argument("--picture", type=Path, metavar="PNG", help="draw beams, children and rows of each step")
    plan.add_argument(
        "--beside", nargs="*", default=[], metavar="METHOD", help="draw these too, sized to the same network rows"
    )

    demo = command("demo", "every method at one bill, under two objectives: a run and its comparison", DEMO)
    _add_model(demo)
    demo.add_argument("--prompts", nargs="+", metavar="PROMPT", help="(default: four that the model draws well)")
    demo.add_argument("--seeds", type=int, help="repetitions, at least 2 (default: 3)")
    demo.add_argument("--n", type=int, default=8, help="plain images that the bill buys (default: %(default)s)")
    demo.add_argument("--clip", metavar="DIR", help="the CLIPModel that objectives (in the box: its guide; else none)")
    demo.add_argument("--judge", metavar="DIR", help="the CLIPModel held out (in the box: its judge; else none)")
    demo.add_argument("--out", type=Path, default=Path("demo-out"), help="folder (default: %(default)s)")

    paper = command("reproduce", "the experiments of Li et al. 2025, also at equal bills", PAPER)
    paper.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help="compressibility, aesthetic, hps (these three), or psp"
    )
    _add_model(paper)
    paper.add_argument("--aesthetic-head", type=Path, metavar="FILE", help="LAION's MLP (in the box: colourfulness)")
    paper.add_argument("--aesthetic-clip", metavar="DIR", help="the CLIP ViT-L/14 under it")
    paper.add_argument("--hps", metavar="FILE", help="the HPS v2 checkpoint (in the box: its guide's CLIP score)")
    paper.add_argument("--hps-prompts", type=Path, metavar="FILE", help="prompts of hps, one a line (the animals)")
    paper.add_argument(
        "--image-reward", type=Path, metavar="FILE", help="the checkpoint of psp (in the box: its guide)"
    )
    paper.add_argument(
        "--bert", metavar="DIR", default="bert-base-uncased", help="its vocabulary (default: of the local cache)"
    )
    paper.add_argument("--geneval-prompts", type=Path, metavar="FILE", help="prompts of psp: evaluation_metadata.jsonl")
    paper.add_argument(
        "--bills", type=int, nargs="+", metavar="N", help="in plain samples per prompt (default: 5 20; psp: 4)"
    )
    paper.add_argument("--seeds", type=int, help="repetitions, at least 2 (default: 3)")
    paper.add_argument("--full", action="store_true", help="the published flags' sizes in the box too: hours")
    paper.add_argument("--out", type=Path, default=Path("reproduce-out"), help="folder (default: %(default)s)")
    return top


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", default="box", help="box, a diffusers folder, a .safetensors file, or a hub id, which is downloaded"
    )
    parser.add_argument("--steps", type=int, help="denoising steps (default: 20 for the box, else 50)")
    parser.add_argument("--guidance-scale", type=_number, help="(default: 2.5 for the box, else the model's own)")
    parser.add_argument("--eta", type=_number, help="strength of a step's noise (default: 1, or as --noise has it)")
    parser.add_argument("--noise", help="of flow models: posterior (default), cps, flow-sde, dance or full")
    parser.add_argument(
        "--call",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the pipeline's own call: image=cat.png (a file), strength=0.7, guidance_rescale=0.7, ...",
    )
    parser.add_argument("--device", help=f"(default, as auto: {default_device()})")
    parser.add_argument(
        "--dtype",
        choices=["float32", "float16", "bfloat16", "auto"],
        help="(default: float16 on cuda, float32 in the box; auto: that of the weights' files)",
    )
    parser.add_argument(
        "--class", dest="kind", metavar="NAME", help="the pipeline class, StableDiffusionImg2ImgPipeline"
    )
    parser.add_argument("--config", metavar="DIR", help="of a checkpoint in one file: a folder of such a pipeline")
    parser.add_argument("--variant", help="of the weights: fp16, say")
    parser.add_argument("--revision", help="of a hub id")
    parser.add_argument(
        "--lora", action="append", default=[], metavar="FILE[=WEIGHT]", help="a LoRA, several times for several"
    )
    parser.add_argument("--offload", choices=OFFLOAD, help="networks to the CPU while they are not used")
    parser.add_argument(
        "--compile", nargs="?", const="default", choices=COMPILE, help="the denoising network (alone: default)"
    )
    parser.add_argument(
        "--preview", nargs="?", const="box", metavar="DIR", help="an AutoencoderTiny for values (alone: the box's)"
    )
    for name, of in (("chunk", "network rows"), ("decode-chunk", "decodes"), ("reward-chunk", "rewards")):
        parser.add_argument(f"--{name}", type=int, help=f"{of} at once: memory and speed, not the result")


def _add_thumbnails(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-thumbnails",
        nargs="?",
        type=int,
        const=32,
        metavar="PIXELS",
        help="small pictures of all candidates at all steps, for the report (alone: 32 pixels)",
    )


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", default="dsearch", choices=sorted(methods.__all__), help="(default: dsearch)")
    parser.add_argument("--beams", type=int, help="beams per prompt")
    parser.add_argument(
        "--rows-per-step", type=int, metavar="N", help="for each prompt (best_of_n: n; svdd: children of all beams)"
    )
    parser.add_argument(
        "--within",
        action="append",
        default=[],
        metavar="UNIT=N",
        help="size the method to a bill per prompt: model_calls, decodes, reward_calls or (generate only) seconds",
    )
    parser.add_argument(
        "--final",
        metavar="JUDGE",
        help="rank the survivors by comparisons: a reward's name, or {judge: ..., form: ...}",
    )
    parser.add_argument("-o", "--option", action="append", default=[], metavar="NAME=VALUE", help="another argument")
