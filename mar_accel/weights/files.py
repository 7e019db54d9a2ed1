"""Tensors of a weight file, read without ever running code from it."""

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
# Entries that hold a state dict, the first that a file has: MAR's own, then Lightning's, which this project
# trains with (it keeps averaged weights under state_dict and the others beside them), or latent diffusion's.
AVERAGED_ENTRIES = (EMA_ENTRY, "model", "state_dict")
PLAIN_ENTRIES = ("model", "current_model_state", "state_dict")
# What modules around a model put before its names.
PREFIXES = ("module.", "model.")
# How torch names a class that it refuses to unpickle.
FORBIDDEN_CLASS = re.compile(r"Unsupported (?:global: GLOBAL|class) ([\w.]+)")


def read_tensors(path: Path, key: str, ema: bool = True) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU; large files are mapped, not read.

    Args:
        path: a .safetensors file, or a file of torch.save: ``{"model": …, "model_ema": …}`` as MAR publishes,
            ``{"model": …}`` or ``{"state_dict": …}`` (Lightning), or a bare state dict.
        key: config key that named the file, for messages.
        ema: take the averaged weights of a file that has an entry for them.

    Raises:
        WeightsError: the file is damaged, holds pickled objects that are not tensors, or lacks the wanted
            entry.
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
        # Training scripts keep their command line beside the weights: the one class that is let through.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # an unpickler on damaged data may raise anything
        forbidden = FORBIDDEN_CLASS.search(str(error))
        if isinstance(error, pickle.UnpicklingError) and forbidden:
            raise WeightsError(
                f"{key}: {path} holds a pickled {forbidden[1]}, which is refused because it could run code; "
                "give a file of tensors alone."
            ) from error
        raise _unreadable(path, key, error) from error


def _unreadable(path: Path, key: str, error: Exception) -> WeightsError:
    if isinstance(error, PermissionError):
        return WeightsError(f"{key}: {path} may not be read by you; change its permissions.")
    size = path.stat().st_size
    return WeightsError(
        f"{key}: {path} ({size:,} bytes) is damaged, truncated or no weight file; copy it again."
    )


def _state_dict(contents: Any, path: Path, key: str, ema: bool) -> dict[str, Tensor]:
    if not isinstance(contents, Mapping):
        raise WeightsError(
            f"{key}: {path} holds a {type(contents).__name__}, no state dict; give a checkpoint."
        )
    for entry in AVERAGED_ENTRIES if ema else PLAIN_ENTRIES:
        if isinstance(contents.get(entry), Mapping):
            return dict(contents[entry])
    if isinstance(contents.get(EMA_ENTRY), Mapping):
        raise WeightsError(f"{key}: {path} has averaged weights alone; set model.ema=true.")
    if contents and all(isinstance(value, Tensor) for value in contents.values()):
        return dict(contents)
    raise WeightsError(
        f"{key}: {path} has none of the entries {', '.join(AVERAGED_ENTRIES)} and is no state dict; give a "
        "published checkpoint or a .safetensors file."
    )
