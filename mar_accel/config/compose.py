"""Compose configs from the config groups, and turn them into typed settings."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.default_element import ConfigDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mar_accel.config.check import check_node, check_settings
from mar_accel.config.help import keys_of
from mar_accel.config.image_size import put_grid_in
from mar_accel.config.prompts import put_prompts_in
from mar_accel.config.settings import TRAINING_ONLY, ModelSettings, Node, Settings, training_only
from mar_accel.errors import ConfigError

# Groups whose members have parts with their own groups, such as sampler/order.
GROUPS_WITH_PARTS = ("sampler", "cache")
# Groups whose members describe an object by a node with a _target_.
OBJECT_GROUPS = ("sampler", "cache", "features", "reference", "logger")
# Groups whose default is the member with the name of the dataset, if there is one.
OPTIONAL_GROUPS = ("features", "reference")
_NAME = re.compile(r"[A-Za-z_]\w*")
# A value that is taken from another key, with or without a default.
_REFERENCE = re.compile(r"\$\{(?:oc\.select:)?([\w.]+)(?:,[^{}]*)?\}")
_NOT_NAMES = ("null", "true", "false", "auto")
# Images of an evaluation, if nothing says another number.
NUM_EVALUATED = 1000


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


def _num_evaluated(*, _root_: DictConfig) -> int | None:
    """Default number of images of an evaluation; None, so all prompts, for a data set with given prompts."""
    dataset = _root_.get("dataset", {})
    gives_prompts = "prompts" in dataset and dataset.get("prompt_source") is None
    return None if gives_prompts else NUM_EVALUATED


def register_resolvers() -> None:
    """Register the resolvers of the configs, such as ``${run_dir:command}``, unless they are there."""
    if not OmegaConf.has_resolver("run_dir"):
        OmegaConf.register_new_resolver("num_evaluated", _num_evaluated)
        OmegaConf.register_new_resolver("run_dir", _run_dir, use_cache=True)
        OmegaConf.register_new_resolver("keys_of", keys_of)


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

    check_choices(overrides)
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


def check_choices(overrides: Sequence[str]) -> None:
    """Refuse an unknown member of a group whose default is optional; Hydra would leave the group empty.

    Raises:
        ConfigError: names the members that there are.
    """
    for override in overrides:
        group, _, member = override.lstrip("+").partition("=")
        if group not in OPTIONAL_GROUPS or not _NAME.fullmatch(member) or member in _NOT_NAMES:
            continue
        members = _members(group)
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


# -- the door ----------------------------------------------------------------------------------------------


def read_settings(config: DictConfig) -> Settings:
    """Turn a composed config into typed settings; no other code reads a config.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type or range.
    """
    raw: Any = OmegaConf.to_container(config, resolve=False)
    _check_groups(raw)
    _check_kind(raw)
    _put_parts_in(config)
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
    _check_model_defaults(settings)
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


def _check_model_defaults(settings: Settings) -> None:
    """Refuse a default of the model that no model has and that neither sampler nor cache uses."""
    from mar_accel.config.check import model_defaults_below, unknown_key

    sampling = [member.get("sampling", {}) for member in _members("model").values()]
    shipped = {str(name) for defaults in sampling for name in defaults}
    nodes = {str(name) for defaults in sampling for name in defaults if isinstance(defaults[name], dict)}
    words: dict[str, set[str]] = {}
    for defaults in sampling:
        for name, value in defaults.items():
            if isinstance(value, str) and value != "auto":
                words.setdefault(str(name), set()).add(value)
    known = set(shipped)
    for group in GROUPS_WITH_PARTS:
        known |= {default for _, default, _, _ in model_defaults_below(group, getattr(settings, group))}
    for name, value in settings.model.sampling.items():
        key = f"model.sampling.{name}"
        if known and name not in known:
            raise ConfigError(unknown_key(key, sorted(known)))
        # Parts check the values that they use, and those of one's own parts may be anything.
        if name in words:
            _check_word(key, value, words[name])
        elif name in shipped:
            _check_numbers(key, value, name in nodes)


def _check_word(key: str, value: Any, words: Set[str]) -> None:
    """Refuse what is not one of the words that models have for a default."""
    if not isinstance(value, str) or value not in words:
        raise ConfigError(f"{key} must be {' or '.join(sorted(words))}, got {_shown(value)}.")


def _check_numbers(key: str, value: Any, may_be_node: bool) -> None:
    """Refuse what is not a finite number ≥ 0, auto or null; of a node, in each of its keys."""
    if may_be_node and isinstance(value, dict):
        for name, item in value.items():
            _check_numbers(f"{key}.{name}", item, may_be_node)
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value not in (None, "auto") and not (is_number and 0 <= value < math.inf):
        raise ConfigError(f"{key} must be a finite number ≥ 0, auto or null, got {_shown(value)}.")


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
                f"{name} must be a group of settings, got {_shown(raw.get(name))}; choose a member."
            )
    for name in ("architecture", "sampling", "autoencoder"):
        value = raw["model"].get(name)
        if not isinstance(value, dict):
            raise ConfigError(f"model.{name} must be a group of settings, got {_shown(value)}.")


def _check_kind(raw: Mapping[str, Any]) -> None:
    """Refuse data whose conditions are not what the model takes."""
    model, dataset = raw["model"], raw["dataset"]
    if not {"_target_", "num_classes"} & model["architecture"].keys():
        raise ConfigError("model.architecture.num_classes is not set; give it a value.")
    if "num_classes" not in model["architecture"] and "num_classes" in dataset:
        raise ConfigError(
            f"dataset={dataset.get('name')} has classes, but model={model.get('name')} takes text; choose a "
            "data set of texts for it, such as dataset=prompts."
        )
    if "num_classes" in model["architecture"] and "prompts" in dataset:
        raise ConfigError(
            f"dataset={dataset.get('name')} has prompts, but model={model.get('name')} takes labels; choose "
            "a data set of classes for it, such as dataset=digits."
        )


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value)


def _put_parts_in(config: DictConfig) -> None:
    """Replace parts given by name with their nodes, and drop inherited keys that a class does not accept."""
    for group in OBJECT_GROUPS:
        if isinstance(config.get(group), DictConfig):
            _drop_keys_of_other_classes(group, config[group], _members(group))
    for group in GROUPS_WITH_PARTS:
        for part, value in list(config[group].items()):
            members = _members(f"{group}/{part}")
            if isinstance(value, str) and members:
                if value not in members:
                    known = ", ".join(sorted(members))
                    raise ConfigError(f"{group}.{part}={value} is unknown; choose one of {known}.")
                config[group][part] = members[value]
            elif isinstance(value, DictConfig) and members:
                _drop_keys_of_other_classes(f"{group}.{part}", value, members)


# Members of groups by name of the group and stamp of the folders that they were read from.
_READ_MEMBERS: dict[tuple[Any, ...], dict[str, DictConfig]] = {}


def _members(group: str) -> Mapping[str, DictConfig]:
    """The members of a group by name, from all folders in Hydra's search path; they must not be changed.

    They are kept while their files stay the same: reading the YAML of all groups takes tenths of a second.
    """
    if not GlobalHydra.instance().is_initialized():
        return {}
    loader: Any = GlobalHydra.instance().config_loader()
    key = (group, *(_stamp(source.path, group) for source in loader.get_sources()))
    if key not in _READ_MEMBERS:
        names = loader.repository.get_group_options(group, ObjectType.CONFIG)
        loaded = {name: loader.repository.load_config(f"{group}/{name}") for name in names}
        found = {name: result for name, result in loaded.items() if result is not None}
        _READ_MEMBERS[key] = {name: _with_base(result, found) for name, result in found.items()}
    return _READ_MEMBERS[key]


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
