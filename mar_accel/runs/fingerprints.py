"""What the files hold that a config names: other content under the same name is another config."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mar_accel.metrics.features import file_fingerprint
from mar_accel.weights.folder import CONFIG_FILE
from mar_accel.weights.sources import EMBEDDED_MODELS, embedded_folder

MODEL_KEYS = ("model.weights", "model.autoencoder.weights")
WEIGHTS_KEYS = (*MODEL_KEYS, "features.weights")
DATA_KEYS = ("reference.source", "evaluate.images")
BASELINE_KEY = "evaluate.baseline"

# Name, and a digest of the content or size and time.
Fingerprint = list[list[Any]]


def fingerprints(config: DictConfig, baseline: bool) -> dict[str, Fingerprint]:
    """Of every key that names a file or a folder: weights by content, data by size and time.

    Args:
        baseline: of the folder with unaccelerated images, too.
    """
    data_keys = (*DATA_KEYS, BASELINE_KEY) if baseline else DATA_KEYS
    return {**_of_keys(config, WEIGHTS_KEYS, _content), **_of_keys(config, data_keys, _size_and_time)}


def model_fingerprint(config: DictConfig) -> dict[str, Fingerprint]:
    """Of the weights that images are sampled with."""
    return _of_keys(config, MODEL_KEYS, _content)


def _of_keys(
    config: DictConfig, keys: tuple[str, ...], of_file: Callable[[Path], object]
) -> dict[str, Fingerprint]:
    found = {}
    for key in keys:
        root = _root(key, OmegaConf.select(config, key))
        files = _files(root) if root is not None else []
        if files:
            found[key] = [[name, of_file(file)] for name, file in files]
    return found


def _root(key: str, value: Any) -> Path | None:
    """The file or folder that a value names, if it names one."""
    if value is None:
        return None
    # As in mar_accel.weights.sources: ./digits is a folder of the user's.
    is_embedded = key in MODEL_KEYS and value in EMBEDDED_MODELS
    root = embedded_folder(value) if is_embedded else Path(str(value)).expanduser()
    return root if root.exists() else None


def _files(root: Path) -> list[tuple[str, Path]]:
    """Names and paths of the files that are or lie below a path.

    What a model folder says of its model is in the config, and a model card changes nothing.
    """
    if root.is_file():
        return [(root.name, root)]
    files = [file for file in sorted(root.rglob("*")) if file.is_file() and file.suffix != ".md"]
    return [(str(file.relative_to(root)), file) for file in files if file != root / CONFIG_FILE]


def _content(file: Path) -> str:
    status = file.stat()
    return _digest(file, status.st_size, status.st_mtime_ns)


@functools.lru_cache
def _digest(file: Path, size: int, mtime_ns: int) -> str:
    """Read once: checkpoints have gigabytes, and every run of a sweep asks."""
    return file_fingerprint(file)


def _size_and_time(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
