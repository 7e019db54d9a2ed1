"""Sample images: ``python -m mar_accel.generate model=digits sampler=mar cache=none``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from mar_accel.data.requests import GenerationRequests
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_cache, build_model, build_part, build_sampler
from mar_accel.inference.module import InferenceModule
from mar_accel.inference.processes import further_processes
from mar_accel.inference.stopwatch import Stopwatch
from mar_accel.inference.trainer import build_trainer
from mar_accel.inference.writer import ImageWriter
from mar_accel.runs.entry import command
from mar_accel.runs.folder import (
    CONFIG_FILE,
    IMAGES,
    RECORD_FILE,
    claim_run_folder,
    kept_images,
    write_run_record,
)
from mar_accel.runs.identity import config_hash
from mar_accel.runs.loggers import log_config, log_results, open_logger
from mar_accel.runs.record import run_record


@dataclass(frozen=True)
class GenerationResult:
    """What a run of generate leaves behind.

    Attributes:
        output_dir: the run folder with images/, grid.png and run.json.
        seconds: wall-clock time of sampling, decoding and writing.
        num_images: images of all processes.
        num_sampled: those of them that an earlier run had not left.
    """

    output_dir: Path
    seconds: float
    num_images: int
    num_sampled: int


def check_device(accelerator: str) -> None:
    """Refuse a GPU where there is none, before Lightning does so with a traceback."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["gpu"] = there["cuda"] or there["mps"]
    if not there.get(accelerator, True):
        raise ConfigError(
            f"trainer.accelerator={accelerator} asks for a GPU (CUDA) but there is none; use trainer=cpu."
        )


def build_requests(config: DictConfig) -> GenerationRequests:
    """The data module of a config."""
    labels = config.dataset.labels
    if isinstance(labels, int):
        labels = [labels]
    return GenerationRequests(
        num_images=config.dataset.num_images,
        num_classes=config.dataset.num_classes,
        labels=labels,
        batch_size=config.trainer.batch_size,
        images_per_class=config.dataset.images_per_class,
    )


def build_module(config: DictConfig) -> InferenceModule:
    """Model, sampler and cache of a config as one module; refuses what cannot be combined."""
    if config.seed < 0:
        raise ConfigError(f"seed={config.seed} is negative; give 0 or more.")
    # The cheap checks come first: nobody should wait for weights to learn of a typo.
    sampler, cache = build_sampler(config), build_cache(config)
    sampler.plan(tuple(config.model.architecture.grid))
    model, autoencoder = build_model(config.model)
    return InferenceModule(model, autoencoder, sampler, cache, config.seed).eval()


def check_num_processes(trainer: pl.Trainer, num_images: int) -> None:
    """Refuse processes that would have nothing to do: the others would wait for them."""
    if trainer.world_size > num_images:
        raise ConfigError(
            f"trainer.devices={trainer.world_size} are more than dataset.num_images={num_images}; "
            f"give at most {num_images} devices."
        )


def generate(config: DictConfig) -> GenerationResult:
    """Sample as the config says and write the run folder.

    Raises:
        MarAccelError: the config cannot be run; nothing has been written then.
    """
    check_device(config.trainer.accelerator)
    requests = build_requests(config)
    module = build_module(config)
    output_dir = Path(config.output_dir).absolute()
    stopwatch = Stopwatch()
    callbacks = [build_part(callback) for callback in (config.callbacks or {}).values()]
    writer = ImageWriter(output_dir, requests.num_images, config.dataset.num_classes)
    trainer = build_trainer(config, [*callbacks, stopwatch, writer], output_dir)
    check_num_processes(trainer, requests.num_images)
    claim_run_folder(output_dir, config)
    there = kept_images(output_dir, config, trainer.world_size) if config.generate.resume else set()
    missing = requests.without(there, trainer.world_size)
    logger = open_logger(config)
    trainer.logger = logger
    if missing.num_images:
        with further_processes(output_dir / CONFIG_FILE):
            _predict(trainer, module, missing, output_dir)
    else:
        writer.write_grid()
    result = GenerationResult(output_dir, stopwatch.seconds, requests.num_images, missing.num_images)
    if trainer.is_global_zero:
        _record(config, result, trainer.world_size, logger)
    return result


def _predict(
    trainer: pl.Trainer, module: InferenceModule, requests: GenerationRequests, output_dir: Path
) -> None:
    try:
        trainer.predict(module, requests, return_predictions=False)
    except SystemExit:
        # Lightning turns Ctrl-C into this, and SIGTERM ends so too.
        if trainer.is_global_zero:
            print(f"stopped: the images in {output_dir / IMAGES} are whole.", file=sys.stderr)
        raise


def _record(config: DictConfig, result: GenerationResult, num_processes: int, logger: Logger | None) -> None:
    sampled = result.num_sampled
    speed = (
        {"seconds_per_image": result.seconds / sampled, "images_per_second": sampled / result.seconds}
        if sampled
        else {}
    )
    caption = f"{config.model.name}, seed {config.seed}"
    log_config(logger, config)
    log_results(logger, speed, {"samples": (result.output_dir / "grid.png", caption)})
    counts = {
        "config_hash": config_hash(config),
        "num_images": result.num_images,
        "num_sampled": sampled,
        "num_processes": num_processes,
        "seconds": result.seconds,
    }
    # The last thing that is written: where it is, everything else is complete.
    images_kept = sampled < result.num_images
    write_run_record(run_record(config, **counts, **speed), result.output_dir, images_kept)
    rate = f" ({speed['images_per_second']:.2f} images/s)" if speed else ""
    kept = f", {result.num_images - sampled} were there" if images_kept else ""
    print(f"{sampled} images in {result.seconds:.1f} s{rate}{kept}: {result.output_dir}")


@command("generate", finished_file=RECORD_FILE)
def main(config: DictConfig) -> None:
    generate(config)


if __name__ == "__main__":
    main()
