"""The steps of a forward pass that all MAR backbones share, from tokens to decoder outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from mar_accel.models.condition import Condition
from mar_accel.models.diffusion_head import DiffusionHead
from mar_accel.models.sizes import check_sizes
from mar_accel.models.transformer import Block, gather_tokens, init_transformer_weights, scatter_tokens


@dataclass(frozen=True)
class BackboneConfig:
    """Sizes that all MAR backbones share.

    Attributes:
        grid: rows and columns (h, w) of the token grid; L = h·w.
        patch_size: side p of a token in latent pixels. A token has C = latent_channels · p² channels.
        latent_channels: number of latent channels of the autoencoder (1 for greyscale pixels).
        embed_dim, num_heads, mlp_ratio: width D, heads and MLP ratio of all blocks.
        encoder_depth, decoder_depth: number of blocks.
        head_depth, head_width: residual blocks and width of the diffusion head.
        shared_trunk: whether the guidance branches share encoder and decoder. They do if the condition
            enters after the decoder.
    """

    shared_trunk: ClassVar[bool] = False

    grid: tuple[int, int] = (16, 16)
    patch_size: int = 1
    latent_channels: int = 16
    embed_dim: int = 768
    num_heads: int = 12
    mlp_ratio: float = 4.0
    encoder_depth: int = 12
    decoder_depth: int = 12
    head_depth: int = 6
    head_width: int = 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        check_sizes(self)

    @property
    def buffer_size(self) -> int:
        """Number of tokens S before those of the grid."""
        return 0

    @property
    def seq_len(self) -> int:
        """Number of tokens L."""
        return self.grid[0] * self.grid[1]

    @property
    def position_grid(self) -> tuple[int, int]:
        """Grid of the learned positions."""
        return self.grid

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image."""
        return self.latent_channels, self.grid[0] * self.patch_size, self.grid[1] * self.patch_size

    @property
    def token_dim(self) -> int:
        """Channels C of a token."""
        return self.latent_channels * self.patch_size**2


class TokenBackbone(nn.Module):
    """Encoder over known tokens, decoder over all tokens.

    A subclass says where the condition enters: ``embed_buffer`` is before the encoder, ``part_branches``
    after the decoder. Decode loop, caches and training call the same steps for all models. Its ``__init__``
    calls ``add_blocks`` and, at the end, ``finish``. Random weights depend on the order of the parameters.

    Shapes: B images, L tokens, S buffer tokens, width D, C token channels. R rows are B rows per guidance
    branch: conditional rows first, then unconditional rows. Between ``embed_buffer`` and ``part_branches``,
    there are only B rows if the branches share the trunk.
    """

    # Entry of the checkpoint that the weights were taken from, for records; None for a bare state dict.
    weights_entry: str | None = None
    fake_latent: nn.Parameter

    def __init__(self, config: BackboneConfig):
        super().__init__()
        self.config = config

    def add_blocks(self, num_positions: int, dropout: float = 0.0) -> None:
        """Add encoder and decoder with ``num_positions`` learned positions each."""
        config, dim = self.config, self.config.embed_dim
        block_args = (dim, config.num_heads, config.mlp_ratio, dropout)
        self.z_proj = nn.Linear(config.token_dim, dim)
        self.z_proj_ln = nn.LayerNorm(dim, eps=1e-6)
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, num_positions, dim))
        self.encoder_blocks = nn.ModuleList(Block(*block_args) for _ in range(config.encoder_depth))
        self.encoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, num_positions, dim))
        self.decoder_blocks = nn.ModuleList(Block(*block_args) for _ in range(config.decoder_depth))
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)

    def finish(self, condition: Sequence[Tensor], last_positions: Tensor) -> None:
        """Initialise all parameters as MAR does, and add the diffusion head, which initialises itself.

        Args:
            condition: embeddings of the condition.
            last_positions: learned positions after the decoder.
        """
        self.apply(init_transformer_weights)
        learned = (self.mask_token, self.encoder_pos_embed_learned, self.decoder_pos_embed_learned)
        for parameter in (self.fake_latent, *condition, *learned, last_positions):
            nn.init.normal_(parameter, std=0.02)
        config = self.config
        self.diffloss = DiffusionHead(
            config.token_dim, config.embed_dim, config.head_width, config.head_depth
        )

    def positions(self, table: Tensor) -> Tensor:
        """Position embeddings [S+L, D] on this model's grid from a learned table [1, N, D]."""
        return table[0]

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

    # -- the condition -------------------------------------------------------------------------

    def condition(self, inputs: Tensor, dropped: Tensor | None = None) -> Condition:
        """The conditional branch.

        Args:
            inputs: labels int64 [B], or text features [B, N, width], as the model takes them.
            dropped: bool [B]; where true, the unconditional embedding replaces the condition. None: nowhere.
        """
        raise NotImplementedError

    def unconditional(self, batch_size: int) -> Condition:
        """The unconditional branch for B images."""
        raise NotImplementedError

    def unreduced(self, condition: Condition, number: int) -> Condition:
        """One branch of a condition as the published code computes it at each AR step."""
        return Condition(condition.batch_size, (condition.branches[number],))

    def embed_buffer(self, condition: Condition) -> Tensor:
        """Encoder inputs of the buffer [R, S, D]; S is 0 if the condition enters after the decoder."""
        raise NotImplementedError

    def part_branches(self, decoded: Tensor, positions: Tensor, condition: Condition) -> Tensor:
        """Outputs of all branches from outputs of the decoder.

        Args:
            decoded: decoder outputs [R, n, D]; B rows if the branches share the trunk.
            positions: grid positions [B, n].
            condition: the branches.

        Returns:
            [R, n, D], with B rows per branch. ``conditioning_vectors`` turns them into z.
        """
        raise NotImplementedError

    def conditioning_vectors(self, outputs: Tensor, positions: Tensor) -> Tensor:
        """Conditioning vectors z [R, n, D] from outputs of ``part_branches`` at positions [R, n]."""
        raise NotImplementedError

    # -- the steps of a forward pass -----------------------------------------------------------

    def forward(self, condition: Condition, tokens: Tensor, known: Tensor, predicted: Tensor) -> Tensor:
        """Compute conditioning vectors at some positions, given the known tokens.

        Args:
            condition: the guidance branches.
            tokens: known tokens [B, n, C].
            known: grid positions of the known tokens [B, n].
            predicted: grid positions to predict [B, m].

        Returns:
            z [R, m, D].
        """
        return self.predict(condition, self.encode_tokens(condition, tokens, known), known, predicted)

    def encode_tokens(self, condition: Condition, tokens: Tensor, known: Tensor) -> Tensor:
        """Encoder outputs [R, S+n, D] of buffer and known tokens; arguments as in ``forward``."""
        buffer = self.embed_buffer(condition)
        embedded = self.embed_tokens(tokens, known).repeat(len(buffer) // len(tokens), 1, 1)
        return self.encode(torch.cat([buffer, embedded], dim=1))

    def predict(self, condition: Condition, encoded: Tensor, known: Tensor, predicted: Tensor) -> Tensor:
        """Compute z [R, m, D] from encoder outputs [R, S+n, D]; other arguments as in ``forward``."""
        repeats = len(encoded) // len(known)
        x = self.decoder_inputs(encoded, known.repeat(repeats, 1))
        return self.vectors(condition, self.decode(x, predicted.repeat(repeats, 1)), predicted)

    def vectors(self, condition: Condition, decoded: Tensor, positions: Tensor) -> Tensor:
        """Compute z [R, n, D] from decoder outputs [R, n, D] at grid positions [B, n]."""
        outputs = self.part_branches(decoded, positions, condition)
        return self.conditioning_vectors(outputs, positions.repeat(len(outputs) // len(positions), 1))

    def embed_tokens(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Embed tokens [B, n, C] at grid positions [B, n] as encoder inputs [B, n, D]."""
        pos_embed = self.positions(self.encoder_pos_embed_learned)[self.config.buffer_size :]
        tokens = tokens.to(self.z_proj.weight.dtype)
        return self.z_proj_ln(self.z_proj(tokens) + pos_embed[positions])

    def encode(self, x: Tensor) -> Tensor:
        """Run all encoder blocks (without ``encoder_norm``) on inputs [R, S+n, D]; S+n may be 0."""
        if x.shape[1]:
            for block in self.encoder_blocks:
                x = block(x)
        return x

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
        pos_embed = self.positions(self.decoder_pos_embed_learned)
        padded = (self.mask_token + pos_embed).to(x.dtype).repeat(rows, 1, 1)
        padded[:, :buffer] = x[:, :buffer] + pos_embed[:buffer]
        known = x[:, buffer:] + pos_embed[buffer:][positions]
        return scatter_tokens(padded, positions + buffer, known)

    def decode(self, x: Tensor, positions: Tensor) -> Tensor:
        """Run the decoder on inputs [R, S+L, D]; returns outputs [R, n, D] at grid positions [R, n].

        The last block computes only these positions. The result is exact.
        """
        for block in self.decoder_blocks[:-1]:
            x = block(x)
        last = cast("Block", self.decoder_blocks[-1])
        return last.forward_queries(x, positions + self.config.buffer_size)

    # -- training ------------------------------------------------------------------------------

    def training_loss(
        self,
        latents: Tensor,
        condition: Condition,
        order: Tensor,
        num_masked: int,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """MAR's diffusion loss of the masked tokens, given the known tokens.

        Args:
            latents: latents of the images [B, c, H, W].
            condition: one branch, unconditional where the condition is dropped.
            order: permutations of the positions [B, L]. The first ``num_masked`` positions are masked.
            num_masked: number of masked tokens, 1..L.
            timesteps, noise: per token, [B, L] and [B, L, C]. None: drawn.

        Returns:
            Scalar loss, averaged over masked tokens.
        """
        masked = order[:, :num_masked]
        if timesteps is not None:
            timesteps = timesteps.gather(1, masked).flatten()
        if noise is not None:
            noise = gather_tokens(noise, masked).flatten(0, 1)
        clean, z = self.masked_tokens(latents, condition, order, num_masked)
        return self.diffloss.loss(clean, z, timesteps, noise)

    def masked_tokens(
        self,
        latents: Tensor,
        condition: Condition,
        order: Tensor,
        num_masked: int,
        num_predicted: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masked tokens [B·n, C] and their z [B·n, D], given the known ones. See ``training_loss``.

        They are the first ``num_predicted`` masked ones, or all.
        """
        tokens = self.patchify(latents)
        masked, known = order[:, :num_masked][:, :num_predicted], order[:, num_masked:]
        z = self(condition, gather_tokens(tokens, known), known, masked)
        return gather_tokens(tokens, masked).flatten(0, 1), z.flatten(0, 1)
