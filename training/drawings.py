"""The pictures: drawings out of the packages, composed on flat backgrounds, stored, loaded and shown."""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from words import BACKGROUNDS, SOURCES, SUBJECTS, read_subjects, shared_tokenizer

SIZE = 64  # pixels of a picture
DRAWN = 128  # pixels at which a drawing is rasterised before it is shrunk
HELD_VENDOR = "emojione"  # never trained on: the judge is asked about it once, to see what it makes of new art


def tarball(npm: Path, vendor: str) -> tarfile.TarFile:
    """The package as ``npm pack`` left it."""
    package, version, *_ = SOURCES[vendor]
    return tarfile.open(npm / f"{package.lstrip('@').replace('/', '-')}-{version}.tgz")


def find_icon(icons: dict, names: list[str]) -> dict | None:
    """The first of ``names`` that an iconify set draws, through plain aliases."""
    for name in names:
        alias = icons.get("aliases", {}).get(name, {})
        body = icons["icons"].get(name) or icons["icons"].get(alias.get("parent") if len(alias) == 1 else None)
        if body:
            return body
    return None


def rasterise(icons: dict, body: dict) -> Image.Image:
    """One iconify body -> RGBA picture of side DRAWN."""
    import resvg_py

    width, height = (body.get(k, icons.get(k, 16)) for k in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{body.get("left", 0)} {body.get("top", 0)} {width} {height}" '
        f'width="{DRAWN}" height="{DRAWN}">{body["body"]}</svg>'
    )
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def draw_vendor(npm: Path, vendor: str) -> dict[str, Image.Image]:
    """Subject -> drawing, for every subject this vendor has."""
    with tarball(npm, vendor) as tar:
        if vendor == "3d":
            names = set(tar.getnames())
            codes = {s: (v["code"], v["code"].replace("-fe0f", "")) for s, v in read_subjects().items()}
            paths = {s: [p for c in cs if (p := f"package/assets/{c}.webp") in names] for s, cs in codes.items()}
            return {s: Image.open(tar.extractfile(p[0])).convert("RGBA") for s, p in paths.items() if p}
        icons = json.load(tar.extractfile("package/icons.json"))
    bodies = {s: find_icon(icons, v["icons"]) for s, v in read_subjects().items()}
    return {s: rasterise(icons, b) for s, b in bodies.items() if b}


def trim(image: Image.Image) -> Image.Image:
    """Cut the transparent margin off, so that scale means the same for every vendor."""
    return image.crop(image.getchannel("A").point(lambda a: 255 * (a > 12)).getbbox())


def contrasting(image: Image.Image, keep: int = 6) -> list[str]:
    """The ``keep`` backgrounds that stand out most from a drawing's rim and body."""
    rgba = np.asarray(image.resize((48, 48)), np.float32)
    inside = rgba[..., 3] > 200
    pixels = rgba[inside][:, :3]
    # the share of the drawing that would drown in the background
    drowned = {b: (np.abs(pixels - c).max(-1) < 60).mean() for b, c in BACKGROUNDS.items()}
    return sorted(drowned, key=drowned.get)[:keep]


def shift_hue(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A mild change of hue and saturation."""
    hue, sat, val = image.convert("RGB").convert("HSV").split()
    turn, factor = int(rng.normal(0, 4)), rng.uniform(0.88, 1.1)
    hue, sat = hue.point(lambda x: (x + turn) % 256), sat.point(lambda x: min(255, int(x * factor)))
    out = Image.merge("HSV", (hue, sat, val)).convert("RGB")
    out.putalpha(image.getchannel("A"))
    return out


def compose(image: Image.Image, background: str, rng: np.random.Generator) -> np.ndarray:
    """Drawing -> [64, 64, 3] uint8 on a flat background, with its own size, place, side and tint."""
    if rng.random() < 0.5:
        image = image.transpose(Image.FLIP_LEFT_RIGHT)
    if rng.random() < 0.3:
        image = shift_hue(image, rng)
    side = rng.uniform(0.8, 1.0) * (SIZE - 2)
    k = side / max(image.size)
    w, h = (max(1, round(n * k)) for n in image.size)
    # resize with premultiplied alpha, or the rim picks up the colour of transparent pixels
    small = image.convert("RGBa").resize((w, h), Image.LANCZOS).convert("RGBA")
    canvas = Image.new("RGBA", (SIZE, SIZE), BACKGROUNDS[background] + (255,))
    x, y = (round((SIZE - n) * float(np.clip(rng.normal(0.5, 0.15), 0, 1))) for n in (w, h))
    canvas.alpha_composite(small, (x, y))
    return np.asarray(canvas.convert("RGB"))


def make_pictures(drawings: dict, per_drawing: int, seed: int) -> tuple[np.ndarray, list]:
    """(vendor, subject) -> drawing  =>  pictures [N, 64, 64, 3] and their [subject, vendor, background]."""
    rng, pictures, labels = np.random.default_rng(seed), [], []
    for (vendor, subject), image in drawings.items():
        choices = contrasting(image)
        for i in range(per_drawing):
            background = choices[i % len(choices)]
            pictures.append(compose(image, background, rng))
            labels.append([subject, vendor, background])
    return np.stack(pictures), labels


def stage_data(args: argparse.Namespace) -> None:
    """Draw every subject by every vendor; compose pictures to train on, to hold out, and unseen."""
    drawings = {(v, s): trim(d) for v in SOURCES for s, d in draw_vendor(args.npm, v).items()}
    seen = {k: d for k, d in drawings.items() if k[0] != HELD_VENDOR}
    unseen = {k: d for k, d in drawings.items() if k[0] == HELD_VENDOR}
    missing = [(v, s) for v in SOURCES for s in SUBJECTS if (v, s) not in drawings]
    print(len(SUBJECTS), "subjects,", len(seen), "drawings to train on; missing:", missing)
    shared_tokenizer(args.work)
    plan = {"train": (seen, args.per_drawing, 0), "held": (seen, 4, 1), "unseen": (unseen, 6, 2)}
    for name, (chosen, count, seed) in plan.items():
        pictures, labels = make_pictures(chosen, count, args.seed * 10 + seed)
        np.save(args.work / f"{name}.npy", pictures)
        (args.work / f"{name}.json").write_text(json.dumps(labels))
        print(name, pictures.shape, flush=True)
    save_grid(np.load(args.work / "train.npy", mmap_mode="r")[:: args.per_drawing + 1], args.work / "data.png", 24)


def load_pictures(work: Path, name: str = "train") -> tuple[torch.Tensor, list]:
    """Pictures [N, 3, 64, 64] uint8 (channels last in memory) and their labels."""
    pictures = torch.from_numpy(np.load(work / f"{name}.npy")).permute(0, 3, 1, 2)
    return pictures, json.loads((work / f"{name}.json").read_text())


def to_unit(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 -> [-1, 1]."""
    return pictures.float() / 127.5 - 1


def to_bytes(images: torch.Tensor) -> np.ndarray:
    """[N, 3, H, W] in [-1, 1] -> [N, H, W, 3] uint8."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def save_grid(pictures: np.ndarray, path: Path, columns: int) -> None:
    """[N, H, W, 3] uint8 -> one PNG, row by row."""
    n, h, w, _ = pictures.shape
    grid = np.full((-(-n // columns) * columns, h, w, 3), 255, np.uint8)
    grid[:n] = pictures
    rows = grid.reshape(-1, columns, h, w, 3).transpose(0, 2, 1, 3, 4).reshape(-1, columns * w, 3)
    Image.fromarray(rows).save(path, optimize=True)
