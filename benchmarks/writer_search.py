"""What search makes a model write that was told nothing: numbers, with the OCR reward.

    pip install 'dsearch-diffusion[ocr]'
    python benchmarks/writer_search.py --out writer --docs docs/writer.md

Trains the model first where --out has none (`training/writer.py`). Searches that --out has are not run again.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))

import numpy as np
import torch
import writer as trained
from throughput import rewrite
from torch import Tensor

import dsearch
from dsearch import Budget, methods
from dsearch.compare.intervals import over_seeds

BEGIN, END = "<!-- writer: begin -->", "<!-- writer: end -->"
NUMBERS = ("472", "305", "816", "529", "137", "960")
STEPS, BILL = 20, 12
METHODS: dict[str, Any] = {
    "plain": partial(methods.plain, beams=1),
    "best-of-N": methods.best_of_n,
    "DTS*": methods.dts_star,
    "SVDD": methods.svdd,
    "DSearch-R": partial(methods.dsearch_r, beams=3, rows_per_step=12, search="all"),
}


def prompt_of(number: str) -> str:
    return f'a picture of "{number}"'


def method_of(name: str, reward: Any) -> dsearch.Method:
    """The method, sized to the one bill but for plain sampling."""
    made = METHODS[name](reward)
    return made if name == "plain" else made.within(Budget(model_calls=BILL * STEPS), STEPS)


class Nearest:
    """Which number a picture shows, without OCR: that of the most like of pictures whose number is known.

    Args:
        pictures: `[N, 3, 96, 192]`.
        numbers: theirs.
    """

    def __init__(self, pictures: Tensor, numbers: Sequence[str]) -> None:
        self.drawn, self.numbers = framed(pictures), numbers

    def __call__(self, images: Tensor) -> list[str]:
        """`[R, 3, 96, 192]` -> the numbers."""
        return [self.numbers[i] for i in (framed(images) @ self.drawn.T).argmax(1).tolist()]


def framed(images: Tensor) -> Tensor:
    """The ink's box, resized: neither place, size nor greys count. `[R, 3, H, W]` -> unit vectors `[R, 24 * 48]`."""
    rows = []
    for image in images[:, 0]:
        low, high = image.min(), image.quantile(0.9)
        ink = ((high - image) / (high - low).clamp(min=1e-3)).clamp(0, 1)
        ys, xs = (ink > 0.5).nonzero(as_tuple=True)
        box = ink[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] if len(ys) else ink
        rows.append(torch.nn.functional.interpolate(box[None, None], (24, 48), mode="area").flatten())
    flat = torch.stack(rows)
    return torch.nn.functional.normalize(flat - flat.mean(1, keepdim=True), dim=1)


def run(name: str, reward: Any, model: trained.Writer, seeds: int, folder: Path) -> dict[str, Any]:
    """One method on all numbers and seeds; its best pictures go beside its file."""
    method, scores, found = method_of(name, reward), [], []
    began = time.process_time()
    for seed in range(seeds):
        prompts = [prompt_of(number) for number in NUMBERS]
        result = dsearch.search(model, method, prompts, seed=seed, chunks=dsearch.Chunks(network=96))
        scores.append(result.rewards[:, 0].tolist())
        found.append(result.images[:, 0])
        print(f"{name}, seed {seed}: {result.rewards[:, 0].mean():.3f}", flush=True)
    np.save(folder / f"{name}.npy", (torch.stack(found)[:, :, 0] * 255).round().byte().numpy())
    return {"scores": scores, "bill": list(method.bill(STEPS)), "seconds": time.process_time() - began}


def shown(folder: Path, name: str) -> Tensor:
    """`[S, P, 3, 96, 192]`, the pictures that a method found."""
    return torch.from_numpy(np.load(folder / f"{name}.npy")).float()[:, :, None].expand(-1, -1, 3, -1, -1) / 255


def table(blocks: Mapping[str, Mapping[str, Any]], nearest: Mapping[str, Sequence[Sequence[bool]]]) -> str:
    head = ["method", "OCR reward", "above best-of-N", "read in full", "nearest is the number", "rows", "readings"]
    lines = ["| " + " | ".join([*head, "CPU seconds"]) + " |", "|" + " --- |" * (len(head) + 1)]
    base = torch.tensor(blocks["best-of-N"]["scores"], dtype=torch.float64)
    for name, block in blocks.items():
        cells = torch.tensor(block["scores"], dtype=torch.float64)
        own, above = over_seeds(cells), over_seeds(cells - base)
        assert own is not None and above is not None
        text = f"{above.mean:+.2f} [{above.low:+.2f}, {above.high:+.2f}]"
        hits = sum(sum(row) for row in nearest[name])
        row = [name, f"{own.mean:.2f} [{own.low:.2f}, {own.high:.2f}]"]
        row += ["" if name == "best-of-N" else text if above.is_clear else f"{text} n.s."]
        row += [f"{int((cells == 1).sum())} of {cells.numel()}", f"{hits} of {cells.numel()}"]
        row += [str(block["bill"][0]), str(block["bill"][2]), f"{block['seconds'] / cells.numel():.1f}"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def grid(pictures: Mapping[str, Tensor], scores: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """A row a method, a column a number: its first two seeds, framed where the OCR reads the number."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    def font(size: int, face: str = "DejaVuSans") -> Any:
        return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"), size)

    left, top, w, h, gap, seeds = 110, 40, 120, 60, 8, 2
    height = seeds * (h + 4) + gap
    size = (left + len(NUMBERS) * (w + gap), top + len(pictures) * height)
    page = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(page)
    for p, number in enumerate(NUMBERS):
        pen.text((left + p * (w + gap) + w // 2, top // 2), f"“{number}”", "black", font(18, "DejaVuSans-Bold"), "mm")
    for m, (name, images) in enumerate(pictures.items()):
        y = top + m * height
        pen.text((8, y + seeds * (h + 4) // 2), name, "black", font(15), "lm")
        for s in range(seeds):
            for p in range(len(NUMBERS)):
                x, z = left + p * (w + gap), y + s * (h + 4)
                array = (images[s, p] * 255).round().byte().permute(1, 2, 0).numpy()
                page.paste(Image.fromarray(array).resize((w, h), Image.Resampling.LANCZOS), (x, z))
                if scores[name][s][p] == 1:
                    pen.rectangle((x - 1, z - 1, x + w, z + h), outline=(20, 150, 60), width=3)
    page.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("writer"), help="folder of the weights and what was found")
    parser.add_argument("--seeds", type=int, default=3, help="of each number, at least 2")
    parser.add_argument("--docs", type=Path, help="page whose table and pictures are made anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not (args.out / "unet").exists():
        subprocess.run([sys.executable, trained.__file__, "--out", str(args.out)], check=True)
    from dsearch.rewards import OCR

    model, reward, blocks = trained.load(args.out, STEPS), OCR(), {}
    for name in METHODS:
        file = args.out / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(run(name, reward, model, args.seeds, args.out)))
        blocks[name] = json.loads(file.read_text())
    numbers, pictures = [f"{i:03d}" for i in range(1000)], {name: shown(args.out, name) for name in blocks}
    judge = Nearest(trained.enlarged(trained.dataset(8000, seed=1000) / 127.5 - 1), 8 * numbers)
    nearest = {
        name: [[said == number for said, number in zip(judge(row), NUMBERS, strict=True)] for row in images]
        for name, images in pictures.items()
    }
    drawn = judge(trained.enlarged(trained.dataset(1000, seed=1001) / 127.5 - 1))
    right = sum(said == number for said, number in zip(drawn, numbers, strict=True))
    text = table(blocks, nearest)
    print(text, f"\nnearest names {right} of 1000 drawn pictures")
    if args.docs is None:
        return
    images = args.docs.parent / "img"
    grid(pictures, {name: block["scores"] for name, block in blocks.items()}, images / "writer_grid.png")
    trained.sheet(trained.samples(model, 32), images / "writer_samples.png")
    about = (
        f"{date.today()}, {platform.machine()}, dsearch {dsearch.__version__}, torch {torch.__version__}, one thread; "
        f"{STEPS} steps, {len(NUMBERS)} numbers, {args.seeds} seeds each; intervals are 95%, over seeds, on these "
        f"numbers. `nearest` names {right} of 1000 drawn pictures rightly. Made by:\n\n```\n"
        "python benchmarks/writer_search.py --out writer --docs docs/writer.md\n```"
    )
    rewrite(args.docs, f"{about}\n\n{text}", BEGIN, END)


if __name__ == "__main__":
    main()
