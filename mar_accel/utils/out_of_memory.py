"""Batches that do not fit into memory are worked on in halves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

Part = TypeVar("Part")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out, on a GPU or for torch's CPU allocator."""
    on_cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return on_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)


class Halving:
    """Calls a function on parts of a batch that fit into memory.

    Args:
        what: words for a batch of a size, such as "features of {} images".
        refuse: raises an error if a batch of a size does not fit, and may not be divided; else returns.

    Attributes:
        largest: size that fitted, after more did not; None if all batches did.
    """

    def __init__(self, what: str, refuse: Callable[[int], object]):
        self.what, self.refuse = what, refuse
        self.largest: int | None = None

    def parts(self, size: int, work: Callable[[slice], Part], device: torch.device) -> Sequence[Part]:
        """The results of ``work`` on slices that cover a batch of ``size``, in order."""
        parts: list[Part] = []
        start = 0
        while start < size:
            stop = min(start + (self.largest or size), size)
            found = self._if_it_fits(slice(start, stop), work)
            if found is not None:
                parts.append(found)
                start = stop
                continue
            if device.type == "cuda":
                torch.cuda.empty_cache()
            self._halve(stop - start, device)
        return parts

    @staticmethod
    def _if_it_fits(part: slice, work: Callable[[slice], Part]) -> Part | None:
        try:
            return work(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here has the error let go of the tensors of the failed attempt.
        return None

    def _halve(self, size: int, device: torch.device) -> None:
        self.refuse(size)
        self.largest = size // 2
        print(
            f"note: {self.what.format(size)} at a time do not fit into the memory of {device}; going on with "
            f"{self.largest}.",
            file=sys.stderr,
        )
