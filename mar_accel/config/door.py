"""The door: every config becomes typed settings here, and no other code reads one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mar_accel.config.check import check_node, check_settings, shown
from mar_accel.config.image_size import put_grid_in
from mar_accel.config.model_defaults import check_model_defaults
from mar_accel.config.parts_by_name import GROUPS_WITH_PARTS, OBJECT_GROUPS, put_parts_in
from mar_accel.config.prompts import put_prompts_in
from mar_accel.config.settings import TRAINING_ONLY, Settings, training_only
from mar_accel.errors import ConfigError

# A value that is taken from another key, with or without a default.
_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,[^{}]*)?\}")


def read_settings(config: DictConfig) -> Settings:
    """Turn a composed config into typed settings; no other code reads a config.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or range.
    """
    raw: Any = OmegaConf.to_container(config, resolve=False)
    _check_groups(raw)
    _check_kind(raw)
    put_parts_in(config)
    raw = OmegaConf.to_container(config, resolve=False)
    for key in _missing_keys(raw):
        raise ConfigError(f"{key} has no default; give it a value.")
    try:
        values: Any = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        reason, key = str(error).splitlines()[0].rstrip("."), next(_failing_keys(config), "the config")
        raise ConfigError(f"{key} cannot be resolved: {reason}; correct the value.") from error
    _refuse_training_keys(values)
    put_prompts_in(values["dataset"])
    put_grid_in(values["model"])
    try:
        settings = check_settings(Settings, values)
        _check_nodes(settings)
    except ConfigError as error:
        raise ConfigError(_at_origin(str(error), raw)) from error.__cause__
    check_model_defaults(settings)
    return settings


def _failing_keys(node: DictConfig, above: str = "") -> Iterator[str]:
    """Keys whose values cannot be resolved."""
    for name in map(str, node):
        try:
            value = node[name]
        except OmegaConfBaseException:
            yield above + name
            continue
        if isinstance(value, DictConfig):
            yield from _failing_keys(value, f"{above}{name}.")


def _check_nodes(settings: Settings) -> None:
    """Check every node with a ``_target_`` against the signature of its class."""
    nodes = {group: getattr(settings, group) for group in OBJECT_GROUPS}
    nodes["model.autoencoder"] = settings.model.autoencoder
    for key in (*GROUPS_WITH_PARTS, "model.autoencoder"):
        if nodes[key].get("_target_") is None:
            raise ConfigError(f"{key}._target_ is not set; name a class, or choose a member of the group.")
    for group in ("metrics", "callbacks"):
        nodes |= {f"{group}.{name}": node for name, node in getattr(settings, group).items()}
    for key, node in nodes.items():
        # The data set gives metrics their prompts.
        prompts = key.startswith("metrics.") and "prompts" not in (node or {})
        check_node(key, node, given=("prompts",) if prompts else ())
    check_node("model.text_encoder", settings.model.text_encoder, given=("length", "width"))
    check_node("dataset.training_data", settings.dataset.training_data, given=("batch_size",))


def _at_origin(sentence: str, raw: Mapping[str, Any]) -> str:
    """A sentence that begins with a key; if that key takes its value from another one, with that one.

    The user has set ``sampler.num_iter``, and not ``sampler.step_sizes.num_iter``, which refers to it.
    """
    key, space, rest = sentence.partition(" ")
    value: Any = raw
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    referred = _REFERENCE.fullmatch(str(value))
    return _at_origin(referred[1] + space + rest, raw) if referred else sentence


def _refuse_training_keys(values: Mapping[str, Any]) -> None:
    for key in values["trainer"]:
        if key in TRAINING_ONLY:
            raise ConfigError(training_only(f"trainer.{key}"))


def _missing_keys(raw: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """Keys without a value; those that refer to such a key are not listed beside it."""
    for name, value in raw.items():
        if value == "???":
            yield f"{above}{name}"
        elif isinstance(value, dict):
            yield from _missing_keys(value, f"{above}{name}.")


def _check_groups(raw: Mapping[str, Any]) -> None:
    """Refuse a group that is a single value, and a model without its nodes."""
    for name in ("model", "dataset", "trainer", *GROUPS_WITH_PARTS):
        if not isinstance(raw.get(name), dict):
            raise ConfigError(
                f"{name} must be a group of settings, got {shown(raw.get(name))}; choose a member."
            )
    for name in ("architecture", "sampling", "autoencoder"):
        value = raw["model"].get(name)
        if not isinstance(value, dict):
            raise ConfigError(f"model.{name} must be a group of settings, got {shown(value)}.")


def _check_kind(raw: Mapping[str, Any]) -> None:
    """Refuse data whose conditions are not what the model takes."""
    model, dataset = raw["model"], raw["dataset"]
    if not {"_target_", "num_classes"} & model["architecture"].keys():
        raise ConfigError("model.architecture.num_classes is not set; give it a value.")
    if "num_classes" not in model["architecture"] and "num_classes" in dataset:
        raise ConfigError(
            f"dataset={dataset.get('name')} has classes, but model={model.get('name')} takes text; choose a "
            "data set of texts for it, such as dataset=scenes, or dataset=prompts with your own."
        )
    if "num_classes" in model["architecture"] and "prompts" in dataset:
        raise ConfigError(
            f"dataset={dataset.get('name')} has prompts, but model={model.get('name')} takes labels; choose "
            "a data set of classes for it, such as dataset=digits."
        )
