"""Train a MAR model: ``python -m mar_accel.train model=digits dataset=digits``.

The averaged weights end up as a model folder, ``<output_dir>/model``, which ``model.weights=FOLDER`` reads. A
training that was stopped goes on when its command is given again; one that is finished is only exported.
"""

from __future__ import annotations

import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from mar_accel.config.check import check_arguments
from mar_accel.errors import ConfigError
from mar_accel.generate import check_device
from mar_accel.inference.processes import further_processes
from mar_accel.inference.trainer import trainer_or_config_error
from mar_accel.runs.entry import command
from mar_accel.runs.loggers import log_config, open_logger
from mar_accel.runs.record import prepare_output_dir, run_record, write_json
from mar_accel.training.build import build_trained, load_initial, trained_architecture
from mar_accel.training.export import export_averaged, write_model_card
from mar_accel.training.last_checkpoint import LastCheckpoint
from mar_accel.training.module import TrainingConfig, TrainingModule

CONFIG_FILE, LAST = "config.yaml", "last.ckpt"
LOG_EVERY_N_STEPS = 50


def train(config: DictConfig) -> Path:
    """Train as the config says; returns the folder with the averaged weights.

    Raises:
        MarAccelError: the config cannot be run; nothing has been written then.
    """
    settings, data = _check(config)
    output_dir = Path(config.output_dir).absolute()
    last = output_dir / "checkpoints" / LAST
    resumed = _resume_path(settings, last)
    steps_done = _global_step(resumed) if resumed is not None else 0
    prepare_output_dir(output_dir)
    seconds = 0.0
    if steps_done < settings.max_steps:
        pl.seed_everything(config.seed, verbose=False)
        torch.set_float32_matmul_precision("high")
        module = TrainingModule(*build_trained(config.model), settings)
        if settings.initial_weights is not None and resumed is None:
            load_initial(module.model, module.conditioner, Path(settings.initial_weights))
        trainer, seconds = _fit(config, module, data, output_dir, resumed)
        if not trainer.is_global_zero:
            return output_dir / "model"
        resumed = last
    assert resumed is not None
    folder = export_averaged(resumed, config.model, output_dir / "model")
    steps = _global_step(resumed)
    record = run_record(config, steps=steps, resumed_at=steps_done, seconds=seconds)
    write_json(record, output_dir / "run.json")
    write_model_card(folder, record)
    print(f"{steps} steps; averaged weights: {folder}")
    return folder


def _check(config: DictConfig) -> tuple[TrainingConfig, pl.LightningDataModule]:
    """Settings and data of a config; refuses what cannot be trained."""
    values: Any = OmegaConf.to_container(config.training, resolve=True)
    check_arguments("training", values, TrainingConfig)
    settings = TrainingConfig(**values)
    check_device(config.trainer.accelerator)
    if config.seed < 0:
        raise ConfigError(f"seed={config.seed} is negative; give 0 or more.")
    name = config.dataset.name
    if "training_data" not in config.dataset:
        raise ConfigError(
            f"dataset={name} has nothing to train on; give dataset.training_data or dataset=digits."
        )
    architecture = trained_architecture(config.model)
    data = instantiate(config.dataset.training_data, batch_size=settings.batch_size)
    if data.channels != architecture.latent_channels:
        raise ConfigError(
            f"model={config.model.name} works on {architecture.latent_channels} channels but dataset={name} "
            f"has {data.channels}; choose a model that fits."
        )
    return settings, data


def _resume_path(settings: TrainingConfig, last: Path) -> Path | None:
    if settings.resume is None:
        return None
    path = last if settings.resume == "last" else Path(settings.resume)
    if not path.is_file():
        if settings.resume == "last":
            return None
        raise ConfigError(
            f"training.resume={settings.resume} is not a file; give a checkpoint, last or null."
        )
    # Only a file that was written to its end has the table that is looked for here.
    if not zipfile.is_zipfile(path):
        raise ConfigError(f"training.resume: {path} is damaged; give another checkpoint of the run or null.")
    return path


def _global_step(checkpoint: Path) -> int:
    """Optimiser steps that a checkpoint has behind it."""
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def _fit(
    config: DictConfig,
    module: TrainingModule,
    data: pl.LightningDataModule,
    output_dir: Path,
    resumed: Path | None,
) -> tuple[pl.Trainer, float]:
    """Train to the last step; leaves ``checkpoints/last.ckpt``. Returns the Trainer and the seconds."""
    settings = module.config
    checkpoints = ModelCheckpoint(
        dirpath=output_dir / "checkpoints",
        filename="step-{step}",
        auto_insert_metric_name=False,
        every_n_train_steps=settings.checkpoint_every,
        save_last=True,
        enable_version_counter=False,
    )
    trainer = trainer_or_config_error(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        strategy=config.trainer.strategy,
        precision=config.trainer.precision,
        max_steps=settings.max_steps,
        gradient_clip_val=settings.gradient_clip,
        # The last checkpoint is written before the averaged weights take the place of the current ones.
        callbacks=[
            LastCheckpoint(output_dir / "checkpoints" / LAST),
            EMAWeightAveraging(decay=settings.ema_decay),
            checkpoints,
        ],
        logger=False,
        default_root_dir=output_dir,
        log_every_n_steps=LOG_EVERY_N_STEPS,
        enable_model_summary=False,
    )
    if trainer.is_global_zero:
        _keep_earlier_metrics(output_dir)
        OmegaConf.save(config, output_dir / CONFIG_FILE, resolve=True)
    trainer.logger = open_logger(config)
    log_config(trainer.logger, config)
    start = time.perf_counter()
    with further_processes(output_dir / CONFIG_FILE):
        try:
            trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
        except SystemExit:
            if trainer.is_global_zero:
                print("stopped: the same command goes on from the last checkpoint.", file=sys.stderr)
            raise
    return trainer, time.perf_counter() - start


def _keep_earlier_metrics(output_dir: Path) -> None:
    """The CSV logger starts its file anew: what was logged before a resumption is kept under another name."""
    for metrics in output_dir.glob("logs/metrics.csv"):
        number = len(list(metrics.parent.glob("metrics-*.csv"))) + 1
        metrics.rename(metrics.with_name(f"metrics-{number}.csv"))


@command("train")
def main(config: DictConfig) -> None:
    train(config)


if __name__ == "__main__":
    main()
