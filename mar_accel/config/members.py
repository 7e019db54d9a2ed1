"""Members of the config groups: their names, and the values that each one stands for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from mar_accel.config.compose import GROUPS_WITH_PARTS, Node, compose_sampling, our_hydra


def member_names(group: str) -> list[str]:
    """Names of all members of a group, from all folders in Hydra's search path.

    Example:
        >>> member_names("cache")
        ['condition', 'head', 'lazymar', 'lazymar_late', 'none', 'token']
    """
    with our_hydra():
        loader: Any = GlobalHydra.instance().config_loader()
        return list(loader.get_group_options(group, results_filter=ObjectType.CONFIG))


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
        config = compose("evaluate", [f"{group}={member}"])
        try:
            node: Any = OmegaConf.to_container(config[group], resolve=True)
        except InterpolationResolutionError:  # reference=folder refers to the path of dataset=folder
            node = OmegaConf.to_container(config[group])
    return node


@lru_cache(maxsize=64)
def raw_members(group: str) -> dict[str, Node]:
    """The values of all members of a group as their files have them, with interpolations.

    Args:
        group: a group of parts, such as "sampler/order".
    """
    with our_hydra():
        loader: Any = GlobalHydra.instance().config_loader()
        names = loader.get_group_options(group, results_filter=ObjectType.CONFIG)
        loaded = {name: loader.repository.load_config(f"{group}/{name}") for name in names}
        nodes: dict[str, Any] = {
            name: OmegaConf.to_container(result.config)
            for name, result in loaded.items()
            if result is not None
        }
    return nodes
