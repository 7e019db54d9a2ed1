"""A run of generate: sample images into a complete run folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from mar_accel.config.settings import DatasetSettings, Settings
from mar_accel.data.requests import GenerationRequests
from mar_accel.data.run_files import CONFIG_FILE, GRID_FILE, RECORD_FILE
from mar_accel.data.run_images import RunImages
from mar_accel.data.shards import Shards
from mar_accel.inference.between_batches import StopBetweenBatches
from mar_accel.inference.build import build_node
from mar_accel.inference.children import further_processes
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.same_config import SameConfig
from mar_accel.inference.session import Session, check_device
from mar_accel.inference.stopwatch import Stopwatch
from mar_accel.inference.trainer import build_trainer, check_num_processes
from mar_accel.inference.writer import ImageWriter, write_grid
from mar_accel.metrics.catalogue import GENERATE_METRICS
from mar_accel.runs.folder import (
    claim_run_folder,
    images_of,
    kept_images,
    require_complete,
    require_finite,
    write_run_record,
)
from mar_accel.runs.geneval import write_geneval
from mar_accel.runs.identity import Identity, why_whole_batches
from mar_accel.runs.lock import RunLock
from mar_accel.runs.output_dir import require_folder
from mar_accel.runs.record import run_record
from mar_accel.runs.run_log import RunLog
from mar_accel.runs.stored import read_record
from mar_accel.utils.ranks import is_first_process

# Longest caption of the grid in a logger; the config has all prompts.
MAX_CAPTION = 2000


@dataclass(frozen=True)
class GenerationResult:
    """Result of a run of generate.

    Attributes:
        output_dir: the run folder with images/, grid.png and run.json.
        seconds: wall-clock time of sampling, decoding and writing.
        num_images: number of images of all processes.
        num_sampled: number of images without those of an earlier run.
        largest_batch: images at a time that fit into memory. None: all batches did.
    """

    output_dir: Path
    seconds: float
    num_images: int
    num_sampled: int
    largest_batch: int | None = None

    @property
    def speed(self) -> dict[str, float]:
        """Seconds per image and images per second.

        Empty if nothing was sampled, or not with the batch size that was asked for.
        """
        if not self.num_sampled or self.largest_batch is not None:
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
    images = images_of(settings, output_dir)
    requests = GenerationRequests(settings.dataset, settings.trainer.batch_size)
    stopwatch, callbacks, identity = Stopwatch(), build_callbacks(settings), Identity.of(settings)
    callbacks += [
        SameConfig(f"{identity.measurement_hash} {output_dir}"),
        ImageWriter(images, (RECORD_FILE,), anew=not settings.generate.resume),
        stopwatch,
        StopBetweenBatches(),
    ]
    trainer = build_trainer(settings.trainer, callbacks, output_dir)
    requests = requests.limited(settings.trainer.limit_predict_batches, trainer.world_size)
    check_num_processes(trainer, requests.num_images)
    require_folder(output_dir)
    log = RunLog.of(settings) if trainer.is_global_zero else RunLog(None, settings)
    module = InferenceModule(Session.from_settings(settings), why_whole_batches(settings))
    if is_first_process():
        for note in module.session.conditioner.notes:
            print(f"note: {note}", file=sys.stderr)
    module.session.check_batch(min(requests.batch_size, requests.num_images))
    with RunLock(output_dir) as lock, log:
        lock.take()
        claim_run_folder(output_dir, settings, identity)
        log.start()
        # Callbacks of one's own may log while images are sampled.
        trainer.logger = log.logger
        missing = _missing(settings, requests, images, module.session, trainer.world_size)
        if missing.num_images and before_sampling is not None:
            before_sampling(module.session, missing.num_images, trainer.world_size)
        # Only the first process knows whether anything is missing, so the others ask it in any case.
        if missing.num_images or trainer.world_size > 1:
            with how_to_continue(images, settings), further_processes(output_dir / CONFIG_FILE):
                trainer.predict(module, missing, return_predictions=False)
        if not trainer.is_global_zero:
            return None
        require_finite(module.not_finite, requests.num_images, f"output_dir={output_dir}")
        require_complete(images, requests.num_images)
        finish_images(images, settings.dataset, requests.num_images)
        counts = requests.num_images, missing.num_images
        result = GenerationResult(output_dir, stopwatch.seconds, *counts, module.largest_batch)
        _record(settings, identity, result, module.session.model.weights_entry, trainer.world_size, log)
        images.tidy()
        return result


def finish_images(images: RunImages, dataset: DatasetSettings, num_images: int) -> None:
    """What a complete run leaves besides its images: the joined file, the grid, and GenEval's layout."""
    images.join(num_images)
    write_grid(images, num_images, dataset)
    if dataset.metadata:
        write_geneval(images, dataset, num_images)


def _missing(
    settings: Settings,
    requests: GenerationRequests,
    images: RunImages,
    session: Session,
    num_processes: int,
) -> GenerationRequests:
    """The requests that are sampled. Only the first process looks at the folder, and tells the others."""
    resume = settings.generate.resume
    # Shards that cannot be read go in any case, since they would be joined.
    if not is_first_process() or not (resume or isinstance(images, Shards)):
        return requests
    there = kept_images(images, settings, num_processes, session.image_shape())
    return requests.without(there, num_processes) if resume else requests


@contextmanager
def how_to_continue(images: RunImages, settings: Settings) -> Iterator[None]:
    """Say what is there, and how to go on, if the run is stopped."""
    try:
        yield
    except SystemExit:
        if is_first_process():
            print(
                f"stopped: {len(images.indices())} images are in {images.folder}; to continue, repeat the "
                f"command with output_dir={images.output_dir} {settings.command}.resume=true.",
                file=sys.stderr,
            )
        raise


def _record(
    settings: Settings,
    identity: Identity,
    result: GenerationResult,
    weights_entry: str | None,
    num_processes: int,
    log: RunLog,
) -> None:
    measured: dict[str, Any] = {
        "num_sampled": result.num_sampled,
        "num_processes": num_processes,
        "batch_size": result.largest_batch or settings.trainer.batch_size,
        "seconds": result.seconds,
        **result.speed,
    }
    if not result.num_sampled:
        # The numbers of the run that sampled the images stay theirs.
        there = read_record(result.output_dir / RECORD_FILE)
        keys = (*measured, *(metric.key for metric in GENERATE_METRICS))
        measured |= {key: there[key] for key in keys if key in there}
    counts = {"identity": identity.record(), "weights_entry": weights_entry, "num_images": result.num_images}
    images_kept = result.num_sampled < result.num_images
    write_run_record(run_record(settings, **counts, **measured), result.output_dir, images_kept)
    caption = f"{settings.model.name}, seed {settings.seed}"
    if settings.dataset.prompts is not None:
        caption = f"{caption}: {' | '.join(settings.dataset.prompts)}"[:MAX_CAPTION]
    log.numbers(result.speed)
    log.picture("samples", result.output_dir / GRID_FILE, caption)
