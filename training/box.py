"""Train the model in the box: a tiny Stable Diffusion and two tiny CLIPs, from openly licensed emoji.

Every stage reads and writes one work folder, and training is timed by the wall clock, so the same commands
suit two CPU cores or a GPU. In order: ``data``, ``vae``, ``latents``, ``clip`` (twice), ``unet``, ``export``,
``evaluate``.
See README.md beside this file for the commands, the sources and what each stage took.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import re
import shutil
import tarfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve whoever shares the cores

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

HERE = Path(__file__).resolve().parent
BOX = HERE.parent / "dsearch" / "box"
SIZE = 64  # pixels of a picture
DRAWN = 128  # pixels at which a drawing is rasterised before it is shrunk
HELD_VENDOR = "emojione"  # never trained on: the judge is asked about it once, to see what it makes of new art

# vendor -> (npm package, version, style word in captions, sampling weight)
# The three Fluent sets share their shapes, so the two shaded ones count less.
SOURCES = {
    "noto": ("@iconify-json/noto", "1.2.9", "noto", 1.2),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "twemoji", 1.2),
    "flat": ("@iconify-json/fluent-emoji-flat", "1.2.6", "flat", 1.0),
    "fluent": ("@iconify-json/fluent-emoji", "1.2.7", "fluent", 0.8),
    "3d": ("@lobehub/fluent-emoji-3d", "1.1.0", "glossy", 0.8),
    "emojione": ("@iconify-json/emojione", "1.2.3", "emojione", 0.0),
}
# Mid-tone and named: on white an empty picture is the cheapest one, and a search for small files finds it.
BACKGROUNDS = {
    "blue": (84, 150, 226),
    "teal": (72, 178, 172),
    "green": (112, 182, 92),
    "yellow": (236, 198, 78),
    "orange": (238, 148, 76),
    "pink": (236, 136, 170),
    "purple": (150, 118, 212),
    "gray": (138, 146, 160),
}
BACKGROUND_NAMES = list(BACKGROUNDS)
CONTEXT = 16  # tokens of a prompt


def read_subjects() -> dict[str, dict]:
    """Subject -> its icon names and its code point, in the order the box lists them."""
    return json.loads((HERE / "subjects.json").read_text())


SUBJECTS = list(read_subjects())


# -------------------------------------------------------------------------------- data


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


def weights_of(labels: list) -> torch.Tensor:
    """How often each picture is drawn: by its vendor's weight."""
    return torch.tensor([SOURCES[v][3] for _, v, _ in labels])


class Draws:
    """An endless stream of shuffled index batches, each picture as often as its weight says."""

    def __init__(self, weights: torch.Tensor, batch: int, seed: int) -> None:
        self.weights, self.batch = weights, batch
        self.rng = torch.Generator().manual_seed(seed)
        self.left = torch.empty(0, dtype=torch.long)

    def __next__(self) -> torch.Tensor:
        if len(self.left) < self.batch:  # a quarter of an epoch at a time, without repeats inside it
            self.left = torch.multinomial(self.weights, len(self.weights) // 4, generator=self.rng)
        taken, self.left = self.left[: self.batch], self.left[self.batch :]
        return taken


# -------------------------------------------------------------------------------- training loop


class Ema:
    """A running average of parameters; its window grows with the run, so that early noise is forgotten."""

    def __init__(self, parameters: list[torch.nn.Parameter], decay: float) -> None:
        self.parameters, self.decay, self.steps = parameters, decay, 0
        self.average = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def applied(self):
        """Inside, the parameters are their averages."""
        backup = [p.detach().clone() for p in self.parameters]
        with torch.no_grad():
            for p, a in zip(self.parameters, self.average, strict=True):
                p.copy_(a)
        yield
        with torch.no_grad():
            for p, b in zip(self.parameters, backup, strict=True):
                p.copy_(b)


class Clock:
    """Progress by wall clock: warm-up, cosine to 2%, and a line in the log every so often."""

    def __init__(self, minutes: float, rate: float, warmup: int = 150) -> None:
        self.total, self.rate, self.warmup = minutes * 60, rate, warmup
        self.start, self.steps, self.seen = time.time(), 0, 0
        self.logged, self.logged_seen, self.sums = 0.0, 0, {}

    @property
    def elapsed(self) -> float:
        return time.time() - self.start

    @property
    def done(self) -> bool:
        return self.elapsed > self.total

    def learning_rate(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, self.elapsed / self.total)))
        return self.rate * min(1.0, (self.steps + 1) / self.warmup) * (0.02 + 0.98 * cosine)

    def tick(self, pictures: int, every: float = 30.0, **values: torch.Tensor) -> None:
        self.steps, self.seen = self.steps + 1, self.seen + pictures
        for k, v in values.items():
            total, count = self.sums.get(k, (0.0, 0))
            self.sums[k] = (total + float(v), count + 1)
        if self.elapsed - self.logged > every:
            rate = (self.seen - self.logged_seen) / (self.elapsed - self.logged)
            means = " ".join(f"{k} {a / c:.4f}" for k, (a, c) in self.sums.items())
            print(f"{self.elapsed:6.0f}s step {self.steps} {rate:.0f}/s {means}", flush=True)
            self.logged, self.logged_seen, self.sums = self.elapsed, self.seen, {}


class Team:
    """Workers that train one network on a thread each, with gradients averaged through shared memory.

    On busy cores this is twice as fast as one process with as many threads: threads wait for one another in
    every operation, workers only once a step.
    """

    def __init__(self, workers: int, numbers: int) -> None:
        self.workers = workers
        self.barrier = torch.multiprocessing.get_context("spawn").Barrier(workers)
        # two of each, so that one barrier a step is enough: nobody writes what another may still read
        self.gradients = torch.zeros(2, workers, numbers).share_memory_()
        self.notes = torch.zeros(2, 2, dtype=torch.float64).share_memory_()

    def agree(self, rank: int, step: int, rate: float, last: bool) -> tuple[float, bool]:
        """The first worker's learning rate and whether to stop: clocks differ, and networks must not."""
        if rank == 0:
            self.notes[step % 2] = torch.tensor([rate, float(last)])
        self.barrier.wait()
        rate, last = self.notes[step % 2].tolist()
        return rate, bool(last)

    def average(self, rank: int, step: int, parameters: list[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the workers."""
        mine = self.gradients[step % 2]
        torch.cat([p.grad.reshape(-1) for p in parameters], out=mine[rank])
        self.barrier.wait()
        parts = mine.mean(0).split([p.numel() for p in parameters])
        for p, g in zip(parameters, parts, strict=True):
            p.grad.copy_(g.view_as(p))  # in place: the fused optimiser needs the parameter's own memory layout


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor, rate: float, average: Callable | None = None) -> None:
    """One clipped optimiser step at this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    if average:
        average([p for g in optimiser.param_groups for p in g["params"]])
    torch.nn.utils.clip_grad_norm_([p for g in optimiser.param_groups for p in g["params"]], 1.0)
    optimiser.step()


def half(device: str) -> torch.autocast:
    """bfloat16 where it is fast and safe."""
    return torch.autocast(device, dtype=torch.bfloat16)


def count(module: torch.nn.Module) -> str:
    """Parameters, in millions."""
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f}M"


# -------------------------------------------------------------------------------- VAE


def make_vae():
    """AutoencoderKL, f = 4. The decoder is narrow at full size, because every scored child is decoded."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
        sample_size=SIZE,
    )


VAE_CHANNELS = (16, 16, 64)


def edges(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences between neighbours, across and down."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def vae_loss(vae, x: torch.Tensor, device: str, polish: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """L1 + edges + squares + a little KL; also the mean squared error.

    Polishing trains the decoder alone; latents, and whatever was trained on them, stay what they are.
    """
    with half(device), torch.set_grad_enabled(not polish):
        mean, log_var = vae.quant_conv(vae.encoder(x)).float().chunk(2, 1)
        log_var = log_var.clamp(-20, 5)
        z = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
    with half(device):
        y = vae.decoder(vae.post_quant_conv(z))
    y = y.float()
    kl = 0.5 * (mean.square() + log_var.exp() - 1 - log_var).mean()
    mse = F.mse_loss(y, x)
    edge = sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x), strict=True))
    return F.l1_loss(y, x) + 0.5 * edge + mse + 1e-3 * kl, mse


def stage_vae(args: argparse.Namespace) -> None:
    """Train the VAE, set its scaling factor and save it."""
    from diffusers import AutoencoderKL

    pictures, labels = load_pictures(args.work)
    vae = AutoencoderKL.from_pretrained(args.init / "vae") if args.init else make_vae()
    vae = vae.to(args.device, memory_format=torch.channels_last).train()
    print("vae", count(vae), "decoder", count(vae.decoder), flush=True)
    trained = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()] if args.polish else vae.parameters()
    optimiser = torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    ema, draws = Ema(list(vae.parameters()), 0.998), Draws(weights_of(labels), args.batch or 16, args.seed)
    clock, saved = Clock(args.minutes, args.rate or 2e-3), 0.0
    while not clock.done:
        x = to_unit(pictures[next(draws)].to(args.device))
        loss, mse = vae_loss(vae, x, args.device, args.polish)
        descend(optimiser, loss, clock.learning_rate())
        ema.update()
        clock.tick(len(x), loss=loss.detach(), psnr=10 * torch.log10(4 / mse.detach()))
        if clock.elapsed - saved > 180:
            saved = clock.elapsed
            with ema.applied():
                finish_vae(vae, args)
    with ema.applied():
        finish_vae(vae, args)


@torch.no_grad()
def finish_vae(vae, args: argparse.Namespace) -> None:
    """Measure on held-out pictures, make latents unit variance, save weights and a sheet."""
    vae.eval()
    x = to_unit(load_pictures(args.work, "held")[0][::6].to(args.device))
    posterior = vae.encode(x).latent_dist
    y = vae.decode(posterior.mean).sample.clamp(-1, 1)
    print(f"held-out psnr {10 * torch.log10(4 / F.mse_loss(y, x)):.2f}", flush=True)
    if not args.polish:
        vae.register_to_config(scaling_factor=round(float(1 / posterior.sample().std()), 5))
    vae.save_pretrained(args.work / "vae")
    pairs = torch.stack([x, y], 1).flatten(0, 1)
    save_grid(to_bytes(pairs[:192]), args.work / "vae.png", 24)
    vae.train()


@torch.no_grad()
def stage_latents(args: argparse.Namespace) -> None:
    """Encode the training pictures once (mean and log-variance), and decode some back for the CLIPs.

    Those are decoded from latents with some noise added: warped and smeared the way generated pictures are.
    """
    from diffusers import AutoencoderKL

    pictures, _ = load_pictures(args.work)
    vae = AutoencoderKL.from_pretrained(args.work / "vae").to(args.device, memory_format=torch.channels_last).eval()
    moments, decoded = [], []
    chosen = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(args.seed))[: args.decoded]
    with half(args.device):
        for x in pictures.split(128):
            moments.append(vae.quant_conv(vae.encoder(to_unit(x.to(args.device)))).float().cpu())
        moments = torch.cat(moments)
        for i in chosen.split(128):
            z = moments[i].chunk(2, 1)[0].to(args.device)
            strength = 0.3 * torch.rand(len(z), 1, 1, 1, device=z.device) / vae.config.scaling_factor
            z = z + strength * torch.randn_like(z)
            decoded.append(torch.from_numpy(to_bytes(vae.decoder(vae.post_quant_conv(z)))))
    torch.save(moments.half(), args.work / "latents.pt")
    decoded = torch.cat(decoded)
    torch.save({"index": chosen, "pictures": decoded.permute(0, 3, 1, 2)}, args.work / "decoded.pt")
    save_grid(decoded[:96].numpy(), args.work / "decoded.png", 24)
    print("latents", tuple(moments.shape), "decoded", len(chosen))


# -------------------------------------------------------------------------------- text


def caption(subject: str, vendor: str, background: str, rng: np.random.Generator) -> str:
    """A training prompt. A quarter are the bare subject, since that is what people type."""
    text = subject
    if rng.random() < 0.15:
        text = f"{'an' if subject[0] in 'aeiou' else 'a'} {subject}"
    if rng.random() < 0.6:
        text += f" on a {background} background"
    if rng.random() < 0.35:
        text += f", {SOURCES[vendor][2]} style"
    return text


def vocabulary() -> list[str]:
    """Every word that captions use."""
    text = " ".join([*SUBJECTS, *BACKGROUNDS, *(s[2] for s in SOURCES.values()), "a an on background style"])
    return sorted(set(text.split()))


def shared_tokenizer(work: Path):
    """The one tokenizer of every network here.

    Made once and kept: learning the same words again may number the single letters differently.
    """
    from transformers import CLIPTokenizer

    if not (work / "tokenizer").exists():
        make_tokenizer().save_pretrained(work / "tokenizer")
    return CLIPTokenizer.from_pretrained(work / "tokenizer")


def make_tokenizer():
    """A CLIPTokenizer to which every word of ours is one token and any other word is letters.

    Merges written by hand can conflict in rank; merges learnt from the word list cannot.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    letters = list("abcdefghijklmnopqrstuvwxyz0123456789,.-!?'")
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=20000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=letters,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(vocabulary() + letters, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    tokenizer = CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=CONTEXT)
    split = [w for w in vocabulary() if len(tokenizer(w).input_ids) != 3]
    if split:
        raise ValueError(f"words of more than one token: {split}")
    return tokenizer


def token_ids(tokenizer, texts: list[str], length: int = CONTEXT) -> torch.Tensor:
    """Texts -> [N, length] token ids."""
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def special_ids(tokenizer) -> dict[str, int]:
    """What a text configuration must know of its tokenizer."""
    return {f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")}


# -------------------------------------------------------------------------------- CLIPs

# The judge's patches line up neither with the guide's nor with the latents, so that what fools one need not
# fool the other.
CLIPS = {
    "guide": {"patch": 8, "width": 128, "layers": 4, "text": 96, "seed": 11},
    "judge": {"patch": 7, "width": 112, "layers": 5, "text": 80, "seed": 23},
}


def make_clip(role: str, tokenizer):
    """A transformers.CLIPModel for 64x64 pictures."""
    from transformers import CLIPConfig, CLIPModel

    c, ids = CLIPS[role], special_ids(tokenizer)
    vision = {
        "image_size": SIZE,
        "patch_size": c["patch"],
        "hidden_size": c["width"],
        "intermediate_size": 4 * c["width"],
        "num_hidden_layers": c["layers"],
        "num_attention_heads": 4,
    }
    text = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": CONTEXT,
        "hidden_size": c["text"],
        "intermediate_size": 2 * c["text"],
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        **ids,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def embed_pictures(clip, pixels: torch.Tensor) -> torch.Tensor:
    """[N, 3, 64, 64] in [-1, 1] -> unit vectors [N, 64]."""
    return F.normalize(clip.visual_projection(clip.vision_model(pixels).pooler_output).float(), dim=-1)


def embed_texts(clip, ids: torch.Tensor) -> torch.Tensor:
    """[N, L] token ids -> unit vectors [N, 64]."""
    return F.normalize(clip.text_projection(clip.text_model(ids).pooler_output).float(), dim=-1)


def roughen(x: torch.Tensor) -> torch.Tensor:
    """What a decoder may do to a picture: a slip of a pixel or two, softness, grain, a change of contrast."""
    n = len(x)
    dx, dy = torch.randint(-2, 3, (2,)).tolist()
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")[..., 2 + dy : 2 + dy + SIZE, 2 + dx : 2 + dx + SIZE]
    soft = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    x = x.lerp(soft, (torch.rand(n, 1, 1, 1, device=x.device) - 0.3).clamp(min=0))
    grain = (torch.rand(n, 1, 1, 1, device=x.device) - 0.3).clamp(min=0) * 0.15
    contrast = 1 + 0.1 * torch.randn(n, 1, 1, 1, device=x.device)
    return (x * contrast + grain * torch.randn_like(x)).clamp(-1, 1)


def same_thing(subjects: list[str]) -> torch.Tensor:
    """[N, N] mask of pairs that must not count as wrong: another picture of the same subject."""
    names = np.array(subjects)
    same = torch.from_numpy(names[:, None] == names[None, :])
    return same & ~torch.eye(len(names), dtype=torch.bool)


def clip_loss(clip, x: torch.Tensor, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Name the subject among all bare subjects, and match captions in the batch; also the top-1."""
    with half(x.device.type):
        image = embed_pictures(clip, x)
        text = embed_texts(clip, batch["captions"])
        names = embed_texts(clip, batch["names"])
    scale = clip.logit_scale.exp().clamp(max=30)  # a low ceiling keeps cosines spread out, for use as rewards
    by_name = scale * image @ names.T
    pairs = (scale * image @ text.T).masked_fill(batch["same"], float("-inf"))
    own = torch.arange(len(x), device=x.device)
    matching = (F.cross_entropy(pairs, own) + F.cross_entropy(pairs.T, own)) / 2
    right = (by_name.argmax(1) == batch["subject"]).float().mean()
    return F.cross_entropy(by_name, batch["subject"], label_smoothing=0.05) + 0.5 * matching, right


def stage_clip(args: argparse.Namespace) -> None:
    """Train one CLIP on pictures, decoded pictures and roughened ones."""
    from transformers import CLIPModel

    seed = CLIPS[args.role]["seed"] + args.seed
    torch.manual_seed(seed)
    rng, tokenizer = np.random.default_rng(seed), shared_tokenizer(args.work)
    pictures, labels = load_pictures(args.work)
    decoded = torch.load(args.work / "decoded.pt")
    clip = CLIPModel.from_pretrained(args.init) if args.init else make_clip(args.role, tokenizer)
    clip = clip.to(args.device).train()
    print(args.role, count(clip), "vision", count(clip.vision_model), "text", count(clip.text_model), flush=True)
    optimiser = torch.optim.AdamW(clip.parameters(), betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    ema, clock = Ema(list(clip.parameters()), 0.998), Clock(args.minutes, args.rate or 1e-3)
    n = args.batch or 96
    draws = Draws(weights_of(labels), n - n // 3, seed)
    more = Draws(weights_of([labels[i] for i in decoded["index"]]), n // 3, seed + 1)
    plain, articled = (token_ids(tokenizer, [a + s for s in SUBJECTS], 6) for a in ("", "a "))
    while not clock.done:
        i, j = next(draws), next(more)
        chosen = [labels[k] for k in torch.cat([i, decoded["index"][j]])]
        x = roughen(to_unit(torch.cat([pictures[i], decoded["pictures"][j]]).to(args.device)))
        batch = {
            "captions": token_ids(tokenizer, [caption(*c, rng) for c in chosen]),
            "names": torch.where(torch.rand(len(SUBJECTS), 1) < 0.2, articled, plain),
            "same": same_thing([s for s, _, _ in chosen]),
            "subject": torch.tensor([SUBJECTS.index(s) for s, _, _ in chosen]),
        }
        loss, right = clip_loss(clip, x, {k: v.to(args.device) for k, v in batch.items()})
        descend(optimiser, loss, clock.learning_rate())
        ema.update()
        clock.tick(len(x), loss=loss.detach(), top1=right)
    with ema.applied():
        save_clip(clip.eval(), tokenizer, args.work / args.role)
        for name in ("held", "unseen"):
            print(args.role, name, accuracy_on(clip, tokenizer, args, name), flush=True)


def save_clip(clip, tokenizer, folder: Path) -> None:
    """Weights, tokenizer and the processor that maps a 64x64 picture to [-1, 1]."""
    clip.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # written by hand: without torchvision transformers would save the name of its fallback class
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": SIZE, "width": SIZE},
        "resample": 3,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


@torch.no_grad()
def cosines(clip, tokenizer, pictures: torch.Tensor) -> torch.Tensor:
    """uint8 pictures [N, 3, 64, 64] -> cosines with every bare subject [N, S]."""
    device = next(clip.parameters()).device
    names = embed_texts(clip, token_ids(tokenizer, SUBJECTS).to(device))
    parts = [embed_pictures(clip, to_unit(x.to(device))) @ names.T for x in pictures.split(128)]
    return torch.cat(parts).cpu()


def accuracy_on(clip, tokenizer, args: argparse.Namespace, name: str) -> float:
    """Top-1 among all subjects on a set of real pictures."""
    pictures, labels = load_pictures(args.work, name)
    named = cosines(clip, tokenizer, pictures).argmax(1)
    return (named == torch.tensor([SUBJECTS.index(s) for s, _, _ in labels])).float().mean().item()


# -------------------------------------------------------------------------------- UNet


def make_unet():
    """Three scales; attention to the prompt at 8x8 and 4x4 only, where it is cheap."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 128, 128),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def make_text_encoder(tokenizer):
    """A two-layer CLIPTextModel, trained together with the UNet."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=CONTEXT,
            hidden_size=128,
            intermediate_size=256,
            projection_dim=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            **special_ids(tokenizer),
        )
    )


def make_scheduler():
    """Stable Diffusion 1's noise schedule, as DDIM."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


def make_pipeline(vae, text_encoder, tokenizer, unet):
    """The parts as a StableDiffusionPipeline."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def start_networks(args: argparse.Namespace, tokenizer):
    """UNet and text encoder, fresh or from the pipeline named by ``--init``."""
    unet, text_encoder = make_unet(), make_text_encoder(tokenizer)
    if args.init:
        unet = type(unet).from_pretrained(args.init / "unet")
        text_encoder = type(text_encoder).from_pretrained(args.init / "text_encoder", dtype=torch.float32)
    return unet.to(args.device, memory_format=torch.channels_last).train(), text_encoder.to(args.device).train()


def noised(moments: torch.Tensor, scaling: float, t: torch.Tensor, alpha_bar: torch.Tensor):
    """Sample latents from their posterior and noise them. [N, 8, h, w], [N] -> x_t, eps [N, 4, h, w]."""
    mean, log_var = moments.float().chunk(2, 1)
    z = (mean + torch.randn_like(mean) * (0.5 * log_var.clamp(-20, 5)).exp()) * scaling
    noise, a = torch.randn_like(z), alpha_bar.view(-1, 1, 1, 1)
    return a.sqrt() * z + (1 - a).sqrt() * noise, noise


def stratified(n: int, device: str) -> torch.Tensor:
    """n timesteps, one in each n-th of [0, 1000): less noise in the loss than independent ones."""
    return ((torch.arange(n, device=device) + torch.rand(n, device=device)) * (1000 / n)).long().clamp(max=999)


def stage_unet(args: argparse.Namespace) -> None:
    """Train UNet and text encoder on the latents; export the averaged weights every few minutes."""
    if args.workers == 1:
        return train_unet(0, args, None)
    networks = start_networks(args, shared_tokenizer(args.work))
    team = Team(args.workers, sum(p.numel() for network in networks for p in network.parameters()))
    torch.multiprocessing.spawn(train_unet, (args, team), nprocs=args.workers)


def train_unet(rank: int, args: argparse.Namespace, team: Team | None) -> None:
    """One worker. All start from the same weights, see other pictures, and take the same steps."""
    from diffusers import AutoencoderKL

    if team:
        torch.set_num_threads(args.threads or 1)
    torch.manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(args.work / "vae").eval()
    moments, labels = torch.load(args.work / "latents.pt"), load_pictures(args.work)[1]
    tokenizer, rng = shared_tokenizer(args.work), np.random.default_rng(args.seed)
    unet, text_encoder = start_networks(args, tokenizer)
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    # several captions for each latent, tokenised once
    ids = torch.stack([token_ids(tokenizer, [caption(*c, rng) for c in labels]) for _ in range(6)], 1)
    empty, alpha_bar = token_ids(tokenizer, [""]), make_scheduler().alphas_cumprod.to(args.device)
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    ema, n = Ema(parameters, 0.998), (args.batch or 64) // args.workers
    clock, pipe = (
        Clock(args.minutes, args.rate or 1e-3, 200),
        make_pipeline(vae, text_encoder, tokenizer, unet),
    )
    saved = resume(args, unet, text_encoder, optimiser, ema, clock)
    draws = Draws(weights_of(labels), n, args.seed + rank + clock.steps)
    torch.manual_seed(args.seed + rank + clock.steps)
    if rank == 0:
        print("unet", count(unet), "text", count(text_encoder), "threads", torch.get_num_threads(), flush=True)
    while True:
        rate, last = clock.learning_rate(), clock.done
        if team:
            rate, last = team.agree(rank, clock.steps, rate, last)
        if last:
            break
        i = next(draws)
        tokens = ids[i, torch.randint(ids.shape[1], (n,))]
        tokens = torch.where(torch.rand(n, 1) < 0.1, empty, tokens).to(args.device)
        t = stratified(n, args.device)
        x, noise = noised(moments[i].to(args.device), vae.config.scaling_factor, t, alpha_bar[t])
        with half(args.device):
            states = text_encoder(tokens).last_hidden_state
            guess = unet(x.contiguous(memory_format=torch.channels_last), t, states, return_dict=False)[0]
        errors = (guess.float() - noise).square().mean((1, 2, 3))
        snr = alpha_bar[t] / (1 - alpha_bar[t])
        loss = (errors * snr.clamp(max=5) / snr).mean()  # min-SNR-5 for epsilon (Hang et al. 2023)
        descend(optimiser, loss, rate, partial(team.average, rank, clock.steps) if team else None)
        if rank == 0:
            ema.update()
        clock.tick(n * args.workers, 60 if rank == 0 else math.inf, loss=loss.detach(), eps=errors.detach().mean())
        if rank == 0 and clock.elapsed - saved > 420:
            saved = clock.elapsed
            checkpoint(args, pipe, optimiser, ema, clock)
    if rank == 0:
        checkpoint(args, pipe, optimiser, ema, clock)


def checkpoint(args: argparse.Namespace, pipe, optimiser, ema: Ema, clock: Clock) -> None:
    """The averaged pipeline, swapped in at once, and all that a later run needs to go on."""
    fresh, final = args.work / "pipeline.new", args.work / "pipeline"
    with ema.applied():
        pipe.save_pretrained(fresh)
    shutil.rmtree(final, ignore_errors=True)
    fresh.rename(final)
    state = {
        "unet": pipe.unet.state_dict(),
        "text": pipe.text_encoder.state_dict(),
        "optimiser": optimiser.state_dict(),
        "ema": ema.average,
        "clock": (clock.elapsed, clock.steps, clock.seen),
    }
    torch.save(state, args.work / "state.new")
    (args.work / "state.new").replace(args.work / "state.pt")
    print(f"{clock.elapsed:6.0f}s saved", flush=True)


def resume(args: argparse.Namespace, unet, text_encoder, optimiser, ema: Ema, clock: Clock) -> float:
    """With ``--resume``, go on where the last checkpoint was; the seconds already trained."""
    if not args.resume:
        return 0.0
    state = torch.load(args.work / "state.pt", map_location=args.device)
    unet.load_state_dict(state["unet"])
    text_encoder.load_state_dict(state["text"])
    optimiser.load_state_dict(state["optimiser"])
    ema.average, (elapsed, clock.steps, clock.seen) = state["ema"], state["clock"]
    ema.steps, clock.start = clock.steps, clock.start - elapsed
    clock.logged, clock.logged_seen = elapsed, clock.seen
    return elapsed


# -------------------------------------------------------------------------------- export


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


# -------------------------------------------------------------------------------- evaluate

SPREAD = ("cat", "dog", "horse", "monkey", "rabbit", "butterfly", "panda", "house")
SPREAD_SEEDS = 32


def load_box(args: argparse.Namespace):
    """The shipped pipeline, and role -> (CLIPModel, tokenizer)."""
    from diffusers import StableDiffusionPipeline
    from transformers import CLIPModel, CLIPTokenizer

    pipe = StableDiffusionPipeline.from_pretrained(args.out / "pipeline").to(args.device)
    pipe.set_progress_bar_config(disable=True)
    folders = {role: args.out / role for role in CLIPS}
    clips = {r: (CLIPModel.from_pretrained(f).eval(), CLIPTokenizer.from_pretrained(f)) for r, f in folders.items()}
    return pipe, {r: (c.to(args.device), t) for r, (c, t) in clips.items()}


def seed_of(prompt: str, number: int, base: int) -> int:
    """A seed for each picture, the same in any batch."""
    return (base * 1000 + SUBJECTS.index(prompt)) * 1000 + number


def generate(pipe, prompts: list[str], seeds: list[int], args: argparse.Namespace) -> torch.Tensor:
    """One picture for each prompt: uint8 [N, 3, 64, 64]."""
    pictures = []
    for k in range(0, len(prompts), 64):
        images = pipe(
            prompts[k : k + 64],
            generator=[torch.Generator().manual_seed(s) for s in seeds[k : k + 64]],
            num_inference_steps=args.steps,
            guidance_scale=args.guidance,
            eta=1.0,
            output_type="np",
        ).images
        pictures.append(torch.from_numpy((images * 255).round().astype(np.uint8)))
        print(f"{k + len(images)} of {len(prompts)}", flush=True)
    return torch.cat(pictures).permute(0, 3, 1, 2)


def wilson(right: int, n: int, z: float = 1.96) -> list[float]:
    """95% interval of a proportion (Wilson 1927)."""
    p, d = right / n, 1 + z * z / n
    half_width = z / d * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    middle = (p + z * z / (2 * n)) / d
    return [round(middle - half_width, 3), round(middle + half_width, 3)]


def kilobytes(picture: torch.Tensor) -> float:
    """JPEG size at quality 95 of one uint8 picture [3, H, W]."""
    buffer = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=95)
    return len(buffer.getvalue()) / 1000


def accuracy(clips: dict, pictures: torch.Tensor, subjects: list[str]) -> tuple[dict, dict]:
    """Role -> top-1 with interval over all subjects, and subject -> top-1 by role."""
    truth, report, by_subject = (
        torch.tensor([SUBJECTS.index(s) for s in subjects]),
        {},
        {s: {} for s in SUBJECTS},
    )
    for role, (clip, tokenizer) in clips.items():
        named = cosines(clip, tokenizer, pictures).argmax(1)
        right = named == truth
        report[role] = {
            "top1": round(right.float().mean().item(), 4),
            "interval": wilson(int(right.sum()), len(right)),
            "pictures": len(right),
        }
        for i, subject in enumerate(SUBJECTS):
            by_subject[subject][role] = round(right[truth == i].float().mean().item(), 3)
            wrong = named[(truth == i) & ~right].tolist()
            by_subject[subject][f"{role}_taken_for"] = sorted({SUBJECTS[k] for k in wrong})
    return report, by_subject


def spread(values: np.ndarray, best: str) -> dict[str, float]:
    """Mean, deviation over seeds, and the mean best of 8."""
    of_eight = getattr(values.reshape(-1, 8), best)(1).mean()
    figures = {"mean": values.mean(), "std": values.std(ddof=1), "best_of_8": of_eight}
    return {k: round(float(v), 3) for k, v in figures.items()}


def spreads(pipe, clips: dict, args: argparse.Namespace) -> dict:
    """How much there is to choose from: JPEG kilobytes and the guide's cosine over seeds."""
    prompts = [p for p in SPREAD for _ in range(SPREAD_SEEDS)]
    seeds = [seed_of(p, 500 + i % SPREAD_SEEDS, args.seed) for i, p in enumerate(prompts)]
    pictures = generate(pipe, prompts, seeds, args)
    size = np.array([kilobytes(p) for p in pictures])
    column = torch.tensor([SUBJECTS.index(p) for p in prompts])[:, None]
    cosine = {r: cosines(*clips[r], pictures).gather(1, column)[:, 0].numpy() for r in clips}
    of = {p: slice(i * SPREAD_SEEDS, (i + 1) * SPREAD_SEEDS) for i, p in enumerate(SPREAD)}
    return {
        p: {
            "jpeg_kb": spread(size[k], "min"),
            "guide_cosine": spread(cosine["guide"][k], "max"),
            "judge_cosine": spread(cosine["judge"][k], "max"),
        }
        for p, k in of.items()
    }


@torch.no_grad()
def timings(pipe, clips: dict, device: str, n: int = 64, repeats: int = 5) -> dict[str, float]:
    """Milliseconds a picture at batch 64, float32, the best of a few runs."""
    x, states = torch.randn(2 * n, 4, 16, 16, device=device), torch.randn(2 * n, CONTEXT, 128, device=device)
    pictures = torch.zeros(n, 3, SIZE, SIZE, dtype=torch.uint8)
    work = {
        "guided_row": lambda: pipe.unet(x, 500, encoder_hidden_states=states),
        "decode": lambda: pipe.vae.decode(x[:n]),
        **{f"{r}_score": lambda c=c: embed_pictures(c[0], to_unit(pictures.to(device))) for r, c in clips.items()},
    }
    return {name: best_of(f, repeats) / n for name, f in work.items()}


def best_of(f, repeats: int) -> float:
    """Milliseconds of the fastest call after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        f()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - start))
    return min(times[1:])


def contact_sheet(pictures: torch.Tensor, each: int, path: Path, names: list[str], columns: int = 6) -> None:
    """Blocks of ``each`` pictures under their prompt. [len(names) * each, 3, 64, 64] uint8."""
    from PIL import ImageDraw

    width, height, head = each * SIZE + 8, SIZE + 16, 13
    sheet = Image.new("RGB", (columns * width, -(-len(names) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(names):
        x, y = i % columns * width, i // columns * height
        draw.text((x + 1, y + 1), name, fill="black")
        for j in range(each):
            picture = pictures[i * each + j].permute(1, 2, 0).contiguous().numpy()
            sheet.paste(Image.fromarray(picture), (x + j * SIZE, y + head))
    # two bits less a channel: no eye sees it, and the file is half as long
    sheet.point(lambda v: min(255, v // 4 * 4 + 2)).save(path, optimize=True)


def draw_sheets(by_prompt: torch.Tensor, args: argparse.Namespace) -> None:
    """All subjects, three seeds each; and the demo's prompts, eight. [S, seeds, 3, 64, 64] uint8."""
    demo = json.loads((args.out / "subjects.json").read_text())["demo_prompts"]
    shown = by_prompt[[SUBJECTS.index(p) for p in demo]][:, :8]
    contact_sheet(by_prompt[:, :3].flatten(0, 1), 3, args.images / "box_contact_sheet.png", SUBJECTS)
    contact_sheet(shown.flatten(0, 1), shown.shape[1], args.images / "box_demo_prompts.png", demo, columns=2)


def machine() -> str:
    """The kind of machine, in words."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*: (.+)", info)
    name = model[1] if model else platform.processor()
    return f"{os.cpu_count()} cores, {name}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def real_accuracy(clips: dict, work: Path) -> dict:
    """Role -> top-1 on held-out compositions of known drawings, and on a vendor never trained on."""
    out = {r: {} for r in clips}
    for name in ("held", "unseen"):
        pictures, labels = load_pictures(work, name)
        report, _ = accuracy(clips, pictures, [s for s, _, _ in labels])
        for role in clips:
            out[role][name] = report[role]
    return out


def stage_evaluate(args: argparse.Namespace) -> None:
    """Measure the shipped box: training/box.json and the pictures in docs/img."""
    pipe, clips = load_box(args)
    took = {k: round(v, 2) for k, v in timings(pipe, clips, args.device).items()}
    prompts = [s for s in SUBJECTS for _ in range(args.seeds)]
    seeds = [seed_of(p, i % args.seeds, args.seed) for i, p in enumerate(prompts)]
    pictures = generate(pipe, prompts, seeds, args)
    report, by_subject = accuracy(clips, pictures, prompts)
    by_prompt = pictures.unflatten(0, (len(SUBJECTS), args.seeds))
    for s, mine in zip(SUBJECTS, by_prompt, strict=True):
        by_subject[s]["jpeg_kb"] = round(float(np.mean([kilobytes(p) for p in mine])), 3)
    np.save(args.work / "evaluated.npy", by_prompt.numpy())
    draw_sheets(by_prompt, args)
    result = {
        "command": f"python training/box.py evaluate --seeds {args.seeds} --steps {args.steps} "
        f"--guidance {args.guidance} --seed {args.seed}",
        "date": str(date.today()),
        "machine": machine(),
        "settings": {"steps": args.steps, "guidance": args.guidance, "eta": 1.0, "seed": args.seed},
        "generated": report,
        "real": real_accuracy(clips, args.work),
        "milliseconds_a_picture_at_batch_64": took,
        "spread": spreads(pipe, clips, args),
        "subjects": by_subject,
    }
    args.report.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "subjects"}, indent=1))


# -------------------------------------------------------------------------------- command line


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=[n[6:] for n in globals() if n.startswith("stage_")])
    parser.add_argument("--work", type=Path, required=True, help="folder for everything that is not shipped")
    parser.add_argument("--npm", type=Path, help="data: folder with the packages as npm pack left them")
    parser.add_argument("--per-drawing", type=int, default=96, help="data: pictures composed from each drawing")
    parser.add_argument("--minutes", type=float, default=10, help="wall clock of a training stage")
    parser.add_argument("--role", choices=("guide", "judge"), default="guide", help="clip: which one")
    parser.add_argument("--decoded", type=int, default=8000, help="latents: pictures decoded again for the CLIPs")
    parser.add_argument("--init", type=Path, help="vae, unet, clip: continue from this pipeline or CLIP")
    parser.add_argument("--polish", action="store_true", help="vae: go on with the decoder of --init alone")
    parser.add_argument("--resume", action="store_true", help="unet: go on from the last checkpoint")
    parser.add_argument("--out", type=Path, default=BOX, help="export: where the box goes")
    parser.add_argument("--checkpoint", default="pipeline", help="export: pipeline folder inside the work folder")
    parser.add_argument("--seeds", type=int, default=8, help="evaluate: pictures of each subject")
    parser.add_argument("--steps", type=int, default=40, help="evaluate: DDIM steps")
    parser.add_argument("--guidance", type=float, default=2.5, help="evaluate: guidance scale")
    parser.add_argument("--images", type=Path, default=HERE.parent / "docs" / "img", help="evaluate: for sheets")
    parser.add_argument("--report", type=Path, default=HERE / "box.json", help="evaluate: the figures")
    parser.add_argument("--batch", type=int, help="pictures a step")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--workers", type=int, default=1, help="unet: processes, with one thread each by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    """Run one stage and say how long it took."""
    args = parse()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    start = time.time()
    globals()[f"stage_{args.stage}"](args)
    print(f"{args.stage}: {(time.time() - start) / 60:.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
