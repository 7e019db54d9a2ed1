"""The checkpoint after the last step of a training, independent of the checkpoint interval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl


class LastCheckpoint(pl.Callback):
    """Saves the state after the last step.

    Place it before a weight-averaging callback, which replaces the current weights at the end of training.

    Args:
        path: file of the checkpoint.
    """

    def __init__(self, path: Path):
        self.path = path

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path)
