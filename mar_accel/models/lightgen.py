"""The LightGen backbone: MAR's encoder and decoder without condition, then cross-attention to the text.

Source: LightGen (arXiv:2503.08619). Parameter names match the published checkpoints. Redundant computation
of the published code is omitted, with exact results:

- Before the cross stage, nothing depends on the text. Both guidance branches share encoder and decoder.
- The cross stage has no self-attention, so it runs only at the predicted positions.
- Keys and values of the text are computed once per prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.cross_attention import CrossBlock, TextEmbedder
from mar_accel.models.diffusion_head import DiffusionHead
from mar_accel.models.sizes import check_sizes
from mar_accel.models.transformer import Block, init_transformer_weights

# Keys and values of each cross block, [B, H, N, d] each.
TextKeys = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LightGenConfig:
    """Architecture of a LightGen model; the defaults are the base size at 512 px.

    Attributes:
        grid: rows and columns (h, w) of the token grid; L = h·w.
        train_grid: grid of the learned positions. Other grids interpolate them.
        patch_size: side p of a token in latent pixels. A token has C = latent_channels · p² channels.
        latent_channels: number of latent channels of the autoencoder.
        embed_dim, num_heads, mlp_ratio: width D, heads and MLP ratio of all blocks.
        encoder_depth, decoder_depth, cross_depth, text_depth: number of blocks.
        caption_channels: width of the text features.
        max_text_length: maximum number N of text tokens.
        head_depth, head_width: residual blocks and width of the diffusion head.
    """

    grid: tuple[int, int] = (32, 32)
    train_grid: tuple[int, int] = (16, 16)
    patch_size: int = 2
    latent_channels: int = 16
    embed_dim: int = 768
    num_heads: int = 12
    mlp_ratio: float = 4.0
    encoder_depth: int = 12
    decoder_depth: int = 12
    cross_depth: int = 12
    text_depth: int = 6
    caption_channels: int = 4096
    max_text_length: int = 128
    head_depth: int = 8
    head_width: int = 1280

    def __post_init__(self) -> None:
        for key in ("grid", "train_grid"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        check_sizes(self)

    @property
    def seq_len(self) -> int:
        """Number of tokens L."""
        return self.grid[0] * self.grid[1]

    @property
    def token_dim(self) -> int:
        """Channels C of a token."""
        return self.latent_channels * self.patch_size**2


class LightGen(TokenBackbone):
    """Text-to-image masked autoregressive model with a diffusion head.

    Shapes: B images, L tokens, N text tokens, D width, H heads of width d, C token channels.

    Example:
        >>> model = LightGen(LightGenConfig(grid=(4, 4), train_grid=(4, 4), embed_dim=48, text_depth=1))
        >>> keys = model.text_keys(model.embed_text(torch.randn(2, 8, 4096)))
        >>> known, predicted = torch.arange(4).expand(2, 4), torch.arange(4, 16).expand(2, 12)
        >>> model([keys, model.unconditional_keys(2)], torch.randn(2, 4, 64), known, predicted).shape
        torch.Size([4, 12, 48])
    """

    config: LightGenConfig

    def __init__(self, config: LightGenConfig):
        super().__init__()
        self.config = config
        dim, trained = config.embed_dim, config.train_grid[0] * config.train_grid[1]
        block_args = (dim, config.num_heads, config.mlp_ratio)
        self.fake_latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.z_proj = nn.Linear(config.token_dim, dim)
        self.z_proj_ln = nn.LayerNorm(dim, eps=1e-6)
        self.encoder_pos_embed_learned = nn.Parameter(torch.zeros(1, trained, dim))
        self.encoder_blocks = nn.ModuleList(Block(*block_args) for _ in range(config.encoder_depth))
        self.encoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.decoder_pos_embed_learned = nn.Parameter(torch.zeros(1, trained, dim))
        self.decoder_blocks = nn.ModuleList(Block(*block_args) for _ in range(config.decoder_depth))
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.last_embed = nn.Linear(dim, dim)
        self.last_pos_embed_learned = nn.Parameter(torch.zeros(1, trained, dim))
        self.cross_attn_blocks = nn.ModuleList(CrossBlock(*block_args) for _ in range(config.cross_depth))
        self.cross_norm = nn.LayerNorm(dim, eps=1e-6)
        self.text_emb = TextEmbedder(config.caption_channels, config.text_depth, *block_args)
        self.apply(init_transformer_weights)
        for parameter in (
            self.fake_latent,
            self.mask_token,
            self.encoder_pos_embed_learned,
            self.decoder_pos_embed_learned,
            self.last_pos_embed_learned,
        ):
            nn.init.normal_(parameter, std=0.02)
        self.diffloss = DiffusionHead(config.token_dim, dim, config.head_width, config.head_depth)

    def positions(self, table: Tensor) -> Tensor:
        """Learned position embeddings [1, trained, D] on the grid of the model, as [L, D].

        Other grids than the trained one use the bicubic interpolation of the published code. Its scale per
        side is (n + 0.1) / trained. For h ≠ w, the published code swaps rows and columns; this code does not.
        """
        (h, w), trained = self.config.grid, self.config.train_grid
        if (h, w) == trained:
            return table[0]
        square = table.unflatten(1, trained).permute(0, 3, 1, 2)
        scale = ((h + 0.1) / trained[0], (w + 0.1) / trained[1])
        square = F.interpolate(square, scale_factor=scale, mode="bicubic")
        return square.flatten(2).transpose(1, 2)[0]

    # -- parts that depend on the text ----------------------------------------------------------

    def embed_text(self, features: Tensor) -> Tensor:
        """Embed features of the text encoder [B, N, caption_channels], with padding, as [B, N, D]."""
        return self.text_emb(features)

    def text_keys(self, text: Tensor) -> TextKeys:
        """Keys and values of all cross blocks for embedded texts [B, N, D]. All AR steps share them."""
        return [cast("CrossBlock", block).keys_values(text) for block in self.cross_attn_blocks]

    def unconditional_keys(self, batch_size: int) -> TextKeys:
        """Keys and values of the unconditional branch: a single key, which gets all attention."""
        return self.text_keys(self.fake_latent.expand(batch_size, -1, -1))

    def cross(self, decoded: Tensor, positions: Tensor, keys: TextKeys) -> Tensor:
        """Compute z [B, n, D] from decoder outputs [B, n, D] at grid positions [B, n] and text keys."""
        x = self.last_embed(self.decoder_norm(decoded))
        x = x + self.positions(self.last_pos_embed_learned)[positions]
        for block, (k, v) in zip(self.cross_attn_blocks, keys, strict=True):
            x = block(x, k, v)
        return self.cross_norm(x)

    def forward(
        self, branches: Sequence[TextKeys], tokens: Tensor, known: Tensor, predicted: Tensor
    ) -> Tensor:
        """Compute conditioning vectors at some positions, given the known tokens.

        Args:
            branches: text keys of each guidance branch, conditional branch first.
            tokens: known tokens [B, n, C].
            known: grid positions of the known tokens [B, n].
            predicted: grid positions to predict [B, m].

        Returns:
            z [len(branches)·B, m, D], branch by branch.
        """
        x = self.encode(self.embed_tokens(tokens, known))
        decoded = self.decode(self.decoder_inputs(x, known), predicted)
        return torch.cat([self.cross(decoded, predicted, keys) for keys in branches])
