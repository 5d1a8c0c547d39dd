"""Writes the tiny Stable Diffusion of `tiny` in one file, with the names that its first authors gave to its parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

RESNET = {
    **{"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"},
    **{"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"},
}
UNET = {
    **{"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"},
    **{f"time_embedding.linear_{k + 1}": f"time_embed.{2 * k}" for k in range(2)},
    **{"down_blocks.0.resnets.0": "input_blocks.1.0", "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op"},
    **{"down_blocks.1.resnets.0": "input_blocks.3.0", "down_blocks.1.attentions.0": "input_blocks.3.1"},
    **{f"mid_block.resnets.{k}": f"middle_block.{2 * k}" for k in range(2)},
    **{"mid_block.attentions.0": "middle_block.1", "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv"},
    **{f"up_blocks.0.resnets.{k}": f"output_blocks.{k}.0" for k in range(2)},
    **{f"up_blocks.0.attentions.{k}": f"output_blocks.{k}.1" for k in range(2)},
    **{f"up_blocks.1.resnets.{k}": f"output_blocks.{k + 2}.0" for k in range(2)},
}
VAE: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"(en|de)coder\.mid_block\.resnets\.(\d)", lambda m: f"{m[1]}coder.mid.block_{int(m[2]) + 1}"),
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2"),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"decoder\.up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"decoder.up.{1 - int(m[1])}.block.{m[2]}"),
    (r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{1 - int(m[1])}.upsample"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
]


def write(pipe: Any, file: Path) -> None:
    """The weights of a `tiny.pipeline()` as one checkpoint."""
    found = {}
    for name, weight in pipe.unet.state_dict().items():
        part = max((each for each in UNET if name.startswith(f"{each}.")), key=len)
        rest = name[len(part) + 1 :]
        if "resnets" in part:
            rest = RESNET[rest.split(".")[0]] + rest[len(rest.split(".")[0]) :]
        found[f"model.diffusion_model.{UNET[part]}.{rest}"] = weight.clone()
    for name, weight in pipe.vae.state_dict().items():
        for old, new in VAE:
            name = re.sub(old, new, name)
        found[f"first_stage_model.{name}"] = weight.clone()
    for name, weight in pipe.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = weight.clone()
    save_file(found, file)
