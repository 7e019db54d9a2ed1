"""The LightningModule whose predict loop samples and decodes images."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import Tensor

from mar_accel.inference.session import Prediction, Session
from mar_accel.sampling.decode import StepCallback


class InferenceModule(pl.LightningModule):
    """Samples the requests of a :class:`mar_accel.data.requests.GenerationRequests` with a session.

    Attributes:
        on_ar_step: is told of every AR step; None: nobody.
    """

    def __init__(self, session: Session):
        super().__init__()
        self.session = session
        # Registered, so that Lightning moves them to the device and the precision.
        self.model, self.autoencoder = session.model, session.autoencoder
        self.on_ar_step: StepCallback | None = None
        self.eval()

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Prediction:
        indices, labels = batch
        return self.session.sample(indices.tolist(), labels, self.on_ar_step)
