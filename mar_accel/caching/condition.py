"""LazyMAR's condition cache: the difference of the guidance branches is kept between refreshes.

Source: LazyMAR (arXiv:2503.12450, section 3, condition cache).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mar_accel.sampling.plan import ARStep


class ConditionCache:
    """Keeps unconditional − conditional output of the last decoder block, before its norm.

    At a lazy step the backbone then computes the conditional branch alone. The difference is kept only for
    the positions that lazy steps predict before the next refresh.
    """

    def __init__(self) -> None:
        self.residual: Tensor | None = None
        self._start = 0

    def keep(self, output: Tensor, step: ARStep) -> None:
        """Keep the difference of outputs [2B, m, D] at ``order[:, step.start : step.start + m]``."""
        conditional, unconditional = output.chunk(2)
        self.residual = unconditional - conditional
        self._start = step.start

    def both_branches(self, conditional: Tensor, step: ARStep) -> Tensor:
        """The conditional output [B, n, D] of a lazy step, the unconditional one behind it: [2B, n, D]."""
        assert self.residual is not None
        kept = self.residual[:, step.start - self._start : step.stop - self._start]
        return torch.cat([conditional, conditional + kept])

    def tensors(self) -> list[Tensor]:
        """Everything that is kept."""
        return [] if self.residual is None else [self.residual]

    def finish(self) -> None:
        """Free what was kept."""
        self.residual = None
