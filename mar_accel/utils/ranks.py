"""Which of a run's processes this is."""

from __future__ import annotations


def is_first_process() -> bool:
    """Whether this is the only process of a run, or the one that writes and shows things."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0
