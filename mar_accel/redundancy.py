"""Measure and draw what caches can save: ``python -m mar_accel.redundancy model=digits``."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from mar_accel.analysis.figures import check_matplotlib, write_figures
from mar_accel.analysis.head_reuse import HeadReuse, ProbingSolver
from mar_accel.analysis.redundancy import FeatureRecorder, RedundancyStatistics
from mar_accel.caching.head import HeadCache
from mar_accel.caching.token import TokenCache
from mar_accel.errors import ConfigError
from mar_accel.generate import build_module, build_requests, check_device
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.progress import ImageProgress
from mar_accel.inference.trainer import build_trainer, on_one_device
from mar_accel.runs.entry import command
from mar_accel.runs.record import prepare_output_dir, run_record, write_json


def measure_redundancy(config: DictConfig) -> RedundancyStatistics:
    """Sample without a cache, and write the figures and their numbers into the run folder.

    Args:
        config: composed as ``conf/redundancy.yaml``.

    Raises:
        ConfigError: the config cannot be run; nothing has been written then.
    """
    check_device(config.trainer.accelerator)
    check_matplotlib()
    requests, module = build_requests(config), build_module(config)
    if len(module.plan.steps) < 2:
        raise ConfigError("sampler.num_iter=1 has no adjacent AR steps to compare; give at least 2.")
    token = TokenCache(prune_block=config.redundancy.prune_block)
    token.check(module.model.config)
    reuse = _probe_head(config, module)
    module.cache = recorder = FeatureRecorder(token, reuse)
    output_dir = prepare_output_dir(Path(config.output_dir).absolute())
    trainer = build_trainer(on_one_device(config), [ImageProgress()], output_dir)
    trainer.predict(module, requests, return_predictions=False)
    statistics = recorder.statistics
    write_figures(statistics, reuse, output_dir)
    ratio = statistics.residual_ratio()
    record = run_record(config, num_images=statistics.num_images, residual_ratio=ratio)
    write_json(record, output_dir / "run.json")
    console = Console(soft_wrap=True)
    if ratio is not None:
        console.print(
            f"The branches' difference moves {ratio:.1f} times less than the conditional branch (MSE)."
        )
    console.print(f"Figures and numbers: {output_dir}", markup=False)
    return statistics


def _probe_head(config: DictConfig, module: InferenceModule) -> HeadReuse | None:
    """Let the module's solver probe its chains; None where that is not wanted or cannot be done."""
    every, period = config.redundancy.head_every, config.redundancy.head_period
    if every is None or not module.sampler.solver.visits_every_timestep:
        return None
    if not isinstance(every, int) or every < 1:
        raise ConfigError(f"redundancy.head_every={every} is no number of AR steps; give 1 or more, or null.")
    if not isinstance(period, int) or period < 2:
        raise ConfigError(f"redundancy.head_period={period} reuses nothing; give 2 or more.")
    reuse = HeadReuse(HeadCache(period, period_for=None, refresh_below=0.0), every)
    module.sampler.solver = ProbingSolver(module.sampler.solver, reuse)
    return reuse


@command("redundancy")
def main(config: DictConfig) -> None:
    measure_redundancy(config)


if __name__ == "__main__":
    main()
