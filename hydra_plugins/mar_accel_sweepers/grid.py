"""``hydra/sweeper=grid``: every combination that makes sense, each one once."""

# Hydra executes this module before it is known by its name, so annotations must not be text.
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore


@dataclass
class GridConf:
    """The node ``hydra.sweeper``; :class:`mar_accel.sweeps.grid_sweep.GridSettings` checks it.

    Attributes:
        max_batch_size: number of runs that are handed to the launcher at a time. None: all.
        params: overrides for every sweep, for example of an experiment: ``{seed: "0,1"}``.
    """

    _target_: str = "hydra_plugins.mar_accel_sweepers.grid.GridSweeper"
    max_batch_size: Any = None
    params: Any = None


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridConf, provider="mar_accel")


class GridSweeper(BasicSweeper):
    """Runs a grid; :mod:`mar_accel.sweeps.grid_sweep` says how."""

    def __init__(self, params: Any = None, **settings: Any):
        super().__init__(None, dict(params) if isinstance(params, Mapping) else {})
        self.settings = {**settings, "params": params}

    def sweep(self, arguments: list[str]) -> Any:
        from mar_accel.sweeps.grid_sweep import GridSettings, sweep_grid
        from mar_accel.sweeps.hydra_sweep import HydraSweep, sweeper_settings

        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        hydra = HydraSweep(self.config, self.hydra_context.config_loader, self.launcher)
        settings = sweeper_settings(GridSettings, self.settings)
        return sweep_grid([*self._parse_config(), *arguments], hydra, settings)
