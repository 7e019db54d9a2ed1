"""A sweep as Hydra sees it: its settings, the configs of its jobs, and the launcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, ListConfig, OmegaConf

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings, SweepSettings
from mar_accel.errors import ConfigError
from mar_accel.runs.output_dir import check_output_dir
from mar_accel.runs.sweep_summary import table_name
from mar_accel.sweeps.job_config import JobConfig

T = TypeVar("T")


def sweeper_settings(cls: type[T], values: Mapping[str, Any]) -> T:
    """The node ``hydra.sweeper`` as settings of a class; raises ConfigError for wrong keys and types."""
    plain = {
        key: OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        for key, value in values.items()
    }
    return check_settings(cls, plain, "hydra.sweeper")


class HydraSweep:
    """What a sweep needs of Hydra.

    Attributes:
        command: the command that the jobs run.
        settings: the node ``sweep``.
        sweep_dir: absolute path of the sweep's folder.
        name: name of the sweep's table and of its study.
        objectives: the metrics that a search optimises.
        on_gpu: whether jobs may use GPUs.
        launcher_name: full name of the launcher's class.
    """

    def __init__(self, config: DictConfig, loader: ConfigLoader, launcher: Launcher):
        self._config, self._loader, self._launcher = config, loader, launcher
        if not isinstance(config.sweep, DictConfig):
            raise ConfigError(f"sweep must be a group of settings, got {config.sweep!r}; set its keys.")
        values: Any = OmegaConf.to_container(config.sweep, resolve=True)
        self.settings = check_settings(SweepSettings, values, "sweep")
        self.command = str(config.command)
        self.sweep_dir = Path(config.hydra.sweep.dir).absolute()
        # As for output_dir: its tables and locks would lie among other things.
        if all(part == ".." for part in Path(config.hydra.sweep.dir.strip()).parts):
            raise ConfigError(
                f"hydra.sweep.dir must name a separate folder, got {config.hydra.sweep.dir!r}; choose a "
                "folder for the sweep."
            )
        check_output_dir(self.sweep_dir, "hydra.sweep.dir")
        self.name = table_name(config)
        objective = OmegaConf.select(config, "evaluate.objective")
        self.objectives = list(objective) if isinstance(objective, ListConfig) else [objective]
        self.on_gpu = config.trainer.accelerator != "cpu"
        self.launcher_name = str(config.hydra.launcher._target_)
        # A search and a match of costs ask for a config again and again, and each takes tenths of a second.
        self._composed = lru_cache(maxsize=128)(self._compose)

    @property
    def parser(self) -> OverridesParser:
        """Hydra's parser of overrides."""
        return OverridesParser.create(config_loader=self._loader)

    def compose(self, overrides: Sequence[str]) -> JobConfig:
        """The config of a job; raises Hydra's errors."""
        return self._composed(tuple(overrides))

    def _compose(self, overrides: tuple[str, ...]) -> JobConfig:
        return JobConfig(self._loader.load_sweep_config(self._config, list(overrides)))

    def read(self, job: JobConfig) -> Settings:
        """The settings of a job; raises ConfigError if they are refused."""
        return job.settings(self.command)

    def launch(self, overrides: Sequence[Sequence[str]], first_number: int) -> Sequence[JobReturn]:
        """Run jobs with these overrides, and wait until all have ended."""
        return self._launcher.launch(overrides, initial_job_idx=first_number)
