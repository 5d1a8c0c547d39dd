"""What search makes a model write that was told nothing: numbers, with the OCR reward as the judge and as the guide.

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
STEPS, BILL = 20, 16
METHODS: dict[str, Any] = {
    "plain": partial(methods.plain, beams=1),
    "best-of-N": methods.best_of_n,
    "DTS*": partial(methods.dts_star, lam=1.0),
    "SVDD": methods.svdd,
    "DSearch-R": partial(methods.dsearch_r, beams=4, rows_per_step=16, search="all"),
}
SEARCHES = [(name, "classifier") for name in METHODS] + [("best-of-N", "OCR"), ("SVDD", "OCR")]
"""Each method, and what steers it."""

FILES = {"guide": "guide.safetensors", "unet": "unet"}


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


def run(name: str, reward: Any, judge: Any, model: Any, seeds: int) -> tuple[dict[str, Any], Tensor]:
    """One method on all numbers and seeds -> what the OCR says of its best pictures, and these, `[S, P, 96, 192]`."""
    method, prompts, scores, found = method_of(name, reward), [prompt_of(number) for number in NUMBERS], [], []
    began = time.process_time()
    for seed in range(seeds):
        result = dsearch.search(model, method, prompts, seed=seed, chunks=dsearch.Chunks(network=96))
        found.append(result.images[:, 0])
    seconds = (time.process_time() - began) / (seeds * len(prompts))
    scores = [judge(images, prompts).tolist() for images in found]
    return {"scores": scores, "bill": list(method.bill(STEPS)), "seconds": seconds}, torch.stack(found)[:, :, 0]


def share(hits: int, number: int) -> str:
    """With Wilson's 95% interval, in percent."""
    from scipy.stats import binomtest

    low, high = binomtest(hits, number).proportion_ci(method="wilson")
    return f"{hits} of {number} ({100 * low:.0f} to {100 * high:.0f}%)"


def table(blocks: Mapping[tuple[str, str], Mapping[str, Any]], nearest: Mapping[tuple[str, str], Tensor]) -> str:
    """A line a search; differences are from best-of-N by the classifier, at the seeds that both have."""
    head = ["method", "steered by", "read in full", "share that is read", "above best-of-N", "nearest is the number"]
    lines = ["| " + " | ".join([*head, "rows", "CPU seconds"]) + " |", "|" + " --- |" * (len(head) + 2)]
    base = torch.tensor(blocks["best-of-N", "classifier"]["scores"], dtype=torch.float64)
    for search, block in blocks.items():
        cells = torch.tensor(block["scores"], dtype=torch.float64)
        own, above = over_seeds(cells), over_seeds(cells - base[: len(cells)])
        assert own is not None and above is not None
        text = f"{above.mean:+.2f} [{above.low:+.2f}, {above.high:+.2f}]"
        name, steered = search
        row = [name, "" if name == "plain" else steered, share(int((cells == 1).sum()), cells.numel())]
        row += [f"{own.mean:.2f} [{own.low:.2f}, {own.high:.2f}]" if own.low < own.high else f"{own.mean:.2f}"]
        row += ["" if search == ("best-of-N", "classifier") else text if above.is_clear else f"{text} n.s."]
        row += [share(int(nearest[search].sum()), cells.numel()), str(block["bill"][0]), f"{block['seconds']:.2f}"]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def grid(pictures: Mapping[str, Tensor], scores: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """A row a search, a column a number: its first two seeds, framed where the OCR reads the number."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    def font(size: int, face: str = "DejaVuSans") -> Any:
        return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"), size)

    left, top, w, h, gap, seeds = 170, 40, 120, 60, 8, 2
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
                array = (images[s, p] * 255).round().byte().numpy()
                page.paste(Image.fromarray(array).resize((w, h), Image.Resampling.LANCZOS), (x, z))
                if scores[name][s][p] == 1:
                    pen.rectangle((x - 1, z - 1, x + w, z + h), outline=(20, 150, 60), width=3)
    page.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("writer"), help="folder of the weights and what was found")
    parser.add_argument("--seeds", type=int, default=8, help="of each number, at least 2")
    parser.add_argument("--ocr-seeds", type=int, default=4, help="where the OCR steers, which takes longer")
    parser.add_argument("--docs", type=Path, help="page whose table and pictures are made anew")
    args = parser.parse_args()
    torch.set_num_threads(1)
    missing = [part for part, file in FILES.items() if not (args.out / file).exists()]
    if missing:
        subprocess.run([sys.executable, trained.__file__, "--out", str(args.out), "--parts", *missing], check=True)
    from dsearch.rewards import OCR

    model, judge = trained.load(args.out, STEPS), OCR()
    rewards: dict[str, Any] = {"classifier": trained.load_guide(args.out), "OCR": judge}
    blocks, pictures = {}, {}
    for name, steered in SEARCHES:
        file = args.out / f"{name}_{steered}.json"
        if not file.exists():
            seeds = args.ocr_seeds if steered == "OCR" else args.seeds
            block, images = run(name, rewards[steered], judge, model, seeds)
            np.save(file.with_suffix(".npy"), (images * 255).round().byte().numpy())
            file.write_text(json.dumps(block))
        blocks[name, steered] = json.loads(file.read_text())
        pictures[name, steered] = torch.from_numpy(np.load(file.with_suffix(".npy"))) / 255
        print(name, steered, blocks[name, steered], flush=True)
    numbers = [f"{i:03d}" for i in range(1000)]
    closest = Nearest(trained.enlarged(trained.dataset(8000, seed=1000) / 127.5 - 1), 8 * numbers)
    nearest = {
        search: torch.tensor([[a == b for a, b in zip(closest(row[:, None]), NUMBERS, strict=True)] for row in images])
        for search, images in pictures.items()
    }
    drawn = closest(trained.enlarged(trained.dataset(1000, seed=1001) / 127.5 - 1))
    right = sum(said == number for said, number in zip(drawn, numbers, strict=True))
    text = table(blocks, nearest)
    print(text, f"\nthe nearest is right for {right} of 1000 drawn pictures")
    if args.docs is None:
        return
    folder = args.docs.parent / "img"
    titles = {search: search[0] + (" by OCR" if search[1] == "OCR" else "") for search in SEARCHES}
    scores = {titles[search]: block["scores"] for search, block in blocks.items()}
    grid({titles[search]: images for search, images in pictures.items()}, scores, folder / "writer_grid.png")
    trained.sheet(trained.samples(model, 32), folder / "writer_samples.png")
    about = (
        f"{date.today()}, {platform.machine()}, dsearch {dsearch.__version__}, torch {torch.__version__}, one thread; "
        f"{STEPS} steps, numbers {', '.join(NUMBERS)}; intervals are 95%, over seeds, on these numbers; seconds are of "
        f"one search. The nearest of 8000 drawn pictures is of the right number for {right} of 1000 others. Made by:"
        "\n\n```\npython benchmarks/writer_search.py --out writer --docs docs/writer.md\n```"
    )
    rewrite(args.docs, f"{about}\n\n{text}", BEGIN, END)


if __name__ == "__main__":
    main()
