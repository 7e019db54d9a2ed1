"""The MAR backbone: encoder over known tokens, decoder over all tokens, one conditioning vector per token.

Source: MAR (arXiv:2406.11838). Parameter names match the published checkpoints. The model is independent
of sampling. It provides the steps of a forward pass, which decode loop and cache policies combine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from mar_accel.errors import ConfigError
from mar_accel.models.diffusion_head import DiffusionHead
from mar_accel.models.transformer import Block, gather_tokens, init_transformer_weights, scatter_tokens


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
        if self.embed_dim % self.num_heads:
            raise ConfigError(
                f"model.architecture.embed_dim must be a multiple of num_heads={self.num_heads}, "
                f"got {self.embed_dim}."
            )

    @property
    def seq_len(self) -> int:
        """Number of tokens L."""
        return self.grid[0] * self.grid[1]

    @property
    def token_dim(self) -> int:
        """Channels C of a token."""
        return self.latent_channels * self.patch_size**2


class MAR(nn.Module):
    """Masked autoregressive model with a diffusion head.

    Shapes: B images, L tokens, S buffer tokens, width D, C token channels. R rows are B rows per guidance
    branch: conditional rows first, then unconditional rows.
    """

    def __init__(self, config: MARConfig):
        super().__init__()
        self.config = config
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

    # -- tokens and latents ------------------------------------------------------------------

    def patchify(self, latents: Tensor) -> Tensor:
        """Split latents [B, c, h·p, w·p] into tokens [B, L, C]."""
        (h, w), p, c = self.config.grid, self.config.patch_size, self.config.latent_channels
        patches = latents.reshape(latents.shape[0], c, h, p, w, p)
        return patches.permute(0, 2, 4, 1, 3, 5).reshape(latents.shape[0], h * w, c * p * p)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """Join tokens [B, L, C] to latents [B, c, h·p, w·p]."""
        (h, w), p, c = self.config.grid, self.config.patch_size, self.config.latent_channels
        patches = tokens.reshape(tokens.shape[0], h, w, c, p, p)
        return patches.permute(0, 3, 1, 4, 2, 5).reshape(tokens.shape[0], c, h * p, w * p)

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

    def embed_tokens(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Embed tokens [B, n, C] at grid positions [B, n] as encoder inputs [B, n, D]."""
        pos_embed = self.encoder_pos_embed_learned[0, self.config.buffer_size :]
        tokens = tokens.to(self.z_proj.weight.dtype)
        return self.z_proj_ln(self.z_proj(tokens) + pos_embed[positions])

    def encode(self, x: Tensor) -> Tensor:
        """Run all encoder blocks (without ``encoder_norm``) on inputs [R, S+n, D]."""
        for block in self.encoder_blocks:
            x = block(x)
        return x

    def encode_tokens(self, class_embedding: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
        """Encoder outputs [R, S+n, D] of buffer and known tokens; arguments as in ``forward``."""
        embedded = self.embed_tokens(tokens, known).repeat(len(class_embedding) // len(tokens), 1, 1)
        return self.encode(torch.cat([self.embed_buffer(class_embedding), embedded], dim=1))

    def decoder_inputs(self, encoded: Tensor, positions: Tensor) -> Tensor:
        """Pad encoder outputs with mask tokens to the full sequence.

        Args:
            encoded: encoder outputs [R, S+n, D]: buffer, then known tokens.
            positions: grid positions of the known tokens [R, n].

        Returns:
            Decoder inputs [R, S+L, D], with position embeddings.
        """
        rows, buffer = encoded.shape[0], self.config.buffer_size
        x = self.decoder_embed(self.encoder_norm(encoded))
        pos_embed = self.decoder_pos_embed_learned
        padded = (self.mask_token + pos_embed).to(x.dtype).repeat(rows, 1, 1)
        padded[:, :buffer] = x[:, :buffer] + pos_embed[:, :buffer]
        known = x[:, buffer:] + pos_embed[0, buffer:][positions]
        return scatter_tokens(padded, positions + buffer, known)

    def decode(self, x: Tensor, positions: Tensor) -> Tensor:
        """Run the decoder on inputs [R, S+L, D]; returns outputs [R, n, D] at grid positions [R, n].

        The last block computes only these positions. The result is exact.
        """
        for block in self.decoder_blocks[:-1]:
            x = block(x)
        last = cast("Block", self.decoder_blocks[-1])
        return last.forward_queries(x, positions + self.config.buffer_size)

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

    # -- training ------------------------------------------------------------------------------

    def training_loss(
        self,
        latents: Tensor,
        class_embedding: Tensor,
        order: Tensor,
        num_masked: int,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
        draws: int = 1,
    ) -> Tensor:
        """Diffusion loss of the masked tokens, given the known tokens.

        Args:
            latents: latents of the images [B, c, H, W].
            class_embedding: class embeddings [B, D], unconditional where the label is dropped.
            order: permutations of the positions [B, L]. The first ``num_masked`` positions are masked.
            num_masked: number of masked tokens, 1..L.
            timesteps, noise: per token, [B, L] and [B, L, C]. None: drawn.
            draws: number of noised versions of each masked token, at least 1. Above 1, timesteps and noise
                must be None.

        Returns:
            Scalar loss, averaged over masked tokens and draws.
        """
        tokens = self.patchify(latents)
        masked, known = order[:, :num_masked], order[:, num_masked:]
        z = self(class_embedding, gather_tokens(tokens, known), known, masked)
        if timesteps is not None:
            timesteps = timesteps.gather(1, masked).flatten()
        if noise is not None:
            noise = gather_tokens(noise, masked).flatten(0, 1)
        return self.diffloss.loss(
            gather_tokens(tokens, masked).flatten(0, 1), z.flatten(0, 1), timesteps, noise, draws
        )
