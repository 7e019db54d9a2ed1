"""Cross-attention from image tokens to text tokens, and the text embedder (LightGen)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mar_accel.models.transformer import Block, Mlp, attention


class CrossAttention(nn.Module):
    """Multi-head cross-attention from image tokens to text tokens.

    Args:
        dim: width D, a multiple of ``num_heads``.
        num_heads: number of heads H, each of width d = D/H.
    """

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.query_linear = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, N, d] of normalised text [B, N, D]."""
        k, v = self.kv(text).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from normalised tokens [B, M, D] to keys and values [B, H, N, d].

        With N = 1, the only key gets all attention, so no attention is computed.

        Returns:
            [B, M, D], or [B, 1, D] if N = 1.
        """
        if k.shape[2] > 1:
            q = self.query_linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            v = attention(q, k, v)
        return self.proj(v.transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """Cross-attention and MLP. The residual path starts after the input norm, as published."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.normq = nn.LayerNorm(dim, eps=1e-6)
        self.normkv = nn.LayerNorm(dim, eps=1e-6)
        self.attn = CrossAttention(dim, num_heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, N, d] of text [B, N, D]."""
        return self.attn.keys_values(self.normkv(text))

    def forward(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Run the block on tokens [B, M, D] with keys and values [B, H, N, d]; returns [B, M, D]."""
        x = self.normq(x)
        x = x + self.attn(x, k, v)
        return x + self.mlp(self.norm2(x))


class TextProjection(nn.Module):
    """Linear, tanh-GELU, Linear, as in PixArt."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(x), approximate="tanh"))


class TextEmbedder(nn.Module):
    """Maps text encoder features to the width of the image model: projection, blocks, LayerNorm."""

    def __init__(self, in_dim: int, depth: int, dim: int, num_heads: int, mlp_ratio: float = 4.0):
        super().__init__()
        self.text_proj = TextProjection(in_dim, dim)
        self.text_aligner = nn.ModuleList(Block(dim, num_heads, mlp_ratio) for _ in range(depth))
        self.text_aligner_norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, features: Tensor) -> Tensor:
        """Embed text features [B, N, in_dim] as [B, N, D]. No position is masked."""
        x = self.text_proj(features)
        for block in self.text_aligner:
            x = block(x)
        return self.text_aligner_norm(x)
