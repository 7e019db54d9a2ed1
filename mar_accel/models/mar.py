"""The MAR backbone: encoder over known tokens, decoder over all tokens, one conditioning vector per token.

Source: MAR (arXiv:2406.11838). Parameter names match the published checkpoints. The model is independent
of sampling. It provides the steps of a forward pass, which decode loop and cache policies combine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mar_accel.models.backbone import BackboneConfig, TokenBackbone


@dataclass(frozen=True)
class MARConfig(BackboneConfig):
    """Architecture of a MAR model; the defaults are MAR-B at 256 px.

    Attributes:
        num_classes: number of class labels.
        buffer_size: number of buffer tokens S, copies of the class embedding before the image tokens.
        dropout: dropout probability in the blocks, 0..1, in training only.

    Example:
        sizes = {"encoder_depth": 16, "decoder_depth": 16, "head_depth": 8, "head_width": 1280}
        MARConfig(embed_dim=1024, num_heads=16, **sizes)  # MAR-L
    """

    num_classes: int = 1000
    buffer_size: int = 64
    dropout: float = 0.0


class MAR(TokenBackbone):
    """Masked autoregressive model with a diffusion head; shapes as in :class:`TokenBackbone`."""

    config: MARConfig
    # Entry of the checkpoint that the weights were taken from, for records; None for a bare state dict.
    weights_entry: str | None = None

    def __init__(self, config: MARConfig):
        super().__init__(config)
        self.buffer_size = config.buffer_size
        dim = config.embed_dim
        self.fake_latent = nn.Parameter(torch.zeros(1, dim))
        self.class_emb = nn.Embedding(config.num_classes, dim)
        self.add_blocks(config.buffer_size + config.seq_len, config.dropout)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, config.seq_len, dim))
        self.finish([self.class_emb.weight], self.diffusion_pos_embed_learned)

    # -- the steps of a forward pass -----------------------------------------------------------

    def class_embedding(self, labels: Tensor) -> Tensor:
        """Class embeddings [B, D] of labels int64 [B]."""
        return self.class_emb(labels)

    def unconditional_embedding(self, batch_size: int) -> Tensor:
        """Embeddings of the unconditional branch, [B, D]."""
        return self.fake_latent.expand(batch_size, -1)

    def embed_buffer(self, class_embedding: Tensor) -> Tensor:
        """Encoder inputs of the buffer [R, S, D] from class embeddings [R, D]."""
        buffer = self.encoder_pos_embed_learned[:, : self.config.buffer_size]
        return self.z_proj_ln(class_embedding.unsqueeze(1) + buffer)

    def encode_tokens(self, class_embedding: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
        """Encoder outputs [R, S+n, D] of buffer and known tokens; arguments as in ``forward``."""
        embedded = self.embed_tokens(tokens, known).repeat(len(class_embedding) // len(tokens), 1, 1)
        return self.encode(torch.cat([self.embed_buffer(class_embedding), embedded], dim=1))

    def conditioning_vectors(self, decoded: Tensor, positions: Tensor) -> Tensor:
        """Conditioning vectors z [R, n, D] from decoder outputs [R, n, D] at grid positions [R, n]."""
        return self.decoder_norm(decoded) + self.diffusion_pos_embed_learned[0][positions]

    def forward(self, class_embedding: Tensor, tokens: Tensor, known: Tensor, predicted: Tensor) -> Tensor:
        """Compute conditioning vectors at some positions, given the known tokens.

        Args:
            class_embedding: class embeddings [R, D]; R is a multiple of B.
            tokens: known tokens [B, n, C], repeated for every branch.
            known: grid positions of the known tokens [B, n].
            predicted: grid positions to predict [B, m].

        Returns:
            z [R, m, D].
        """
        x = self.encode_tokens(class_embedding, tokens, known)
        return self.predict(x, known, predicted)

    def predict(self, encoded: Tensor, known: Tensor, predicted: Tensor) -> Tensor:
        """Compute z [R, m, D] from encoder outputs [R, S+n, D]; other arguments as in ``forward``."""
        repeats = encoded.shape[0] // known.shape[0]
        known, predicted = known.repeat(repeats, 1), predicted.repeat(repeats, 1)
        x = self.decode(self.decoder_inputs(encoded, known), predicted)
        return self.conditioning_vectors(x, predicted)
