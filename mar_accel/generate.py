"""Sample images: ``python -m mar_accel.generate model=digits sampler=mar cache=none``."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mar_accel.building import build_cache, build_model, build_sampler
from mar_accel.callbacks.writer import ImageWriter
from mar_accel.cli import command
from mar_accel.configuration import OUTPUT_DIR_VARIABLE
from mar_accel.data.requests import GenerationRequests
from mar_accel.errors import ConfigError
from mar_accel.inference import InferenceModule
from mar_accel.prediction import build_trainer
from mar_accel.run_logging import log_config, log_results
from mar_accel.run_record import prepare_output_dir, run_record, write_json


@dataclass(frozen=True)
class GenerationResult:
    """What a run of generate leaves behind.

    Attributes:
        output_dir: the run folder with images/, grid.png and run.json.
        seconds: wall-clock time of sampling, decoding and writing.
        num_images: images of all processes.
    """

    output_dir: Path
    seconds: float
    num_images: int


def check_device(accelerator: str) -> None:
    """Refuse a GPU where there is none, before Lightning does so with a traceback."""
    if accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError(
            f"trainer.accelerator={accelerator} asks for a CUDA device but there is none; use trainer=cpu."
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


def generate(config: DictConfig) -> GenerationResult:
    """Sample as the config says and write the run folder."""
    check_device(config.trainer.accelerator)
    requests = build_requests(config)
    module = build_module(config)
    output_dir = prepare_output_dir(Path(config.output_dir).absolute())
    # Processes that Lightning starts compose the config again: they must agree on the folder.
    os.environ[OUTPUT_DIR_VARIABLE] = str(output_dir)
    logger = instantiate(config.logger)
    callbacks = [instantiate(callback) for callback in (config.callbacks or {}).values()]
    writer = ImageWriter(output_dir, requests.num_images, config.dataset.num_classes)
    trainer = build_trainer(config, [*callbacks, writer], output_dir, logger)
    start = time.perf_counter()
    trainer.predict(module, requests, return_predictions=False)
    result = GenerationResult(output_dir, time.perf_counter() - start, requests.num_images)
    if trainer.is_global_zero:
        _record(config, result, logger)
    return result


def _record(config: DictConfig, result: GenerationResult, logger: object) -> None:
    speed = {
        "seconds_per_image": result.seconds / result.num_images,
        "images_per_second": result.num_images / result.seconds,
    }
    write_json(
        run_record(config, num_images=result.num_images, seconds=result.seconds, **speed),
        result.output_dir / "run.json",
    )
    caption = f"{config.model.name}, seed {config.seed}"
    log_config(logger, config)  # type: ignore[arg-type]
    log_results(logger, speed, {"samples": (result.output_dir / "grid.png", caption)})  # type: ignore[arg-type]
    OmegaConf.save(config, result.output_dir / "config.yaml", resolve=True)
    print(
        f"{result.num_images} images in {result.seconds:.1f} s "
        f"({speed['images_per_second']:.2f} images/s): {result.output_dir}"
    )


@command("generate")
def main(config: DictConfig) -> None:
    generate(config)


if __name__ == "__main__":
    main()
