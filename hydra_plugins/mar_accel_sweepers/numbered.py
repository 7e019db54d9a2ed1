"""``hydra/sweeper=numbered``: Hydra's own sweeper for commands whose runs are numbered."""

# Hydra executes this module before it is known by its name, so annotations must not be text.
from dataclasses import dataclass, field
from typing import Any, Optional

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override


@dataclass
class NumberedConf:
    """The node ``hydra.sweeper``.

    Attributes:
        max_batch_size: number of runs that are handed to the launcher at a time. None: all.
        params: overrides for every sweep.
    """

    _target_: str = "hydra_plugins.mar_accel_sweepers.numbered.NumberedSweeper"
    max_batch_size: Optional[int] = None  # noqa: UP045  # OmegaConf reads it
    params: Optional[dict[str, str]] = field(default_factory=dict)  # noqa: UP045


ConfigStore.instance().store(group="hydra/sweeper", name="numbered", node=NumberedConf, provider="mar_accel")


class NumberedSweeper(BasicSweeper):
    """Refuses a sweep without runs, which Hydra's own sweeper would call a success."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> Any:
        from mar_accel.config.swept_values import refuse_no_member

        for override in overrides:
            refuse_no_member(override)
        return BasicSweeper.split_arguments(overrides, max_batch_size)
