"""Unaccelerated samples that several evaluations share: the first samples them, the others read them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mar_accel.evaluation.token_files import save_tensors
from mar_accel.runs.record import prepare_output_dir

# Images uint8 [n, C, H, W] and tokens [n, L, C] of the first n samples.
Samples = tuple[Tensor, Tensor]


def shared_samples(folder: Path, name: str, count: int, sample: Callable[[], Samples]) -> Samples:
    """The first ``count`` samples of a config, from ``folder`` or, where they are not there, by ``sample``.

    Args:
        name: hash of the config, for any number of images.
        sample: makes so many samples; called by one process at a time, while the others wait for its file.
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
    """What a file holds; None where there is none, or a damaged one."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError):
        return None
    return tensors["images"], tensors["tokens"]
