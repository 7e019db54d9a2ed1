"""A training that is continued must be the same training: its checkpoint brings rates and weights along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.runs.folder import CONFIG_FILE
from mar_accel.runs.identity import differences

# What may change: how long the training is, and where its checkpoints are.
_MAY_CHANGE = ("max_steps", "checkpoint_every", "resume")


def require_same_training(settings: Settings, output_dir: Path) -> None:
    """Refuse to continue a training with other settings, which a checkpoint would override unseen.

    Args:
        settings: settings of the run.
        output_dir: folder of the earlier run, with its ``config.yaml``. Without a readable one, nothing is
            compared.

    Raises:
        ConfigError: names the first key that differs.
    """
    try:
        values: Any = OmegaConf.to_container(OmegaConf.load(output_dir / CONFIG_FILE))
        there = _compared(check_settings(Settings, values))
    except Exception:  # missing, torn, or of a version with other keys
        return
    for key, theirs, ours in differences(there, _compared(settings)):
        raise ConfigError(
            f"output_dir={output_dir} has a training with {key}={theirs}, got {ours}; choose another folder, "
            "or begin from its weights by training.initial_weights."
        )


def _compared(settings: Settings) -> dict[str, Any]:
    plain = settings.plain()
    training = {key: value for key, value in plain["training"].items() if key not in _MAY_CHANGE}
    dataset = {key: plain["dataset"][key] for key in ("name", "path", "training_data")}
    return {"model": plain["model"], "seed": plain["seed"], "dataset": dataset, "training": training}
