"""What turns latents into images and back."""

from __future__ import annotations

from typing import Any

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


class KLAutoencoder(Autoencoder):
    """A diffusers AutoencoderKL behind the latents' scale: z = (mean − shift_factor) · scaling_factor.

    Args:
        vae: a diffusers AutoencoderKL; its config's ``scaling_factor`` (0.2325 for KL-16) and
            ``shift_factor`` (None: 0) are used.
    """

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae
        self.scaling_factor: float = self.vae.config.scaling_factor
        self.shift_factor: float = self.vae.config.shift_factor or 0.0

    @property
    def latent_channels(self) -> int:
        """Channels c of the latents."""
        return self.vae.config.latent_channels

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in 0..1 to scaled latents [B, c, h, w]: the posterior's mean, not a sample."""
        mean = self.vae.encode(images * 2 - 1).latent_dist.mode()
        return (mean - self.shift_factor) * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, c, h, w] to images [B, 3, H, W]; about 0..1, not clamped."""
        return (self.vae.decode(latents / self.scaling_factor + self.shift_factor).sample + 1) / 2
