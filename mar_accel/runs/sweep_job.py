"""One run of a sweep: named by the hash of its config, and recorded for the table of the sweep."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from mar_accel.config.settings import Settings
from mar_accel.data.shards import formats_in
from mar_accel.errors import ConfigError
from mar_accel.runs.attempt import attempt
from mar_accel.runs.identity import Identity
from mar_accel.runs.sweep_result import FAILED, RunResult

# Name of the sweep that a job belongs to. Launchers pass the variable to every job.
SWEEP_VARIABLE = "MAR_ACCEL_SWEEP"
# Number of the run in its sweep. A launcher counts only the jobs that it is given.
NUMBER_VARIABLE = "MAR_ACCEL_SWEEP_RUN"
RESULTS, BASELINES = ".results", "baselines"
# The objective of an optimising sweeper for commands without a key for it.
OBJECTIVES = {"generate": "seconds_per_image"}


class SweepRun:
    """A run of a sweep, as :class:`mar_accel.runs.attempt.Work`.

    Attributes:
        objective: the number that an optimising sweeper gets; empty until the config is read.
    """

    times_itself = True

    def __init__(self, function: Callable[[Settings], object], read: Callable[[], Settings], sweep_dir: Path):
        self.make, self._read, self._sweep_dir = function, read, sweep_dir
        self.again = f"repeat the command with hydra.sweep.dir={sweep_dir}"
        self.objective = ""

    def named(self) -> tuple[Settings, Identity]:
        """The settings with a folder inside the sweep's folder."""
        settings = self._read()
        self.objective = OBJECTIVES.get(settings.command) or settings.evaluate.objectives[0]
        return name_run(settings, self._sweep_dir)

    def is_finished(self, settings: Settings) -> bool:
        """Whether it has its images, where an evaluation is to keep them and an earlier one did not."""
        evaluate = settings.evaluate
        keeps = settings.command == "evaluate" and evaluate.save_images and not evaluate.images
        return not keeps or bool(formats_in(Path(settings.output_dir)))


def run_job(
    function: Callable[[Settings], float | None],
    read: Callable[[], Settings],
    finished_file: str,
    sentence: Callable[[Exception], str | None],
) -> float:
    """Make a run of a sweep, unless it is finished or another sweep is making it.

    Errors are recorded and not raised.

    Args:
        function: the command.
        read: returns the settings of the run.
        finished_file: a file that only the folder of a finished run contains.
        sentence: returns the message for the user, or None for a bug of the program.

    Returns:
        The objective for an optimising sweeper; NaN if the run failed or has no objective.
    """
    job = HydraConfig.get().job
    # With hydra.job.chdir=true, which is refused below, the working directory is another one by now.
    sweep_dir = Path(HydraConfig.get().runtime.cwd, HydraConfig.get().sweep.dir)
    number = int(os.environ.get(NUMBER_VARIABLE, job.num))
    result = RunResult(number, tuple(HydraConfig.get().overrides.task), FAILED, finished_file)
    work = SweepRun(function, read, sweep_dir)
    result = attempt(work, result, sentence)
    result.write(results_dir(sweep_dir))
    return float(result.metrics.get(work.objective, math.nan))


def results_dir(sweep_dir: Path) -> Path:
    """Folder with the results of this sweep's runs."""
    return sweep_dir / RESULTS / os.environ.get(SWEEP_VARIABLE, "sweep")


def name_run(settings: Settings, sweep_dir: Path) -> tuple[Settings, Identity]:
    """The settings of a run with its folder inside the sweep's folder, and its identity.

    The folder is named by the images, and for an evaluation also by the measurement conditions.
    """
    if not is_default_run_dir(settings.output_dir, sweep_dir):
        raise ConfigError(
            f"output_dir={settings.output_dir} is a single folder, but a sweep (-m) needs one per run; "
            "set hydra.sweep.dir to the folder that contains them."
        )
    identity = Identity.of(settings)
    measures = settings.command == "evaluate"
    name = identity.measurement_hash if measures else identity.evaluation_hash
    folder = sweep_dir / f"{settings.model.name}-{name}"
    settings = settings.with_(output_dir=str(folder), generate={"resume": True}, evaluate={"resume": True})
    if measures and settings.evaluate.baseline_dir is None:
        settings = settings.with_(evaluate={"baseline_dir": str(sweep_dir / BASELINES)})
    return settings, identity


def is_default_run_dir(output_dir: str, sweep_dir: Path) -> bool:
    """Whether a run folder is Hydra's default for a job of the sweep, and not chosen by the user."""
    return Path(output_dir).absolute() == sweep_dir / str(HydraConfig.get().sweep.subdir)
