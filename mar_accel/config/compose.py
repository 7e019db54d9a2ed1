"""Compose configs from the config groups, and turn them into typed settings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mar_accel.config.check import check_node, check_settings
from mar_accel.config.settings import TRAINING_ONLY, Node, Settings, training_only
from mar_accel.errors import ConfigError

# Groups whose members have parts with their own groups, such as sampler/order.
GROUPS_WITH_PARTS = ("sampler", "cache")
# Groups whose members describe an object by a node with a _target_.
OBJECT_GROUPS = ("sampler", "cache", "features", "reference", "logger")
_NAME = re.compile(r"[A-Za-z_]\w*")
_NOT_NAMES = ("null", "true", "false", "auto")


def conf_dir() -> Path:
    """Folder of the config groups: inside the installed package, or at the top of the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def _run_dir(command: str) -> str:
    """Default run folder.

    It is the job's folder in a multirun, else hydra.run.dir if set, else a folder named by the time. The
    microseconds keep runs apart that start together.
    """
    if HydraConfig.initialized():
        hydra_config = HydraConfig.get()
        if hydra_config.mode == RunMode.MULTIRUN:
            return str(Path(hydra_config.sweep.dir) / str(hydra_config.sweep.subdir))
        if hydra_config.run.dir != "." or "hydra.run.dir=." in hydra_config.overrides.hydra:
            return str(hydra_config.run.dir)
    return str(Path("outputs") / command / datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))


def register_resolvers() -> None:
    """Register ``${run_dir:command}`` with OmegaConf; repeated calls have no effect."""
    if not OmegaConf.has_resolver("run_dir"):
        OmegaConf.register_new_resolver("run_dir", _run_dir, use_cache=True)


# -- composing outside a command line ----------------------------------------------------------------------


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
    nodes: list[Any] = [OmegaConf.to_container(sampling[group], resolve=True) for group in GROUPS_WITH_PARTS]
    for group, node in zip(GROUPS_WITH_PARTS, nodes, strict=True):
        check_node(group, node)
    return nodes[0], nodes[1]


@lru_cache(maxsize=128)
def _sampling_config(overrides: tuple[str, ...]) -> DictConfig:
    """Compose sampler and cache, cached because it takes tenths of a second and pipelines repeat it."""
    with our_hydra():
        config = _composed("generate", overrides)
        _put_parts_in(config)
    sampling = OmegaConf.create({group: config[group] for group in (*GROUPS_WITH_PARTS, "model")})
    OmegaConf.set_struct(sampling, False)
    return sampling


def _composed(config_name: str, overrides: Sequence[str]) -> DictConfig:
    from mar_accel.config.messages import sentence_for

    try:
        return compose(config_name=config_name, overrides=group_choices(overrides))
    except Exception as error:
        raise ConfigError(str(sentence_for(error, config_name, composing=True))) from error


@contextmanager
def our_hydra() -> Iterator[None]:
    """A context in which Hydra composes our configs, even inside another Hydra application."""
    register_resolvers()
    if _is_ours():
        # Inside a running command, its search path is used, which the user may have extended.
        yield
        return
    singleton = GlobalHydra.instance()
    others, singleton.hydra = singleton.hydra, None
    try:
        with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
            yield
    finally:
        # Leaving our Hydra has put another object in the singleton's place.
        GlobalHydra.instance().hydra = others


def _is_ours() -> bool:
    """Whether the current Hydra instance finds our configs."""
    singleton = GlobalHydra.instance()
    if not singleton.is_initialized():
        return False
    return any(source.path == str(conf_dir()) for source in singleton.config_loader().get_sources())


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


# -- the door ----------------------------------------------------------------------------------------------


def read_settings(config: DictConfig) -> Settings:
    """Turn a composed config into typed settings; no other code reads a config.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or range.
    """
    _check_kind(config)
    _put_parts_in(config)
    for key in _missing_keys(config):
        raise ConfigError(f"{key} has no default; give it a value.")
    values: Any = OmegaConf.to_container(config, resolve=True)
    _refuse_training_keys(values)
    settings = check_settings(Settings, values)
    for group in OBJECT_GROUPS:
        check_node(group, getattr(settings, group))
    check_node("dataset.training_data", settings.dataset.training_data, given=("batch_size",))
    for group in ("metrics", "callbacks"):
        for name, node in getattr(settings, group).items():
            check_node(f"{group}.{name}", node)
    check_node("model.autoencoder", settings.model.autoencoder)
    _check_model_defaults(settings)
    return settings


def _check_model_defaults(settings: Settings) -> None:
    """Refuse a default of the model that no model has and that neither sampler nor cache uses."""
    from mar_accel.config.check import model_defaults_below, unknown_key

    known = {str(name) for member in _members("model").values() for name in member.get("sampling", {})}
    for group in GROUPS_WITH_PARTS:
        known |= {default for _, default, _, _ in model_defaults_below(group, getattr(settings, group))}
    for name in settings.model.sampling:
        if known and name not in known:
            raise ConfigError(unknown_key(f"model.sampling.{name}", sorted(known)))


def _refuse_training_keys(values: Mapping[str, Any]) -> None:
    for key in values.get("trainer") or {}:
        if key in TRAINING_ONLY:
            raise ConfigError(training_only(f"trainer.{key}"))


def _missing_keys(node: DictConfig, above: str = "") -> Iterator[str]:
    """Keys without a value; interpolations of such a key are not listed beside it."""
    for name in map(str, node):
        if OmegaConf.is_interpolation(node, name):
            continue
        if OmegaConf.is_missing(node, name):
            yield above + name
        elif isinstance(node[name], DictConfig):
            yield from _missing_keys(node[name], f"{above}{name}.")


def _check_kind(config: DictConfig) -> None:
    """Refuse a model without its nodes, and labels for a model that takes text."""
    for name in ("architecture", "sampling", "autoencoder"):
        if not isinstance(config.model.get(name), DictConfig):
            raise ConfigError(f"model.{name} must be a group of settings, got {config.model.get(name)}.")
    takes_text = "num_classes" not in config.model.architecture
    dataset: Any = OmegaConf.to_container(config.dataset, resolve=False)
    if takes_text and "num_classes" in dataset:
        raise ConfigError(
            f"dataset={dataset['name']} has classes, but model={config.model.name} takes text; choose a "
            "data set of texts for it, such as dataset=scenes."
        )


def _put_parts_in(config: DictConfig) -> None:
    """Replace parts given by name with their nodes, and drop inherited keys that a class does not accept."""
    for group in OBJECT_GROUPS:
        if isinstance(config.get(group), DictConfig):
            _drop_keys_of_other_classes(group, config[group], _members(group))
    for group in GROUPS_WITH_PARTS:
        if not isinstance(config.get(group), DictConfig):
            raise ConfigError(
                f"{group} must be a group of settings, got {config.get(group)}; choose a member."
            )
        for part, value in list(config[group].items()):
            members = _members(f"{group}/{part}")
            if isinstance(value, str) and members:
                if value not in members:
                    known = ", ".join(sorted(members))
                    raise ConfigError(f"{group}.{part}={value} is unknown; choose one of {known}.")
                config[group][part] = members[value]
            elif isinstance(value, DictConfig) and members:
                _drop_keys_of_other_classes(f"{group}.{part}", value, members)


def _members(group: str) -> dict[str, DictConfig]:
    """The members of a group by name, from all folders in Hydra's search path."""
    if not GlobalHydra.instance().is_initialized():
        return {}
    loader: Any = GlobalHydra.instance().config_loader()
    names = loader.get_group_options(group, results_filter=ObjectType.CONFIG)
    loaded = {name: loader.repository.load_config(f"{group}/{name}") for name in names}
    return {name: result.config for name, result in loaded.items() if result is not None}


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
