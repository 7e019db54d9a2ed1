"""A run of redundancy: sample without a cache, and write how much caches can reuse."""

from __future__ import annotations

from pathlib import Path

from mar_accel.analysis.figures import write_figures
from mar_accel.analysis.head_reuse import HeadReuse
from mar_accel.analysis.recorded_sampling import sample_recorded
from mar_accel.analysis.redundancy import FeatureRecorder, RedundancyStatistics
from mar_accel.caching.head import HeadCache
from mar_accel.caching.token import TokenCache
from mar_accel.config.settings import Settings
from mar_accel.data.requests import GenerationRequests
from mar_accel.data.run_files import RECORD_FILE
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_sampling
from mar_accel.inference.session import Session, check_device
from mar_accel.inference.trainer import build_trainer, on_one_device
from mar_accel.runs.output_dir import prepare_output_dir, require_folder
from mar_accel.runs.record import run_record
from mar_accel.utils.figures import check_matplotlib
from mar_accel.utils.json_files import write_json


def measure_redundancy(settings: Settings) -> RedundancyStatistics:
    """Sample without a cache, and write the figures and their numbers to the run folder.

    Raises:
        ConfigError: the config cannot be run. Nothing is written in this case.
    """
    check_device(settings.trainer.accelerator)
    check_matplotlib()
    requests = GenerationRequests(settings.dataset, settings.trainer.batch_size)
    requests = requests.limited(settings.trainer.limit_predict_batches, 1)
    architecture, _, _, plan = build_sampling(settings)
    if len(plan.steps) < 2:
        raise ConfigError("sampler.num_iter must be ≥ 2, since adjacent AR steps are compared, got 1.")
    token = TokenCache(prune_block=settings.redundancy.prune_block)
    token.check(architecture)
    output_dir = Path(settings.output_dir).absolute()
    require_folder(output_dir)
    build_trainer(on_one_device(settings.trainer), [], output_dir)
    session = Session.from_settings(settings)
    session.check_batch(min(requests.batch_size, requests.num_images))
    session.plans.require_one(requests.num_images, "redundancy")
    recorder, reuse = FeatureRecorder(token), _probe(settings, session)
    prepare_output_dir(output_dir)
    sample_recorded(settings, session, recorder, [] if reuse is None else [reuse])
    statistics = recorder.statistics
    write_figures(statistics, reuse, output_dir)
    ratio = statistics.residual_ratio()
    record = run_record(settings, num_images=statistics.num_images, residual_ratio=ratio)
    write_json(record, output_dir / RECORD_FILE)
    return statistics


def _probe(settings: Settings, session: Session) -> HeadReuse | None:
    """A probe of the head's chains.

    It is None if it is disabled, or if the solver does not visit every timestep.
    """
    every = settings.redundancy.head_every
    if every is None or not session.sampler.solver.visits_every_timestep:
        return None
    return HeadReuse(HeadCache(settings.redundancy.head_period, period_for=None, refresh_below=0.0), every)
