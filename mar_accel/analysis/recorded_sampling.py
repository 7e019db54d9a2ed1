"""Sampling that is recorded: one device, whole batches, and a policy or observers that watch the features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mar_accel.config.settings import Settings
from mar_accel.data.requests import GenerationRequests
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.progress import ImageProgress
from mar_accel.inference.session import Session
from mar_accel.inference.trainer import build_trainer, on_one_device
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.policy import CachePolicy


def sample_recorded(
    settings: Settings, session: Session, policy: CachePolicy, observers: Sequence[Observer] = ()
) -> None:
    """Sample the images of a config, which nobody keeps.

    Args:
        settings: gives data set, trainer and output folder.
        session: model and sampler.
        policy: takes the place of the session's cache, such as one that records.
        observers: are called at each event of the sampling.
    """
    module = InferenceModule(session.with_sampling(session.sampler, policy), "it is recorded as a whole")
    module.observers.extend(observers)
    requests = GenerationRequests(settings.dataset, settings.trainer.batch_size)
    requests = requests.limited(settings.trainer.limit_predict_batches, 1)
    output_dir = Path(settings.output_dir).absolute()
    trainer = build_trainer(on_one_device(settings.trainer), [ImageProgress()], output_dir)
    trainer.predict(module, requests, return_predictions=False)
