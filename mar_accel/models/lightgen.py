"""The LightGen backbone: MAR's encoder and decoder without condition, then cross-attention to the text.

Source: LightGen (arXiv:2503.08619). Parameter names match the published checkpoints. Redundant computation
of the published code is omitted, with exact results:

- Before the cross stage, nothing depends on the text. Both guidance branches share encoder and decoder.
- The cross stage has no self-attention, so it runs only at the predicted positions.
- Keys and values of the text are computed once per prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mar_accel.models.backbone import BackboneConfig, TokenBackbone
from mar_accel.models.condition import Condition
from mar_accel.models.cross_attention import CrossBlock, TextEmbedder


@dataclass(frozen=True)
class TextBranch:
    """A guidance branch.

    Attributes:
        text: embedded text [B, N, D]; N is 1 for the unconditional branch.
        keys: keys and values of each cross block, [B, H, N, d] each.
    """

    text: Tensor
    keys: list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LightGenConfig(BackboneConfig):
    """Architecture of a LightGen model; the defaults are the base size at 512 px.

    Attributes:
        train_grid: grid of the learned positions. Other grids interpolate them.
        cross_depth, text_depth: number of blocks.
        caption_channels: width of the text features.
        max_text_length: maximum number N of text tokens.
    """

    shared_trunk: ClassVar[bool] = True

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

    @property
    def position_grid(self) -> tuple[int, int]:
        return self.train_grid


class LightGen(TokenBackbone):
    """Text-to-image masked autoregressive model with a diffusion head.

    Shapes: B images, L tokens, N text tokens, D width, H heads of width d, C token channels.

    Example:
        >>> model = LightGen(LightGenConfig(grid=(4, 4), train_grid=(4, 4), embed_dim=48, text_depth=1))
        >>> condition = model.condition(torch.randn(2, 8, 4096)).with_branch(model.unconditional(2))
        >>> known, predicted = torch.arange(4).expand(2, 4), torch.arange(4, 16).expand(2, 12)
        >>> model(condition, torch.randn(2, 4, 64), known, predicted).shape
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

    # -- the condition -------------------------------------------------------------------------

    def condition(self, inputs: Tensor, dropped: Tensor | None = None) -> Condition:
        """The conditional branch for text features [B, N, caption_channels], with padding.

        All AR steps share its keys and values.
        """
        text = self.text_emb(inputs)
        if dropped is not None:
            text = torch.where(dropped[:, None, None], self.fake_latent, text)
        return self.condition_on(text)

    def unconditional(self, batch_size: int) -> Condition:
        """The unconditional branch: a single key, which gets all attention."""
        return self.condition_on(self.fake_latent.expand(batch_size, -1, -1))

    def condition_on(self, text: Tensor) -> Condition:
        """One branch for embedded texts [B, N, D]: keys and values of all cross blocks."""
        keys = [cast("CrossBlock", block).keys_values(text) for block in self.cross_attn_blocks]
        return Condition(len(text), (TextBranch(text, keys),))

    def unreduced(self, condition: Condition, number: int) -> Condition:
        """The published code repeats the unconditional vector, and computes keys at each AR step."""
        text: Tensor = condition.branches[number].text
        is_repeated = text.shape[1] == 1
        return self.condition_on(text.expand(-1, self.config.max_text_length, -1) if is_repeated else text)

    def embed_buffer(self, condition: Condition) -> Tensor:
        """No buffer: [B, 0, D]."""
        return self.mask_token.new_empty(condition.batch_size, 0, self.config.embed_dim)

    def part_branches(self, decoded: Tensor, positions: Tensor, condition: Condition) -> Tensor:
        """Outputs of the last cross block."""
        shared = self.last_embed(self.decoder_norm(decoded))
        shared = shared + self.positions(self.last_pos_embed_learned)[positions]
        return torch.cat([self._cross(shared, branch) for branch in condition.branches])

    def _cross(self, x: Tensor, branch: TextBranch) -> Tensor:
        for block, (k, v) in zip(self.cross_attn_blocks, branch.keys, strict=True):
            x = block(x, k, v)
        return x

    def conditioning_vectors(self, outputs: Tensor, positions: Tensor) -> Tensor:
        return self.cross_norm(outputs)

    # -- training ------------------------------------------------------------------------------

    def predict(self, condition: Condition, encoded: Tensor, known: Tensor, predicted: Tensor) -> Tensor:
        """As for MAR; in training, the decoder runs once for a batch without known tokens.

        It sees no text, so its outputs are the same for all images then.
        """
        if not self.training or known.shape[1]:
            return super().predict(condition, encoded, known, predicted)
        positions = torch.arange(self.config.seq_len, dtype=torch.int64, device=known.device).unsqueeze(0)
        decoded = self.decode(self.decoder_inputs(encoded[:1], known[:1]), positions)
        return self.vectors(condition, decoded[0][predicted], predicted)
