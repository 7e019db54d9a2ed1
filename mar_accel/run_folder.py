"""The run folder of generate: it belongs to one config, so that images of two are never mixed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mar_accel.errors import ConfigError
from mar_accel.run_record import prepare_output_dir

IMAGES, CONFIG_FILE, RECORD_FILE = "images", "config.yaml", "run.json"
# What decides the image of a sample index. Neither the number of images nor how many at a time does.
_IDENTITY = ("seed", "model", "sampler", "cache", "dataset", "trainer.precision")
_NOT_IDENTITY = ("dataset.num_images", "dataset.training_data")


def claim_run_folder(output_dir: Path, config: DictConfig) -> Path:
    """Make the run folder, or take over that of an earlier, perhaps interrupted, run of the same config.

    Afterwards it holds ``config.yaml``, no ``run.json`` (which only a finished run has), and perhaps images
    that this run would make too. Only the first process changes anything.

    Args:
        output_dir: absolute path of the folder.
        config: the composed config of the run.

    Raises:
        ConfigError: the folder cannot be written, or has images that this config would not make.
    """
    if getattr(rank_zero_only, "rank", 0) != 0:
        return output_dir
    _check_images(output_dir, config)
    prepare_output_dir(output_dir)
    for leftover in (output_dir / IMAGES).glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
    (output_dir / RECORD_FILE).unlink(missing_ok=True)
    temporary = output_dir / f".{CONFIG_FILE}.{os.getpid()}.tmp"
    OmegaConf.save(config, temporary, resolve=True)
    os.replace(temporary, output_dir / CONFIG_FILE)
    return output_dir


def _check_images(output_dir: Path, config: DictConfig) -> None:
    """Refuse a folder whose images are of another config, or more than this run makes."""
    if not (output_dir / IMAGES).is_dir():
        return
    indices = [int(file.stem) for file in (output_dir / IMAGES).glob("*.png") if file.stem.isdigit()]
    if not indices:
        return
    advice = "choose another folder or remove this one"
    try:
        earlier = OmegaConf.load(output_dir / CONFIG_FILE)
    except (OSError, ValueError, OmegaConfBaseException):
        raise ConfigError(
            f"output_dir={output_dir} has images but no {CONFIG_FILE} that says what they are; {advice}."
        ) from None
    there, here = _identity(earlier), _identity(config)
    for key in sorted({*there, *here}):
        if there.get(key) != here.get(key):
            raise ConfigError(
                f"output_dir={output_dir} has images of another config ({key} is {there.get(key)} there and "
                f"{here.get(key)} here); {advice}."
            )
    if max(indices) >= config.dataset.num_images:
        raise ConfigError(
            f"output_dir={output_dir} has images up to index {max(indices)}, more than "
            f"dataset.num_images={config.dataset.num_images} makes; {advice}."
        )


def _identity(config: Any) -> dict[str, Any]:
    """What decides the images, as values by dotted key."""
    values: dict[str, Any] = {}
    for key in _IDENTITY:
        _flatten(key, OmegaConf.select(config, key), values)
    return {key: value for key, value in values.items() if not key.startswith(_NOT_IDENTITY)}


def _flatten(key: str, node: Any, values: dict[str, Any]) -> None:
    if OmegaConf.is_config(node):
        node = OmegaConf.to_container(node, resolve=True)
    if isinstance(node, dict):
        for name, value in node.items():
            _flatten(f"{key}.{name}", value, values)
    else:
        values[key] = node
