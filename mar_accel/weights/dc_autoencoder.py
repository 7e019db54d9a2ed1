"""Load DC-AE, the autoencoder of eMIGM at 512 px, as diffusers' AutoencoderDC."""

from __future__ import annotations

from typing import Any

import torch

from mar_accel.models.autoencoders import DCAutoencoder
from mar_accel.models.sizes import check_memory
from mar_accel.weights.autoencoder_folder import CLASS_NAMES, DC, VAE_FILE
from mar_accel.weights.diffusers_folder import load_below
from mar_accel.weights.files import read_tensors
from mar_accel.weights.fitting import require_fit
from mar_accel.weights.json_config import CONFIG_FILE
from mar_accel.weights.loading import AUTOENCODER_HUB_FILES, AUTOENCODER_KEY
from mar_accel.weights.random_weights import fill_randomly
from mar_accel.weights.sources import locate

# eMIGM divides its tokens by this factor before decoding.
SCALING_FACTOR = 0.3189


def dc_autoencoder() -> Any:
    """The AutoencoderDC f32c32 (stride 32, 32 latent channels) with diffusers' random initialisation."""
    from diffusers import AutoencoderDC

    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    channels = (128, 256, 512, 512, 1024, 1024)
    scales = ((),) * 6
    return AutoencoderDC(
        latent_channels=32,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=(0, 4, 8, 2, 2, 2),
        decoder_layers_per_block=(0, 5, 10, 2, 2, 2),
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        downsample_block_type="pixel_unshuffle",
        upsample_block_type="pixel_shuffle",
        decoder_norm_types=("batch_norm",) * 3 + ("rms_norm",) * 3,
        decoder_act_fns=("relu",) * 3 + ("silu",) * 3,
        scaling_factor=SCALING_FACTOR,
    )


def load_dc_autoencoder(weights: str | None) -> DCAutoencoder:
    """Load DC-AE on the CPU, in float32 and evaluation mode.

    Args:
        weights: one of three sources.
            1. A weight file of DC-AE f32c32 with diffusers' names.
            2. A folder or Hub repository with a diffusers AutoencoderDC of any size, there or in ``vae/``.
            3. "random": random weights of DC-AE f32c32.

    Raises:
        WeightsError: the weights are missing, damaged or of another autoencoder.
    """
    path = locate(weights, AUTOENCODER_KEY, AUTOENCODER_HUB_FILES)
    if path is not None and path.is_dir():
        advice = f"use an {CLASS_NAMES[DC]} in diffusers' format: {CONFIG_FILE} and {VAE_FILE}"
        return DCAutoencoder(load_below(path, DC, AUTOENCODER_KEY, advice)).eval()
    with torch.device("meta"):
        dc = dc_autoencoder()
    check_memory(dc)
    if path is None:
        fill_randomly(dc.to_empty(device="cpu"))
        return DCAutoencoder(dc).eval()
    state = read_tensors(path, AUTOENCODER_KEY).tensors
    require_fit(dc, state, f"{AUTOENCODER_KEY}={path} does not fit DC-AE f32c32")
    dc.to_empty(device="cpu").load_state_dict(state)
    return DCAutoencoder(dc).eval()
