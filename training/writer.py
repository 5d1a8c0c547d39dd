"""A diffusion model that writes: three digits on a 24x48 grey picture, unconditional, in pixels.

    python training/writer.py --out writer          # the weights, and a sheet of samples

It was never told what to write; `benchmarks/writer_search.py` searches it for numbers with the OCR reward.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads starve whoever shares the cores
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
import torch.nn.functional as F
from loop import Ema, count, descend, half

from dsearch.adapters import DDPM

HEIGHT, WIDTH, PATCH, DIGITS = 24, 48, 4, 3
SHAPE = (PATCH**2, HEIGHT // PATCH, WIDTH // PATCH)
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif-Bold.ttf")  # matplotlib brings them
UPSCALE = 4


def render(text: str, rng: np.random.Generator) -> np.ndarray:
    """The text near the middle of a light picture, `[24, 48]` uint8: font, size, place and greys vary a little."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paper, ink = int(rng.integers(215, 256)), int(rng.integers(0, 60))
    image = Image.new("L", (4 * WIDTH, 4 * HEIGHT), paper)  # drawn large, then shrunk: jitter of part of a pixel
    font = ImageFont.truetype(str(folder / FONTS[rng.integers(len(FONTS))]), int(rng.integers(66, 75)))
    place = (2 * WIDTH + int(rng.integers(-8, 9)), 2 * HEIGHT + int(rng.integers(-6, 7)))
    ImageDraw.Draw(image).text(place, text, fill=ink, font=font, anchor="mm")
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def dataset(pictures: int, seed: int = 0) -> torch.Tensor:
    """`[N, 16, 6, 12]` uint8: pictures of every number in turn, cut into patches of 4x4."""
    rng = np.random.default_rng(seed)
    drawn = [render(f"{i % 10**DIGITS:0{DIGITS}d}", rng) for i in range(pictures)]
    return F.pixel_unshuffle(torch.from_numpy(np.stack(drawn))[:, None], PATCH)


def pixels(patches: torch.Tensor) -> torch.Tensor:
    """`[N, 16, 6, 12]` -> `[N, 1, 24, 48]`."""
    return F.pixel_shuffle(patches, PATCH)


def network(widths: tuple[int, ...] = (64, 64)) -> Any:
    """A UNet over patches, which makes it cheap: 6x12 places of 16 pixels."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=SHAPE[1:],
        in_channels=SHAPE[0],
        out_channels=SHAPE[0],
        layers_per_block=1,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * (len(widths) - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (len(widths) - 1),
        attention_head_dim=16,
        norm_num_groups=8,
    )


def scheduler() -> Any:
    """DDIM on the cosine schedule, which ends without signal, so the network predicts v."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing")


def loss_of(unet: Any, x0: torch.Tensor, alphas: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """The mean squared error of v at times spread evenly over the batch."""
    n = len(x0)
    time = ((torch.rand(1, generator=rng) + torch.arange(n) / n) % 1 * len(alphas)).long()
    a = alphas[time].sqrt()[:, None, None, None]
    b = (1 - a**2).sqrt()
    eps = torch.randn(x0.shape, generator=rng)
    with half("cpu"):
        said = unet(a * x0 + b * eps, time).sample
    return F.mse_loss(said.float(), a * eps - b * x0)


def train(
    unet: Any,
    pictures: torch.Tensor,
    steps: int,
    batch: int,
    rate: float,
    seed: int = 0,
    save: Callable[[Any, int], None] | None = None,
) -> Any:
    """Adam with a warm-up and a cosine; the network that comes back is the average of late ones."""
    alphas, rng = scheduler().alphas_cumprod, torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(unet.parameters(), betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema, began, total = Ema(list(unet.parameters()), 0.998), time.process_time(), 0.0
    for step in range(1, steps + 1):
        rows = torch.randint(len(pictures), (batch,), generator=rng)
        loss = loss_of(unet, pictures[rows].float() / 127.5 - 1, alphas, rng)
        descend(optimiser, loss, rate * min(1, step / 200) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps))))
        ema.update()
        total += float(loss.detach())
        if step % 200 == 0:
            print(f"{time.process_time() - began:6.0f} s  step {step}  loss {total / 200:.4f}", flush=True)
            total = 0.0
        if save is not None and (step % 500 == 0 or step == steps):
            with ema.applied():
                save(unet, step)
    with torch.no_grad():
        for parameter, average in zip(unet.parameters(), ema.average, strict=True):
            parameter.copy_(average)
    return unet.eval()


def guide() -> torch.nn.Module:
    """Pictures `[N, 1, 24, 48]` -> logits of their three digits, `[N, 3, 10]`."""
    nn = torch.nn
    convs = [nn.Conv2d(1, 24, 5, 2, 2), nn.SiLU(), nn.Conv2d(24, 48, 3, 2, 1), nn.SiLU(), nn.Conv2d(48, 48, 3, 1, 1)]
    ends = [nn.SiLU(), nn.Flatten(), nn.Linear(48 * HEIGHT * WIDTH // 16, 128), nn.SiLU(), nn.Linear(128, 10 * DIGITS)]
    return nn.Sequential(*convs, *ends, nn.Unflatten(1, (DIGITS, 10)))


def standard(grey: torch.Tensor) -> torch.Tensor:
    """`[N, 1, H, W]` with mean 0 and deviation 1 each, for neither paper nor ink counts."""
    return (grey - grey.mean((1, 2, 3), keepdim=True)) / grey.std((1, 2, 3), keepdim=True).clamp(min=1e-2)


def train_guide(net: torch.nn.Module, pictures: torch.Tensor, steps: int, batch: int = 128, seed: int = 0) -> Any:
    """On pictures with others shining through and noise, for posterior means are blends before they are pictures."""
    rng, grey = torch.Generator().manual_seed(seed), pixels(pictures)
    digits = torch.tensor([[i // 10**k % 10 for k in range(DIGITS - 1, -1, -1)] for i in range(len(pictures))])
    optimiser = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    began, right = time.process_time(), 0.0
    for step in range(1, steps + 1):
        rows = torch.randint(len(grey), (5, batch), generator=rng)
        x, *others = grey[rows].float() / 255
        kept, noise = 0.3 + 0.7 * torch.rand(batch, 1, 1, 1, generator=rng), torch.rand(batch, 1, 1, 1, generator=rng)
        x = kept * x + (1 - kept) * sum(others) / 4 + 0.2 * noise * torch.randn(x.shape, generator=rng)
        said = net(standard(x))
        loss = F.cross_entropy(said.flatten(0, 1), digits[rows[0]].flatten())
        cosine = 0.02 + 0.49 * (1 + math.cos(math.pi * step / steps))
        descend(optimiser, loss, 2e-3 * min(1, 15 * step / steps) * cosine)
        right += float((said.argmax(-1) == digits[rows[0]]).float().mean()) / 200
        if step % 200 == 0:
            print(f"{time.process_time() - began:6.0f} s  guide, step {step}  digits {right:.3f}", flush=True)
            right = 0.0
    return net.eval()


class Likeness:
    """How sure the guide is of the number in the prompt's quotes: `[R, 3, 96, 192]`, prompts -> `[R]` log p in nats."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.net = net

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        asked = torch.tensor([[int(digit) for digit in prompt.split('"')[1]] for prompt in prompts])
        log_p = self.net(standard(F.avg_pool2d(images[:, :1], UPSCALE))).log_softmax(-1)
        return log_p.gather(-1, asked[..., None]).sum((1, 2))


class Writer(DDPM):
    """The model as a denoiser: prompts reach the reward alone, pictures are `[R, 3, 96, 192]`, large enough to read.

    Args:
        unet: as `network` makes it.
        num_inference_steps: denoising steps, with all of DDPM's noise.
    """

    def __init__(self, unet: Any, num_inference_steps: int = 30) -> None:
        super().__init__(unet, scheduler(), num_inference_steps=num_inference_steps)

    def encode(self, prompts: list[str]) -> None:
        """Nothing: what to write, the search must find."""

    def decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Patches `[R, 16, 6, 12]` -> pictures `[R, 3, 96, 192]` in [0, 1]."""
        return enlarged(x0)


def enlarged(x0: torch.Tensor) -> torch.Tensor:
    """Patches `[R, 16, 6, 12]` in [-1, 1] -> `[R, 3, 96, 192]` in [0, 1]."""
    grey = pixels(x0.float() / 2 + 0.5).clamp(0, 1)
    large = F.interpolate(grey, scale_factor=UPSCALE, mode="bicubic", align_corners=False)
    return large.clamp(0, 1).expand(-1, 3, -1, -1)


def load(folder: Path, steps: int = 30) -> Writer:
    """The trained model of a folder."""
    from diffusers import UNet2DModel

    return Writer(UNet2DModel.from_pretrained(folder / "unet").eval(), steps)


def load_guide(folder: Path) -> Likeness:
    """The trained guide of a folder."""
    from safetensors.torch import load_file

    net = guide()
    net.load_state_dict(load_file(folder / "guide.safetensors"))
    return Likeness(net.eval())


@torch.no_grad()
def samples(model: Writer, number: int, seed: int = 0) -> torch.Tensor:
    """Plain samples, `[N, 3, 96, 192]`."""
    import dsearch

    def nothing(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return torch.zeros(len(images))

    return dsearch.search(model, dsearch.methods.plain(nothing, number), [""], seed=seed).images[0]


def sheet(images: torch.Tensor, path: Path, columns: int = 8) -> None:
    """Grey pictures `[N, 3, H, W]` side by side, half their size."""
    from PIL import Image

    rows = [torch.cat(list(row), dim=-1) for row in images[:, 0].split(columns)]
    array = (torch.cat(rows, dim=-2) * 255).round().byte().numpy()
    image = Image.fromarray(array)
    image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("writer"), help="folder of the weights and of the sheet")
    parser.add_argument("--pictures", type=int, default=20000, help="to train on")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=("guide", "unet"), default=("guide", "unet"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = dataset(args.pictures, args.seed)
    if "guide" in args.parts:
        from safetensors.torch import save_file

        net = train_guide(guide(), pictures, args.steps // 2, seed=args.seed)
        save_file(net.state_dict(), args.out / "guide.safetensors")
    if "unet" not in args.parts:
        return
    torch.manual_seed(args.seed)
    unet = network()
    print(count(unet), "parameters;", len(pictures), "pictures", flush=True)

    def save(unet: Any, step: int) -> None:
        unet.save_pretrained(args.out / "unet")
        sheet(samples(Writer(unet), 32), args.out / "samples.png")

    train(unet, pictures, args.steps, args.batch, args.rate, args.seed, save)


if __name__ == "__main__":
    main()
