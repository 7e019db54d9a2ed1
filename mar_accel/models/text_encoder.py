"""Text encoders: from prompts to features of a fixed length, for text-to-image models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le
from torch import Tensor, nn

from mar_accel.errors import ConfigError
from mar_accel.models.sizes import MAX_DEPTH, MAX_SIZE
from mar_accel.utils.packages import import_transformers

# The config check reads these ranges.
Size = Annotated[int, Ge(1), Le(MAX_SIZE)]
# T5's ids of the padding and end tokens.
PAD_ID, END_ID = 0, 1
# Longer prompts are shortened in messages.
SHOWN_LENGTH = 60
# Standard deviation of the relative position biases at the start. T5 has 1/sqrt(dim), which is 0.09 at width
# 128. All word order comes from these biases, and a small encoder that starts with so little of it does not
# learn which colour belongs to which noun. With 2.0 it does (tests/models/test_text_encoder.py).
_POSITION_BIAS_STD = 2.0


@dataclass(frozen=True)
class T5Size:
    """Size of a T5 encoder that is trained from scratch.

    Attributes:
        vocab_size: number of words.
        dim, num_heads, ff_dim: width, a multiple of the number of heads, and width of the MLP.
        depth: number of blocks.
    """

    vocab_size: Size
    dim: Size = 128
    num_heads: Size = 4
    ff_dim: Size = 256
    depth: Annotated[int, Ge(1), Le(MAX_DEPTH)] = 2

    def __post_init__(self) -> None:
        if self.dim % self.num_heads:
            raise ConfigError(
                f"model.text_encoder.dim must be a multiple of num_heads={self.num_heads}, got {self.dim}."
            )


def make_t5_encoder(size: T5Size) -> nn.Module:
    """Create a T5 encoder (transformers) with random weights that attends by position from the start."""
    transformers = import_transformers("a text encoder")
    config = transformers.T5Config(
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
    encoder = transformers.T5EncoderModel(config)
    for name, parameter in encoder.named_parameters():
        if "relative_attention_bias" in name:
            nn.init.normal_(parameter, std=_POSITION_BIAS_STD)
    return encoder


def encode_text(encoder: nn.Module, ids: Tensor) -> Tensor:
    """Encode token ids [B, N] to features [B, N, dim].

    Attention ignores padding, but padding positions have features too.
    """
    return encoder(input_ids=ids, attention_mask=(ids != PAD_ID).long()).last_hidden_state


class TextEncoder(nn.Module):
    """Turns prompts into text features [N, width] of a fixed length N.

    Each prompt is encoded alone, so that its features do not depend on other prompts.

    Attributes:
        shape: shape (N, width) of the features of a prompt.
    """

    shape: tuple[int, int]

    def check(self, prompts: Sequence[str], key: str) -> list[str]:
        """Notes about prompts that are not used as they are.

        Args:
            prompts: the prompts.
            key: config key or argument that holds them, for messages.

        Raises:
            DataError: a prompt has words that the encoder does not know.
        """
        return []

    def prepare(self, prompts: Sequence[str]) -> None:
        """Compute and keep the features of all prompts, if encoding needs much memory."""

    def features(self, prompt: str) -> Tensor:
        """Features [N, width] of a prompt."""
        raise NotImplementedError


def shown(prompt: str) -> str:
    """A prompt in quotes, on one line and not too long."""
    text = " ".join(prompt.split())
    return f'"{text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 1] + "…"}"'
