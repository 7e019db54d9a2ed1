"""Build the Trainer of every command that samples."""

from __future__ import annotations

import logging
import os
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
from mar_accel.inference.launcher import use_own_launcher

# Warnings of Lightning that do not help our users. They are about Lightning's own code, about data loaders
# without worker processes, and about files of a training that is resumed.
_NO_NEWS = (
    ".*LeafSpec.*",
    ".*does not have many workers.*",
    ".*GPU available but not used.*",
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*resuming from a checkpoint that ended before the epoch ended.*",
)

# Lightning's modules that tell about devices and about how it writes checkpoints.
_TALKATIVE = (
    *("pytorch.utilities.rank_zero", "pytorch.accelerators.cuda"),
    *("fabric.utilities.rank_zero", "fabric.utilities.distributed"),
    "pytorch.trainer.connectors.checkpoint_connector",
)

# One of them is set where several nodes can find each other: by hand, Slurm, torchrun, LSF or Kubernetes.
_RENDEZVOUS = ("MASTER_ADDR", "SLURM_NTASKS", "TORCHELASTIC_RUN_ID", "LSB_JOBID", "KUBERNETES_PORT")


def quiet_lightning() -> None:
    """Hide Lightning's messages about devices and its products, and warnings that do not help users."""
    for name in _TALKATIVE:
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    for message in _NO_NEWS:
        warnings.filterwarnings("ignore", message=message)


def build_trainer(
    settings: TrainerSettings,
    callbacks: Sequence[pl.Callback],
    output_dir: Path,
    logger: Logger | None = None,
) -> pl.Trainer:
    """Build a Trainer for prediction, without checkpoints and without Lightning's progress bar.

    Raises:
        ConfigError: Lightning does not support the device, strategy or precision,
            or there are fewer devices.
    """
    trainer = trainer_or_config_error(
        **settings.lightning,
        callbacks=list(callbacks),
        logger=logger or False,
        default_root_dir=output_dir,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    _leave_signals_alone(trainer)
    return trainer


def on_one_device(settings: TrainerSettings) -> TrainerSettings:
    """The settings with a single device, for commands that collect results in memory."""
    # A list with one entry names a device and is kept.
    one = settings.devices if isinstance(settings.devices, list) and len(settings.devices) == 1 else 1
    return replace(settings, devices=one, num_nodes=1, strategy="auto")


def check_num_processes(trainer: pl.Trainer, num_images: int) -> None:
    """Raise ConfigError if there are more processes than images."""
    if trainer.world_size > num_images:
        nodes = f" on {trainer.num_nodes} nodes" if trainer.num_nodes > 1 else ""
        raise ConfigError(
            f"trainer.devices={trainer.num_devices}{nodes} must not exceed dataset.num_images={num_images}; "
            f"use at most {num_images} in all."
        )


def _check_nodes(num_nodes: int) -> None:
    """Raise ConfigError where Lightning would wait for nodes that nobody has started."""
    if num_nodes > 1 and not any(name in os.environ for name in _RENDEZVOUS):
        raise ConfigError(
            f"trainer.num_nodes={num_nodes} needs a launcher that starts the command on each node; use srun "
            "or torchrun, or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each node."
        )


def trainer_or_config_error(**settings: Any) -> pl.Trainer:
    """Build a quiet Trainer; Lightning's errors about its settings become a ConfigError."""
    quiet_lightning()
    _check_nodes(settings.get("num_nodes", 1))
    try:
        trainer = pl.Trainer(**settings)
    except (MisconfigurationException, ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
        advice = "use values that Lightning's Trainer accepts"
        if isinstance(error, ImportError):
            advice = "install the package, or use another accelerator, precision, strategy or profiler"
        raise ConfigError(f"trainer: {reason}; {advice}.") from error
    use_own_launcher(trainer)
    return trainer


def _leave_signals_alone(trainer: pl.Trainer) -> None:
    """Keep Lightning from handling SIGTERM in a prediction.

    Its handler waits for the other processes inside the handler. A process that gets the signal alone would
    never end, and neither would the run. :mod:`mar_accel.inference.stopping` handles it.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]
