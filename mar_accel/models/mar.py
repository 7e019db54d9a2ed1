"""The MAR backbone: encoder over known tokens, decoder over all tokens, one conditioning vector per token.

Source: MAR (arXiv:2406.11838). Parameter names match the published checkpoints. The model is independent
of sampling. It provides the steps of a forward pass, which decode loop and cache policies combine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mar_accel.models.backbone import BackboneConfig, TokenBackbone
from mar_accel.models.condition import Condition


@dataclass(frozen=True)
class MARConfig(BackboneConfig):
    """Architecture of a MAR model; the defaults are MAR-B at 256 px.

    Attributes:
        num_classes: number of class labels.
        buffer_size: number of buffer tokens S, copies of the class embedding before the image tokens.
        dropout: dropout probability in the blocks, 0..1, in training only.
        mask_guidance: whether the mask token and the embedding of the unconditional branch are one vector
            (eMIGM, arXiv:2503.07197, "guidance with mask").

    Example:
        sizes = {"encoder_depth": 16, "decoder_depth": 16, "head_depth": 8, "head_width": 1280}
        MARConfig(embed_dim=1024, num_heads=16, **sizes)  # MAR-L
    """

    num_classes: int = 1000
    buffer_size: int = 64
    dropout: float = 0.0
    mask_guidance: bool = False


class MAR(TokenBackbone):
    """Masked autoregressive model with a diffusion head; shapes as in :class:`TokenBackbone`.

    The class embedding is the encoder's buffer, so each guidance branch runs encoder and decoder.
    """

    config: MARConfig

    def __init__(self, config: MARConfig):
        super().__init__(config)
        dim = config.embed_dim
        self.fake_latent = nn.Parameter(torch.zeros(1, dim))
        self.class_emb = nn.Embedding(config.num_classes, dim)
        self.add_blocks(config.buffer_size + config.seq_len, config.dropout)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, config.seq_len, dim))
        self._share_mask()
        self.finish([self.class_emb.weight], self.diffusion_pos_embed_learned)

    def _share_mask(self) -> None:
        """Let both names of the one vector be one parameter. A state dict has both; the last one counts.

        eMIGM's averaged weights cover ``fake_latent`` alone, so its own loader ends up with ``mask_token``.
        """
        if self.config.mask_guidance:
            self.mask_token = self.fake_latent

    def _apply(self, fn: Any, recurse: bool = True) -> MAR:
        # Moving a module to another device can give each name a parameter of its own.
        super()._apply(fn, recurse)
        self._share_mask()
        return self

    def condition(self, inputs: Tensor, dropped: Tensor | None = None) -> Condition:
        """The conditional branch for class labels int64 [B]: embeddings [B, D]."""
        embedding = self.class_emb(inputs)
        if dropped is not None:
            embedding = torch.where(dropped[:, None], self.fake_latent, embedding)
        return Condition(len(inputs), (embedding,))

    def unconditional(self, batch_size: int) -> Condition:
        return Condition(batch_size, (self.fake_latent.expand(batch_size, -1),))

    def embed_buffer(self, condition: Condition) -> Tensor:
        embedding = torch.cat(condition.branches)
        buffer = self.encoder_pos_embed_learned[:, : self.config.buffer_size]
        return self.z_proj_ln(embedding.unsqueeze(1) + buffer)

    def part_branches(self, decoded: Tensor, positions: Tensor, condition: Condition) -> Tensor:
        return decoded

    def conditioning_vectors(self, outputs: Tensor, positions: Tensor) -> Tensor:
        return self.decoder_norm(outputs) + self.diffusion_pos_embed_learned[0][positions]
