"""The Trainer of every command that samples."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig


def build_trainer(
    config: DictConfig, callbacks: Sequence[pl.Callback], output_dir: Path, logger: Logger | None = None
) -> pl.Trainer:
    """A Trainer that predicts as the config says: no checkpoints, no bars but those of the callbacks."""
    # A command builds several: once is enough to be told that there is no TPU.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    return pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        strategy=config.trainer.strategy,
        precision=config.trainer.precision,
        callbacks=list(callbacks),
        logger=logger or False,
        default_root_dir=output_dir,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
