"""The check that all processes of a run have the same config."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from mar_accel.errors import ConfigError


class SameConfig(pl.Callback):
    """Refuses to sample unless all processes run the same config.

    Args:
        config_hash: hash of everything that decides the images and where they are written.
    """

    def __init__(self, config_hash: str):
        self.config_hash = config_hash

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        # All processes compare and all raise, so none waits for another one.
        same = trainer.strategy.broadcast(self.config_hash) == self.config_hash
        if not trainer.strategy.reduce_boolean_decision(same):
            raise ConfigError(
                "trainer.devices: the processes of this run read different configs, perhaps because "
                "config.yaml or the weights changed while they started; run the command again."
            )
