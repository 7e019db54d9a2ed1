"""Samplers and caches whose parts are given by name, or inherit from members of another class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mar_accel.config.members import read_members
from mar_accel.errors import ConfigError

# Groups whose members have parts with their own groups, such as sampler/order.
GROUPS_WITH_PARTS = ("sampler", "cache")
# Groups whose members describe an object by a node with a _target_.
OBJECT_GROUPS = ("sampler", "cache", "features", "reference", "logger")


def put_parts_in(config: DictConfig) -> None:
    """Replace parts given by name with their nodes, and drop inherited keys that a class does not accept."""
    for group in OBJECT_GROUPS:
        if isinstance(config.get(group), DictConfig):
            _drop_keys_of_other_classes(group, config[group], read_members(group))
    for group in GROUPS_WITH_PARTS:
        for part, value in list(config[group].items()):
            members = read_members(f"{group}/{part}")
            if isinstance(value, str) and members:
                if value not in members:
                    known = ", ".join(sorted(members))
                    raise ConfigError(f"{group}.{part}={value} is unknown; choose one of {known}.")
                config[group][part] = members[value]
            elif isinstance(value, DictConfig) and members:
                _drop_keys_of_other_classes(f"{group}.{part}", value, members)


def _drop_keys_of_other_classes(key: str, part: DictConfig, members: Mapping[str, DictConfig]) -> None:
    """Drop keys that a part inherited from a member of another class, if its own class lacks them.

    For example, ``sampler.order._target_=my.Order`` on ``sampler=gtr`` would keep gtr's ``num_stages``.
    A YAML file that inherits a cache and names another class has the same problem.
    A key with a changed value stays, so that a mistake in it is reported.
    """
    from mar_accel.config.check import known_arguments, locate

    target = part.get("_target_")
    alike = [set(map(str, member)) for member in members.values() if member.get("_target_") == target]
    if any(set(map(str, part)) <= keys for keys in alike):
        return
    inherited: dict[str, list[Any]] = {}
    for member in members.values():
        if member.get("_target_") not in (None, target):
            values: Any = OmegaConf.to_container(member)
            for name, value in values.items():
                inherited.setdefault(str(name), []).append(value)
    surplus = [name for name in map(str, part) if name in inherited and not name.startswith("_")]
    if target is None or not surplus:
        return
    takes = known_arguments(locate(key, target))
    raw: Any = OmegaConf.to_container(part)
    for name in surplus:
        if takes is not None and name not in takes and raw[name] in inherited[name]:
            OmegaConf.set_struct(part, False)
            del part[name]
