"""The LightningModule whose predict loop samples and decodes images."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from mar_accel.inference.session import Prediction, Session
from mar_accel.sampling.observer import Observer, Observers


class InferenceModule(pl.LightningModule):
    """Samples the requests of a :class:`mar_accel.data.requests.GenerationRequests` with a session.

    Attributes:
        observers: observers of ``predict_step``; callbacks add and remove theirs.
        not_finite: sample index and label of samples with NaN or infinity, which no callback gets.
            At the end of a prediction the first process has those of all processes, sorted.
    """

    def __init__(self, session: Session):
        super().__init__()
        self.session = session
        # Registered as submodules, so that Lightning moves them to the device and precision.
        self.model, self.autoencoder = session.model, session.autoencoder
        self.observers: list[Observer] = []
        self.not_finite: list[tuple[int, int]] = []
        self.eval()

    def on_predict_start(self) -> None:
        self.not_finite = []

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Prediction:
        indices, labels = batch
        prediction = self.session.sample(indices.tolist(), labels, Observers(self.observers))
        finite = prediction.finite
        if finite.all():
            return prediction
        lost = prediction.only(~finite)
        self.not_finite += zip(lost.indices.tolist(), lost.labels.tolist(), strict=True)
        return prediction.only(finite)

    def on_predict_end(self) -> None:
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self.not_finite)
            self.not_finite = [sample for part in gathered for sample in part]
        self.not_finite.sort()
