"""Unaccelerated samples shared by several evaluations: the first one samples, the others read the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mar_accel.evaluation.token_files import save_tensors
from mar_accel.runs.output_dir import prepare_output_dir

# Images uint8 [n, C, H, W] and tokens [n, L, C] of the first n samples.
Samples = tuple[Tensor, Tensor]


def shared_samples(folder: Path, name: str, count: int, sample: Callable[[], Samples]) -> Samples:
    """The first ``count`` samples of a config, read from ``folder`` or made by ``sample``.

    Args:
        folder: folder of the shared files.
        name: hash of the config, independent of the number of images.
        count: number of samples.
        sample: makes at least ``count`` samples. Only one process calls it at a time; the others wait.
    """
    file = prepare_output_dir(folder, "evaluate.baseline_dir") / f"{name}.safetensors"
    with FileLock(file.with_suffix(".lock")):
        found = _read(file)
        if found is None or len(found[0]) < count:
            found = sample()
            save_tensors({"images": found[0], "tokens": found[1]}, file)
    images, tokens = found
    return images[:count], tokens[:count]


def _read(file: Path) -> Samples | None:
    """The samples of a file; None if it is missing or damaged."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError):
        return None
    return tensors["images"], tensors["tokens"]
