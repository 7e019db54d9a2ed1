"""Members of the config groups: their names, and the values that each one stands for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.default_element import ConfigDefault, GroupDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from mar_accel.config.hydra_context import our_hydra

# Members of groups by name of the group and stamp of the folders that they were read from.
_READ_MEMBERS: dict[tuple[Any, ...], dict[str, DictConfig]] = {}


def member_names(group: str) -> list[str]:
    """Names of all members of a group, from all folders in Hydra's search path.

    Example:
        >>> member_names("cache")
        ['condition', 'head', 'lazymar', 'lazymar_late', 'none', 'token']
    """
    with our_hydra():
        loader: Any = GlobalHydra.instance().config_loader()
        return list(loader.get_group_options(group, results_filter=ObjectType.CONFIG))


def read_members(group: str) -> Mapping[str, DictConfig]:
    """The members of a group by name, from all folders in Hydra's search path; they must not be changed.

    They are kept while their files stay the same: reading the YAML of all groups takes tenths of a second.
    """
    with our_hydra():
        loader: Any = GlobalHydra.instance().config_loader()
        key = (group, *(_stamp(source.path, group) for source in loader.get_sources()))
        if key not in _READ_MEMBERS:
            names = loader.repository.get_group_options(group, ObjectType.CONFIG)
            loaded = {name: loader.repository.load_config(f"{group}/{name}") for name in names}
            found = {name: result for name, result in loaded.items() if result is not None}
            _READ_MEMBERS[key] = {name: _with_base(result, found) for name, result in found.items()}
    return _READ_MEMBERS[key]


@lru_cache(maxsize=1)
def default_members() -> Mapping[str, str]:
    """The members that ``conf/base.yaml`` chooses, by group.

    Example:
        >>> default_members()["sampler"]
        'mar'
    """
    with our_hydra():
        loader: Any = GlobalHydra.instance().config_loader()
        base = loader.repository.load_config("base")
    entries = [entry for entry in base.defaults_list if isinstance(entry, GroupDefault)]
    return {str(entry.group): str(entry.value) for entry in entries if entry.value is not None}


def _with_base(member: ConfigResult, group: Mapping[str, ConfigResult]) -> DictConfig:
    """The values of a member, with those of the members of its group that its defaults list names.

    For example, ``step_sizes/gtr_19.yaml`` inherits ``gtr`` of the same group and changes its stages.
    """
    merged = OmegaConf.create({})
    for entry in member.defaults_list or []:
        base = group.get(str(entry.path)) if isinstance(entry, ConfigDefault) else None
        if base is not None:
            merged.merge_with(_with_base(base, group))
    merged.merge_with(member.config)
    return merged


def _stamp(source: str, group: str) -> tuple[Any, ...]:
    """A folder of the search path, with sizes and times of the files of a group in it."""
    folder = Path(source) / group
    if not folder.is_dir():  # inside a package, or without this group
        return (source,)
    with os.scandir(folder) as entries:
        files = [(entry.name, entry.stat()) for entry in entries if entry.name.endswith(".yaml")]
    return (source, *sorted((name, status.st_size, status.st_mtime_ns) for name, status in files))
