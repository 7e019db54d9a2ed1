"""LazyMAR's condition cache: reuses the difference of the guidance branches between refreshes.

Source: LazyMAR (arXiv:2503.12450, section 3, condition cache).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.utils.readable import Readable


class ConditionCache(Readable):
    """Keeps the difference unconditional − conditional of the last decoder block's output, before the norm.

    Lazy steps compute only the conditional branch and add this difference. It is kept for the positions
    that guided lazy steps predict before the next refresh. A refresh without guidance keeps nothing.
    """

    def __init__(self) -> None:
        self.residual: Tensor | None = None
        self._start = 0

    @staticmethod
    def stop(plan: Plan, step: ARStep, horizon: int) -> int:
        """End of the slice of the decode order whose difference a refresh keeps.

        Args:
            plan: the AR steps.
            step: the refresh.
            horizon: end (in the decode order) of the last lazy step that may follow.

        Returns:
            ``stop`` of the last guided lazy step that may follow; ``step.stop`` if there is none.
        """
        guided = [later.stop for later in plan.steps[step.index + 1 :] if later.guided]
        return max((stop for stop in guided if step.guided and stop <= horizon), default=step.stop)

    def keep(self, output: Tensor, step: ARStep) -> None:
        """Keep the difference of the outputs [2B, m, D] at ``order[:, step.start : step.start + m]``."""
        conditional, unconditional = output.chunk(2)
        self.residual = unconditional - conditional
        self._start = step.start

    def both_branches(self, conditional: Tensor, step: ARStep) -> Tensor:
        """Outputs of both branches [2B, n, D] from the conditional output [B, n, D] of a lazy step."""
        assert self.residual is not None
        kept = self.residual[:, step.start - self._start : step.stop - self._start]
        return torch.cat([conditional, conditional + kept])

    def tensors(self) -> list[Tensor]:
        """All cached tensors."""
        return [] if self.residual is None else [self.residual]

    def finish(self) -> None:
        """Free all cached tensors."""
        self.residual = None
