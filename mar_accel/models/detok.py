"""l-DeTok's tokenizer: a ViT encoder and decoder with rotary embeddings (DeTok, arXiv:2507.15856).

Parameter names are the published ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar_accel.errors import ConfigError
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.sizes import check_sizes

EPSILON = 1e-6
LARGEST_FREQUENCY, FREQUENCY_BASE = 7.0, 1e4


@dataclass(frozen=True)
class DeTokConfig:
    """Sizes of a tokenizer; the defaults are those of ``detok_BB``.

    Attributes:
        grid: rows and columns (h, w) of the tokens.
        patch_size: side of a token in pixels.
        token_channels: channels C of a token.
        encoder_width, encoder_depth, encoder_heads: sizes of the encoder.
        decoder_width, decoder_depth, decoder_heads: sizes of the decoder.
    """

    grid: tuple[int, int] = (16, 16)
    patch_size: int = 16
    token_channels: int = 16
    encoder_width: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    decoder_width: int = 768
    decoder_depth: int = 12
    decoder_heads: int = 12

    def __post_init__(self) -> None:
        check_sizes(self, "tokenizer")
        for part in ("encoder", "decoder"):
            width, heads = getattr(self, f"{part}_width"), getattr(self, f"{part}_heads")
            if width % (4 * heads):
                # A row and a column have pairs of angles each.
                raise ConfigError(
                    f"tokenizer.{part}_width must be a multiple of 4·{part}_heads={4 * heads}, got {width}."
                )


class SwiGLU(nn.Module):
    """w3(silu(a) · b), with a and b the halves of w12(x)."""

    def __init__(self, width: int):
        super().__init__()
        hidden = int(2 / 3 * 4 * width)
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)


class RotaryAttention(nn.Module):
    """Self-attention with a position embedding on queries and keys."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v)
        return self.proj(out.transpose(1, 2).flatten(2))


class DeTokBlock(nn.Module):
    """Pre-norm block with RMSNorm, rotary attention and SwiGLU."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.norm1 = nn.RMSNorm(width, eps=EPSILON)
        self.attn = RotaryAttention(width, num_heads)
        self.norm2 = nn.RMSNorm(width, eps=EPSILON)
        self.mlp = SwiGLU(width)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), angles)
        return x + self.mlp(self.norm2(x))


def rotary_angles(grid: tuple[int, int], head_width: int) -> Tensor:
    """Angles [L, d] of tokens on a grid h×w, row by row.

    With f_j = 2π·7·(10⁴)^(−j/(d/4−1)) and F = [f, f], they are [F·r/(h−1), F·c/(w−1)] at row r, column c.

    Args:
        grid: rows and columns.
        head_width: width d of a head, a multiple of 4.
    """
    quarter = head_width // 4
    exponents = torch.arange(quarter, dtype=torch.float64, device="cpu") / max(1, quarter - 1)
    frequencies = (2 * math.pi * LARGEST_FREQUENCY * FREQUENCY_BASE**-exponents).repeat(2)
    rows, columns = (
        torch.arange(side, dtype=torch.float64, device="cpu").unsqueeze(1) / max(1, side - 1) * frequencies
        for side in grid
    )
    shape = (*grid, 2 * quarter)
    angles = torch.cat([rows.unsqueeze(1).expand(shape), columns.unsqueeze(0).expand(shape)], dim=-1)
    return angles.flatten(0, 1).float()


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Position embedding of x [..., L, d]: x_i cos a_i + y_i sin a_i, with y = (−x_1, x_0, −x_3, x_2, …).

    The two entries of a pair have different angles, so it is no rotation. The published models have it.
    """
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-second, first], dim=-1).flatten(-2)
    return x * angles.cos().to(x.dtype) + turned * angles.sin().to(x.dtype)


class _Transformer(nn.Module):
    """Positions and blocks that encoder and decoder share."""

    def __init__(self, grid: tuple[int, int], width: int, depth: int, num_heads: int):
        super().__init__()
        self.grid = grid
        self.positional_embedding = nn.Parameter(torch.zeros(1, grid[0] * grid[1], width))
        self.ln_pre = nn.RMSNorm(width, eps=EPSILON)
        self.transformer = nn.ModuleList(DeTokBlock(width, num_heads) for _ in range(depth))
        self.ln_post = nn.RMSNorm(width, eps=EPSILON)
        self.head_width = width // num_heads

    def run(self, x: Tensor) -> Tensor:
        """Output [B, L, W] of all blocks for embedded tokens [B, L, W]."""
        angles = rotary_angles(self.grid, self.head_width).to(x.device)
        x = self.ln_pre(x + self.positional_embedding)
        for block in self.transformer:
            x = block(x, angles)
        return self.ln_post(x)


class DeTokEncoder(_Transformer):
    """Images to posteriors of the latents."""

    def __init__(self, config: DeTokConfig):
        super().__init__(config.grid, config.encoder_width, config.encoder_depth, config.encoder_heads)
        side = config.patch_size
        self.patch_embed = nn.Sequential(nn.Conv2d(3, config.encoder_width, side, side))
        self.latent_head = nn.Linear(config.encoder_width, 2 * config.token_channels)

    def forward(self, images: Tensor) -> Tensor:
        """Posterior means [B, C, h, w] of images [B, 3, H, W] in −1..1."""
        x = self.run(self.patch_embed(images).flatten(2).transpose(1, 2))
        means = self.latent_head(x).chunk(2, dim=-1)[0]
        return means.transpose(1, 2).unflatten(2, self.grid)


class DeTokDecoder(_Transformer):
    """Latents to images."""

    def __init__(self, config: DeTokConfig):
        super().__init__(config.grid, config.decoder_width, config.decoder_depth, config.decoder_heads)
        self.side = config.patch_size
        # Published checkpoints have it. Only their training uses it.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_width))
        self.decoder_embed = nn.Linear(config.token_channels, config.decoder_width)
        # The first place is the permutation to channels first, which has no parameters.
        pixels = nn.Conv2d(config.decoder_width, 3 * self.side**2, 1)
        self.ffn = nn.Sequential(nn.Identity(), pixels)
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Images [B, 3, H, W] in −1..1 of latents [B, C, h, w]."""
        x = self.run(self.decoder_embed(latents.flatten(2).transpose(1, 2)))
        patches = self.ffn(x.transpose(1, 2).unflatten(2, self.grid))
        batch, _, height, width = patches.shape
        # Channel (i·p + j)·3 + k is colour k at row i, column j of the patch.
        pixels = patches.view(batch, self.side, self.side, 3, height, width).permute(0, 3, 4, 1, 5, 2)
        return self.conv_out(pixels.reshape(batch, 3, height * self.side, width * self.side))


class DeTok(nn.Module):
    """Encoder and decoder of a tokenizer.

    Example:
        >>> DeTok(DeTokConfig()).decoder(torch.zeros(1, 16, 16, 16)).shape
        torch.Size([1, 3, 256, 256])
    """

    def __init__(self, config: DeTokConfig):
        super().__init__()
        self.config = config
        self.encoder = DeTokEncoder(config)
        self.decoder = DeTokDecoder(config)


class DeTokAutoencoder(Autoencoder):
    """A tokenizer with normalised latents: x = (z − mean)/std per channel.

    Args:
        tokenizer: encoder and decoder.
        mean, std: statistics [C] of the posterior means.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, tokenizer: DeTok, mean: Tensor, std: Tensor):
        super().__init__()
        self.tokenizer = tokenizer
        self.register_buffer("mean", mean.view(1, -1, 1, 1).clone())
        self.register_buffer("std", std.view(1, -1, 1, 1).clone())

    @property
    def latent_channels(self) -> int:
        """Number of latent channels C."""
        return self.tokenizer.config.token_channels

    @property
    def latent_grid(self) -> tuple[int, int]:
        """Rows and columns of the latents, which its positions are made for."""
        return self.tokenizer.config.grid

    def encode(self, images: Tensor) -> Tensor:
        """Encode images [B, 3, H, W] in 0..1 to normalised posterior means [B, C, h, w]."""
        return (self.tokenizer.encoder(images * 2 - 1) - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Decode normalised latents [B, C, h, w] to images [B, 3, H, W], about 0..1, not clamped."""
        return (self.tokenizer.decoder(latents * self.std + self.mean) + 1) / 2

    def image_shape(self, latents: tuple[int, int, int]) -> tuple[int, int, int]:
        side = self.tokenizer.config.patch_size
        return 3, latents[1] * side, latents[2] * side
