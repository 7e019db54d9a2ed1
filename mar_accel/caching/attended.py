"""MARché's selective refresh: lazy steps recompute the tokens that the newest tokens attend to.

Source: MARché (arXiv:2506.12035). Layer and count are not published; here they are keys.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mar_accel.caching.ratios import PUBLISHED_RATIOS, PUBLISHED_STEPS
from mar_accel.caching.rows import flat_rows, take_rows
from mar_accel.caching.token import AUTO, TokenCache
from mar_accel.models.transformer import Block


class AttendedTokenCache(TokenCache):
    """Recomputes the tokens predicted now or decoded last, and those that the latter attend to most.

    Attention is that of the pruning block, averaged over its heads and over the tokens decoded last. All
    other tokens keep their keys and values.

    Args:
        prune_block, ratios, ratio_steps, ratio_by, minimum_extra: as in :class:`TokenCache`. The ratios give
            the number of recomputed tokens.

    Example:
        AttendedTokenCache(ratios=0.3)
    """

    def __init__(
        self,
        prune_block: int | str = AUTO,
        ratios: float | Sequence[Sequence[float]] = PUBLISHED_RATIOS,
        ratio_steps: int = PUBLISHED_STEPS,
        ratio_by: str = "progress",
        minimum_extra: int = 15,
    ):
        super().__init__(prune_block, ratios, ratio_steps, ratio_by, minimum_extra)

    def _ranks(
        self, block: Block, normed: Tensor, kv: Tensor, similarity: Tensor, decoded_last: Tensor
    ) -> Tensor:
        attention = block.attn
        q = attention.project_q(take_rows(normed, flat_rows(decoded_last, normed.shape[1])))
        k, _ = attention.split_heads(kv, 2)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).float().softmax(dim=-1)
        return -weights.mean(dim=(1, 2))
