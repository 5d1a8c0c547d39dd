"""From the work folder into the box, in float16."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from clips import CLIPS


def halve(source: Path, target: Path) -> None:
    """Copy one component, weights as float16.

    Its configuration says float32: diffusers loads to float32 whatever the file holds, but transformers loads
    to the type that the configuration names.
    """
    from safetensors.torch import load_file, save_file

    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            weights = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in load_file(file).items()}
            save_file(weights, target / file.name, metadata={"format": "pt"})
        else:
            shutil.copy(file, target)
    for file in target.glob("*config.json"):
        config = {k: v for k, v in json.loads(file.read_text()).items() if not k.startswith("_name_or")}
        if "dtype" in config:
            config["dtype"] = "float32"
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def stage_export(args: argparse.Namespace) -> None:
    """Pipeline and CLIPs from the work folder into the box, in float16, each folder swapped in at once.

    The VAE is the work folder's, since its decoder may have been polished while the UNet trained.
    """
    fresh = args.out / ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    source = args.work / args.checkpoint
    for part in (p for p in source.iterdir() if p.is_dir()):
        halve(args.work / "vae" if part.name == "vae" else part, fresh / "pipeline" / part.name)
    shutil.copy(source / "model_index.json", fresh / "pipeline")
    for role in CLIPS:
        halve(args.work / role, fresh / role)
    for name in ("pipeline", *CLIPS):
        shutil.rmtree(args.out / name, ignore_errors=True)
        (fresh / name).rename(args.out / name)
    fresh.rmdir()
    total = sum(f.stat().st_size for f in args.out.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    print(f"{args.out}: {total / 1e6:.1f} MB")
