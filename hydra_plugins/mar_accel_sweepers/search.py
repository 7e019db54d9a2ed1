"""``hydra/sweeper=search``: Optuna chooses the runs."""

# Hydra executes this module before it is known by its name, so annotations must not be text.
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore


@dataclass
class SearchConf:
    """The node ``hydra.sweeper``; :class:`mar_accel.sweeps.search.SearchSettings` has its keys and defaults.

    Attributes:
        params: further overrides in Hydra's sweep syntax, for the searches of ``conf/hparams_search``.
    """

    _target_: str = "hydra_plugins.mar_accel_sweepers.search.SearchSweeper"
    n_trials: Any = 30
    n_jobs: Any = 1
    sampler: Any = "tpe"
    seed: Any = 0
    directions: Any = None
    max_tflops: Any = None
    min_flops_ratio: Any = None
    params: Any = None


ConfigStore.instance().store(group="hydra/sweeper", name="search", node=SearchConf, provider="mar_accel")


class SearchSweeper(BasicSweeper):
    """Runs a search; :mod:`mar_accel.sweeps.search` says how."""

    def __init__(self, params: Any = None, **settings: Any):
        super().__init__(None, dict(params) if isinstance(params, Mapping) else {})
        self.settings = {**settings, "params": params}

    def sweep(self, arguments: list[str]) -> Any:
        try:
            import optuna  # noqa: F401
        except ImportError:
            from mar_accel.errors import ConfigError

            raise ConfigError("hydra/sweeper=search needs Optuna; install the extra search.") from None
        from mar_accel.sweeps.hydra_sweep import HydraSweep, sweeper_settings
        from mar_accel.sweeps.search import SearchSettings, search

        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        hydra = HydraSweep(self.config, self.hydra_context.config_loader, self.launcher)
        settings = sweeper_settings(SearchSettings, self.settings)
        return search([*self._parse_config(), *arguments], hydra, settings)
