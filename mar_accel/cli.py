"""What all commands share: Hydra's entry point, and errors printed as one sentence."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import hydra
from omegaconf import DictConfig

from mar_accel.configuration import conf_dir, finish_config, register_resolvers
from mar_accel.errors import MarAccelError

USER_ERROR = 2


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Turn a function of a config into a Hydra command.

    A :class:`MarAccelError` is printed as its sentence, without a traceback, and exits with status 2.
    """

    def decorate(function: Callable[[DictConfig], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def run(config: DictConfig) -> None:
            try:
                function(finish_config(config))
            except MarAccelError as error:
                print(f"error: {error}", file=sys.stderr)
                raise SystemExit(USER_ERROR) from None

        register_resolvers()
        return hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(run)

    return decorate
