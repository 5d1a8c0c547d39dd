"""What a second process brings, and what it exchanges.

    python benchmarks/processes.py --processes 1 2 --docs docs/processes.md

The same searches on the model in the box, one thread a process, started by torchrun in turns: prompts split over the
processes, and the children of a single prompt split. Seconds are of the search alone, without start-up and loading.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from throughput import command, load, machine, rewrite, smoothness, versions

import dsearch
from dsearch import distributed
from dsearch.adapters import StableDiffusion

MARKS = "<!-- processes: begin -->", "<!-- processes: end -->"
PROMPTS = ("cat", "house", "car", "tree", "dog", "apple", "panda", "horse")
CASES = {"8 prompts × 8 children, prompts split": (8, 8), "1 prompt × 32 children, children split": (1, 32)}


def measure(repeats: int) -> None:
    """What each process of a torchrun does; rank 0 prints one line of JSON."""
    torch.set_num_threads(1)
    model, found = StableDiffusion(load(None), num_inference_steps=10, guidance_scale=3.0), {}
    with distributed.processes() as ranks:
        for name, (prompts, width) in CASES.items():
            method, seconds = dsearch.methods.svdd(smoothness, width), []
            for _ in range(repeats + 1):  # the first is to warm up
                ranks.told(None)  # all begin together
                began, sent = time.perf_counter(), ranks.sent
                distributed.search(model, method, PROMPTS[:prompts], ranks=ranks, seed=0)
                ranks.told(None)
                seconds.append(time.perf_counter() - began)
            found[name] = {"seconds": seconds[1:], "sent": ranks.sent - sent}
        if ranks.rank == 0:
            print(json.dumps(found))


def started(processes: int, repeats: int) -> dict[str, Any]:
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", __file__]
    done = subprocess.run([*run, "--inside", "--repeats", str(repeats)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def section(report: dict[str, Any]) -> str:
    lines = [
        f"{report['date']}, {report['machine']} a process; {report['versions']}.",
        f"The model in the box, 10 steps, SVDD; medians of {report['repeats']} rounds. Made by `{report['command']}`.",
        "",
        "| search | processes | s | times as fast | sent while searching |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name in CASES:
        one = median(report["runs"][str(report["processes"][0])][name]["seconds"])
        for n in report["processes"]:
            row = report["runs"][str(n)][name]
            seconds = median(row["seconds"])
            lines.append(f"| {name} | {n} | {seconds:.2f} | {one / seconds:.2f} | {row['sent'] / 1024:,.1f} KiB |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="how many, in turns")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--docs", type=Path, metavar="PAGE")
    args = parser.parse_args(argv)
    if args.inside:
        measure(args.repeats)
        return
    report = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(torch.device("cpu"), 1),
        "versions": versions(),
        "command": command("processes.py", argv),
        "repeats": args.repeats,
        "processes": args.processes,
        "runs": {str(n): started(n, args.repeats) for n in args.processes},
    }
    print(section(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if args.docs:
        rewrite(args.docs, section(report), *MARKS)


if __name__ == "__main__":
    main(sys.argv[1:])
