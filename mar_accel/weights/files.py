"""Read the tensors of a weight file without running any code from it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from mar_accel.errors import WeightsError
from mar_accel.weights.pickles import read_pickle, unreadable

# Entries that hold the weights of the last step. MAR writes model, latent diffusion state_dict.
PLAIN_ENTRIES = ("model", "state_dict", "model_state_dict", "module", "params")
# An entry with one of these words in its name holds averaged weights: MAR writes model_ema, DiT and SiT
# ema, timm state_dict_ema, others ema_state_dict.
AVERAGED_WORDS = {"ema", "averaged", "swa"}
# Lightning, used for training here, writes the averaged weights to state_dict if this entry is there.
CURRENT_ENTRY = "current_model_state"
# Name prefixes that wrapper modules add. torch.compile adds its own at any depth.
PREFIXES = ("module.", "model.")
COMPILED = "_orig_mod."


@dataclass(frozen=True)
class StateDict:
    """Tensors of a file.

    Attributes:
        tensors: by parameter name, on the CPU.
        entry: entry of the file that they were taken from. None: the file is a bare state dict.
    """

    tensors: dict[str, Tensor]
    entry: str | None = None


def read_tensors(path: Path, key: str, ema: bool = True) -> StateDict:
    """The state dict of a file, on the CPU; large files are memory-mapped.

    Prefixes of wrapper modules (``module.``, ``model.``, ``_orig_mod.``) are removed from the names.

    Args:
        path: a .safetensors file, or a file written by torch.save.
            The latter holds a bare state dict, or entries such as
            ``{"model": …, "model_ema": …}`` (MAR), ``{"model": …, "ema": …}`` (DiT),
            ``{"state_dict": …, "state_dict_ema": …}`` (timm), ``{"state_dict": …}`` (Lightning).
        key: config key that named the file, for messages.
        ema: use the averaged weights if the file has an entry for them.

    Raises:
        WeightsError: the file is damaged, asks for code to be run, lacks the entry, or has several
            entries that could be meant.

    Example:
        >>> state = read_tensors(Path("checkpoint-last.pth"), "model.weights")
        >>> state.entry
        'model_ema'
    """
    where = f"{key}={path}"
    if not os.path.isfile(path):
        raise WeightsError(f"{where} is not a file; use a .safetensors file or one of torch.save.")
    if path.suffix == ".safetensors":
        return StateDict(_without_prefixes(_read_safetensors(path, key), where))
    contents = read_pickle(path, key)
    if not isinstance(contents, Mapping):
        raise WeightsError(f"{where} must hold a state dict, got a {_kind(contents)}; use a checkpoint.")
    entry = _choose_entry(contents, where, ema)
    tensors = contents if entry is None else contents[entry]
    _require_state_dict(tensors, where, entry)
    return StateDict(_without_prefixes(tensors, where), entry)


def _read_safetensors(path: Path, key: str) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # besides SafetensorError, for dtypes that torch does not know
        raise unreadable(path, key, error) from error


def _choose_entry(contents: Mapping[Any, Any], where: str, ema: bool) -> str | None:
    """The entry to take; None for a bare state dict."""
    averaged = [name for name, value in contents.items() if _is_averaged(name, value)]
    plain = [name for name in PLAIN_ENTRIES if isinstance(contents.get(name), (Mapping, list, tuple))]
    if isinstance(contents.get(CURRENT_ENTRY), Mapping):
        averaged, plain = [*averaged, "state_dict"], [CURRENT_ENTRY]
    if not plain and not averaged:
        return None
    if not ema and not plain:
        raise WeightsError(f"{where} holds only averaged weights; set model.ema=true.")
    found = averaged if ema and averaged else plain
    if len(found) > 1:
        raise WeightsError(
            f"{where} has several entries that could be meant ({', '.join(found)}); save the right one in a "
            "file of its own."
        )
    return found[0]


def _is_averaged(name: Any, value: Any) -> bool:
    return not AVERAGED_WORDS.isdisjoint(re.split(r"[\W_]+", str(name).lower())) and _holds_tensors(value)


def _holds_tensors(value: Any) -> bool:
    """Whether a container has tensors at any depth, or is empty; a decay or a config is not."""
    if not isinstance(value, (Mapping, list, tuple)):
        return False
    items = list(value.values() if isinstance(value, Mapping) else value)
    return not items or any(isinstance(item, Tensor) or _holds_tensors(item) for item in items)


def _require_state_dict(tensors: Any, where: str, entry: str | None) -> None:
    if entry is not None and not isinstance(tensors, Mapping):
        raise WeightsError(
            f"{where}: the entry {entry} is a {_kind(tensors)} without parameter names; save it as a state "
            "dict."
        )
    others = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if not others and tensors and all(isinstance(name, str) for name in tensors):
        return
    if entry is None:
        raise WeightsError(
            f"{where} is not a state dict and has none of the entries {', '.join(PLAIN_ENTRIES)}, model_ema "
            "or ema; use a published checkpoint or a .safetensors file."
        )
    what = f"holds a {_kind(tensors[others[0]])} named {others[0]}" if others else "has no named tensors"
    raise WeightsError(f"{where}: the entry {entry} {what}, so it is not a state dict; save it as one.")


def _without_prefixes(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    names = {name: name.replace(COMPILED, "") for name in tensors}
    while prefix := next((p for p in PREFIXES if names and all(n.startswith(p) for n in names.values())), ""):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    renamed = {names[name]: value for name, value in tensors.items()}
    if len(renamed) < len(tensors):
        raise WeightsError(f"{where} has the same parameter with and without {COMPILED}; keep one of them.")
    return renamed


def _kind(value: Any) -> str:
    return type(value).__name__
