"""The core's own operations beside the memory bandwidth: what choosing costs, without any network.

    python benchmarks/core.py --docs docs/engine.md

Each operation is timed for 1 to 1,024 prompts by up to 4,096 children. Its bytes are those that it must read and write
at least; the floor is how long the machine takes to move as many.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from throughput import machine, rewrite, versions

import dsearch
from dsearch.core import resample, selection
from dsearch.core.contract import Scores, take

BEGIN, END = "<!-- core: begin -->", "<!-- core: end -->"
PROMPTS, CHILDREN = (1, 32, 1024), (64, 4096)
KEEP, SAMPLE = 8, (4, 8, 8)


def clock(device: torch.device, work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats + 1):
        wait(device)
        began = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - began)
    return median(times[1:])


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device, repeats: int) -> float:
    """Bytes a second, read and written, of a large copy."""
    source = torch.ones(1 << 26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / clock(device, lambda: target.copy_(source), repeats)


def operations(b: int, n: int, device: torch.device) -> dict[str, tuple[Callable[[], Any], int]]:
    """By name: the work, and the bytes that it moves at least."""
    value = torch.randn(b, n, device=device)
    rng = dsearch.KeyedRng(0, tuple(range(b)))
    log_w = value.double()
    one = Scores(value, torch.zeros_like(value), log_w, None, 1, n, 10)
    pool = Scores(value, torch.zeros_like(value), log_w, None, 1, 1, 10)
    worst = selection.replace_worst(0.05)
    index = torch.randint(n, (b, KEEP), device=device)
    row = 4 * torch.Size(SAMPLE).numel()
    work: dict[str, tuple[Callable[[], Any], int]] = {
        "best child of one beam": (lambda: selection.best_child(one, 1, rng), value.nbytes),
        f"best {KEEP} of all": (lambda: selection.top_k()(pool, KEEP, rng), value.nbytes + 8 * b * KEEP),
        "replace the worst 5%": (lambda: worst(pool, n, rng), value.nbytes + 8 * b * n),
        f"systematic resampling to {KEEP}": (lambda: resample.systematic(log_w, KEEP, rng, 1), log_w.nbytes),
    }
    if b * n * row <= 1 << 30:
        x = torch.randn(b, n, *SAMPLE, device=device)
        work[f"gather {KEEP} of 4×8×8"] = (lambda: take(x, index), 2 * b * KEEP * row)
    return work


def measure(args: argparse.Namespace) -> dict[str, Any]:
    device, rows = torch.device(args.device), []
    rate = bandwidth(device, args.repeats)
    for b in PROMPTS:
        for n in CHILDREN:
            for name, (work, moved) in operations(b, n, device).items():
                seconds = clock(device, work, args.repeats)
                rows.append({"name": name, "prompts": b, "children": n, "seconds": seconds, "bytes": moved})
    return {"bandwidth": rate, "rows": rows}


def section(report: dict[str, Any]) -> str:
    cases = [(b, n) for b in PROMPTS for n in CHILDREN]
    lines = [
        f"{report['date']}, {report['machine']}; {report['versions']}. The machine moves "
        f"{report['bandwidth'] / 1e9:.1f} GB a second. Microseconds, and in brackets the floor for the bytes. Made by "
        f"`{report['command']}`.",
        "",
        "| prompts × children | " + " | ".join(f"{b:,} × {n:,}" for b, n in cases) + " |",
        "| --- |" + " ---: |" * len(cases),
    ]
    for name in dict.fromkeys(row["name"] for row in report["rows"]):
        cells = []
        for case in cases:
            found = [row for row in report["rows"] if (row["prompts"], row["children"]) == case and row["name"] == name]
            cells.append(
                f"{1e6 * found[0]['seconds']:,.0f} ({1e6 * found[0]['bytes'] / report['bandwidth']:,.1f})"
                if found
                else ""
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--docs", type=Path, metavar="PAGE")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(torch.device(args.device), args.threads),
        "versions": versions(),
        "command": " ".join(["python benchmarks/core.py", *argv]),
        **measure(args),
    }
    print(section(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.docs:
        rewrite(args.docs, section(report), BEGIN, END)


if __name__ == "__main__":
    main(sys.argv[1:])
