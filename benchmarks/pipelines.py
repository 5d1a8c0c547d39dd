"""Which pipelines of diffusers can be searched as they are, and what the replay of a turn costs.

    python benchmarks/pipelines.py                           # the tables
    python benchmarks/pipelines.py --docs docs/pipelines.md  # and put them into the page

Every pipeline class of the diffusers that is installed is read. Those that `tests/families.py` makes, tiny and with
random weights, are run beside their own call, and searched.
"""

from __future__ import annotations

import argparse
import inspect
import re
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from dsearch.adapters import AnyPipeline, Flux, StableDiffusion, StableDiffusion3, StableDiffusionXL  # noqa: E402
from dsearch.adapters._check import differences  # noqa: E402
from dsearch.adapters._source import read  # noqa: E402

MARKS = "<!-- {}: begin -->", "<!-- {}: end -->"
LIMIT = 120
"""Seconds that a family may take."""
REPEATS = 30
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


def cost() -> str:
    """Seconds of a predict, by the adapter of a family and by `AnyPipeline`, and what the replay of a turn adds."""
    small = {"height": 16, "width": 16, "max_sequence_length": 16}
    cases: list[tuple[str, Callable[[], Any], Any, dict[str, Any]]] = [
        ("Stable Diffusion", tiny.pipeline, StableDiffusion, {}),
        ("Stable Diffusion XL", tiny.xl, StableDiffusionXL, {}),
        ("Stable Diffusion 3", tiny.sd3, StableDiffusion3, {}),
        ("FLUX.1", tiny.flux, Flux, small),
    ]
    lines = [
        "| tiny model | rows | the network | own adapter | `AnyPipeline` | ratio | `AnyPipeline` without the network |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, make, adapter, call in cases:
        for rows in (1, 8):
            pipe = make()
            own = adapter(pipe, num_inference_steps=4, **call)
            any_ = AnyPipeline(pipe, check=False, num_inference_steps=4, **call)
            alone = _network(pipe)
            spent = [_seconds(each, rows, alone) for each in (own, any_)]
            (theirs, silent), (ours, bare) = spent
            lines.append(
                f"| {name} | {rows} | {silent * 1e3:.2f} ms | {theirs * 1e3:.2f} ms | {ours * 1e3:.2f} ms "
                f"| {ours / theirs:.2f} | {(ours - bare) * 1e3:.2f} ms |"
            )
    return "\n".join(lines)


def _network(pipe: Any) -> Any:
    return pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer


def _seconds(denoiser: Any, rows: int, network: Any) -> tuple[float, float]:
    """Median seconds of a predict, and of those the network's own."""
    conds = denoiser.encode(["cat"])
    x = denoiser.start((1, rows), dsearch.KeyedRng(0, (0,)))[0]
    prompt = torch.zeros(rows, dtype=torch.long)
    inside: list[float] = []
    forward = network.forward

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        made = forward(*args, **kwargs)
        inside.append(time.perf_counter() - began)
        return made

    network.forward = timed
    whole = []
    with torch.no_grad():
        for turn in range(REPEATS + 5):
            began = time.perf_counter()
            denoiser.predict(x, 1, conds, prompt)
            if turn >= 5:
                whole.append(time.perf_counter() - began)
    network.forward = forward
    return median(whole), median(inside[5:])


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
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows: list[Row] = []
    before = {} if args.docs is None else kept(args.docs)
    for kind in classes():
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
    tables = {"pipelines": table(rows), **({} if args.only else {"replay": cost()})}
    for name, text in tables.items():
        if args.docs is None:
            print(text)
        else:
            rewrite(args.docs, name, text)


if __name__ == "__main__":
    main()
