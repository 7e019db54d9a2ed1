"""Where the config groups are, how a config is composed outside a command, and its resolvers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mar_accel.config.check import check_config
from mar_accel.errors import ConfigError


def conf_dir() -> Path:
    """The folder of the config groups: inside an installed wheel, else at the top of the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


# Groups whose members are made of parts that have groups of their own, such as sampler/order.
GROUPS_WITH_PARTS = ("sampler", "cache")


def _run_dir(command: str) -> str:
    """Default run folder: by date and time, or the job's folder of a multirun."""
    if HydraConfig.initialized():
        hydra_config = HydraConfig.get()
        if hydra_config.mode == RunMode.MULTIRUN:
            return str(Path(hydra_config.sweep.dir) / str(hydra_config.sweep.subdir))
    return str(Path("outputs") / command / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def register_resolvers() -> None:
    """Make ``${run_dir:command}`` known to OmegaConf; calling it again changes nothing."""
    if not OmegaConf.has_resolver("run_dir"):
        OmegaConf.register_new_resolver("run_dir", _run_dir, use_cache=True)


def compose_config(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a command's config as its command line would.

    Args:
        config_name: name of a primary config, such as "generate".
        overrides: Hydra overrides, such as ``["model=digits", "sampler.guidance_scale=2"]``.
    """
    register_resolvers()
    overrides = with_part_choices(overrides)
    if GlobalHydra.instance().is_initialized():
        # Inside a running command: its own search path, which a user may have extended.
        return finish_config(compose(config_name=config_name, overrides=overrides))
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        return finish_config(compose(config_name=config_name, overrides=overrides))


def with_part_choices(overrides: Sequence[str]) -> list[str]:
    """Overrides in which a part can be named and changed at once.

    ``sampler.order=gtr sampler.order.num_stages=4`` becomes ``sampler/order=gtr sampler.order.num_stages=4``:
    Hydra must have exchanged the part before it sets a key that only the new part has.
    """
    result = []
    for override in overrides:
        key, equals, names = override.partition("=")
        group, dot, part = key.partition(".")
        folder = conf_dir() / group / part
        if (
            equals
            and dot
            and group in GROUPS_WITH_PARTS
            and any(other.lstrip("+").startswith(f"{key}.") for other in overrides)
            and all((folder / f"{name}.yaml").is_file() for name in names.split(","))
        ):
            override = f"{group}/{part}={names}"
        result.append(override)
    return result


def finish_config(config: DictConfig) -> DictConfig:
    """What Hydra's composition leaves to do: parts given by name, and types. Changes and returns ``config``.

    Raises:
        ConfigError: a part is unknown or a value has the wrong type.
    """
    for group in GROUPS_WITH_PARTS:
        if isinstance(config.get(group), DictConfig):
            resolve_named_parts(config, group)
    check_config(config)
    return config


def resolve_named_parts(config: DictConfig, group: str) -> None:
    """Replace names by the parts they name: ``sampler.order=halton`` is ``conf/sampler/order/halton.yaml``.

    Args:
        config: a composed config; changed in place.
        group: the group whose parts are looked at, such as "sampler".

    Raises:
        ConfigError: no part of that name exists.
    """
    for key, value in list(config[group].items()):
        folder = conf_dir() / group / str(key)
        if not isinstance(value, str) or not folder.is_dir():
            continue
        known = sorted(path.stem for path in folder.glob("*.yaml"))
        if value not in known:
            raise ConfigError(f"{group}.{key}={value} is unknown; choose one of {', '.join(known)}.")
        config[group][key] = OmegaConf.load(folder / f"{value}.yaml")
