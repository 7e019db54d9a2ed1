"""A network of a few thousand parameters, for tests of everything around it."""

from __future__ import annotations

from typing import Any

from torch import nn

from mar_accel.models.mar import MAR, MARConfig


def tiny_config(**changes: Any) -> MARConfig:
    """Sizes of a MAR of 16 tokens with two blocks in each part; ``changes`` replace some of them.

    Example:
        >>> tiny_config(grid=(6, 6)).seq_len
        36
    """
    sizes: dict[str, Any] = {
        "grid": (4, 4),
        "latent_channels": 3,
        "num_classes": 5,
        "buffer_size": 2,
        "embed_dim": 8,
        "num_heads": 2,
        "encoder_depth": 2,
        "decoder_depth": 2,
        "head_depth": 2,
        "head_width": 8,
    }
    return MARConfig(**sizes | changes)


def with_an_active_head(model: MAR) -> MAR:
    """The model with random weights in its head, which starts at zero, where nothing could differ."""
    for module in model.diffloss.net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
    return model
