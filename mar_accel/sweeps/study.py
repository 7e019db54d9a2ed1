"""A study of Optuna in the sweep's folder, which goes on where it was stopped."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from mar_accel.errors import ConfigError

SAMPLERS = {
    "tpe": optuna.samplers.TPESampler,
    "gp": optuna.samplers.GPSampler,
    "random": optuna.samplers.RandomSampler,
    "nsga2": optuna.samplers.NSGAIISampler,
}


def _opened(file: Path, name: str, directions: Any) -> optuna.Study:
    """The study in a file, which is created if it does not exist; raises ConfigError if it cannot be read."""
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
        return optuna.create_study(
            storage=storage, study_name=name, directions=directions, load_if_exists=True
        )
    except Exception as error:  # of Optuna, SQLAlchemy or SQLite
        raise ConfigError(
            f"{file} cannot be used as a study ({type(error).__name__}); remove it if it is damaged, or give "
            "this search a name of its own by sweep.name."
        ) from error


# Attribute of a study with what all its trials share, and how an entry begins that ends with a digest.
_FIXED, CONTENT = "fixed", "the content of "


class Study:
    """Asks for trials, and is told how they ended.

    Every trial stays in a database in the sweep's folder. Trials that a killed process was running are
    failed, and their values are asked for again.

    Args:
        file: the database; it is created if it does not exist.
        name: name of the study.
        directions: "minimize" or "maximize" for each objective.
        space: distribution of each key.
        sampler: name of Optuna's sampler.
        seed: its seed.
        fixed: what all trials share, such as ``["dataset.num_images=200"]``, and the objectives.

    Raises:
        ConfigError: the study in the file has other objectives, another search space or other fixed values,
            or the file is damaged.
    """

    def __init__(
        self,
        file: Path,
        name: str,
        directions: Sequence[str],
        space: Mapping[str, BaseDistribution],
        sampler: str,
        seed: int,
        fixed: Sequence[str] = (),
    ):
        if sampler not in SAMPLERS:
            known = ", ".join(SAMPLERS)
            raise ConfigError(f"hydra.sweeper.sampler={sampler} is unknown; choose one of {known}.")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        # Categories beside numbers make Optuna's samplers say that they are experimental.
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.file, self.space = file, dict(space)
        file.parent.mkdir(parents=True, exist_ok=True)
        self._study = _opened(file, name, list(directions))
        self._refuse_other(list(directions), sorted(fixed))
        # With the same seed, a continued study would draw its first random trials again.
        self._study.sampler = SAMPLERS[sampler](seed=seed + len(self._study.trials))
        self._fail_abandoned()

    def _refuse_other(self, directions: Sequence[str], fixed: list[str]) -> None:
        """Raise ConfigError if the trials that are there cannot be compared with those to come."""
        rename = "give this one a name of its own by sweep.name."
        there = [direction.name.lower() for direction in self._study.directions]
        others = [t.distributions for t in self._study.trials if t.distributions]
        if there != directions or any(dict(distributions) != self.space for distributions in others):
            raise ConfigError(
                f"{self.file} has a study of other objectives or of another search space; {rename}"
            )
        kept = self._study.user_attrs.get(_FIXED)
        if kept is None:
            self._study.set_user_attr(_FIXED, fixed)
        elif kept != fixed:
            differing = sorted({*kept} ^ {*fixed})
            # Digests tell nobody anything.
            names = dict.fromkeys(d.rsplit(" ", 1)[0] if d.startswith(CONTENT) else d for d in differing)
            raise ConfigError(f"{self.file} has a study of other settings ({', '.join(names)}); {rename}")

    def _fail_abandoned(self) -> None:
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            self._study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                self._study.enqueue_trial(trial.params)

    @property
    def finished(self) -> list[FrozenTrial]:
        """The trials that have values."""
        return self._study.get_trials(states=(TrialState.COMPLETE,))

    @property
    def best(self) -> list[FrozenTrial]:
        """The best trial; of several objectives, those that no other trial is better than in all."""
        return list(self._study.best_trials) if self.finished else []

    def ask(self) -> Trial:
        """A new trial; ``params`` has its values."""
        return self._study.ask(self.space)

    def tell(self, trial: Trial, values: Sequence[float] | None, **attributes: Any) -> None:
        """Say how a trial ended.

        Args:
            trial: the trial.
            values: its objectives. None: it has failed.
            attributes: what is kept with it, as JSON values.
        """
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        if values is None:
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, list(values))

    def prune(self, trial: Trial, reason: str) -> None:
        """Say that a trial is not worth running."""
        trial.set_user_attr("reason", reason)
        self._study.tell(trial, state=TrialState.PRUNED)
