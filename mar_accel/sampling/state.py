"""State of a decode, as cache policies and observers see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.condition import Condition
from mar_accel.sampling.plan import ARStep, Plan


@dataclass
class DecodeState:
    """State of a decode.

    Attributes:
        model: the model that decodes.
        plan: the AR steps.
        condition: what the images are conditioned on; with the unconditional branch if any step is guided.
        order: decode orders [B, L].
        decoded: tokens in decode order [B, L, C]. Only those before ``start`` of the current step are valid.
        on_encoded: receives the event ``encoded``; see :class:`mar_accel.sampling.observer.Observer`.
    """

    model: TokenBackbone
    plan: Plan
    condition: Condition
    order: Tensor
    decoded: Tensor
    on_encoded: Callable[[DecodeState, ARStep, Tensor], None] = lambda state, step, x: None

    @property
    def batch_size(self) -> int:
        return self.order.shape[0]

    def condition_of(self, step: ARStep) -> Condition:
        """The condition with the branches that this step runs: two if it is guided, else one."""
        return self.condition.first(step.num_branches)

    def known(self, step: ARStep) -> tuple[Tensor, Tensor]:
        """Tokens [B, start, C] and grid positions [B, start] decoded before this step."""
        return self.decoded[:, : step.start], self.order[:, : step.start]

    def predicted(self, step: ARStep) -> Tensor:
        """Grid positions [B, n] that this step decodes."""
        return self.order[:, step.start : step.stop]

    def encoded(self, step: ARStep, x: Tensor) -> Tensor:
        """Report to the observers that the encoder has finished; returns its output x unchanged.

        Every policy that runs the backbone must call this once per step, between encoder and decoder.
        Otherwise, time and FLOPs of the decoder are attributed to the encoder.
        """
        self.on_encoded(self, step, x)
        return x
