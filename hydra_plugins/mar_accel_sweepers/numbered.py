"""``hydra/sweeper=numbered``: Hydra's own sweeper for commands whose runs are numbered."""

# Hydra executes this module before it is known by its name, so annotations must not be text.
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override


@dataclass
class NumberedConf(BasicSweeperConf):
    """The node ``hydra.sweeper``: the settings of Hydra's own sweeper."""

    _target_: str = "hydra_plugins.mar_accel_sweepers.numbered.NumberedSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="numbered", node=NumberedConf, provider="mar_accel")


class NumberedSweeper(BasicSweeper):
    """Refuses a sweep without runs, which Hydra's own sweeper would call a success."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> Any:
        from mar_accel.config.swept_values import refuse_no_member

        for override in overrides:
            refuse_no_member(override)
        return BasicSweeper.split_arguments(overrides, max_batch_size)
