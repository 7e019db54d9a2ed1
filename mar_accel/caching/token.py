"""LazyMAR's token cache: lazy steps recompute only the tokens whose features move.

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
from mar_accel.models.backbone import BackboneConfig
from mar_accel.models.condition import Condition
from mar_accel.models.transformer import Block
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.state import DecodeState
from mar_accel.utils.readable import Readable

SIMILARITIES = ("cosine", "euclidean")
FEATURES = ("value", "key")
AUTO = "auto"
PUBLISHED_PRUNE_BLOCK = 3


@dataclass
class TokenStore:
    """Tensors that the token cache keeps between AR steps, in the compute dtype.

    The sequence has N = S + L tokens: S buffer tokens and L image tokens.

    Attributes:
        rows: number of batch rows that are kept: B, or 2B for both guidance branches.
        encoder: keys and values of each encoder block [rows, N, 2D]: buffer, then tokens in decode order.
        decoder: keys and values of the decoder blocks after the pruning block [rows, N, 2D], in grid order.
        feature: feature of the pruning block that similarity compares [rows, N, D]. None before a refresh.
        decoder_input: padded decoder input [rows, N, D]. None before a refresh.
    """

    rows: int
    encoder: dict[int, Tensor] = field(default_factory=dict)
    decoder: dict[int, Tensor] = field(default_factory=dict)
    feature: Tensor | None = None
    decoder_input: Tensor | None = None

    def tensors(self) -> list[Tensor]:
        """All cached tensors."""
        single = [tensor for tensor in (self.feature, self.decoder_input) if tensor is not None]
        return [*self.encoder.values(), *self.decoder.values(), *single]

    def narrow(self, rows: int) -> None:
        """Keep only the first ``rows`` rows, as views of the same memory."""
        for blocks in (self.encoder, self.decoder):
            for index, kv in blocks.items():
                blocks[index] = kv[:rows]
        assert self.feature is not None and self.decoder_input is not None
        self.feature, self.decoder_input = self.feature[:rows], self.decoder_input[:rows]
        self.rows = rows

    def keep_kv(self, blocks: dict[int, Tensor], index: int, length: int, kv: Tensor) -> None:
        """Keep keys and values [R, n, 2D] of a block as the first n of ``length`` tokens."""
        if index not in blocks:
            blocks[index] = kv.new_empty(self.rows, length, kv.shape[-1])
        blocks[index][:, : kv.shape[1]] = kv[: self.rows]


class TokenCache(Readable):
    """Recomputes the buffer, the tokens predicted now or decoded last, and those that moved most.

    See docs/caches.md for details.

    Args:
        prune_block: index p (from 0) of the pruning block in the decoder; 3 as published.
            Only the chosen tokens continue after its attention.
            "auto": min(3, depth // 4), which is 3 for all published sizes.
            The last block is allowed, although it prunes nothing.
        ratios, ratio_steps, ratio_by: share of the sequence that is recomputed; see :class:`Ratios`.
        minimum_extra: minimum number of chosen tokens besides those predicted now and decoded last, at
            least 0; 15 as published.
        similarity: similarity of a token's feature to that of the previous step, averaged over heads:
            "cosine", or "euclidean", which is 1 − ‖new − old‖/‖old‖.
            Tokens with the lowest similarity are recomputed first.
        feature: "value" (as published) or "key" of the pruning block.
        threshold: update only chosen tokens with a similarity below this. None: update all.
            Shapes still follow ``ratios``, so all chosen tokens are computed and no time is saved.
            It shows how a threshold affects the images.
            ``mar_accel.calibrate`` converts a threshold into ratios, which save time.

    Example:
        TokenCache(ratios=0.3, similarity="euclidean")
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
                f"cache.token.prune_block must be a block index ≥ 0 or {AUTO}, got {prune_block}."
            )
        if minimum_extra < 0:
            raise ConfigError(f"cache.token.minimum_extra must be ≥ 0, got {minimum_extra}.")
        for key, value, known in (
            ("similarity", similarity, SIMILARITIES),
            ("feature", feature, FEATURES),
        ):
            if value not in known:
                raise ConfigError(f"cache.token.{key} must be {' or '.join(known)}, got {value}.")
        self.prune_block = prune_block
        self.ratios = Ratios(ratios, ratio_steps, ratio_by)
        self.minimum_extra = minimum_extra
        self.similarity = similarity
        self.feature = feature
        self.threshold = threshold
        self.store: TokenStore | None = None

    def check(self, model: BackboneConfig) -> None:
        """Reject a pruning block beyond the depth of the decoder."""
        block = self.prune_block_of(model)
        if block >= model.decoder_depth:
            raise ConfigError(
                f"cache.token.prune_block must be between 0 and {model.decoder_depth - 1} for "
                f"{model.decoder_depth} decoder blocks, or {AUTO}, got {block}."
            )

    def prune_block_of(self, model: BackboneConfig) -> int:
        """Index p of the pruning block for an architecture."""
        if isinstance(self.prune_block, str):
            return min(PUBLISHED_PRUNE_BLOCK, model.decoder_depth // 4)
        return self.prune_block

    def num_kept(self, model: BackboneConfig, plan: Plan, step: ARStep) -> int:
        """Number of the N tokens that continue after the pruning block at a lazy step."""
        length = model.buffer_size + plan.num_tokens
        previous = plan.steps[step.index - 1]
        minimum = step.num_tokens + previous.num_tokens + self.minimum_extra
        return min(length, max(minimum, int(self.ratios.at(plan, step) * length)))

    # -- refresh -------------------------------------------------------------------------------

    def full_pass(self, state: DecodeState, step: ARStep, targets: Tensor, rows: int) -> Tensor:
        """Compute everything and fill the cache for lazy steps.

        Args:
            state: state of the decode.
            step: the AR step.
            targets: grid positions of the output [B, m].
            rows: number of batch rows to keep, from the first.

        Returns:
            Output of the last decoder block [R, m, D] at ``targets``.
        """
        model, store = state.model, self._store(rows)
        buffer, length = model.config.buffer_size, model.config.buffer_size + state.plan.num_tokens
        x = model.embed_buffer(state.condition_of(step))
        repeats = len(x) // state.batch_size
        tokens, known = state.known(step)
        x = torch.cat([x, model.embed_tokens(tokens, known).repeat(repeats, 1, 1)], dim=1)
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

    def lazy_pass(self, state: DecodeState, step: ARStep, condition: Condition) -> tuple[Tensor, Tensor]:
        """Recompute the tokens that moved. The cache drops the rows of other branches than those given.

        Args:
            state: state of the decode.
            step: the AR step.
            condition: the branches to compute; they have ``rows`` rows in encoder and decoder.

        Returns:
            Output of the last decoder block [rows, n, D] at the predicted positions.
            Similarities of all tokens [rows, N].
        """
        assert self.store is not None
        model, buffer = state.model, state.model.embed_buffer(condition)
        rows = len(buffer)
        if rows < self.store.rows:
            self.store.narrow(rows)
        repeats = rows // state.batch_size
        previous = state.plan.steps[step.index - 1]
        decoded_last = state.predicted(previous).repeat(repeats, 1)
        encoded = state.encoded(step, self._encode(state, step, previous, buffer))
        x = self._decoder_input(state, encoded, decoded_last)
        prune_block = self.prune_block_of(model.config)
        for block in blocks_of(model.decoder_blocks)[:prune_block]:
            x = block(x)
        predicted = state.predicted(step).repeat(repeats, 1)
        return self._pruned_blocks(state, step, x, predicted, decoded_last)

    def _encode(self, state: DecodeState, step: ARStep, previous: ARStep, embedded: Tensor) -> Tensor:
        """Encoder output [rows, S + n_prev, D] of the buffer and the n_prev tokens decoded last.

        Args:
            embedded: encoder inputs of the buffer [rows, S, D].
        """
        assert self.store is not None
        model, rows = state.model, self.store.rows
        buffer = model.config.buffer_size
        added = slice(previous.start, previous.stop)
        tokens = model.embed_tokens(state.decoded[:, added], state.order[:, added])
        tokens = tokens.repeat(rows // state.batch_size, 1, 1)
        x = torch.cat([embedded, tokens], dim=1)
        for index, block in enumerate(blocks_of(model.encoder_blocks)):
            q, kv = project(block, block.norm1(x))
            kept = self.store.encoder[index]
            kept[:, :buffer] = kv[:, :buffer]
            kept[:, buffer + previous.start : buffer + previous.stop] = kv[:, buffer:]
            x = attend_and_mlp(block, x, q, kept[:, : buffer + step.start])
        return x

    def _decoder_input(self, state: DecodeState, encoded: Tensor, decoded_last: Tensor) -> Tensor:
        """Cached decoder input [rows, N, D], updated for the buffer and the tokens decoded last."""
        assert self.store is not None and self.store.decoder_input is not None
        model, kept = state.model, self.store.decoder_input
        buffer = model.config.buffer_size
        pos_embed = model.positions(model.decoder_pos_embed_learned)
        values = model.decoder_embed(model.encoder_norm(encoded))
        kept[:, :buffer] = values[:, :buffer] + pos_embed[:buffer]
        new = values[:, buffer:] + pos_embed[buffer:][decoded_last]
        write_rows(kept, flat_rows(decoded_last + buffer, kept.shape[1]), new)
        return kept

    def _pruned_blocks(
        self, state: DecodeState, step: ARStep, x: Tensor, predicted: Tensor, decoded_last: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run the pruning block and the blocks after it on the chosen tokens; see ``lazy_pass``."""
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
        ranks = self._ranks(block, normed, kv, similarity, decoded_last + buffer)
        positions, moved = self._choose(ranks, always, self.num_kept(model.config, state.plan, step))
        # The other tokens provide keys and values to this block, but need no query and no MLP.
        rows = flat_rows(positions[:, :num_predicted] if prune_block == last else positions, length)
        q = block.attn.project_q(take_rows(normed, rows))
        x = attend_and_mlp(block, take_rows(x, rows), q, kv)

        for index, block in enumerate(behind, start=prune_block + 1):
            normed, kept = block.norm1(x), store.decoder[index]
            if index < last:
                q, kv = project(block, normed)
            else:
                # The predicted tokens are the first chosen tokens. Only their output is used.
                kv = block.attn.project_kv_rows(normed)
                q, x = block.attn.project_q(normed[:, :num_predicted]), x[:, :num_predicted]
            if moved is not None:
                kv = torch.where(moved, kv, take_rows(kept, rows))
            write_rows(kept, rows, kv)
            x = attend_and_mlp(block, x, q, kept)
        return x, similarity

    def _ranks(
        self, block: Block, normed: Tensor, kv: Tensor, similarity: Tensor, decoded_last: Tensor
    ) -> Tensor:
        """Numbers [rows, N] by which tokens are chosen, lowest first.

        Args:
            block: the pruning block.
            normed: its normalised inputs [rows, N, D].
            kv: its keys and values [rows, N, 2D].
            similarity: similarities to the previous step [rows, N].
            decoded_last: sequence positions of the tokens decoded last [rows, n_prev].
        """
        return similarity

    def _choose(self, similarity: Tensor, always: Tensor, count: int) -> tuple[Tensor, Tensor | None]:
        """Choose the positions to recompute.

        Args:
            similarity: similarities of all tokens [rows, N].
            always: positions that are always chosen [rows, m].
            count: number of positions to choose. The rest have the lowest similarity.

        Returns:
            Positions [rows, count], ``always`` first.
            Whether each of them moved [rows, count, 1]. None: all of them.
        """
        others = similarity.scatter(1, always, float("inf"))
        lowest = others.topk(count - always.shape[1], dim=1, largest=False, sorted=False)
        positions = torch.cat([always, lowest.indices], dim=1)
        if self.threshold is None:
            return positions, None
        moved = torch.cat([torch.ones_like(always, dtype=torch.bool), lowest.values < self.threshold], dim=1)
        return positions, moved.unsqueeze(-1)

    def _feature(self, kv: Tensor) -> Tensor:
        """Keys or values [rows, N, D] of the rows [rows, N, 2D]."""
        width = kv.shape[-1] // 2
        return kv[..., width:] if self.feature == "value" else kv[..., :width]

    def similarities(self, new: Tensor, old: Tensor, num_heads: int) -> Tensor:
        """Similarity [rows, N] of features [rows, N, D], averaged over heads. 1 means no movement."""
        new, old = (x.unflatten(-1, (num_heads, -1)).float() for x in (new, old))
        if self.similarity == "cosine":
            return F.cosine_similarity(new, old, dim=-1).mean(-1)
        return (1 - (new - old).norm(dim=-1) / old.norm(dim=-1).clamp(min=1e-8)).mean(-1)

    def _store(self, rows: int) -> TokenStore:
        if self.store is None or self.store.rows != rows:
            self.store = TokenStore(rows)
        return self.store

    def tensors(self) -> list[Tensor]:
        """All cached tensors."""
        return [] if self.store is None else self.store.tensors()

    def finish(self) -> None:
        """Free all cached tensors."""
        self.store = None
