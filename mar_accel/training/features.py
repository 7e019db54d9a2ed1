"""A run of train_features: train the small feature network of a data set, and measure it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mar_accel.config.settings import FeatureTrainingSettings, Settings
from mar_accel.data.digits import load_scans
from mar_accel.data.run_files import RECORD_FILE
from mar_accel.errors import ConfigError
from mar_accel.runs.output_dir import prepare_output_dir
from mar_accel.runs.record import run_record
from mar_accel.training.digit_features import train_digit_network
from mar_accel.training.scene_features import train_scene_network
from mar_accel.utils.json_files import write_json
from mar_accel.utils.whole_files import written_whole

Train = Callable[
    [Tensor, Tensor, FeatureTrainingSettings, torch.Generator], tuple[nn.Module, dict[str, float]]
]
# By name of the data set: trains on some of the scans, and measures on the others.
TRAINED: dict[str, Train] = {"digits": train_digit_network, "scenes": train_scene_network}


def _num_held_out(training: FeatureTrainingSettings, num_scans: int) -> int:
    """Number of scans that are held out; raises ConfigError if too few are left for a batch."""
    num_held_out = round(training.held_out * num_scans)
    left = num_scans - num_held_out
    if not num_held_out or not left:
        raise ConfigError(
            f"feature_training.held_out must leave scans on both sides, got {training.held_out}."
        )
    if training.batch_size > left:
        raise ConfigError(
            f"feature_training.batch_size must be at most {left}, the scans that are not held out, got "
            f"{training.batch_size}."
        )
    return num_held_out


def train_features(settings: Settings) -> dict[str, float]:
    """Train and measure the network, and write ``model.safetensors`` and ``run.json``.

    Returns:
        Numbers of scans, and accuracies in 0..1.
    """
    training, name = settings.feature_training, settings.dataset.name
    if name not in TRAINED:
        raise ConfigError(f"dataset={name} has no feature network; choose one of {', '.join(TRAINED)}.")
    if settings.trainer.accelerator != "cpu" or settings.trainer.devices != 1:
        raise ConfigError("trainer: train_features runs on the CPU, in one process; use trainer=cpu.")
    num_scans = len(load_scans()[1])
    num_held_out = _num_held_out(training, num_scans)
    output_dir = prepare_output_dir(Path(settings.output_dir))
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(num_scans, generator=generator)
    held_out, trained_on = order[:num_held_out], order[num_held_out:]
    network, accuracies = TRAINED[name](trained_on, held_out, training, generator)
    results = {"num_trained_on": len(trained_on), "num_held_out": num_held_out, **accuracies}
    with written_whole(output_dir / "model.safetensors") as temporary:
        save_file(network.state_dict(), temporary)
    write_json(run_record(settings, **results), output_dir / RECORD_FILE)
    return results
