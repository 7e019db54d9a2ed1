"""The text encoder of scenes: a T5 encoder over a closed vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mar_accel.data.captions import MAX_LENGTH, VOCABULARY, cut, nearest_word, tokenize, unknown_words
from mar_accel.errors import ConfigError, DataError
from mar_accel.models.text_encoder import TextEncoder, encode_text, shown


class WordEncoder(TextEncoder):
    """A T5 encoder over the closed vocabulary of scenes (``mar_accel.data.captions``).

    Args:
        encoder: the T5 encoder (transformers).

    Raises:
        ConfigError: it has fewer words than the vocabulary.
    """

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        config: Any = encoder.config
        if config.vocab_size < len(VOCABULARY):
            raise ConfigError(
                f"model.text_encoder.vocab_size must be at least {len(VOCABULARY)}, the number of words of "
                f"scenes, got {config.vocab_size}."
            )
        self.shape = MAX_LENGTH, config.d_model

    def check(self, prompts: Sequence[str], key: str) -> list[str]:
        notes = []
        for number, prompt in enumerate(prompts):
            if unknown := unknown_words(prompt):
                raise DataError(
                    f"{key}[{number}]: {shown(prompt)} has the word {shown(unknown[0])}, which the model "
                    f"does not know; the nearest word that it knows is {nearest_word(unknown[0])}."
                )
            if rest := cut(prompt):
                notes.append(f"{key}[{number}] has more than {MAX_LENGTH - 1} words; cut off: {shown(rest)}.")
        return notes

    @torch.inference_mode()
    def features(self, prompt: str) -> Tensor:
        device = next(self.encoder.parameters()).device
        return encode_text(self.encoder, tokenize([prompt]).to(device))[0]
