"""Which pipelines of diffusers can be searched as they are, and what the replay of a turn costs.

    python benchmarks/pipelines.py                           # the tables
    python benchmarks/pipelines.py --docs docs/pipelines.md  # and put them into the page
    python benchmarks/pipelines.py --cost                    # only what a replayed turn costs

Every pipeline class of the diffusers that is installed is read. Those that `tests/families.py` makes, tiny and with
random weights, are run beside their own call, and searched.
"""

from __future__ import annotations

import argparse
import inspect
import math
import re
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))

import diffusers  # noqa: E402
import families  # noqa: E402
import tiny  # noqa: E402
import torch  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402
from torch import Tensor  # noqa: E402

import dsearch  # noqa: E402
from dsearch.adapters import AnyPipeline, StableDiffusion, search_step  # noqa: E402
from dsearch.adapters._check import differences  # noqa: E402
from dsearch.adapters._source import read  # noqa: E402

MARKS = "<!-- {}: begin -->", "<!-- {}: end -->"
LIMIT = 120
"""Seconds that a family may take."""
REPEATS, SEARCHES = 60, 15
"""How often a predict and a search are timed."""
UNTRIED = {
    **dict.fromkeys(
        ("AmusedPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline", "VQDiffusionPipeline"),
        "its scheduler fills in masked tokens; see `adapters.Masked`",
    ),
    "DiffusionGemmaPipeline": "it makes text",
    "OmniGenPipeline": "needs torchvision",
    **dict.fromkeys(
        ("LEditsPPPipelineStableDiffusion", "LEditsPPPipelineStableDiffusionXL"),
        "its call edits what an earlier `invert` left on the pipeline",
    ),
}
"""Why there is no tiny model of a class, where there is more to say than that."""


class Row(NamedTuple):
    """What is known of a pipeline class."""

    name: str
    source: str  # "yes", or why it is not replayed
    own: str
    shuffled: str
    rows: str
    searched: str
    why: str


def classes() -> list[type]:
    """Every pipeline class, those of the modular pipelines apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {name: getattr(diffusers, name, None) for name in dir(diffusers) if "Pipeline" in name}
    return [
        kind
        for _, kind in sorted(found.items())
        if inspect.isclass(kind)
        and issubclass(kind, DiffusionPipeline)
        and kind is not DiffusionPipeline
        and not kind.__module__.startswith("diffusers.utils.dummy")
    ]


def understood(kind: type) -> str:
    """Whether the source of a class can be replayed, or why not."""
    try:
        read(kind)
    except TypeError as error:
        said = str(error).split("; a search needs")[0].removeprefix(f"{kind.__name__} ")
        return re.sub(r" \(line \d+\)", "", said)
    return "yes"


def score(made: Tensor, prompts: list[str]) -> Tensor:
    """Right against left, of pictures, videos and sounds."""
    rows = made.double().flatten(1)
    return (rows * torch.linspace(-1, 1, made.shape[-1]).repeat(rows.shape[1] // made.shape[-1])).mean(dim=1) * 100


def tried(name: str, source: str) -> Row:
    """One family, built, run beside its own call and searched."""
    untried = Row(name, source, "", "", "", "", "")
    if name not in families.FAMILIES:
        why = UNTRIED.get(name, "no tiny model of it here")
        return untried._replace(why=f"not tried: {why}" if source == "yes" else "")
    try:
        pipe, call = families.FAMILIES[name]()
        with torch.no_grad():
            own = inspect.signature(type(pipe).__call__).parameters
            prompt = {"prompt": None if _embedded(call) else "cat"} if "prompt" in own else {}
            more = {"generator": torch.Generator().manual_seed(0)} if "generator" in own else {}
            pipe(
                **{**prompt, **more, "output_type": "np", **call}
                if "output_type" in own
                else {**prompt, **more, **call}
            )
    except Exception as error:
        return untried._replace(why=f"not tried: its tiny model does not run ({_said(error)})")
    try:
        denoiser = AnyPipeline(pipe, check=False, **call)
        far = differences(pipe, denoiser._arguments("cat", 1), denoiser._exchanged, denoiser._layout)
        row = untried._replace(own=_far(far.output), shuffled=_far(far.shuffled))
        row = row._replace(rows=_far(far.rows) if far.rows < 1e-3 else "one by one")
        denoiser = AnyPipeline(pipe, **call)
        method = dsearch.methods.svdd(score, width=3)
        found = dsearch.search(denoiser, method, ["cat", "dog"], seed=1)
        return row._replace(searched=f"yes, {denoiser.num_steps} steps, {'×'.join(map(str, found.images.shape[2:]))}")
    except Exception as error:
        return (row if "row" in locals() else untried)._replace(why=_said(error))


def _embedded(call: dict[str, Any]) -> bool:
    return any(name.startswith("prompt_embeds") for name in call)


def _said(error: Exception) -> str:
    said = (str(error).splitlines() or [""])[0].split("; ")[0].replace("|", "/")[:160]
    return said or type(error).__name__


def _far(value: float) -> str:
    return "equal" if value == 0 else f"{value:.0e}"


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises a TimeoutError within, after so many seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def table(rows: list[Row]) -> str:
    """Every class, and a count of them."""
    works = [row for row in rows if row.searched]
    equal = [row for row in works if row.own == "equal"]
    fails = [row for row in rows if not row.searched and row.why and not row.why.startswith("not tried")]
    readable = [row for row in rows if row.source == "yes"]
    refused = Counter(row.source for row in rows if row.source != "yes")
    lines = [
        f"diffusers {diffusers.__version__} has {len(rows)} pipeline classes; the source of {len(readable)} can be "
        f"replayed, {sum(refused.values())} are refused by name. Of {len(works) + len(fails)} that were run, "
        f"{len(works)} work, "
        f"{len(equal)} of them bit for bit.",
        "",
        "| pipeline | source | own output | any order | rows together | searched | why not |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        source = row.source if row.source == "yes" else f"no: {row.source}"
        lines.append(
            f"| {row.name} | {source} | {row.own} | {row.shuffled} | {row.rows} | {row.searched} | {row.why} |"
        )
    return "\n".join(lines)


def kept(page: Path) -> dict[str, Row]:
    """The rows that a page has."""
    begin, end = (mark.format("pipelines") for mark in MARKS)
    text = page.read_text("utf-8").partition(begin)[2].partition(end)[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0]: Row(row[0], row[1].removeprefix("no: "), *row[2:]) for row in cells[2:]}


# ---- cost ---------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    """A pipeline, the adapter of its own where it has one, and what both are called with."""

    name: str
    size: str
    make: Callable[[], Any]
    adapter: Any
    call: dict[str, Any]


def cases() -> list[Case]:
    """Tiny models, whose network takes least, and small ones with all the layers of their architecture."""
    call = {"height": 16, "width": 16, "max_sequence_length": 16}
    found = [
        Case("Stable Diffusion", "tiny", tiny.pipeline, StableDiffusion, {}),
        Case("Stable Diffusion XL", "tiny", tiny.xl, None, {}),
        Case("Stable Diffusion 3", "tiny", tiny.sd3, None, {}),
        Case("FLUX.1", "tiny", tiny.flux, None, call),
        Case("Stable Diffusion", "small", partial(small, tiny.pipeline, "unet", SD_UNET), StableDiffusion, {}),
        Case("Stable Diffusion XL", "small", partial(small, tiny.xl, "unet", XL_UNET), None, {}),
        Case("Stable Diffusion 3", "small", partial(small, tiny.sd3, "transformer", SD3), None, {}),
        Case("FLUX.1", "small", partial(small, tiny.flux, "transformer", FLUX), None, call),
    ]
    return found


SD_UNET = {
    "block_out_channels": (32, 64, 128, 128),
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "layers_per_block": 2,
    "norm_num_groups": 16,
}
XL_UNET = {
    "block_out_channels": (32, 64, 128),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True,
    "norm_num_groups": 16,
}
SD3 = {"num_layers": 24, "num_attention_heads": 4}
FLUX = {"num_layers": 19, "num_single_layers": 38}


def small(make: Callable[[], Any], part: str, changes: dict[str, Any]) -> Any:
    """A tiny pipeline with the layers of the published model, narrow."""
    pipe = make()
    network = getattr(pipe, part)
    config = {name: value for name, value in network.config.items() if not name.startswith("_")}
    torch.manual_seed(1)
    pipe.register_modules(**{part: type(network)(**{**config, **changes}).eval()})
    return pipe


def cost() -> str:
    """What a predict takes beside the network's own time, and what the pipeline's own adapter takes, where it has one.

    One is timed after the other, in turns; a ratio is that of the two, and its 95% interval.
    """
    lines = [
        "| model | rows | the network | `AnyPipeline` | beside the network | to encode a prompt "
        "| ratio to own adapter | of a search |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases():
        pipe = case.make()
        any_ = AnyPipeline(pipe, check=False, num_inference_steps=4, **case.call)
        both = [any_] if case.adapter is None else [any_, case.adapter(pipe, num_inference_steps=4, **case.call)]
        for rows in (1, 8):
            found = predicts(both, rows, _network(pipe))
            ours = found[0]
            ratio = whole = ""
            if len(both) > 1:
                ratio, whole = quotient(ours.whole, found[1].whole), quotient(*searches(both, rows))
            beside = (median(ours.whole) - median(ours.network)) * 1e3
            lines.append(
                f"| {case.name}, {case.size} | {rows} | {_ms(ours.network)} | {_ms(ours.whole)} | {beside:.2f} ms "
                f"| {_ms(encodes(any_))} | {ratio} | {whole} |"
            )
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def encodes(denoiser: Any) -> list[float]:
    """What a prompt costs once a search."""
    found = []
    for _ in range(SEARCHES):
        began = time.thread_time()
        denoiser.encode(["cat"])
        found.append(time.thread_time() - began)
    return found


def _ms(seconds: list[float]) -> str:
    return f"{median(seconds) * 1e3:.2f} ms"


def quotient(one: list[float], other: list[float]) -> str:
    """The median ratio of times taken in turns, and its 95% interval by order statistics."""
    found = sorted(a / b for a, b in zip(one, other, strict=True))
    n = len(found)
    reach = math.ceil(0.98 * math.sqrt(n))
    return f"{median(found):.2f} [{found[max(0, n // 2 - reach)]:.2f}, {found[min(n - 1, n // 2 + reach)]:.2f}]"


def _network(pipe: Any) -> Any:
    return pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer


class Times(NamedTuple):
    """Processor seconds of this thread, which others on the machine do not lengthen."""

    whole: list[float]
    network: list[float]


def predicts(denoisers: Sequence[Any], rows: int, network: Any) -> list[Times]:
    """A predict of each, in turns, and of those the network's own."""
    prompt, inside = torch.zeros(rows, dtype=torch.long), list[float]()
    asked = [(d, d.encode(["cat"]), d.start((1, rows), dsearch.KeyedRng(0, (0,)))[0]) for d in denoisers]
    forward, found = network.forward, [Times([], []) for _ in denoisers]

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.thread_time()
        made = forward(*args, **kwargs)
        inside.append(time.thread_time() - began)
        return made

    network.forward = timed
    with torch.no_grad():
        for turn in range(REPEATS + 5):
            for (denoiser, conds, x), times in zip(asked, found, strict=True):
                inside.clear()
                began = time.thread_time()
                denoiser.predict(x, 1, conds, prompt)
                spent = time.thread_time() - began
                if turn >= 5:
                    times.whole.append(spent)
                    times.network.append(sum(inside))
    network.forward = forward
    return found


def searches(denoisers: Sequence[Any], rows: int) -> list[list[float]]:
    """A whole search of each, in turns: encoding, four steps of so many rows, decoding."""
    method = dsearch.methods.svdd(score, width=rows)
    found: list[list[float]] = [[] for _ in denoisers]
    for turn in range(SEARCHES + 1):
        for denoiser, times in zip(denoisers, found, strict=True):
            began = time.thread_time()
            dsearch.search(denoiser, method, ["cat"])
            if turn:
                times.append(time.thread_time() - began)
    return found


def modular() -> str:
    """A search in a modular pipeline, by its block and by `AnyPipeline` on the same networks."""
    from diffusers.guiders import ClassifierFreeGuidance
    from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks

    pipe, method = tiny.xl(), dsearch.methods.svdd(score, width=4)
    blocks = StableDiffusionXLAutoBlocks().get_workflow("text2image")
    blocks.sub_blocks["denoise.denoise"] = search_step(method)
    whole = blocks.init_pipeline()
    parts = {n: part for n, part in pipe.components.items() if part is not None and n in whole.components}
    whole.update_components(**parts, guider=ClassifierFreeGuidance(guidance_scale=5.0))
    any_ = AnyPipeline(pipe, check=False, num_inference_steps=4)
    by_block, as_it_is = list[float](), list[float]()
    for turn in range(SEARCHES + 1):
        for times, work in (
            (by_block, lambda: whole(prompt=["cat"], num_inference_steps=4, height=16, width=16)),
            (as_it_is, lambda: dsearch.search(any_, method, ["cat"])),
        ):
            began = time.thread_time()
            work()
            if turn:
                times.append(time.thread_time() - began)
    return (
        f"A search in a modular Stable Diffusion XL, tiny, takes {_ms(by_block)} by its block, and {_ms(as_it_is)} by "
        f"`AnyPipeline` on the same networks: {quotient(as_it_is, by_block)}."
    )


def rewrite(page: Path, name: str, text: str) -> None:
    """Puts the text between the marks of a page."""
    begin, end = (mark.format(name) for mark in MARKS)
    before, _, rest = page.read_text("utf-8").partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{page} has no marks {begin} and {end}")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, help="the page to put the tables into")
    parser.add_argument("--only", nargs="+", help="names of classes; a page keeps its rows of the others")
    parser.add_argument("--cost", action="store_true", help="only what a replayed turn costs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    before = {} if args.docs is None else kept(args.docs)
    for kind in [] if args.cost else classes():
        if args.only and kind.__name__ not in args.only:
            rows += [before[kind.__name__]] if kind.__name__ in before else []
            continue
        source = understood(kind)
        try:
            with limited(LIMIT):
                rows.append(tried(kind.__name__, source))
        except TimeoutError as error:
            rows.append(Row(kind.__name__, source, "", "", "", "", f"not tried: {error}"))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    tables = {} if args.cost else {"pipelines": table(rows)}
    if not args.only:
        tables["replay"] = f"{cost()}\n\n{modular()}"
    for name, text in tables.items():
        if args.docs is None:
            print(text)
        else:
            rewrite(args.docs, name, text)


if __name__ == "__main__":
    main()
