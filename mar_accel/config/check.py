"""Types of config values, checked against the annotations of what they are handed to."""

from __future__ import annotations

import inspect
import pydoc
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Union

from omegaconf import DictConfig, OmegaConf

from mar_accel.errors import ConfigError

# Keys that commands read themselves.
COMMON_KEYS: dict[str, Any] = {
    "seed": int,
    "output_dir": str,
    "dataset.num_images": int,
    "dataset.images_per_class": int,
    "dataset.labels": int | Sequence[int] | None,
    "trainer.batch_size": int,
    "trainer.accelerator": str,
    "trainer.devices": int | str | Sequence[int],
}
# Groups whose members are objects of this package.
OBJECT_GROUPS = ("sampler", "cache")

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
_MANY = {int: "whole numbers", float: "numbers", bool: "trues and falses", str: "texts"}


def check_config(config: DictConfig) -> None:
    """Refuse values of the wrong type, and arguments that a class does not know.

    Raises:
        ConfigError: names the key, what it is and what it should be.
    """
    for key, hint in COMMON_KEYS.items():
        if OmegaConf.select(config, key.rpartition(".")[0] or key) is not None:
            check_value(key, OmegaConf.select(config, key), hint)
    for group in OBJECT_GROUPS:
        if group in config:
            check_object(group, OmegaConf.to_container(config[group], resolve=True))
    if OmegaConf.select(config, "model.architecture") is not None:
        from mar_accel.models.mar import MARConfig

        architecture = OmegaConf.to_container(config.model.architecture, resolve=True)
        named = architecture.get("_target_") if isinstance(architecture, dict) else None
        check_arguments("model.architecture", architecture, pydoc.locate(named) if named else MARConfig)


def check_object(key: str, node: Any) -> None:
    """Check the arguments of a node with a ``_target_`` of this package, and of those below it."""
    if not isinstance(node, dict) or not str(node.get("_target_", "")).startswith("mar_accel."):
        return
    target = pydoc.locate(node["_target_"])
    if target is None:
        raise ConfigError(
            f"{key}._target_={node['_target_']} does not exist; give the import path of a class."
        )
    check_arguments(key, {name: value for name, value in node.items() if name != "_target_"}, target)


def check_arguments(key: str, arguments: Any, target: Any) -> None:
    """Check named arguments against the signature of a class or function.

    Args:
        key: config key of the arguments, for the messages.
        arguments: values by name; names that start with an underscore are Hydra's own.
        target: what they are handed to.
    """
    if not isinstance(arguments, dict):
        raise ConfigError(f"{key}={arguments} is not a group of settings; give {key}.NAME=VALUE.")
    parameters = inspect.signature(target).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    # Plain values first: what parts take over from them is then blamed on the key that the user gave.
    for name, value in sorted(arguments.items(), key=lambda item: isinstance(item[1], dict)):
        if str(name).startswith("_"):
            continue
        if name not in parameters and not takes_any:
            raise ConfigError(
                f"{key}.{name} is not a setting of {target.__name__}; it knows {', '.join(parameters)}."
            )
        if name in hints:
            check_value(f"{key}.{name}", value, hints[name])
        check_object(f"{key}.{name}", value)


def check_value(key: str, value: Any, hint: Any) -> None:
    """Refuse a value that is not what an annotation says."""
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value, resolve=True)
    if value == "???":
        raise ConfigError(f"{key} has no value of its own; give {_in_words(hint)}.")
    if not _fits(value, hint):
        shown = "null" if value is None else str(value)
        raise ConfigError(f"{key}={shown} has the wrong type; give {_in_words(hint)}.")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        return any(_fits(value, option) for option in arguments)
    if origin is typing.Literal:
        return value in arguments
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    if hint in (bool, str, type(None)):
        return isinstance(value, hint)
    if origin in (list, tuple, Sequence):
        kinds = [kind for kind in arguments if kind is not Ellipsis]
        return isinstance(value, (list, tuple)) and all(
            any(_fits(v, k) for k in kinds or [Any]) for v in value
        )
    if inspect.isclass(hint) and hint.__module__.startswith("mar_accel."):
        # An object, described by its _target_.
        return isinstance(value, (Mapping, hint))
    return True


def _in_words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if _is_union(hint):
        # "a whole number" need not be said where any number will do; null comes last.
        options = [option for option in arguments if not (option is int and float in arguments)]
        return " or ".join(_in_words(option) for option in sorted(options, key=lambda o: o is type(None)))
    if origin is typing.Literal:
        return " or ".join(str(argument) for argument in arguments)
    if origin in (list, tuple, Sequence):
        return f"a list of {_MANY.get(arguments[0], 'values')}" if arguments else "a list"
    return _WORDS.get(hint, f"a member of its group or a _target_ ({getattr(hint, '__name__', hint)})")
