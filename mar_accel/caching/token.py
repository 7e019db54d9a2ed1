"""LazyMAR's token cache: a lazy step recomputes only the tokens whose features move.

Source: LazyMAR (arXiv:2503.12450, section 3, token cache).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel.caching.blocks import attend_and_mlp, blocks_of, project
from mar_accel.caching.ratios import PUBLISHED_RATIOS, PUBLISHED_STEPS, Ratios
from mar_accel.caching.rows import flat_rows, take_rows, write_rows
from mar_accel.errors import ConfigError
from mar_accel.models.mar import MARConfig
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.policy import DecodeState
from mar_accel.utils.readable import Readable

SIMILARITIES = ("cosine", "euclidean")
FEATURES = ("value", "key")
AUTO = "auto"
PUBLISHED_PRUNE_BLOCK = 3


@dataclass
class TokenStore:
    """What is kept between steps, for the first ``rows`` rows of the batch; N = S + L, in the compute dtype.

    Attributes:
        rows: B, or 2B where both guidance branches are kept.
        encoder: keys and values of each encoder block [rows, N, 2D]: buffer, then tokens in decode order.
        decoder: keys and values of the decoder blocks behind the pruning block [rows, N, 2D], in grid order.
        feature: of the pruning block, whose similarity decides [rows, N, D]; None before a refresh.
        decoder_input: the padded decoder input [rows, N, D]; None before a refresh.
    """

    rows: int
    encoder: dict[int, Tensor] = field(default_factory=dict)
    decoder: dict[int, Tensor] = field(default_factory=dict)
    feature: Tensor | None = None
    decoder_input: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """Everything that is kept."""
        single = [tensor for tensor in (self.feature, self.decoder_input) if tensor is not None]
        return [*self.encoder.values(), *self.decoder.values(), *single]

    def narrow(self, rows: int) -> None:
        """Keep the first ``rows`` rows alone, in the memory that all have."""
        for blocks in (self.encoder, self.decoder):
            for index, kv in blocks.items():
                blocks[index] = kv[:rows]
        assert self.feature is not None and self.decoder_input is not None
        self.feature, self.decoder_input = self.feature[:rows], self.decoder_input[:rows]
        self.rows = rows

    def keep_kv(self, blocks: dict[int, Tensor], index: int, length: int, kv: Tensor) -> None:
        """Keep keys and values [R, n, 2D] of a block as the first n of ``length``."""
        if index not in blocks:
            blocks[index] = kv.new_empty(self.rows, length, kv.shape[-1])
        blocks[index][:, : kv.shape[1]] = kv[: self.rows]


class TokenCache(Readable):
    """Recomputes buffer, new tokens, and those that moved most; see docs/caches.md.

    Args:
        prune_block: the decoder block p behind whose attention only the chosen tokens go on, 0-based: 3 as
            published, or "auto": min(3, depth // 4), which is 3 for all published sizes. The last block
            leaves nothing to prune but is allowed.
        ratios, ratio_steps, ratio_by: share of the sequence that is recomputed; see :class:`Ratios`.
        minimum_extra: at least so many tokens besides those predicted now and decoded last; 15 as published.
        similarity: of a token's feature to that of the step before, averaged over the heads: "cosine", or
            "euclidean": 1 − ‖new − old‖/‖old‖. Tokens of low similarity are recomputed first.
        feature: "value" (as published) or "key" of the pruning block.
        threshold: None, or keep of the chosen tokens only those whose similarity is below this. Shapes stay
            those of ``ratios``, the upper bound: tokens above the threshold leave the caches as they are but
            are computed all the same, so it tells what a threshold does to the images, and saves nothing;
            ``mar_accel.calibrate`` turns a threshold into ratios, which do.
    """

    def __init__(
        self,
        prune_block: int | str = AUTO,
        ratios: float | Sequence[Sequence[float]] = PUBLISHED_RATIOS,
        ratio_steps: int = PUBLISHED_STEPS,
        ratio_by: str = "progress",
        minimum_extra: int = 15,
        similarity: str = "cosine",
        feature: str = "value",
        threshold: float | None = None,
    ):
        if prune_block != AUTO and (isinstance(prune_block, str) or prune_block < 0):
            raise ConfigError(
                f"cache.token.prune_block={prune_block} is no decoder block; give 0 or more, or {AUTO}."
            )
        if minimum_extra < 0:
            raise ConfigError(f"cache.token.minimum_extra={minimum_extra} is negative; give 0 or more.")
        for key, value, known in (
            ("similarity", similarity, SIMILARITIES),
            ("feature", feature, FEATURES),
        ):
            if value not in known:
                raise ConfigError(f"cache.token.{key}={value} is unknown; choose one of {', '.join(known)}.")
        self.prune_block = prune_block
        self.ratios = Ratios(ratios, ratio_steps, ratio_by)
        self.minimum_extra = minimum_extra
        self.similarity = similarity
        self.feature = feature
        self.threshold = threshold
        self.store: TokenStore | None = None

    def check(self, model: MARConfig) -> None:
        """Refuse a pruning block that the decoder does not have."""
        block = self.prune_block_of(model)
        if block >= model.decoder_depth:
            raise ConfigError(
                f"cache.token.prune_block={block} is not among the model's {model.decoder_depth} decoder "
                f"blocks; choose 0 to {model.decoder_depth - 1}, or {AUTO}."
            )

    def prune_block_of(self, model: MARConfig) -> int:
        """The pruning block p for an architecture."""
        if isinstance(self.prune_block, str):
            return min(PUBLISHED_PRUNE_BLOCK, model.decoder_depth // 4)
        return self.prune_block

    def num_kept(self, model: MARConfig, plan: Plan, step: ARStep) -> int:
        """How many of the N tokens go on behind the pruning block at a lazy step."""
        length = model.buffer_size + plan.num_tokens
        previous = plan.steps[step.index - 1]
        minimum = step.num_tokens + previous.num_tokens + self.minimum_extra
        return min(length, max(minimum, int(self.ratios.at(plan, step) * length)))

    # -- refresh -------------------------------------------------------------------------------

    def full_pass(self, state: DecodeState, step: ARStep, targets: Tensor, rows: int) -> Tensor:
        """Compute everything and keep what lazy steps need.

        Args:
            targets: grid positions [B, m] whose output is wanted.
            rows: how many rows of the batch are kept, from the first.

        Returns:
            The last decoder block's output [R, m, D] at ``targets``.
        """
        model, store = state.model, self._store(rows)
        buffer, length = model.config.buffer_size, model.config.buffer_size + state.plan.num_tokens
        repeats = step.num_branches
        tokens, known = state.known(step)
        embedded = model.embed_tokens(tokens, known).repeat(repeats, 1, 1)
        x = torch.cat([model.embed_buffer(state.embedding(step)), embedded], dim=1)
        for index, block in enumerate(blocks_of(model.encoder_blocks)):
            q, kv = project(block, block.norm1(x))
            store.keep_kv(store.encoder, index, length, kv)
            x = attend_and_mlp(block, x, q, kv)
        x = model.decoder_inputs(state.encoded(step, x), known.repeat(repeats, 1))
        store.decoder_input = x[:rows].clone() if rows < len(x) else x
        prune_block, last = self.prune_block_of(model.config), len(model.decoder_blocks) - 1
        wanted = flat_rows(targets.repeat(repeats, 1) + buffer, length)
        for index, block in enumerate(blocks_of(model.decoder_blocks)):
            normed = block.norm1(x)
            if index < last:
                q, kv = project(block, normed)
            else:
                kv = block.attn.project_kv_rows(normed)
                q, x = block.attn.project_q(take_rows(normed, wanted)), take_rows(x, wanted)
            if index == prune_block:
                store.feature = self._feature(kv[:rows]).clone()
            elif index > prune_block:
                store.keep_kv(store.decoder, index, length, kv)
            x = attend_and_mlp(block, x, q, kv)
        return x

    # -- lazy step -----------------------------------------------------------------------------

    def lazy_pass(self, state: DecodeState, step: ARStep, rows: int) -> tuple[Tensor, Tensor]:
        """Recompute what moved, for the first ``rows`` rows. What is kept of others is lost.

        Returns:
            The last decoder block's output [rows, n, D] at the predicted positions, and the similarities
            [rows, N] of all tokens.
        """
        assert self.store is not None
        if rows < self.store.rows:
            self.store.narrow(rows)
        model = state.model
        repeats = rows // state.batch_size
        previous = state.plan.steps[step.index - 1]
        decoded_last = state.predicted(previous).repeat(repeats, 1)
        encoded = state.encoded(step, self._encode(state, step, previous))
        x = self._decoder_input(state, encoded, decoded_last)
        prune_block = self.prune_block_of(model.config)
        for block in blocks_of(model.decoder_blocks)[:prune_block]:
            x = block(x)
        predicted = state.predicted(step).repeat(repeats, 1)
        return self._pruned_blocks(state, step, x, predicted, decoded_last)

    def _encode(self, state: DecodeState, step: ARStep, previous: ARStep) -> Tensor:
        """Encoder output [rows, S + n_prev, D] of the buffer and of the tokens decoded last."""
        assert self.store is not None
        model, rows = state.model, self.store.rows
        buffer = model.config.buffer_size
        added = slice(previous.start, previous.stop)
        tokens = model.embed_tokens(state.decoded[:, added], state.order[:, added])
        tokens = tokens.repeat(rows // state.batch_size, 1, 1)
        x = torch.cat([model.embed_buffer(state.embedding(step)[:rows]), tokens], dim=1)
        for index, block in enumerate(blocks_of(model.encoder_blocks)):
            q, kv = project(block, block.norm1(x))
            kept = self.store.encoder[index]
            kept[:, :buffer] = kv[:, :buffer]
            kept[:, buffer + previous.start : buffer + previous.stop] = kv[:, buffer:]
            x = attend_and_mlp(block, x, q, kept[:, : buffer + step.start])
        return x

    def _decoder_input(self, state: DecodeState, encoded: Tensor, decoded_last: Tensor) -> Tensor:
        """The kept decoder input [rows, N, D] with new rows of the buffer and of the tokens decoded last."""
        assert self.store is not None and self.store.decoder_input is not None
        model, kept = state.model, self.store.decoder_input
        buffer = model.config.buffer_size
        pos_embed = model.decoder_pos_embed_learned
        values = model.decoder_embed(model.encoder_norm(encoded))
        kept[:, :buffer] = values[:, :buffer] + pos_embed[:, :buffer]
        new = values[:, buffer:] + pos_embed[0, buffer:][decoded_last]
        write_rows(kept, flat_rows(decoded_last + buffer, kept.shape[1]), new)
        return kept

    def _pruned_blocks(
        self, state: DecodeState, step: ARStep, x: Tensor, predicted: Tensor, decoded_last: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The pruning block and those behind it, on chosen tokens; see ``lazy_pass``."""
        assert self.store is not None and self.store.feature is not None
        model, store, old_feature = state.model, self.store, self.store.feature
        buffer, length = model.config.buffer_size, x.shape[1]
        prune_block, last = self.prune_block_of(model.config), len(model.decoder_blocks) - 1
        num_predicted = predicted.shape[1]

        block, *behind = blocks_of(model.decoder_blocks)[prune_block:]
        normed = block.norm1(x)
        kv = block.attn.project_kv_rows(normed)
        feature = self._feature(kv)
        similarity = self.similarities(feature, old_feature, model.config.num_heads)
        old_feature.copy_(feature)
        always = torch.cat([predicted, decoded_last], dim=1) + buffer
        positions, moved = self._choose(similarity, always, self.num_kept(model.config, state.plan, step))
        # What is not chosen gives keys and values to this block but needs neither its query nor its MLP.
        rows = flat_rows(positions[:, :num_predicted] if prune_block == last else positions, length)
        q = block.attn.project_q(take_rows(normed, rows))
        x = attend_and_mlp(block, take_rows(x, rows), q, kv)

        for index, block in enumerate(behind, start=prune_block + 1):
            normed, kept = block.norm1(x), store.decoder[index]
            if index < last:
                q, kv = project(block, normed)
            else:
                # The predicted tokens come first among the chosen ones; only their output is used.
                kv = block.attn.project_kv_rows(normed)
                q, x = block.attn.project_q(normed[:, :num_predicted]), x[:, :num_predicted]
            if moved is not None:
                kv = torch.where(moved, kv, take_rows(kept, rows))
            write_rows(kept, rows, kv)
            x = attend_and_mlp(block, x, q, kept)
        return x, similarity

    def _choose(self, similarity: Tensor, always: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
        """Positions [rows, count] that are recomputed, and which of them moved [rows, count, 1] (None: all).

        ``always`` [rows, m] comes first; the others are those of the lowest similarity.
        """
        others = similarity.scatter(1, always, float("inf"))
        lowest = others.topk(count - always.shape[1], dim=1, largest=False, sorted=False)
        positions = torch.cat([always, lowest.indices], dim=1)
        if self.threshold is None:
            return positions, None
        moved = torch.cat([torch.ones_like(always, dtype=torch.bool), lowest.values < self.threshold], dim=1)
        return positions, moved.unsqueeze(-1)

    def _feature(self, kv: Tensor) -> Tensor:
        """The keys or values [rows, N, D] of [rows, N, 2D]."""
        width = kv.shape[-1] // 2
        return kv[..., width:] if self.feature == "value" else kv[..., :width]

    def similarities(self, new: Tensor, old: Tensor, num_heads: int) -> Tensor:
        """Similarity [rows, N] of features [rows, N, D], averaged over the heads; 1 means unmoved."""
        new, old = (x.unflatten(-1, (num_heads, -1)).float() for x in (new, old))
        if self.similarity == "cosine":
            return F.cosine_similarity(new, old, dim=-1).mean(-1)
        return (1 - (new - old).norm(dim=-1) / old.norm(dim=-1).clamp(min=1e-8)).mean(-1)

    def _store(self, rows: int) -> TokenStore:
        if self.store is None or self.store.rows != rows:
            self.store = TokenStore(rows)
        return self.store

    def tensors(self) -> list[Tensor]:
        """Everything that is kept."""
        return [] if self.store is None else self.store.tensors()

    def finish(self) -> None:
        """Free what was kept."""
        self.store = None
