"""The UNet and its text encoder: their shapes, the pipeline around them, and their training."""

from __future__ import annotations

import argparse
import math
import shutil
from functools import partial

import numpy as np
import torch
from drawings import SIZE, load_pictures
from loop import Clock, Draws, Ema, Team, count, descend, half, weights_of
from words import CONTEXT, caption, shared_tokenizer, special_ids, token_ids


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
