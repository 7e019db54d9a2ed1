"""A training that is continued must be the same training: its checkpoint brings rates and weights along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from omegaconf import OmegaConf

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings
from mar_accel.data.run_files import CONFIG_FILE
from mar_accel.errors import ConfigError
from mar_accel.runs.identity import differences

# What may change: how long the training is, and where its checkpoints are.
_MAY_CHANGE = ("max_steps", "checkpoint_every", "resume")
# Key of a checkpoint.
_SETTINGS = "training_settings"


class KeepSettings(pl.Callback):
    """Writes the settings of a training into its checkpoints, with which it may be continued.

    Args:
        settings: settings of the run.
    """

    def __init__(self, settings: Settings):
        self._settings = _compared(settings)

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[_SETTINGS] = self._settings


def require_same_training(settings: Settings, path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to continue a training with other settings, which a checkpoint would override unseen.

    Args:
        settings: settings of the run.
        path: file of the checkpoint.
        checkpoint: its content. Without the settings of its training, the ``config.yaml`` of its run counts.
            Without this, nothing is compared.

    Raises:
        ConfigError: names the first key that differs.
    """
    there = checkpoint.get(_SETTINGS) or _settings_in(path.parent.parent / CONFIG_FILE)
    if there is None:
        return
    for key, theirs, ours in differences(there, _compared(settings)):
        raise ConfigError(
            f"training.resume: {path} is of a training with {key}={theirs}, got {ours}; choose another "
            "output_dir, or begin from its weights by training.initial_weights."
        )


def _settings_in(config: Path) -> dict[str, Any] | None:
    """The compared settings in a config; None if it is missing, torn, or of a version with other keys."""
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(config))
        return _compared(check_settings(Settings, values))
    except Exception:
        return None


def _compared(settings: Settings) -> dict[str, Any]:
    plain = settings.plain()
    training = {key: value for key, value in plain["training"].items() if key not in _MAY_CHANGE}
    dataset = {key: plain["dataset"][key] for key in ("name", "path", "training_data")}
    return {"model": plain["model"], "seed": plain["seed"], "dataset": dataset, "training": training}
