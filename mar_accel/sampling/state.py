"""State of a decode, as cache policies and observers see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mar_accel.models.mar import MAR
from mar_accel.sampling.plan import ARStep, Plan


@dataclass
class DecodeState:
    """State of a decode.

    Attributes:
        model: the model that decodes.
        plan: the AR steps.
        embeddings: class embeddings [R, D]: B conditional rows, then B unconditional rows if any step is
            guided.
        order: decode orders [B, L].
        decoded: tokens in decode order [B, L, C]. Only those before ``start`` of the current step are valid.
        on_encoded: receives the event ``encoded``; see :class:`mar_accel.sampling.observer.Observer`.
    """

    model: MAR
    plan: Plan
    embeddings: Tensor
    order: Tensor
    decoded: Tensor
    on_encoded: Callable[[DecodeState, ARStep, Tensor], None] = lambda state, step, x: None

    @property
    def batch_size(self) -> int:
        return self.order.shape[0]

    def embedding(self, step: ARStep) -> Tensor:
        """Class embeddings of the branches that this step runs: [2B, D] if guided, else [B, D]."""
        return self.embeddings[: self.batch_size * step.num_branches]

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
