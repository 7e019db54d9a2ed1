"""What turns latents into images and back."""

from __future__ import annotations

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Images in 0..1 to latents and back."""

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 1 or 3, H, W] in 0..1 to latents [B, c, h, w]."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] to images [B, 1 or 3, H, W]; about 0..1, not clamped."""
        raise NotImplementedError


class PixelAutoencoder(Autoencoder):
    """For models that work on pixels: latents are the image itself in -1..1."""

    def encode(self, images: Tensor) -> Tensor:
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents + 1) / 2
