"""How large a report's page is, and how long a browser takes to open it.

    python benchmarks/report_page.py                         # the table
    python benchmarks/report_page.py --docs docs/report.md   # and put it into the page

The runs are made up: traces as searches leave them, photograph-like pictures of 512 pixels, thumbnails of 64. The
browser is a headless Chromium, new for every opening (`pip install -e '.[browser]'`, and the system's chromium and
chromedriver). A page is open when its script has drawn everything, the first lineage included.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from PIL import Image

from dsearch.core.contract import Step
from dsearch.core.result import Lineage
from dsearch.experiments import written
from dsearch.experiments.files import dumps, write
from dsearch.experiments.folder import Run
from dsearch.experiments.reader import parse
from dsearch.report import LIMIT, report

BEGIN, END = "<!-- report page: begin -->", "<!-- report page: end -->"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
SIZES = ((8, 50, 8, 1), (64, 50, 8, 1), (64, 50, 40, 1), (64, 50, 40, 4))
"""Prompts, steps, candidates a step, seeds."""


class NoBrowser(RuntimeError):
    """What is missing."""


@contextmanager
def chromium(width: int = 1280, height: int = 900) -> Iterator[Any]:
    """A headless Chromium with an empty profile, driven by selenium.

    Raises:
        NoBrowser: where selenium, Chromium or its driver is not installed.
    """
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        raise NoBrowser("selenium is not installed; pip install -e '.[browser]'") from None
    names = ("chromium", "chromium-browser", "google-chrome")
    binary, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    if binary is None or driver is None:
        raise NoBrowser("no chromium and chromedriver; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield browser
        finally:
            browser.quit()


def synthetic(
    out: Path, prompts: int, steps: int, candidates: int, seeds: int = 1, pixels: int = 512, thumbnail: int = 64
) -> Run:
    """A finished run of DSearch as its folder holds it, whose numbers and pictures are made up.

    5 beams fall to 1, `candidates` are drawn at every step but the last, and all of them have thumbnails.
    """
    experiment = parse(
        json.dumps(
            {
                "prompts": [
                    f"prompt {p}: a lighthouse by the sea, in the manner of an old print" for p in range(prompts)
                ],
                "models": {"model": {"pipeline": "made.up:model"}},
                "rewards": {"clip": "clip", "judge": {"kind": "clip", "path": "judge"}},
                "methods": {"DSearch": {"kind": "dsearch", "beams": 5, "budget": candidates}},
                "seeds": seeds,
                "thumbnails": thumbnail,
            }
        )
    )
    write(out / "run.json", dumps({"experiment": experiment.as_dict(), "versions": {}, "devices": {}}).encode())
    run, draw = Run.open(out), np.random.default_rng(0)
    images = [_encoded(_pictures(draw, 1, pixels), "png") for _ in range(8)]
    for unit in run.units:
        _unit(run, unit, steps, candidates, thumbnail, images, draw)
    return run


def _unit(
    run: Run, unit: Any, steps: int, candidates: int, thumbnail: int, images: Sequence[bytes], draw: np.random.Generator
) -> None:
    b, place, out = len(unit.positions), run.folder / "units" / unit.name, torch.Generator().manual_seed(unit.seed)
    alive = [max(1, 5 - i * 5 // steps) for i in range(steps)]
    width = [*(candidates // a for a in alive[:-1]), 1]
    values = [torch.rand(b, a * w, generator=out) * 0.1 + 0.7 for a, w in zip(alive, width, strict=True)]
    child = [v.topk(k, dim=1).indices.sort(dim=1).values for v, k in zip(values, (*alive[1:], 1), strict=True)]
    lineage = Lineage(tuple(child), tuple(width), torch.zeros(b, 1, dtype=torch.long))
    trace = [Step(i, a, w, v) for i, (a, w, v) in enumerate(zip(alive, width, values, strict=True))]
    texts = [run.experiment.prompts[p] for p in unit.positions]
    held = SimpleNamespace(lineage=lineage, trace=trace, prompts=[[text] for text in texts])
    write(place / "trace.safetensors", written.trace_bytes(held))  # type: ignore[arg-type]
    bill = {"model_calls": candidates * steps, "decodes": candidates * steps, "reward_calls": candidates * steps}
    records = []
    for p, text in enumerate(texts):
        name = f"images/{unit.index:06}-{p:04}-0000.png"
        write(run.folder / name, images[p % len(images)])
        records.append(
            {
                **{part: getattr(unit, part) for part in ("model", "objective", "method", "budget", "seed")},
                **{
                    "unit": unit.name,
                    "position": p,
                    "prompt": text,
                    "rank": 0,
                    "image": name,
                    "log_w": 0.0,
                    "kl": None,
                },
                **{"reward": float(values[-1][p, 0]), "held_out": {"judge": 0.7}, "ancestor": 0},
                **{"path": lineage.path()[p, 0].tolist(), "bill": bill, "planned": bill},
            }
        )
    write(place / "records.jsonl", "".join(map(dumps, records)).encode())
    write(place / "timing.json", dumps({"unit": unit.name, "seconds": 1.0, "peak_bytes": None}).encode())
    write(place / "thumbnails.safetensors", _thumbnails(b, alive, width, thumbnail, draw))


def _thumbnails(groups: int, alive: Sequence[int], width: Sequence[int], size: int, draw: np.random.Generator) -> bytes:
    from safetensors.numpy import save

    rows = [a * w for a, w in zip(alive, width, strict=True)]
    strips = {n: [_encoded(_pictures(draw, n, size), "webp") for _ in range(3)] for n in sorted(set(rows))}
    held = {
        f"{b}.{i}": np.frombuffer(strips[n][(b + i) % 3], dtype=np.uint8)
        for i, n in enumerate(rows)
        for b in range(groups)
    }
    return save(held)


def _pictures(draw: np.random.Generator, count: int, size: int) -> Image.Image:
    """Pictures beside one another: clouds with some grain, which compress about as photographs do."""
    strip = Image.new("RGB", (count * size, size))
    for n in range(count):
        picture = np.zeros((size, size, 3))
        for cells, share in ((4, 0.5), (16, 0.3), (64, 0.15)):
            noise = Image.fromarray(draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            picture += share * np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC), dtype=float)
        picture += draw.normal(0, 3, picture.shape)
        strip.paste(Image.fromarray(picture.clip(0, 255).astype(np.uint8)), (n * size, 0))
    return strip


def _encoded(picture: Image.Image, kind: str) -> bytes:
    into = BytesIO()
    picture.save(into, kind, **({"quality": 60, "method": 2} if kind == "webp" else {}))
    return into.getvalue()


def opened(page: Path, repeats: int) -> tuple[float, str]:
    """Seconds from the request to the page's script being done, a median; and what the page says was reduced."""
    times = []
    for _ in range(repeats):
        with chromium() as browser:
            browser.get(page.resolve().as_uri())
            times.append(browser.execute_script("return performance.getEntriesByName('ready')[0].startTime") / 1000)
            notes = browser.execute_script("return document.getElementById('notes').textContent")
    return median(times), notes


def measured(prompts: int, steps: int, candidates: int, seeds: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        run = synthetic(Path(place), prompts, steps, candidates, seeds)
        stored = sum(f.stat().st_size for f in run.folder.rglob("*") if f.suffix in (".png", ".safetensors"))
        began = time.perf_counter()
        page = report(run)
        wrote = time.perf_counter() - began
        opens, notes = opened(page, repeats)
        return {
            **{"prompts": prompts, "steps": steps, "candidates": candidates, "seeds": seeds, "stored": stored},
            **{"page": page.stat().st_size, "writes": wrote, "opens": opens, "reduced": notes},
        }


def section(rows: Sequence[dict[str, Any]], argv: Sequence[str]) -> str:
    """The Markdown that goes into the page."""
    from throughput import command, machine, versions

    heads = ("prompts", "steps", "candidates a step", "seeds", "the run", "page", "written in", "opens in", "reduced")
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for row in rows:
        counts = [str(row[name]) for name in ("prompts", "steps", "candidates", "seeds")]
        sizes = [f"{row[name] / 1e6:.1f} MB" for name in ("stored", "page")]
        reduced = row["reduced"].partition(". ")[2].partition(" The run")[0] or "nothing"
        cells = [*counts, *sizes, f"{row['writes']:.1f} s", f"{row['opens']:.2f} s", reduced]
        lines.append(f"| {' | '.join(cells)} |")
    machine_ = machine(torch.device("cpu"), torch.get_num_threads())
    made = (
        f"Made by `{command('report_page.py', argv)}`, {datetime.date.today().isoformat()}, {machine_}; {versions()}."
    )
    return "\n".join([*lines, "", made])


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="openings of each page, each in a new browser")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write every figure there")
    parser.add_argument("--docs", type=Path, metavar="PAGE", help="rewrite the table between the page's markers")
    args = parser.parse_args(argv)
    rows = [measured(*size, args.repeats) for size in SIZES]
    assert all(row["page"] <= LIMIT for row in rows)
    print(section(rows, argv))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if args.docs:
        before, _, rest = args.docs.read_text(encoding="utf-8").partition(BEGIN)
        args.docs.write_text(f"{before}{BEGIN}\n{section(rows, argv)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
