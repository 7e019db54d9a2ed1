"""Forward pass shared by masked autoregressive backbones: from tokens to decoder outputs."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from mar_accel.models.diffusion_head import DiffusionHead
from mar_accel.models.transformer import Block, gather_tokens, scatter_tokens


class TokenBackbone(nn.Module):
    """Encoder over known tokens and decoder over all tokens, independent of the condition.

    A subclass creates the parameters and computes the conditioning vectors in ``forward``.
    """

    config: Any
    encoder_pos_embed_learned: nn.Parameter
    decoder_pos_embed_learned: nn.Parameter
    mask_token: nn.Parameter
    z_proj: nn.Linear
    z_proj_ln: nn.LayerNorm
    encoder_blocks: nn.ModuleList
    encoder_norm: nn.LayerNorm
    decoder_embed: nn.Linear
    decoder_blocks: nn.ModuleList
    diffloss: DiffusionHead

    def positions(self, table: Tensor) -> Tensor:
        """Learned position embeddings [1, L, D] on the grid of the model, as [L, D]."""
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

    # -- the steps of a forward pass -----------------------------------------------------------

    def embed_tokens(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Embed tokens [B, n, C] at grid positions [B, n] as encoder inputs [B, n, D]."""
        tokens = tokens.to(self.z_proj.weight.dtype)
        return self.z_proj_ln(self.z_proj(tokens) + self.positions(self.encoder_pos_embed_learned)[positions])

    def encode(self, x: Tensor) -> Tensor:
        """Run all encoder blocks (without ``encoder_norm``) on inputs [B, n, D]; n may be 0."""
        if x.shape[1]:
            for block in self.encoder_blocks:
                x = block(x)
        return x

    def decoder_inputs(self, encoded: Tensor, positions: Tensor) -> Tensor:
        """Pad encoder outputs [B, n, D] at grid positions [B, n] to decoder inputs [B, L, D].

        The other positions get the mask token. All positions get position embeddings.
        """
        pos_embed = self.positions(self.decoder_pos_embed_learned)
        known = self.decoder_embed(self.encoder_norm(encoded))
        padded = (self.mask_token + pos_embed).to(known.dtype).repeat(encoded.shape[0], 1, 1)
        return scatter_tokens(padded, positions, known + pos_embed[positions])

    def decode(self, x: Tensor, positions: Tensor) -> Tensor:
        """Run the decoder on inputs [B, L, D]; returns outputs [B, n, D] at grid positions [B, n].

        The last block computes only these positions. The result is exact.
        """
        for block in self.decoder_blocks[:-1]:
            x = block(x)
        return cast("Block", self.decoder_blocks[-1]).forward_queries(x, positions)

    # -- training ------------------------------------------------------------------------------

    def training_loss(
        self, latents: Tensor, conditioning: Any, order: Tensor, num_masked: int, draws: int = 1
    ) -> Tensor:
        """Diffusion loss of the masked tokens, given the known tokens.

        Args:
            latents: latents of the images [B, c, H, W].
            conditioning: first argument of ``forward``.
            order: permutations of the positions [B, L]. The first ``num_masked`` positions are masked.
            num_masked: number of masked tokens, 1..L.
            draws: number of noised versions of each masked token, at least 1. The backbone runs once.

        Returns:
            Scalar loss, averaged over masked tokens and draws.
        """
        tokens = self.patchify(latents)
        masked, known = order[:, :num_masked], order[:, num_masked:]
        z = self(conditioning, gather_tokens(tokens, known), known, masked).flatten(0, 1)
        target = gather_tokens(tokens, masked).flatten(0, 1)
        return self.diffloss.loss(target, z, draws=draws)
