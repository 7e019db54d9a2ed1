"""Text encoders: from token ids of a prompt to features for a text-to-image model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

# T5's ids of the padding and end tokens.
PAD_ID, END_ID = 0, 1


@dataclass(frozen=True)
class T5Size:
    """Size of a T5 encoder that is trained from scratch.

    Attributes:
        vocab_size: number of words.
        dim, num_heads, ff_dim: width, number of heads, and width of the MLP.
        depth: number of blocks.
    """

    vocab_size: int
    dim: int = 128
    num_heads: int = 4
    ff_dim: int = 256
    depth: int = 2


def make_t5_encoder(size: T5Size) -> nn.Module:
    """Create a T5 encoder (transformers) with random weights and relative position biases."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=size.vocab_size,
        d_model=size.dim,
        d_kv=size.dim // size.num_heads,
        d_ff=size.ff_dim,
        num_layers=size.depth,
        num_heads=size.num_heads,
        relative_attention_num_buckets=32,
        relative_attention_max_distance=64,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=PAD_ID,
        eos_token_id=END_ID,
        use_cache=False,
    )
    return T5EncoderModel(config)


def encode_text(encoder: nn.Module, ids: Tensor) -> Tensor:
    """Encode token ids [B, N] to features [B, N, dim].

    Attention ignores padding, but padding positions have features too.
    """
    return encoder(input_ids=ids, attention_mask=(ids != PAD_ID).long()).last_hidden_state
