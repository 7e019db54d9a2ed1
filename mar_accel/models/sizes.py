"""Sizes of an architecture: judged before anything is built or allocated."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import nn

from mar_accel.errors import ConfigError
from mar_accel.utils.host_memory import physical_memory

KEY = "model.architecture"
# No network is larger in a single size. Building one would take minutes, even without storage.
MAX_DEPTH, MAX_SIZE = 1000, 1_000_000
# A model works without these.
OPTIONAL = ("encoder_depth", "head_depth", "text_depth", "buffer_size")


def check_sizes(config: Any, key: str = KEY) -> None:
    """Reject sizes that no network has.

    Args:
        config: a dataclass of sizes such as MARConfig.
        key: config key of the sizes, for messages.

    Raises:
        ConfigError: a size is not a number, or out of its range; or heads do not divide the width.
    """
    for name in (field.name for field in fields(config)):
        value = getattr(config, name)
        if name.endswith("grid"):
            if len(value) != 2:
                raise ConfigError(f"{key}.{name} must be two sizes, rows and columns, got {list(value)}.")
            for side in value:
                _check_size(key, name, side)
            # A model has at least one feature vector for each token.
            check_bytes(f"{key}.{name}={list(value)}", 4 * value[0] * value[1])
        elif isinstance(getattr(type(config), name, None), bool):
            if not isinstance(value, bool):
                raise ConfigError(f"{key}.{name} must be true or false, got {value!r}.")
        elif name == "dropout":
            if not _is_number(value) or not 0 <= value < 1:
                raise ConfigError(f"{key}.dropout must be a number ≥ 0 and < 1, got {value!r}.")
        elif name == "mlp_ratio":
            if not _is_number(value) or not 0 < value <= MAX_SIZE:
                raise ConfigError(f"{key}.mlp_ratio must be a number > 0, got {value!r}.")
        else:
            _check_size(key, name, value)
    if hasattr(config, "embed_dim") and config.embed_dim % config.num_heads:
        raise ConfigError(
            f"{key}.embed_dim must be a multiple of num_heads={config.num_heads}, got {config.embed_dim}."
        )


def _check_size(key: str, name: str, value: Any) -> None:
    least, most = (0 if name in OPTIONAL else 1), (MAX_DEPTH if name.endswith("depth") else MAX_SIZE)
    if not isinstance(value, int) or not _is_number(value) or not least <= value <= most:
        raise ConfigError(f"{key}.{name} must be an integer between {least} and {most}, got {value!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_memory(model: nn.Module, copies: int = 1) -> None:
    """Reject a model whose weights do not fit into this machine's memory.

    Args:
        model: the model, which may have no storage (meta device).
        copies: number of float32 tensors that are kept for each weight, with the weight itself.
    """
    count = sum(parameter.numel() for parameter in model.parameters())
    needed, there = 4 * count * copies, physical_memory()
    if needed > there:
        raise ConfigError(
            f"{KEY} has {count / 1e9:.3g} billion parameters, which need {needed / 1e9:.0f} GB of memory, "
            f"but this machine has {there / 1e9:.0f} GB; choose smaller sizes."
        )


def check_bytes(what: str, needed: int) -> None:
    """Reject settings whose tensors do not fit into this machine's memory.

    Args:
        what: start of the sentence, such as "trainer.batch_size=1000000".
        needed: bytes that are needed at least.
    """
    there = physical_memory()
    if needed > there:
        raise ConfigError(
            f"{what} needs at least {needed / 1e9:.0f} GB of memory, but this machine has {there / 1e9:.0f} "
            "GB; lower it."
        )
