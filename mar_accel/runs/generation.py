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
from mar_accel.inference.session import Session, check_device
from mar_accel.inference.stopwatch import Stopwatch
from mar_accel.inference.trainer import build_trainer, check_num_processes
from mar_accel.inference.writer import ImageWriter
from mar_accel.runs.folder import (
    CONFIG_FILE,
    IMAGES,
    claim_run_folder,
    image_indices,
    kept_images,
    write_run_record,
)
from mar_accel.runs.identity import Identity
from mar_accel.runs.loggers import log_config, log_results, open_logger
from mar_accel.runs.record import run_record


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

    Example:
        >>> generate(compose_settings("generate", ["sampler=gtr", "output_dir=out"]))
    """
    check_device(settings.trainer.accelerator)
    output_dir = Path(settings.output_dir).absolute()
    requests = GenerationRequests(settings.dataset, settings.trainer.batch_size)
    module = InferenceModule(Session.from_settings(settings))
    stopwatch, callbacks = Stopwatch(), build_callbacks(settings)
    trainer = build_trainer(settings.trainer, [*callbacks, stopwatch], output_dir)
    requests = requests.limited(settings.trainer.limit_predict_batches, trainer.world_size)
    check_num_processes(trainer, requests.num_images)
    writer = ImageWriter(output_dir, requests.num_images, settings.dataset.num_classes)
    trainer.callbacks.append(writer)  # type: ignore[attr-defined]
    identity = Identity.of(settings)
    claim_run_folder(output_dir, settings, identity)
    resume = settings.generate.resume
    there = kept_images(output_dir, settings, trainer.world_size) if resume else set()
    missing = requests.without(there, trainer.world_size)
    trainer.logger = logger = open_logger(settings)
    if missing.num_images:
        if before_sampling is not None:
            before_sampling(module.session, missing.num_images, trainer.world_size)
        with further_processes(output_dir / CONFIG_FILE):
            _predict(trainer, module, missing, output_dir)
    else:
        writer.write_grid()
    if not trainer.is_global_zero:
        return None
    result = GenerationResult(output_dir, stopwatch.seconds, requests.num_images, missing.num_images)
    _record(settings, identity, result, module.session.model.weights_entry, trainer.world_size, logger)
    return result


def _predict(
    trainer: pl.Trainer, module: InferenceModule, requests: GenerationRequests, output_dir: Path
) -> None:
    try:
        trainer.predict(module, requests, return_predictions=False)
    except SystemExit:
        # Lightning converts Ctrl-C to SystemExit. SIGTERM ends here too.
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
    caption = f"{settings.model.name}, seed {settings.seed}"
    log_config(logger, settings)
    log_results(logger, result.speed, {"samples": (result.output_dir / "grid.png", caption)})
    counts: dict[str, Any] = {
        "identity": identity.record(),
        "weights_entry": weights_entry,
        "num_images": result.num_images,
        "num_sampled": result.num_sampled,
        "num_processes": num_processes,
        "seconds": result.seconds,
    }
    # The record is written last, so a run with a record is complete.
    images_kept = result.num_sampled < result.num_images
    write_run_record(run_record(settings, **counts, **result.speed), result.output_dir, images_kept)
