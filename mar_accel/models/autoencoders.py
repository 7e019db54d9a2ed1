"""Autoencoders: images to latents and back."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Base class: encodes images in 0..1 to latents and decodes latents to images."""

    def encode(self, images: Tensor) -> Tensor:
        """Encode images [B, 1 or 3, H, W] in 0..1 to latents [B, c, h, w]."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents [B, c, h, w] to images [B, 1 or 3, H, W], about 0..1, not clamped."""
        raise NotImplementedError

    def image_shape(self, latents: tuple[int, int, int]) -> tuple[int, int, int] | None:
        """Channels, height and width of the image of latents (c, h, w); None if only ``decode`` knows it."""
        return None


class PixelAutoencoder(Autoencoder):
    """For models in pixel space: the latents are the image in -1..1."""

    # Of greyscale and colour.
    possible_channels = (1, 3)

    def __init__(self) -> None:
        # Without arguments, so that keys of a config that do nothing are refused.
        super().__init__()

    def encode(self, images: Tensor) -> Tensor:
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents + 1) / 2

    def image_shape(self, latents: tuple[int, int, int]) -> tuple[int, int, int]:
        return latents


class KLAutoencoder(Autoencoder):
    """A diffusers AutoencoderKL with scaled latents: z = (mean − shift_factor) · scaling_factor.

    Args:
        vae: a diffusers AutoencoderKL. Its config gives ``scaling_factor`` (0.2325 for KL-16) and
            ``shift_factor`` (None: 0).

    Example:
        KLAutoencoder(diffusers.AutoencoderKL.from_pretrained("path/to/vae"))
    """

    def __init__(self, vae: Any):
        super().__init__()
        self.vae = vae
        self.scaling_factor: float = self.vae.config.scaling_factor
        self.shift_factor: float = self.vae.config.shift_factor or 0.0

    @property
    def latent_channels(self) -> int:
        """Number of latent channels c."""
        return self.vae.config.latent_channels

    def encode(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] in 0..1 to scaled latents [B, c, h, w]: posterior mean, not a sample."""
        mean = self.vae.encode(images * 2 - 1).latent_dist.mode()
        return (mean - self.shift_factor) * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents [B, c, h, w] to images [B, 3, H, W], about 0..1, not clamped."""
        return (self.vae.decode(latents / self.scaling_factor + self.shift_factor).sample + 1) / 2

    def image_shape(self, latents: tuple[int, int, int]) -> tuple[int, int, int]:
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.vae.config.out_channels, latents[1] * factor, latents[2] * factor


class DCAutoencoder(Autoencoder):
    """A diffusers AutoencoderDC, which is deterministic, with scaled latents: z = latents · scaling_factor.

    Args:
        dc: a diffusers AutoencoderDC. Its config gives ``scaling_factor`` (0.3189 for f32c32).

    Example:
        DCAutoencoder(diffusers.AutoencoderDC.from_pretrained("path/to/autoencoder"))
    """

    def __init__(self, dc: Any):
        super().__init__()
        self.dc = dc
        self.scaling_factor: float = self.dc.config.scaling_factor

    @property
    def latent_channels(self) -> int:
        """Number of latent channels c."""
        return self.dc.config.latent_channels

    def encode(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] in 0..1 to scaled latents [B, c, h, w]."""
        return self.dc.encode(images * 2 - 1).latent * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents [B, c, h, w] to images [B, 3, H, W], about 0..1, not clamped."""
        return (self.dc.decode(latents / self.scaling_factor).sample + 1) / 2

    def image_shape(self, latents: tuple[int, int, int]) -> tuple[int, int, int]:
        factor = self.dc.spatial_compression_ratio
        return self.dc.config.in_channels, latents[1] * factor, latents[2] * factor
