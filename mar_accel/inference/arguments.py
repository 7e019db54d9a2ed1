"""Checks of the arguments of :class:`mar_accel.MARPipeline`, each with one sentence for the user."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mar_accel.config.check import check_node
from mar_accel.errors import ConfigError

_NAME = re.compile(r"\w[\w.-]*")
_GROUPS = ("sampler", "cache")


def integer(name: str, value: Any, minimum: int) -> int:
    """An integer of Python, numpy or torch, at least ``minimum``."""
    number = _index(value)
    if number is None:
        raise ConfigError(f"{name} must be an integer, got {value!r}.")
    if number < minimum:
        raise ConfigError(f"{name} must be ≥ {minimum}, got {number}.")
    return number


def numbers(**values: Any) -> dict[str, float]:
    """The values that are not None; ConfigError unless each is a finite number."""
    given = {key: value for key, value in values.items() if value is not None}
    for key, value in given.items():
        try:
            ok = not isinstance(value, (bool, str)) and math.isfinite(value)
        except (TypeError, ValueError):
            ok = False
        if not ok:
            raise ConfigError(f"{key} must be a finite number, got {value!r}.")
        given[key] = value if isinstance(value, (int, float)) else value.item()
    return given


def labels_of(labels: Any, num_classes: int) -> list[int]:
    """One label or a sequence of labels as a list.

    Raises:
        ConfigError: there is none, or one is not an integer in 0..num_classes − 1.
    """
    # Tensors and arrays become numbers or lists of Python.
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    if isinstance(values, int):
        values = [values]
    if isinstance(values, (str, Mapping)) or not isinstance(values, Iterable):
        raise ConfigError(f"class_labels must be a label or a list of labels, got {labels!r}.")
    values = list(values)
    if not values:
        raise ConfigError("class_labels is empty; set at least one label.")
    checked = [_index(value) for value in values]
    for number, value in zip(checked, values, strict=True):
        if number is None or not 0 <= number < num_classes:
            raise ConfigError(
                f"class_labels must be classes of the model, 0 to {num_classes - 1}, got {value}."
            )
    return [number for number in checked if number is not None]


def seed_of(seed: Any, generator: Any) -> int:
    """The seed of a call: ``seed``, the initial seed of ``generator``, or 0."""
    if generator is None:
        return 0 if seed is None else integer("seed", seed, 0)
    if seed is not None:
        raise ConfigError("seed and generator are mutually exclusive; set only one of them.")
    if not isinstance(generator, torch.Generator):
        raise ConfigError(
            f"generator must be a single torch.Generator, got {generator!r}; images differ by their index."
        )
    return generator.initial_seed()


def name_or_node(key: str, value: Any, kind: type) -> str | dict[str, Any] | None:
    """The name of a member, or the checked node of a part; None for an object of the class.

    Raises:
        ConfigError: the value is something else, or the node does not fit its class.
    """
    if isinstance(value, kind):
        return None
    if isinstance(value, str):
        if not _NAME.fullmatch(value):
            raise ConfigError(f"{key} must be the name of one member, got {value!r}.")
        return value
    if isinstance(value, DictConfig):
        try:
            value = OmegaConf.to_container(value, resolve=True)
        except OmegaConfBaseException as error:
            raise ConfigError(f"{key}: {str(error).splitlines()[0]}.") from error
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a name, a node or a {kind.__name__}, got {value!r}.")
    node = dict(value)
    if node.get("_target_") is None:
        raise ConfigError(f"{key} must be a node with a _target_, got {node}.")
    check_node(key, node)
    return node


def overrides_of(overrides: Any, named: Sequence[str]) -> list[str]:
    """Hydra overrides of the parts that were given by name.

    Raises:
        ConfigError: an override changes anything else, so it would have no effect.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides must be a list, got {overrides!r}; write [{overrides!r}].")
    for override in overrides:
        group = re.split(r"[./=]", str(override).lstrip("+~"))[0]
        if group not in _GROUPS:
            raise ConfigError(f"overrides may only change sampler and cache, got {override!r}.")
        if group not in named:
            raise ConfigError(
                f"overrides change parts that are given by name, but {group} is not: {override!r}."
            )
    return [str(override) for override in overrides]


def check_callbacks(callback: Any, observer: Any, kind: type) -> None:
    """Refuse what cannot be called or observe."""
    if callback is not None and not callable(callback):
        raise ConfigError(f"callback_on_step_end must be a function, got {callback!r}.")
    if observer is not None and not isinstance(observer, kind):
        raise ConfigError(f"observer must be an Observer, got {observer!r}.")


def check_progress(settings: Mapping[str, Any]) -> None:
    """Refuse settings that rich's progress bar does not have."""
    from rich.progress import Progress

    known = [name for name in inspect.signature(Progress).parameters if name != "columns"]
    for name in settings:
        if name not in known:
            raise ConfigError(f"the progress bar has no setting {name}; choose one of {', '.join(known)}.")


def _index(value: Any) -> int | None:
    """The value as an integer; None if it is none. A bool is not taken as one."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    return operator.index(value)
