"""The LightningModule whose predict loop samples and decodes images."""

from __future__ import annotations

import lightning.pytorch as pl
from torch import Tensor

from mar_accel.inference.session import Prediction, Session
from mar_accel.sampling.observer import Observer, Observers


class InferenceModule(pl.LightningModule):
    """Samples the requests of a :class:`mar_accel.data.requests.GenerationRequests` with a session.

    Attributes:
        observers: observers of ``predict_step``; callbacks add and remove theirs.
    """

    def __init__(self, session: Session):
        super().__init__()
        self.session = session
        # Registered as submodules, so that Lightning moves them to the device and precision.
        self.model, self.autoencoder = session.model, session.autoencoder
        self.observers: list[Observer] = []
        self.eval()

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Prediction:
        indices, labels = batch
        return self.session.sample(indices.tolist(), labels, Observers(self.observers))
