"""KL-16, the autoencoder of MAR at 256 px, as diffusers' AutoencoderKL.

It has stride 16 and 16 latent channels. The published file (``kl16.ckpt``) uses the parameter names of
latent diffusion (arXiv:2112.10752). ``diffusers_names`` converts them to diffusers' names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

# MAR divides its tokens by this factor before decoding.
SCALING_FACTOR = 0.2325
NUM_LEVELS = 5

# Parts of latent diffusion's parameter names, with diffusers' replacements. Decoder levels are numbered in
# reverse order; diffusers_name handles this.
RENAMED_PARTS = (
    (r"\.down\.(\d+)\.block\.(\d+)\.", r".down_blocks.\1.resnets.\2."),
    (r"\.down\.(\d+)\.attn\.(\d+)\.", r".down_blocks.\1.attentions.\2."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.(\d+)\.", r".up_blocks.\1.resnets.\2."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"(\.attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(\.attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(\.attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
)
AUTOENCODER_KEY = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv)\.")
LATENT_DIFFUSION_KEY = re.compile(r"encoder\.down\.\d+\.block\.")


def kl16_autoencoder() -> nn.Module:
    """A KL-16 AutoencoderKL with diffusers' random initialisation."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * (NUM_LEVELS - 1) + ("AttnDownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",) * NUM_LEVELS,
        block_out_channels=(128, 128, 256, 256, 512),
        layers_per_block=2,
        latent_channels=16,
        sample_size=256,
        scaling_factor=SCALING_FACTOR,
    )
    return vae


def has_latent_diffusion_names(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the names of the published ``kl16.ckpt``."""
    return any(LATENT_DIFFUSION_KEY.match(key) for key in state)


def diffusers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a published state dict to diffusers' names. Keys of the training loss are dropped."""
    return {
        diffusers_name(key): _linear_weight(key, value)
        for key, value in state.items()
        if AUTOENCODER_KEY.match(key)
    }


def diffusers_name(key: str) -> str:
    """Convert one published parameter name to diffusers' name."""
    for pattern, replacement in RENAMED_PARTS:
        key = re.sub(pattern, replacement, key)
    return re.sub(r"\.up_blocks\.(\d+)\.", lambda m: f".up_blocks.{NUM_LEVELS - 1 - int(m[1])}.", key)


def _linear_weight(key: str, value: Tensor) -> Tensor:
    """Convert attention projections from 1×1 convolutions (published file) to Linear (diffusers)."""
    is_projection = re.search(r"\.attn(_1|\.\d+)\.(q|k|v|proj_out)\.weight$", key)
    return value[:, :, 0, 0] if is_projection and value.ndim == 4 else value
