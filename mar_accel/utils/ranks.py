"""The rank of this process in a run with several processes."""

from __future__ import annotations


def is_first_process() -> bool:
    """Whether this is the only or the first process of a run, which writes files and output."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


def set_rank(rank: int) -> None:
    """Set the rank, which Lightning guesses from variables such as RANK, whoever has set them."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    rank_zero_only.rank = rank  # type: ignore[attr-defined]
