"""What a batch is conditioned on, in the form that a model's forward pass takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Condition:
    """What a batch is conditioned on: one embedding per guidance branch.

    Only the model that makes the embeddings looks into them: class embeddings for MAR, keys and values of
    the text for LightGen. Decode loop and caches pass them on, and choose branches.

    Attributes:
        batch_size: number of images B.
        branches: embeddings of each branch for all images: the conditional branch first.

    Example:
        >>> condition = model.condition(torch.tensor([3, 7]))
        >>> len(condition.with_branch(model.unconditional(2)).branches)
        2
    """

    batch_size: int
    branches: tuple[Any, ...]

    def with_branch(self, other: Condition) -> Condition:
        """This condition with the branches of another one after its own."""
        return Condition(self.batch_size, self.branches + other.branches)

    def first(self, number: int) -> Condition:
        """The first ``number`` branches."""
        return Condition(self.batch_size, self.branches[:number])
