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

from mar_accel.models.backbone import BackboneConfig, TokenBackbone
from mar_accel.models.cross_attention import CrossBlock, TextEmbedder

# Keys and values of each cross block, [B, H, N, d] each.
TextKeys = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LightGenConfig(BackboneConfig):
    """Architecture of a LightGen model; the defaults are the base size at 512 px.

    Attributes:
        train_grid: grid of the learned positions. Other grids interpolate them.
        cross_depth, text_depth: number of blocks.
        caption_channels: width of the text features.
        max_text_length: maximum number N of text tokens.
    """

    grid: tuple[int, int] = (32, 32)
    patch_size: int = 2
    head_depth: int = 8
    head_width: int = 1280
    train_grid: tuple[int, int] = (16, 16)
    cross_depth: int = 12
    text_depth: int = 6
    caption_channels: int = 4096
    max_text_length: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "train_grid", tuple(self.train_grid))
        super().__post_init__()


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
        super().__init__(config)
        dim, trained = config.embed_dim, config.train_grid[0] * config.train_grid[1]
        block_args = (dim, config.num_heads, config.mlp_ratio)
        self.fake_latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.add_blocks(trained)
        self.last_embed = nn.Linear(dim, dim)
        self.last_pos_embed_learned = nn.Parameter(torch.zeros(1, trained, dim))
        self.cross_attn_blocks = nn.ModuleList(CrossBlock(*block_args) for _ in range(config.cross_depth))
        self.cross_norm = nn.LayerNorm(dim, eps=1e-6)
        self.text_emb = TextEmbedder(config.caption_channels, config.text_depth, *block_args)
        self.finish([], self.last_pos_embed_learned)

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
