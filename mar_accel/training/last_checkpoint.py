"""The checkpoint at the end of a training, wherever the interval of the others falls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl


class LastCheckpoint(pl.Callback):
    """Saves the state after the last step.

    It has to stand before a weight average in the list of callbacks, which ends a training by replacing the
    current weights.

    Args:
        path: file of the checkpoint.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path)
