"""The LightningModule whose predict loop samples and decodes images."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mar_accel.errors import BatchSizeError
from mar_accel.inference.session import Prediction, Session
from mar_accel.sampling.observer import Observer, Observers
from mar_accel.utils.out_of_memory import Halving


class InferenceModule(pl.LightningModule):
    """Samples the requests of a :class:`mar_accel.data.requests.GenerationRequests` with a session.

    A batch that does not fit into memory is sampled in halves, and so are all batches after it. The noise
    belongs to the sample, so the images are those of the asked batch size.

    Args:
        session: what is sampled.
        whole_batches: why batches must not be divided, such as "adaptive refresh decides per batch".
            None: they may be.

    Attributes:
        observers: observers of ``predict_step``; callbacks add and remove theirs.
        not_finite: sample index and label of samples with NaN or infinity, which no callback gets.
            At the end of a prediction the first process has those of all processes, sorted.
        largest_batch: samples at a time that fit into memory, after more did not; None if all batches did.
            At the end of a prediction, the smallest of all processes.
    """

    def __init__(self, session: Session, whole_batches: str | None = None):
        super().__init__()
        self.session = session
        self.whole_batches = whole_batches
        # Registered as submodules, so that Lightning moves them to the device and precision.
        self.model, self.autoencoder = session.model, session.autoencoder
        self.conditioner = session.conditioner
        self.observers: list[Observer] = []
        self.not_finite: list[tuple[int, int]] = []
        self._halving = Halving("{} images", self._refuse)
        self.eval()

    @property
    def largest_batch(self) -> int | None:
        return self._halving.largest

    def on_predict_start(self) -> None:
        self.not_finite, self._halving.largest = [], None

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Prediction:
        indices, labels = batch
        prediction = self._sample(indices.tolist(), labels)
        finite = prediction.finite
        if finite.all():
            return prediction
        lost = prediction.only(~finite)
        self.not_finite += zip(lost.indices.tolist(), lost.labels.tolist(), strict=True)
        return prediction.only(finite)

    def _sample(self, indices: list[int], labels: Tensor) -> Prediction:
        """Sample a batch, in parts if it does not fit into memory."""

        def sample(part: slice) -> Prediction:
            try:
                return self.session.sample(indices[part], labels[part], Observers(self.observers))
            except (RuntimeError, MemoryError):
                self.session.cache.finish()
                raise

        return Prediction.join(self._halving.parts(len(indices), sample, self.device))

    def _refuse(self, size: int) -> None:
        """Raise BatchSizeError if a batch that does not fit cannot be divided."""
        if self.whole_batches is not None:
            raise BatchSizeError(
                f"a batch of {size} images does not fit into the memory of {self.device}, and it cannot be "
                f"divided, since {self.whole_batches}; lower trainer.batch_size."
            )
        if size == 1:
            raise BatchSizeError(
                f"a single image does not fit into the memory of {self.device}; use a smaller model, "
                "trainer.precision=bf16-true or another device."
            )

    def on_predict_end(self) -> None:
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, (self.not_finite, self.largest_batch))
            self.not_finite = [sample for part, _ in gathered for sample in part]
            self._halving.largest = min((size for _, size in gathered if size is not None), default=None)
        self.not_finite.sort()
