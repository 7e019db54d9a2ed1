"""What an evaluation of a config needs: everything is checked and loaded before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl

from mar_accel.config.settings import Settings
from mar_accel.data.image_sets import ImageSet
from mar_accel.data.requests import GenerationRequests
from mar_accel.data.run_images import RunImages
from mar_accel.errors import ConfigError
from mar_accel.evaluation.baseline import Sampled, open_baseline, require_size
from mar_accel.evaluation.comparison import check_lpips
from mar_accel.evaluation.judge import Judge
from mar_accel.evaluation.measured import read_measured
from mar_accel.evaluation.own_metrics import OwnMetrics
from mar_accel.evaluation.result import Evaluation
from mar_accel.evaluation.unaccelerated import unaccelerated
from mar_accel.inference.build import build_sampling
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.same_config import SameConfig
from mar_accel.inference.session import Session, check_device
from mar_accel.inference.trainer import build_trainer, check_num_processes
from mar_accel.runs.folder import images_of
from mar_accel.runs.identity import Identity, decides_per_batch, why_whole_batches
from mar_accel.runs.output_dir import check_output_dir, require_folder
from mar_accel.utils.ranks import is_first_process


@dataclass
class Preparation:
    """Everything that one evaluation needs.

    Attributes:
        images: the images of the run folder, which evaluate.save_images writes.
        judge: features and reference. None: no quality is measured.
        num_compared: number of samples that are compared with unaccelerated ones.
        plain: settings and session of the unaccelerated sampling; None if it is not run.
        baseline: folder of unaccelerated samples; None if there is none.
        measured: measurements of an earlier evaluation in the run folder.
    """

    settings: Settings
    identity: Identity
    output_dir: Path
    requests: GenerationRequests
    session: Session
    images: RunImages
    judge: Judge | None
    own_metrics: OwnMetrics
    num_compared: int
    plain: tuple[Settings, Session] | None
    baseline: ImageSet | None
    measured: Evaluation

    @property
    def is_unaccelerated(self) -> bool:
        """Whether the run is its own baseline."""
        own = (self.settings.sampler, self.settings.cache)
        return self.plain is not None and own == (self.plain[0].sampler, self.plain[0].cache)

    def trainer(self, callbacks: Sequence[pl.Callback] = ()) -> pl.Trainer:
        same = SameConfig(f"{self.identity.measurement_hash} {self.output_dir}")
        return build_trainer(self.settings.trainer, [*callbacks, same], self.output_dir)

    @staticmethod
    def module(settings: Settings, session: Session) -> InferenceModule:
        return InferenceModule(session, why_whole_batches(settings))


def prepare(settings: Settings, identity: Identity, output_dir: Path) -> Preparation:
    """Check the config and load everything."""
    check_device(settings.trainer.accelerator)
    requests = GenerationRequests(settings.dataset, settings.trainer.batch_size)
    trainer = build_trainer(settings.trainer, [], output_dir)
    requests = requests.limited(settings.trainer.limit_predict_batches, trainer.world_size)
    if requests.num_images < 2:
        if settings.dataset.num_images >= 2:
            raise ConfigError(
                "trainer.limit_predict_batches leaves 1 image, and statistics need 2; raise it."
            )
        raise ConfigError("dataset.num_images must be ≥ 2 for statistics, got 1.")
    check_num_processes(trainer, requests.num_images)
    check_lpips(settings.evaluate)
    other = unaccelerated(settings) if settings.evaluate.baseline == "generate" else None
    num_compared = min(settings.evaluate.fidelity_images, requests.num_images)
    sampled = Sampled.of(settings, identity)
    baseline = open_baseline(settings.evaluate, sampled, "this run has", range(num_compared))
    if settings.evaluate.baseline_dir is not None and is_first_process():
        check_output_dir(Path(settings.evaluate.baseline_dir).absolute(), "evaluate.baseline_dir")
    require_folder(output_dir)
    build_sampling(settings)
    judge, own_metrics = Judge.of(settings), OwnMetrics.of(settings, None)
    session = Session.from_settings(settings)
    session.check_batch(min(requests.batch_size, requests.num_images))
    own_metrics.try_on(session.image_shape())
    if judge is not None:
        judge.try_on(session.image_shape())
    if baseline is not None:
        require_size(baseline, session.image_shape(), "this run makes")
    plain = None if other is None else (other, session.with_settings(other, settings))
    return Preparation(
        settings=settings,
        identity=identity,
        output_dir=output_dir,
        requests=requests,
        session=session,
        images=images_of(settings, output_dir),
        judge=judge,
        own_metrics=own_metrics,
        num_compared=num_compared,
        plain=plain,
        baseline=baseline,
        measured=read_measured(output_dir, identity, flops=decides_per_batch(settings)),
    )
