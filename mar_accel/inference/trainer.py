"""The Trainer of every command that samples."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mar_accel.config.settings import TrainerSettings
from mar_accel.errors import ConfigError

# Warnings of Lightning that are no news: how its own code is written, loaders of a few numbers without worker
# processes, and, where a training goes on, that there is something to go on from.
_NO_NEWS = (
    ".*LeafSpec.*",
    ".*does not have many workers.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*resuming from a checkpoint that ended before the epoch ended.*",
    ".*`weights_only` was not set.*",
)


def quiet_lightning() -> None:
    """Lightning's notes on devices it has not found and products it advertises are no news to our users."""
    for name in ("pytorch.utilities.rank_zero", "fabric.utilities.rank_zero", "fabric.utilities.distributed"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    for message in _NO_NEWS:
        warnings.filterwarnings("ignore", message=message)


def build_trainer(
    settings: TrainerSettings,
    callbacks: Sequence[pl.Callback],
    output_dir: Path,
    logger: Logger | None = None,
) -> pl.Trainer:
    """A Trainer that predicts: no checkpoints, no bars but those of the callbacks.

    Raises:
        ConfigError: Lightning knows no such device, strategy or precision, or has fewer devices.
    """
    return trainer_or_config_error(
        **settings.lightning,
        callbacks=list(callbacks),
        logger=logger or False,
        default_root_dir=output_dir,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


def on_one_device(settings: TrainerSettings) -> TrainerSettings:
    """The same on one device, for commands that gather in memory."""
    # A list of one says which device.
    one = settings.devices if isinstance(settings.devices, list) and len(settings.devices) == 1 else 1
    return replace(settings, devices=one, num_nodes=1, strategy="auto")


def check_num_processes(trainer: pl.Trainer, num_images: int) -> None:
    """Refuse processes that would have nothing to do: the others would wait for them."""
    if trainer.world_size > num_images:
        raise ConfigError(
            f"trainer.devices={trainer.world_size} are more processes than dataset.num_images={num_images} has "
            f"images; use at most {num_images}."
        )


def trainer_or_config_error(**settings: Any) -> pl.Trainer:
    """A quiet Trainer; what Lightning says against its settings becomes one sentence."""
    quiet_lightning()
    try:
        return pl.Trainer(**settings)
    except (MisconfigurationException, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")
        raise ConfigError(f"trainer: {reason}; use what Lightning's Trainer takes.") from error
