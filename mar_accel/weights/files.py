"""Read the tensors of a weight file without running any code from it."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mar_accel.errors import WeightsError

EMA_ENTRY = "model_ema"
# Entries that hold a state dict; the first one in the file is used. MAR writes model and model_ema.
# Latent diffusion writes state_dict. Lightning, used for training here, writes the averaged weights to
# state_dict and the current ones to current_model_state.
AVERAGED_ENTRIES = (EMA_ENTRY, "model", "state_dict")
PLAIN_ENTRIES = ("model", "current_model_state", "state_dict")
# Name prefixes that wrapper modules add.
PREFIXES = ("module.", "model.")
# How torch names a class that it refuses to unpickle.
FORBIDDEN_CLASS = re.compile(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)")


def read_tensors(path: Path, key: str, ema: bool = True) -> dict[str, Tensor]:
    """The state dict of a file, on the CPU; large files are memory-mapped.

    Args:
        path: a .safetensors file, or a file written by torch.save with one of these contents:
            ``{"model": …, "model_ema": …}`` (MAR), ``{"state_dict": …}`` (Lightning, latent diffusion),
            ``{"model": …}``, or a bare state dict.
        key: config key that named the file, for messages.
        ema: use the averaged weights if the file has an entry for them.

    Raises:
        WeightsError: the file is damaged, holds pickled objects other than tensors, or lacks the entry.

    Example:
        >>> state = read_tensors(Path("checkpoint-last.pth"), "model.weights")
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path, key)
    contents = _read_pickle(path, key)
    state = _state_dict(contents, path, key, ema)
    for prefix in PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _read_safetensors(path: Path, key: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, key, error) from error


def _read_pickle(path: Path, key: str) -> Any:
    try:
        # Training scripts store their command line next to the weights. It is the only class allowed.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # an unpickler on damaged data may raise anything
        forbidden = FORBIDDEN_CLASS.search(str(error))
        if isinstance(error, pickle.UnpicklingError) and forbidden:
            raise WeightsError(
                f"{key}={path} holds a pickled {forbidden[1]}, which is refused because it could run code; "
                "use a file that holds only tensors."
            ) from error
        raise _unreadable(path, key, error) from error


def _unreadable(path: Path, key: str, error: Exception) -> WeightsError:
    if isinstance(error, PermissionError):
        return WeightsError(f"{key}={path} cannot be read (permission denied); change its permissions.")
    size = path.stat().st_size
    return WeightsError(
        f"{key}={path} ({size:,} bytes) is damaged, truncated or not a weight file; copy it again."
    )


def _state_dict(contents: Any, path: Path, key: str, ema: bool) -> dict[str, Tensor]:
    if not isinstance(contents, Mapping):
        raise WeightsError(
            f"{key}={path} must hold a state dict, got a {type(contents).__name__}; use a checkpoint."
        )
    for entry in AVERAGED_ENTRIES if ema else PLAIN_ENTRIES:
        if isinstance(contents.get(entry), Mapping):
            return dict(contents[entry])
    if isinstance(contents.get(EMA_ENTRY), Mapping):
        raise WeightsError(f"{key}={path} holds only averaged weights; set model.ema=true.")
    if contents and all(isinstance(value, Tensor) for value in contents.values()):
        return dict(contents)
    raise WeightsError(
        f"{key}={path} is not a state dict and has none of the entries {', '.join(AVERAGED_ENTRIES)}; use a "
        "published checkpoint or a .safetensors file."
    )
