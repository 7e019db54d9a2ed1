"""A sweep that a search guides: it asks for settings, runs them, and is told their objectives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, Trial

from mar_accel.config.overrides import key_of
from mar_accel.config.settings import Positive, checked
from mar_accel.errors import ConfigError, MarAccelError
from mar_accel.inference.build import build_sampling
from mar_accel.metrics.directions import own_directions
from mar_accel.runs.attempt import with_numbers
from mar_accel.runs.identity import NEVER_COUNTS, Identity, digest
from mar_accel.runs.sweep_job import OBJECTIVES, results_dir
from mar_accel.runs.sweep_result import SKIPPED, RunResult
from mar_accel.sweeps.combinations import (
    Combination,
    PlannedRun,
    compose_run,
    content_of_config,
    plan_runs,
)
from mar_accel.sweeps.cost import counted_tflops, flops_ratio
from mar_accel.sweeps.grid_sweep import job_overrides
from mar_accel.sweeps.hydra_sweep import HydraSweep
from mar_accel.sweeps.job_config import JobConfig
from mar_accel.sweeps.launching import launch
from mar_accel.sweeps.objectives import directions, objective_values
from mar_accel.sweeps.search_space import chosen_overrides, example_choices, search_space
from mar_accel.sweeps.study import CONTENT, Study

STUDIES = "studies"
# After so many trials in a row that were no new run, the search space has nothing left.
_MOST_PRUNED = 100
# After so many runs in a row without an objective, the next ones will not have one either.
_MOST_FAILED = 5


@checked
@dataclass(frozen=True)
class SearchSettings:
    """The node ``hydra.sweeper`` of ``hydra/sweeper=search``.

    Attributes:
        n_trials: number of finished trials that the study shall have.
        n_jobs: trials that are handed to the launcher at a time.
        sampler: Optuna's sampler: tpe, gp, random or nsga2.
        seed: its seed.
        directions: "minimize" or "maximize" for each objective. None: as each metric is better.
        max_tflops: settings with more TFLOPs per image are not sampled. None: no limit.
        min_flops_ratio: nor are those that save less than this factor of the unaccelerated sampler's FLOPs.
        params: further overrides in Hydra's sweep syntax, by key.
    """

    n_trials: Positive = 30
    n_jobs: Positive = 1
    sampler: str = "tpe"
    seed: Annotated[int, Ge(0), Le(2**31)] = 0
    directions: list[str] | None = None
    max_tflops: Annotated[float, Gt(0)] | None = None
    min_flops_ratio: Annotated[float, Gt(0)] | None = None
    params: dict[str, Any] | None = None


def search(arguments: Sequence[str], hydra: HydraSweep, settings: SearchSettings) -> None:
    """Run trials until the study has ``n_trials`` finished ones.

    Args:
        arguments: overrides as typed; the swept ones are the search space.
        hydra: what the sweep needs of Hydra.
        settings: the settings of the search.

    Raises:
        ConfigError: a key is mistyped, or nothing can be sampled.
    """
    grid = hydra.settings
    if grid.rows or grid.only or grid.skip or grid.adjust:
        raise ConfigError(
            "sweep.rows, sweep.only, sweep.skip and sweep.adjust belong to grids; remove them from a search."
        )
    fixed, space = search_space(job_overrides(arguments), hydra.parser)
    # A mistyped key would be left out of every trial.
    examples = [Combination((*fixed, *chosen)) for chosen in example_choices(space)]
    plan_runs(examples, hydra.compose, hydra.command)
    objectives = [OBJECTIVES[hydra.command]] if hydra.command in OBJECTIVES else hydra.objectives
    if not objectives or not all(isinstance(objective, str) for objective in objectives):
        raise ConfigError(
            f"evaluate.objective must be a metric or a list of metrics, got {objectives}; choose one, as fid."
        )
    configs = [compose_run(example, hydra.compose, hydra.command)[1] for example in examples]
    ways = directions(objectives, settings.directions, _own_directions(configs[0], hydra))
    file = hydra.sweep_dir / STUDIES / f"{hydra.name}.db"
    shared = [f"objective {key}" for key in objectives]
    shared += [override for override in fixed if not key_of(override).startswith(NEVER_COUNTS)]
    shared += _contents(configs, hydra)
    with _only_search_of(file):
        study = Study(file, hydra.name, ways, space, settings.sampler, settings.seed, shared)
        _Search(fixed, hydra, settings, objectives, study).run()
        _show(study, objectives)


def _own_directions(config: JobConfig | None, hydra: HydraSweep) -> dict[str, bool]:
    """The directions that metrics of one's own say."""
    return {} if config is None else own_directions([hydra.read(config).metrics])


def _contents(configs: Sequence[JobConfig | None], hydra: HydraSweep) -> list[str]:
    """What the trials share besides overrides: weights, classes, judges, and what config groups say.

    Each is a name with a digest. Trials of before a change cannot be compared with those after it.
    """
    found: dict[str, None] = {}
    for config in configs:
        try:
            identity = None if config is None else Identity.of(hydra.read(config))
        except MarAccelError:  # this choice is refused, and so will its trials be
            continue
        if identity is None:
            continue
        judges = {key: identity.evaluation[key] for key in ("judge_files", "judge_sources")}
        parts = {
            "weights": identity.samples["weights"],
            "given images": identity.samples.get("inpainted"),
            "own classes": identity.images["sources"],
            "judges": judges,
            "config groups": {
                **identity.evaluation,
                **dict.fromkeys((*judges, "weights", "inpainted", "sources")),
            },
        }
        found |= {f"{CONTENT}{name} {digest(part)}": None for name, part in parts.items()}
    return list(found)


@contextmanager
def _only_search_of(file: Path) -> Iterator[None]:
    """Keep other searches out: they would take this one's running trials for those of a killed process."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"{file} is in use by another search; wait until it ends, or give this one a name of its own by "
            "sweep.name."
        ) from None
    try:
        yield
    finally:
        lock.release()


class _Search:
    def __init__(
        self,
        fixed: Sequence[str],
        hydra: HydraSweep,
        settings: SearchSettings,
        objectives: Sequence[str],
        study: Study,
    ):
        self.fixed, self.hydra, self.settings = fixed, hydra, settings
        self.objectives, self.study = objectives, study
        # The config of every run that is finished or under way, so that none is made twice.
        self.contents = {trial.user_attrs.get("content") for trial in study.finished}
        # How many trials in a row were not run, or had no objective, and why.
        self.pruned, self.failed, self.reason = 0, 0, ""

    def run(self) -> None:
        self._show_earlier()
        while (missing := self.settings.n_trials - len(self.study.finished)) > 0:
            batch = self._ask(min(self.settings.n_jobs, missing))
            if not batch:
                break
            self._run(batch)
            if self.failed >= _MOST_FAILED:
                break
        if not self.study.finished:
            raise ConfigError(f"no trial could be run; of the last one: {self.reason.rstrip('.')}.")
        if missing > 0:
            print(f"ended with {missing} trials missing; of the last one: {self.reason}")

    def _show_earlier(self) -> None:
        """Give the finished trials of an interrupted study their rows in the closing table."""
        folder = results_dir(self.hydra.sweep_dir)
        for trial in self.study.finished:
            result = _earlier_result(trial)
            if result.record is not None:
                with_numbers(result, identity=None).write(folder)

    def _ask(self, count: int) -> dict[int, tuple[Trial, PlannedRun, str]]:
        """Trials that are worth running, by their number in the sweep."""
        batch: dict[int, tuple[Trial, PlannedRun, str]] = {}
        while len(batch) < count and self.pruned < _MOST_PRUNED:
            trial = self.study.ask()
            overrides = (*self.fixed, *chosen_overrides(trial.params))
            run, config = compose_run(Combination(overrides), self.hydra.compose, self.hydra.command)
            content = "" if config is None else digest(content_of_config(config))
            reason = run.reason
            if config is not None:
                reason = "it is the same run as another trial" if content in self.contents else None
                reason = reason or self._refusal(config)
            if reason is None:
                self.pruned = 0
                self.contents.add(content)
                batch[trial.number] = (trial, run, content)
            else:
                self.pruned, self.reason = self.pruned + 1, reason
                self.study.prune(trial, reason)
        return batch

    def _refusal(self, config: JobConfig) -> str | None:
        """Why a setting is not sampled: it is refused, or it costs too much; None if it is sampled."""
        try:
            settings = self.hydra.read(config)
            build_sampling(settings)
            limit, ratio = self.settings.max_tflops, self.settings.min_flops_ratio
            if limit is not None and (own := counted_tflops(settings)) is not None and own > limit:
                return f"it takes {own:.4g} TFLOPs per image, more than hydra.sweeper.max_tflops={limit}"
            if ratio is not None and (own := flops_ratio(settings)) is not None and own < ratio:
                return f"it saves a factor {own:.3g}, less than hydra.sweeper.min_flops_ratio={ratio}"
        except MarAccelError as error:
            return str(error)
        return None

    def _run(self, batch: dict[int, tuple[Trial, PlannedRun, str]]) -> None:
        results = launch({number: run for number, (_, run, _) in batch.items()}, self.hydra)
        for result in results:
            trial, _, content = batch[result.number]
            values = objective_values(self.objectives, result.metrics)
            self.failed = self.failed + 1 if values is None else 0
            if values is None:
                self.reason = result.reason or f"it has no {', '.join(self.objectives)}"
            self.study.tell(trial, values, content=content, **_kept(result))


def _kept(result: RunResult) -> dict[str, Any]:
    return {
        "overrides": list(result.overrides),
        "folder": result.folder,
        "finished_file": result.finished_file,
        "reason": result.reason,
    }


def _earlier_result(trial: FrozenTrial) -> RunResult:
    kept = trial.user_attrs
    result = RunResult(trial.number, tuple(kept["overrides"]), SKIPPED, kept["finished_file"])
    return replace(result, folder=kept["folder"])


def _show(study: Study, objectives: Sequence[str]) -> None:
    title = "best trial" if len(objectives) == 1 else "Pareto set"
    print(f"{title} of {len(study.finished)} ({Path(study.file)}):")
    for trial in study.best:
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in zip(objectives, trial.values, strict=True))
        print(f"  run {trial.number}: {numbers}: {' '.join(chosen_overrides(trial.params))}")
