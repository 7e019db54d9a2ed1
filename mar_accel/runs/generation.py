"""A run of generate: sample images into a complete run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger

from mar_accel.config.settings import Settings
from mar_accel.data.requests import GenerationRequests
from mar_accel.inference.build import build_node
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.processes import further_processes
from mar_accel.inference.same_config import SameConfig
from mar_accel.inference.session import Session, check_device
from mar_accel.inference.stopwatch import Stopwatch
from mar_accel.inference.trainer import build_trainer, check_num_processes
from mar_accel.inference.writer import ImageWriter, write_grid
from mar_accel.runs.folder import (
    CONFIG_FILE,
    IMAGES,
    RECORD_FILE,
    claim_run_folder,
    image_indices,
    kept_images,
    require_complete,
    require_finite,
    write_run_record,
)
from mar_accel.runs.identity import Identity
from mar_accel.runs.lock import RunLock
from mar_accel.runs.loggers import log_config, log_results, open_logger
from mar_accel.runs.record import run_record
from mar_accel.utils.ranks import is_first_process


@dataclass(frozen=True)
class GenerationResult:
    """Result of a run of generate.

    Attributes:
        output_dir: the run folder with images/, grid.png and run.json.
        seconds: wall-clock time of sampling, decoding and writing.
        num_images: number of images of all processes.
        num_sampled: number of images without those of an earlier run.
    """

    output_dir: Path
    seconds: float
    num_images: int
    num_sampled: int

    @property
    def speed(self) -> dict[str, float]:
        """Seconds per image and images per second; empty if nothing was sampled."""
        if not self.num_sampled:
            return {}
        rate = self.num_sampled / self.seconds
        return {"seconds_per_image": 1 / rate, "images_per_second": rate}


def build_callbacks(settings: Settings) -> list[pl.Callback]:
    """The Lightning callbacks of a config."""
    nodes = {f"callbacks.{name}": node for name, node in settings.callbacks.items() if node is not None}
    return [build_node(key, node, pl.Callback) for key, node in nodes.items()]


# Called with the session, the number of images and the number of processes.
BeforeSampling = Callable[[Session, int, int], object]


def generate(settings: Settings, before_sampling: BeforeSampling | None = None) -> GenerationResult | None:
    """Sample the images of a config and write the run folder.

    Args:
        before_sampling: called before the first image is sampled, if any is missing.

    Returns:
        The result on the first process; None on all others.

    Raises:
        MarAccelError: the config cannot be run. Nothing is written in this case.
        IncompleteError: samples are not finite or images were removed. There is no record in this case.

    Example:
        >>> generate(compose_settings("generate", ["sampler=gtr", "output_dir=out"]))
    """
    check_device(settings.trainer.accelerator)
    output_dir = Path(settings.output_dir).absolute()
    requests = GenerationRequests(settings.dataset, settings.trainer.batch_size)
    module = InferenceModule(Session.from_settings(settings))
    stopwatch, callbacks, identity = Stopwatch(), build_callbacks(settings), Identity.of(settings)
    callbacks += [
        SameConfig(f"{identity.measurement_hash} {output_dir}"),
        ImageWriter(output_dir, (RECORD_FILE,)),
        stopwatch,
    ]
    trainer = build_trainer(settings.trainer, callbacks, output_dir)
    requests = requests.limited(settings.trainer.limit_predict_batches, trainer.world_size)
    check_num_processes(trainer, requests.num_images)
    with RunLock(output_dir) as lock:
        lock.take()
        claim_run_folder(output_dir, settings, identity)
        trainer.logger = logger = open_logger(settings)
        missing = _missing(settings, requests, output_dir, module.session, trainer.world_size)
        if missing.num_images and before_sampling is not None:
            before_sampling(module.session, missing.num_images, trainer.world_size)
        # Only the first process knows whether anything is missing, so the others ask it in any case.
        if missing.num_images or trainer.world_size > 1:
            with further_processes(output_dir / CONFIG_FILE):
                _predict(trainer, module, missing, output_dir)
        if not trainer.is_global_zero:
            return None
        require_finite(module.not_finite, requests.num_images, f"output_dir={output_dir}")
        require_complete(output_dir, requests.num_images)
        write_grid(output_dir, requests.num_images, settings.dataset.num_classes)
        result = GenerationResult(output_dir, stopwatch.seconds, requests.num_images, missing.num_images)
        _record(settings, identity, result, module.session.model.weights_entry, trainer.world_size, logger)
        return result


def _missing(
    settings: Settings, requests: GenerationRequests, output_dir: Path, session: Session, num_processes: int
) -> GenerationRequests:
    """The requests that are sampled. Only the first process looks at the folder, and tells the others."""
    if not (settings.generate.resume and is_first_process()):
        return requests
    there = kept_images(output_dir, settings, num_processes, session.image_shape())
    return requests.without(there, num_processes)


def _predict(
    trainer: pl.Trainer, module: InferenceModule, requests: GenerationRequests, output_dir: Path
) -> None:
    try:
        trainer.predict(module, requests, return_predictions=False)
    except SystemExit:
        if trainer.is_global_zero:
            written = len(image_indices(output_dir))
            print(
                f"stopped: {written} images are in {output_dir / IMAGES}; to continue, repeat the command "
                f"with output_dir={output_dir} generate.resume=true.",
                file=sys.stderr,
            )
        raise


def _record(
    settings: Settings,
    identity: Identity,
    result: GenerationResult,
    weights_entry: str | None,
    num_processes: int,
    logger: Logger | None,
) -> None:
    counts: dict[str, Any] = {
        "identity": identity.record(),
        "weights_entry": weights_entry,
        "num_images": result.num_images,
        "num_sampled": result.num_sampled,
        "num_processes": num_processes,
        "seconds": result.seconds,
    }
    images_kept = result.num_sampled < result.num_images
    write_run_record(run_record(settings, **counts, **result.speed), result.output_dir, images_kept)
    # A logger that fails costs nothing that is on disk.
    log_config(logger, settings)
    caption = f"{settings.model.name}, seed {settings.seed}"
    log_results(logger, result.speed, {"samples": (result.output_dir / "grid.png", caption)})
