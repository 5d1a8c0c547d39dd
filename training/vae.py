"""The VAE: its shape, its training, and the latents that the UNet is trained on."""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from drawings import SIZE, load_pictures, save_grid, to_bytes, to_unit
from loop import Clock, Draws, Ema, count, descend, half, weights_of


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
