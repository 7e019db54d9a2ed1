"""Images as cosine coefficients of small blocks: latents for small models, without a trained autoencoder."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel.models.autoencoders import Autoencoder

# Side of a block in pixels; one latent position.
BLOCK = 4
# Coefficients of row frequency u and column frequency v are kept where u + v is at most this.
_MAX_FREQUENCY = 3
_FREQUENCIES = sorted(
    ((u, v) for u in range(BLOCK) for v in range(BLOCK) if u + v <= _MAX_FREQUENCY), key=sum
)
# Factors of a coefficient: images have little of high frequencies.
_SCALES = [0.4 + 0.9 * (u + v) for u, v in _FREQUENCIES]


class CosineAutoencoder(Autoencoder):
    """The discrete cosine transform of blocks of 4×4 pixels, as in JPEG.

    Of 16 coefficients per colour, it keeps the 10 of low frequency (36 dB PSNR on scenes). They are scaled to
    standard deviations between 0.3 and 1.1. So the diffusion process decides about them at its middle
    timesteps. In pixels, the mean colour of a token is spread over 48 nearly equal channels. Its coefficients
    have a standard deviation of 2.6 there, and all others at most 0.44. So only the noisiest timesteps decide
    about it, and these have little of the loss.

    Latents are [B, 10·C, H/4, W/4], grouped by colour, from low to high frequency.

    Example:
        >>> CosineAutoencoder().encode(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 30, 16, 16])
    """

    # Of greyscale and colour.
    possible_channels = (len(_FREQUENCIES), 3 * len(_FREQUENCIES))

    filters: Tensor
    scales: Tensor

    def __init__(self) -> None:
        super().__init__()
        scales = torch.tensor(_SCALES, dtype=torch.float32, device="cpu")
        self.register_buffer("filters", _filters(), persistent=False)
        self.register_buffer("scales", scales[:, None, None], persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        """Encode images [B, 1 or 3, H, W] in 0..1, of whole blocks, to latents [B, 10·C, H/4, W/4]."""
        colours = (images * 2 - 1).flatten(0, 1).unsqueeze(1)
        coefficients = F.conv2d(colours, self.filters, stride=BLOCK) * self.scales
        return coefficients.unflatten(0, images.shape[:2]).flatten(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        colours = latents.unflatten(1, (-1, len(_FREQUENCIES))) / self.scales
        images = F.conv_transpose2d(colours.flatten(0, 1), self.filters, stride=BLOCK)
        return (images.squeeze(1).unflatten(0, colours.shape[:2]) + 1) / 2

    def image_shape(self, latents: tuple[int, int, int]) -> tuple[int, int, int]:
        return latents[0] // len(_FREQUENCIES), latents[1] * BLOCK, latents[2] * BLOCK


def _filters() -> Tensor:
    """Orthonormal filters of the DCT-II, float32 [10, 1, 4, 4]."""
    places = torch.arange(BLOCK, dtype=torch.float64, device="cpu") * 2 + 1
    waves = [
        math.sqrt((2 if u else 1) / BLOCK) * torch.cos(math.pi * u * places / (2 * BLOCK))
        for u in range(BLOCK)
    ]
    return torch.stack([torch.outer(waves[u], waves[v]) for u, v in _FREQUENCIES]).float().unsqueeze(1)
