"""Loggers: each one gets the config, the summary numbers and the pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from PIL import Image

from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_node


def open_logger(settings: Settings, run_id: str | None = None) -> Logger | None:
    """The logger of a config; with ``logger=wandb`` the run gets a group and tags.

    Args:
        settings: settings of the run.
        run_id: id of the W&B run; an existing run with this id is resumed. None: a new run.
    """
    node = settings.logger
    arguments: dict[str, Any] = {}
    if (node.get("_target_") or "").endswith(".WandbLogger"):
        tags = [*(node.get("tags") or ()), *run_tags(settings)]
        group = node.get("group") or settings.model.name
        arguments = {"id": run_id, "resume": "allow", "group": group, "tags": tags}
    try:
        return build_node("logger", node, Logger, **arguments)
    except ConfigError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            kind = node["_target_"].rsplit(".", 1)[-1]
            raise ConfigError(
                f"logger: {kind} needs a package that is not installed; install it (for TensorBoard: pip "
                "install -e '.[tensorboard]') or choose another logger."
            ) from error
        raise


def run_tags(settings: Settings) -> list[str]:
    """Short tags of the config: the chosen group members, or else the names of classes.

    Group members are unknown outside a command, and for the rows of a table.
    """
    groups = ("model", "sampler", "cache", "dataset")
    if HydraConfig.initialized() and settings.command != "evaluate_table":
        choices = HydraConfig.get().runtime.choices
        return [f"{group}={choices[group]}" for group in groups if choices.get(group)]
    parts = (settings.sampler.get("order"), settings.cache)
    targets = [part["_target_"] for part in parts if isinstance(part, dict) and "_target_" in part]
    return [settings.model.name, *(target.rsplit(".", 1)[-1] for target in targets)]


def log_config(logger: Logger | None, settings: Settings) -> None:
    """Log the resolved config as hyperparameters."""
    if logger is not None:
        logger.log_hyperparams(settings.plain())


def log_results(
    logger: Logger | None, metrics: Mapping[str, float], pictures: Mapping[str, tuple[Path, str]]
) -> None:
    """Log summary numbers and pictures, and finish the run.

    Args:
        metrics: numbers by name.
        pictures: file and caption by name; loggers that cannot show pictures skip them.
    """
    if logger is None:
        return
    logger.log_metrics(dict(metrics))
    for name, (path, caption) in pictures.items():
        _log_picture(logger, name, path, caption)
    logger.save()
    logger.finalize("success")
    if isinstance(logger, WandbLogger):
        # In a multirun, the next job starts a new W&B run in this process.
        logger.experiment.finish()


def _log_picture(logger: Logger, name: str, path: Path, caption: str) -> None:
    if isinstance(logger, WandbLogger):
        logger.log_image(key=name, images=[str(path)], caption=[caption])
    elif isinstance(logger, TensorBoardLogger):
        pixels: Any = np.asarray(Image.open(path).convert("RGB"))
        logger.experiment.add_image(name, pixels, dataformats="HWC")
