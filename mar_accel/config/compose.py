"""Compose configs from the config groups, as typed settings or as nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from mar_accel.config.check import check_node, check_settings
from mar_accel.config.door import read_settings
from mar_accel.config.hydra_context import conf_dir, our_hydra
from mar_accel.config.members import read_members
from mar_accel.config.overrides import key_of, value_of
from mar_accel.config.parts_by_name import GROUPS_WITH_PARTS, put_parts_in
from mar_accel.config.settings import ModelSettings, Node, Settings
from mar_accel.errors import ConfigError

# Groups whose default is the member with the name of the dataset, if there is one.
OPTIONAL_GROUPS = ("features", "reference")
_NAME = re.compile(r"[A-Za-z_]\w*")
_NOT_NAMES = ("null", "true", "false", "auto")


def compose_settings(config_name: str, overrides: Sequence[str] = ()) -> Settings:
    """Compose settings as on the command line of a command.

    Args:
        config_name: name of a primary config, such as "generate".
        overrides: Hydra overrides, such as ``["model=digits", "sampler.guidance_scale=2"]``.

    Raises:
        ConfigError: an override is wrong.

    Example:
        >>> settings = compose_settings("generate", ["sampler=gtr", "cache=lazymar"])
    """
    from mar_accel.config.messages import sentence_for

    with our_hydra():
        config = _composed(config_name, overrides)
        try:
            return read_settings(config)
        except OmegaConfBaseException as error:
            raise ConfigError(str(sentence_for(error, config_name))) from error


def compose_model(member: str) -> ModelSettings:
    """Compose the settings of a member of the group ``model``; raises ConfigError if it is unknown."""
    with our_hydra():
        config = _composed("generate", [f"model={member}"])
        values: Any = OmegaConf.to_container(config.model, resolve=True)
    return check_settings(ModelSettings, values, "model")


def compose_sampling(model: Mapping[str, Any], overrides: Sequence[str]) -> tuple[Node, Node]:
    """Compose the nodes ``sampler`` and ``cache`` for an existing model.

    Args:
        model: values of the group ``model``, which the nodes may refer to.
        overrides: Hydra overrides, such as ``["sampler=gtr", "cache=lazymar", "sampler.num_iter=16"]``.

    Returns:
        The nodes ``sampler`` and ``cache``.
    """
    sampling = _sampling_config(tuple(overrides)).copy()
    sampling.model = {**model}
    nodes: list[Any] = []
    for group in GROUPS_WITH_PARTS:
        try:
            nodes.append(OmegaConf.to_container(sampling[group], resolve=True))
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"{error.full_key} has no value, since the model's sampling settings lack it; give it."
            ) from error
    for group, node in zip(GROUPS_WITH_PARTS, nodes, strict=True):
        check_node(group, node)
    return nodes[0], nodes[1]


def compose_node(group: str, member: str, model: Mapping[str, Any] | None = None) -> Node:
    """The values of a member of a group.

    Args:
        group: the group, such as "sampler".
        member: name of the member.
        model: values of the group ``model``, which samplers and caches refer to. None: the default model.
    """
    if group in GROUPS_WITH_PARTS and model is not None:
        sampling = compose_sampling(model, [f"{group}={member}"])
        return sampling[GROUPS_WITH_PARTS.index(group)]
    with our_hydra():
        # To compose all groups for the sake of one takes tens of times as long.
        config = _default_config().copy()
        config[group] = read_members(group)[member]
        try:
            node: Any = OmegaConf.to_container(config[group], resolve=True)
        except InterpolationResolutionError:  # reference=folder refers to the path of dataset=folder
            node = OmegaConf.to_container(config[group])
    return node


@lru_cache(maxsize=1)
def _default_config() -> DictConfig:
    config = compose("evaluate")
    OmegaConf.set_struct(config, False)
    return config


@lru_cache(maxsize=128)
def _sampling_config(overrides: tuple[str, ...]) -> DictConfig:
    """Compose sampler and cache, cached because it takes tenths of a second and pipelines repeat it."""
    with our_hydra():
        config = _composed("generate", overrides)
        put_parts_in(config)
    sampling = OmegaConf.create({group: config[group] for group in (*GROUPS_WITH_PARTS, "model")})
    OmegaConf.set_struct(sampling, False)
    return sampling


def _composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    from mar_accel.config.messages import sentence_for

    check_choices(overrides)
    try:
        return compose(config_name=config_name, overrides=group_choices(overrides))
    except Exception as error:
        raise ConfigError(str(sentence_for(error, config_name, composing=True))) from error


def check_choices(overrides: Sequence[str]) -> None:
    """Refuse an unknown member of a group whose default is optional; Hydra would leave the group empty.

    Raises:
        ConfigError: names the members that there are.
    """
    for override in overrides:
        group, member = key_of(override), value_of(override)
        if group not in OPTIONAL_GROUPS or not _NAME.fullmatch(member) or member in _NOT_NAMES:
            continue
        members = read_members(group)
        if member not in members:
            raise ConfigError(f"{group}={member} is unknown; choose one of {', '.join(sorted(members))}.")


def group_choices(overrides: Sequence[str]) -> list[str]:
    """Rewrite overrides that choose a part by name: ``sampler.order=gtr`` becomes ``sampler/order=gtr``.

    Then the part can also be changed by other overrides.
    It may come from any folder in Hydra's search path.
    """
    return [_group_choice(override) for override in overrides]


def _group_choice(override: str) -> str:
    key, equals, names = override.partition("=")
    group, dot, part = key.partition(".")
    is_part = equals and dot and group in GROUPS_WITH_PARTS and (conf_dir() / group / part).is_dir()
    words = [name.strip() for name in names.split(",")]
    if is_part and all(_NAME.fullmatch(word) and word not in _NOT_NAMES for word in words):
        return f"{group}/{part}={names}"
    return override
