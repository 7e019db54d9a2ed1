"""The config of a job, before it is read."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from hydra import compose
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mar_accel.config.compose import check_choices
from mar_accel.config.door import read_settings
from mar_accel.config.hydra_context import our_hydra
from mar_accel.config.messages import sentence_for
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError


class JobConfig:
    """The config of a job, before it is read.

    Attributes:
        choices: the chosen member of each group, with dots: ``{"cache": "none", "sampler.order": "gtr"}``.
        values: the config as nested plain values with its interpolations, without Hydra's own node.
    """

    def __init__(self, config: DictConfig):
        self.config = config
        self.choices: Mapping[str, Any] = {
            str(key).replace("/", "."): name for key, name in config.hydra.runtime.choices.items()
        }
        values: Any = OmegaConf.to_container(config, resolve=False)
        values.pop("hydra")
        self.values: dict[str, Any] = values

    def value(self, key: str) -> Any:
        """The value of a dotted key; None if the config does not have it."""
        return OmegaConf.select(self.config, key, throw_on_missing=False)

    def settings(self, command: str) -> Settings:
        """The config as typed settings; raises ConfigError, which suggests keys of ``command``."""
        config = copy.deepcopy(self.config)
        with open_dict(config):
            del config["hydra"]
        try:
            # The members of groups are looked up, also where no command is running.
            with our_hydra():
                return read_settings(config)
        except OmegaConfBaseException as error:
            raise ConfigError(str(sentence_for(error, command))) from error


def compose_job(command: str, overrides: Sequence[str]) -> JobConfig:
    """The config of a job that no launcher gets, such as a row of a table; raises Hydra's errors.

    Args:
        command: the command that the job runs.
        overrides: its overrides, whose parts are groups: ``sampler/order=gtr``.

    Raises:
        ConfigError: a member of an optional group is unknown.
    """
    check_choices(overrides)
    with our_hydra():
        return JobConfig(compose(command, overrides=list(overrides), return_hydra_config=True))
