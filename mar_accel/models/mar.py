"""The MAR backbone: encoder over known tokens, decoder over all tokens, one conditioning vector per token.

Source: MAR (arXiv:2406.11838). Parameter names match the published checkpoints. The model is independent
of sampling. It provides the steps of a forward pass, which decode loop and cache policies combine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.diffusion_head import DiffusionHead
from mar_accel.models.sizes import check_sizes
from mar_accel.models.transformer import Block, init_transformer_weights


@dataclass(frozen=True)
class MARConfig:
    """Architecture of a MAR model; the defaults are MAR-B at 256 px.

    Attributes:
        grid: rows and columns (h, w) of the token grid; L = h·w.
        patch_size: side p of a token in latent pixels. A token has C = latent_channels · p² channels.
        latent_channels: number of latent channels of the autoencoder (1 for greyscale pixels).
        num_classes: number of class labels.
        buffer_size: number of buffer tokens S, copies of the class embedding before the image tokens.
        embed_dim, num_heads, mlp_ratio: width D, heads and MLP ratio of encoder and decoder.
        encoder_depth, decoder_depth: number of blocks.
        head_depth, head_width: residual blocks and width of the diffusion head.
        dropout: dropout probability in the blocks, 0..1, in training only.

    Example:
        sizes = {"encoder_depth": 16, "decoder_depth": 16, "head_depth": 8, "head_width": 1280}
        MARConfig(embed_dim=1024, num_heads=16, **sizes)  # MAR-L
    """

    grid: tuple[int, int] = (16, 16)
    patch_size: int = 1
    latent_channels: int = 16
    num_classes: int = 1000
    buffer_size: int = 64
    embed_dim: int = 768
    num_heads: int = 12
    mlp_ratio: float = 4.0
    encoder_depth: int = 12
    decoder_depth: int = 12
    head_depth: int = 6
    head_width: int = 1024
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        check_sizes(self)

    @property
    def seq_len(self) -> int:
        """Number of tokens L."""
        return self.grid[0] * self.grid[1]

    @property
    def token_dim(self) -> int:
        """Channels C of a token."""
        return self.latent_channels * self.patch_size**2


class MAR(TokenBackbone):
    """Masked autoregressive model with a diffusion head; shapes as in :class:`TokenBackbone`."""

    config: MARConfig

    def __init__(self, config: MARConfig):
        super().__init__()
        self.config = config
        self.buffer_size = config.buffer_size
        dim, length = config.embed_dim, config.buffer_size + config.seq_len
        block_args = (dim, config.num_heads, config.mlp_ratio, config.dropout)
        self.fake_latent = nn.Parameter(torch.zeros(1, dim))
        self.class_emb = nn.Embedding(config.num_classes, dim)
        self.z_proj = nn.Linear(config.token_dim, dim)
        self.z_proj_ln = nn.LayerNorm(dim, eps=1e-6)
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, length, dim))
        self.encoder_blocks = nn.ModuleList(Block(*block_args) for _ in range(config.encoder_depth))
        self.encoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, length, dim))
        self.decoder_blocks = nn.ModuleList(Block(*block_args) for _ in range(config.decoder_depth))
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.diffusion_pos_embed_learned = nn.Parameter(torch.zeros(1, config.seq_len, dim))
        self.apply(init_transformer_weights)
        for parameter in (
            self.fake_latent,
            self.class_emb.weight,
            self.mask_token,
            self.encoder_pos_embed_learned,
            self.decoder_pos_embed_learned,
            self.diffusion_pos_embed_learned,
        ):
            nn.init.normal_(parameter, std=0.02)
        self.diffloss = DiffusionHead(config.token_dim, dim, config.head_width, config.head_depth)

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
