"""LazyMAR's condition cache: the difference of the guidance branches is kept between refreshes.

Source: LazyMAR (arXiv:2503.12450, section 3, condition cache).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.utils.readable import Readable


class ConditionCache(Readable):
    """Keeps unconditional − conditional output of the last decoder block, before its norm.

    At a lazy step the backbone then computes the conditional branch alone. The difference is kept only for
    the positions that guided lazy steps predict before the next refresh. A refresh without guidance keeps
    none.
    """

    def __init__(self) -> None:
        self.residual: Tensor | None = None
        self._start = 0

    @staticmethod
    def stop(plan: Plan, step: ARStep, horizon: int) -> int:
        """For a refresh: where in the decode order the positions stop whose difference is kept.

        Args:
            horizon: where the last lazy step stops that may follow.

        Returns:
            The end of the last guided one of these steps; ``step.stop`` where there is none.
        """
        guided = [later.stop for later in plan.steps[step.index + 1 :] if later.guided]
        return max((stop for stop in guided if step.guided and stop <= horizon), default=step.stop)

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
