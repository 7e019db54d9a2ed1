"""Pre-norm transformer blocks. Cache policies can run their parts separately."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention with a fused qkv projection.

    Args:
        dim: width D of the tokens, a multiple of ``num_heads``.
        num_heads: number of heads H, each of width D/H.
        dropout: dropout probability of attention weights and output, 0..1, in training only.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def split_heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split projected rows [B, N, parts·D] into ``parts`` views [B, H, N, D/H], without a copy."""
        batch, length, width = x.shape
        head_dim = width // (parts * self.num_heads)
        return x.view(batch, length, parts, self.num_heads, head_dim).permute(2, 0, 3, 1, 4).unbind(0)

    def project_qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Project normalised tokens [B, N, D] to queries, keys and values, each [B, H, N, D/H]."""
        q, k, v = self.split_heads(self.qkv(x), 3)
        return q, k, v

    def project_q(self, x: Tensor) -> Tensor:
        """Project normalised tokens [B, N, D] to queries [B, H, N, D/H] only."""
        dim = x.shape[-1]
        (q,) = self.split_heads(F.linear(x, self.qkv.weight[:dim], self.qkv.bias[:dim]), 1)
        return q

    def project_kv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project normalised tokens [B, N, D] to keys and values, each [B, H, N, D/H]."""
        k, v = self.split_heads(self.project_kv_rows(x), 2)
        return k, v

    def project_kv_rows(self, x: Tensor) -> Tensor:
        """Project normalised tokens [B, N, D] to key-value rows [B, N, 2D], the format of the caches."""
        dim = x.shape[-1]
        return F.linear(x, self.qkv.weight[dim:], self.qkv.bias[dim:])

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from queries [B, H, M, d] to keys and values [B, H, N, d]; returns [B, M, D]."""
        dropout = self.dropout if self.training else 0.0
        out = attention(q, k, v, dropout)
        out = self.proj(out.transpose(1, 2).flatten(2))
        return F.dropout(out, dropout) if dropout else out


def attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Scaled dot products of queries [B, H, M, d] over keys and values [B, H, N, d]: [B, H, M, d].

    Where gradients are wanted in bfloat16 on a CPU, plain products take half the time of torch's fused
    attention.
    """
    if dropout or q.dtype != torch.bfloat16 or q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    return scores.softmax(-1) @ v


class Mlp(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(F.gelu(self.fc1(x)))
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Block(nn.Module):
    """Pre-norm ViT block with LayerNorm eps 1e-6 (MAR, arXiv:2406.11838, section 3)."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float = 4.0, dropout: float = 0.0):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads, dropout)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Run the block with full attention between all tokens; [B, N, D] to [B, N, D]."""
        x = x + self.attn.attend(*self.attn.project_qkv(self.norm1(x)))
        return x + self.mlp(self.norm2(x))

    def forward_queries(self, x: Tensor, positions: Tensor) -> Tensor:
        """Compute the exact output of the block at some positions only.

        Keys and values are computed for all tokens, queries and the MLP only at ``positions``.

        Args:
            x: tokens [B, N, D].
            positions: indices into the sequence, int64 [B, n].

        Returns:
            Rows of the ``forward`` output at these positions, [B, n, D].
        """
        normed = self.norm1(x)
        k, v = self.attn.project_kv(normed)
        q = self.attn.project_q(gather_tokens(normed, positions))
        x = gather_tokens(x, positions) + self.attn.attend(q, k, v)
        return x + self.mlp(self.norm2(x))


def gather_tokens(x: Tensor, positions: Tensor) -> Tensor:
    """Rows of x [B, N, D] at positions [B, n], as [B, n, D]."""
    return x.gather(1, positions.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def scatter_tokens(x: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    """Write values [B, n, D] into x [B, N, D] at positions [B, n], in place; returns x."""
    return x.scatter_(1, positions.unsqueeze(-1).expand_as(values), values.to(x.dtype))


def init_transformer_weights(module: nn.Module) -> None:
    """Initialise Linear layers as MAR does: Xavier-uniform weights and zero biases."""
    if isinstance(module, nn.Linear):
        torch.nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            torch.nn.init.zeros_(module.bias)
