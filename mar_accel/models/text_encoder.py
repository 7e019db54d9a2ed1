"""Text encoders: prompts, as token numbers, to features for a text-to-image model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

# T5's numbers of padding and end.
PAD_ID, END_ID = 0, 1


@dataclass(frozen=True)
class T5Size:
    """Size of a T5 encoder that is trained from nothing.

    Attributes:
        vocab_size: words. dim, num_heads, ff_dim: width, heads and width of the MLP. depth: blocks.
    """

    vocab_size: int
    dim: int = 128
    num_heads: int = 4
    ff_dim: int = 256
    depth: int = 2


def make_t5_encoder(size: T5Size) -> nn.Module:
    """A T5 encoder of transformers with random weights, for words in the order they stand in."""
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
    """Token numbers [B, N] to features [B, N, dim]; padding is not attended to, but has features too."""
    return encoder(input_ids=ids, attention_mask=(ids != PAD_ID).long()).last_hidden_state
