"""The logger of a config, with the name, group and tags of its run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger

from mar_accel.config.overrides import key_of
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_node
from mar_accel.runs.identity import NEVER_COUNTS
from mar_accel.runs.output_dir import check_output_dir
from mar_accel.utils.ranks import is_first_process

# Groups in the tags of a run.
_TAGGED = ("model", "sampler", "cache", "dataset")
# Overrides that do not belong to the name of a run, besides those that never count.
_NOT_IN_NAMES = (
    *(
        *NEVER_COUNTS,
        *_TAGGED,
        "trainer",
        "experiment",
        "debug",
        "evaluate",
        "generate",
        "table",
        "callbacks",
    ),
    *("features", "reference", "metrics"),
)


def open_logger(settings: Settings, run_id: str | None = None) -> Logger | None:
    """The logger of a config; with ``logger=wandb`` the run gets a name, a group and tags.

    Args:
        settings: settings of the run.
        run_id: id of the W&B run; an existing run with this id is resumed. None: a new run.

    Raises:
        ConfigError: the logger cannot be built, needs a login, or its folder cannot be written.
    """
    node = settings.logger
    arguments: dict[str, Any] = {}
    _check_save_dir(settings)
    if (node.get("_target_") or "").endswith(".WandbLogger"):
        if node.get("offline") is False:
            _require_login()
        arguments = {
            "id": node.get("id") or run_id,
            "resume": node.get("resume") or "allow",
            "name": node.get("name") or run_name(settings),
            "group": node.get("group") or _sweep_name(),
            "job_type": node.get("job_type") or settings.command,
            "tags": [*(node.get("tags") or ()), *run_tags(settings)],
        }
    try:
        return build_node("logger", node, Logger, **arguments)
    except ConfigError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            kind = node["_target_"].rsplit(".", 1)[-1]
            raise ConfigError(
                f"logger: {kind} needs a package that is not installed; install it (for TensorBoard: pip "
                "install -e '.[tensorboard]') or choose another logger."
            ) from error
        raise


def _check_save_dir(settings: Settings) -> None:
    """Raise ConfigError if the logger has a folder of its own that cannot be written."""
    save_dir = settings.logger.get("save_dir")
    if settings.logger.get("_target_") is None or not isinstance(save_dir, str):
        return
    folder = Path(save_dir).absolute()
    if is_first_process() and not folder.is_relative_to(Path(settings.output_dir).absolute()):
        check_output_dir(folder, "logger.save_dir")


def _require_login() -> None:
    """Raise ConfigError if W&B would ask for a key, or fail, only after all images are sampled."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") not in ("online", "run"):
        return
    try:
        logged_in = wandb.login(prompt=False)
    except Exception as error:  # its library may raise anything
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"logger.offline=false: W&B cannot be reached, or refuses the key ({reason}); check both, or use "
            "logger.offline=true."
        ) from error
    if not logged_in:
        raise ConfigError(
            "logger.offline=false needs a login at W&B; run wandb login, set WANDB_API_KEY, or use "
            "logger.offline=true and upload the run later with wandb sync."
        )


def run_name(settings: Settings) -> str:
    """A name that people can read: ``gtr+lazymar cache.token.ratios=0.1``.

    It has the sampler, the cache, and the overrides that change images.
    """
    if not _has_choices(settings):
        return " ".join(run_tags(settings))
    choices = HydraConfig.get().runtime.choices
    cache = choices.get("cache")
    parts = [str(choices.get("sampler")), *([str(cache)] if cache not in (None, "none") else [])]
    overrides = [override for override in HydraConfig.get().overrides.task if _is_in_names(override)]
    return " ".join(["+".join(parts), *overrides])


def _is_in_names(override: str) -> bool:
    key = key_of(override)
    if key == "dataset.num_images":
        return False
    return not any(
        key == other or (key.startswith(f"{other}.") and other not in _TAGGED) for other in _NOT_IN_NAMES
    )


def _has_choices(settings: Settings) -> bool:
    """Whether Hydra knows the group members of these settings. It does not for the rows of a table."""
    return HydraConfig.initialized() and settings.command == HydraConfig.get().job.config_name


def _sweep_name() -> str | None:
    """The folder of the sweep that the run belongs to, such as "multirun/evaluate"; None outside a sweep."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return "/".join(Path(HydraConfig.get().sweep.dir).absolute().parts[-2:])


def run_tags(settings: Settings) -> list[str]:
    """Short tags of the config: the chosen group members, or else the names of classes.

    Group members are unknown outside a command, and for the rows of a table.
    """
    if _has_choices(settings):
        choices = HydraConfig.get().runtime.choices
        return [f"{group}={choices[group]}" for group in _TAGGED if choices.get(group)]
    parts = (settings.sampler.get("order"), settings.cache)
    targets = [part["_target_"] for part in parts if isinstance(part, dict) and "_target_" in part]
    return [settings.model.name, *(target.rsplit(".", 1)[-1] for target in targets)]
