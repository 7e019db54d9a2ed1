"""The autoencoder of Stable Diffusion 3.5 (stride 8, 16 latent channels), as diffusers' AutoencoderKL."""

from __future__ import annotations

from typing import Any

from torch import nn

# Latents are (mean − shift) · scale.
SCALING_FACTOR, SHIFT_FACTOR = 1.5305, 0.0609
CHANNELS = (128, 256, 512, 512)


def sd3_autoencoder() -> nn.Module:
    """An AutoencoderKL of this layout with diffusers' random initialisation."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=32,
        scaling_factor=SCALING_FACTOR,
        shift_factor=SHIFT_FACTOR,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return vae
