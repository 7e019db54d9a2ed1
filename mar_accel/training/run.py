"""A run of train: train a model and write its averaged weights as a model folder.

The same command resumes a stopped training.
A finished training is only exported again.
"""

from __future__ import annotations

import os
import sys
import time
import zipfile
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from mar_accel.config.settings import Settings, TrainingSettings
from mar_accel.data.run_files import CONFIG_FILE, RECORD_FILE
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_architecture, build_autoencoder, build_node
from mar_accel.inference.children import further_processes
from mar_accel.inference.session import check_device
from mar_accel.inference.trainer import trainer_or_config_error
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.sizes import check_bytes
from mar_accel.runs.folder import write_config
from mar_accel.runs.lock import RunLock
from mar_accel.runs.output_dir import require_folder
from mar_accel.runs.record import run_record
from mar_accel.runs.run_log import RunLog
from mar_accel.training.build import build_trained, load_initial
from mar_accel.training.earlier_training import KeepSettings, require_same_training
from mar_accel.training.export import export_weights, write_model_card
from mar_accel.training.last_checkpoint import LastCheckpoint
from mar_accel.training.local_start import start_locally
from mar_accel.training.module import TrainingModule
from mar_accel.training.progress import TrainingProgress
from mar_accel.utils.json_files import read_json, write_json
from mar_accel.utils.ranks import is_first_process
from mar_accel.weights.pickles import read_pickle

LAST = "last.ckpt"
# NumPy, which Lightning seeds too, takes 32 bits.
MAX_SEED = 2**32 - 1
LOG_EVERY_N_STEPS = 50
# What a record has of the training itself.
_MEASURED = ("seconds", "num_processes")


@dataclass(frozen=True)
class TrainingResult:
    """The folder with the averaged weights, and the number of optimiser steps."""

    folder: Path
    steps: int


def train(settings: Settings) -> TrainingResult | None:
    """Train a model.

    Returns:
        The result on the first process; None on all others.

    Raises:
        MarAccelError: the config cannot be run. Nothing is written in this case.
    """
    if settings.seed > MAX_SEED:
        raise ConfigError(f"seed must be at most {MAX_SEED} in a training, got {settings.seed}.")
    check_device(settings.trainer.accelerator)
    data, log = _training_data(settings), RunLog.of(settings)
    autoencoder = build_autoencoder(settings.model)
    _check_images(settings, data, autoencoder)
    output_dir = Path(settings.output_dir).absolute()
    require_folder(output_dir)
    last = output_dir / "checkpoints" / LAST
    resumed = _resume_path(settings.training, last)
    steps_done = _check_resumed(settings, resumed) if resumed is not None else 0
    # The numbers of a training that is finished already, and only exported again.
    measured = {key: read_json(output_dir / RECORD_FILE).get(key) for key in _MEASURED}
    with RunLock(output_dir) as lock:
        if steps_done < settings.training.max_steps:
            module = _module(settings, data, autoencoder, resumed)
            trainer, seconds = _fit(settings, module, data, lock, resumed, log)
            if not trainer.is_global_zero:
                return None
            measured = {"seconds": seconds, "num_processes": trainer.world_size}
            resumed = last
        else:
            lock.take()
        assert resumed is not None
        folder = export_weights(resumed, settings.model, output_dir / "model")
        steps = _global_step(resumed, read_pickle(resumed, "training.resume"))
        record = run_record(settings, steps=steps, resumed_at=steps_done, **measured)
        write_json(record, output_dir / RECORD_FILE)
        write_model_card(folder, record)
    return TrainingResult(folder, steps)


def _module(settings: Settings, data: Any, autoencoder: Autoencoder, resumed: Path | None) -> TrainingModule:
    """The model in training, with its first weights; a checkpoint replaces them later."""
    training = settings.training
    pl.seed_everything(settings.seed, verbose=False)
    classes = getattr(data, "token_classes", ()), getattr(data, "num_word_classes", 0)
    module = TrainingModule(*build_trained(settings.model), autoencoder, training, *classes)
    if training.initial_weights is not None and resumed is None:
        load_initial(module.model, module.conditioner, Path(training.initial_weights))
    if training.local_start and resumed is None:
        start_locally(module.model)
    return module


def _training_data(settings: Settings) -> pl.LightningDataModule:
    """The training data of a config; raises ConfigError if it does not fit the model."""
    dataset = settings.dataset
    if (dataset.training_data or {}).get("_target_") is None:
        raise ConfigError(
            f"dataset={dataset.name} has no training data; set dataset.training_data or use dataset=digits."
        )
    architecture = build_architecture(settings.model)
    key, batch_size = "dataset.training_data", settings.training.batch_size
    data = build_node(key, dataset.training_data or {}, pl.LightningDataModule, batch_size=batch_size)
    _check_data(settings, data, architecture)
    return data


def _check_images(settings: Settings, data: Any, autoencoder: Autoencoder) -> None:
    """Raise ConfigError if the images of the data have another shape than the model's, where it is known."""
    shape = autoencoder.image_shape(build_architecture(settings.model).latent_shape)
    if shape is None:
        return
    model, dataset = settings.model.name, settings.dataset.name
    if data.channels != shape[0]:
        raise ConfigError(
            f"model={model} makes images of {shape[0]} channels but dataset={dataset} has {data.channels}; "
            "choose a matching model."
        )
    side = getattr(data, "image_size", None)
    if side is not None and shape[1:] != (side, side):
        raise ConfigError(
            f"model.architecture.grid and patch_size make images of {shape[1]}×{shape[2]} pixels, but "
            f"dataset={dataset} has {side}×{side}; change one of them."
        )


def _check_data(settings: Settings, data: Any, architecture: Any) -> None:
    """Raise ConfigError for training data that the model, or the training, cannot take.

    Data of one's own may leave out all attributes but ``channels``. With ``token_classes`` (the number of
    classes of each kind) and ``token_grid``, its batches have the classes of each token as a third part. With
    ``num_word_classes``, they have those of each word as a fourth part.
    """
    dataset, batch_size = settings.dataset.name, settings.training.batch_size
    classes, known = getattr(data, "num_classes", None), getattr(architecture, "num_classes", None)
    if classes is not None and known is not None and classes > known:
        raise ConfigError(
            f"model.architecture.num_classes must be at least {classes}, the classes of dataset={dataset}, "
            f"got {known}."
        )
    _check_share(settings, data, 1)
    if settings.training.class_weight:
        _check_token_classes(data, dataset, architecture.grid)
    tokens = batch_size * architecture.seq_len * settings.training.mask_ratio_min
    check_bytes(
        f"training.batch_size={batch_size} with training.timestep_draws={settings.training.timestep_draws}",
        int(4 * tokens * settings.training.timestep_draws * architecture.head_width),
    )


def _check_token_classes(data: Any, dataset: str, grid: tuple[int, int]) -> None:
    of_data = getattr(data, "token_grid", None)
    if not getattr(data, "token_classes", ()) or of_data is None:
        raise ConfigError(
            f"training.class_weight: dataset={dataset} has no classes of tokens; use dataset=scenes or 0."
        )
    if tuple(grid) != tuple(of_data):
        raise ConfigError(
            f"training.class_weight: dataset={dataset} has classes of {of_data[0]}×{of_data[1]} tokens, but "
            f"model.architecture.grid is {grid[0]}×{grid[1]}; change the grid or use 0."
        )


def _resume_path(settings: TrainingSettings, last: Path) -> Path | None:
    if settings.resume is None:
        return None
    path = last if settings.resume == "last" else Path(settings.resume)
    if not os.path.isfile(path):
        if settings.resume == "last":
            return None
        raise ConfigError(f"training.resume={settings.resume} is not a file; use a checkpoint, last or null.")
    # The zip directory is at the end of the file, so a truncated file has none.
    if not zipfile.is_zipfile(path):
        raise ConfigError(f"training.resume: {path} is damaged; use another checkpoint of the run or null.")
    return path


def _check_resumed(settings: Settings, checkpoint: Path) -> int:
    """The optimiser steps before a checkpoint; raises ConfigError if it is of another training."""
    content = read_pickle(checkpoint, "training.resume")
    steps = _global_step(checkpoint, content)
    if is_first_process():
        require_same_training(settings, checkpoint, content)
    return steps


def _global_step(checkpoint: Path, content: Any) -> int:
    """Number of optimiser steps in the content of a checkpoint."""
    try:
        return int(content["global_step"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(
            f"training.resume: {checkpoint} is no checkpoint of a training; use another one or null."
        ) from error


def _fit(
    settings: Settings,
    module: TrainingModule,
    data: pl.LightningDataModule,
    lock: RunLock,
    resumed: Path | None,
    log: RunLog,
) -> tuple[pl.Trainer, float]:
    """Train to the last step and write ``checkpoints/last.ckpt``; returns the Trainer and the seconds."""
    training, output_dir = settings.training, lock.output_dir
    checkpoints = ModelCheckpoint(
        dirpath=output_dir / "checkpoints",
        filename="step-{step}",
        auto_insert_metric_name=False,
        every_n_train_steps=training.checkpoint_every,
        save_last=True,
        enable_version_counter=False,
    )
    trainer = trainer_or_config_error(
        **settings.trainer.lightning,
        max_steps=training.max_steps,
        gradient_clip_val=training.gradient_clip,
        # The last checkpoint is written before the averaged weights replace the current ones.
        callbacks=[
            LastCheckpoint(output_dir / "checkpoints" / LAST),
            EMAWeightAveraging(decay=training.ema_decay),
            checkpoints,
            KeepSettings(settings),
            TrainingProgress(LOG_EVERY_N_STEPS),
        ],
        logger=False,
        enable_progress_bar=False,
        default_root_dir=output_dir,
        log_every_n_steps=LOG_EVERY_N_STEPS,
        enable_model_summary=False,
    )
    _expect_unused_parameters(trainer)
    _check_share(settings, data, trainer.world_size)
    lock.take()
    if trainer.is_global_zero:
        _keep_earlier_metrics(output_dir)
        write_config(settings, output_dir)
    log.start()
    trainer.logger = log.logger
    start = time.perf_counter()
    with further_processes(output_dir / CONFIG_FILE), log, _faster_products():
        try:
            trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
        except SystemExit:
            if trainer.is_global_zero:
                print(f"stopped: {_how_to_continue(output_dir)}", file=sys.stderr)
            raise
    return trainer, time.perf_counter() - start


@contextmanager
def _faster_products() -> Iterator[None]:
    """Products in TF32 where a GPU has it. Sampling in the same process has its own precision again."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)


def _expect_unused_parameters(trainer: pl.Trainer) -> None:
    """Let DDP expect weights without a gradient, unless ``trainer.strategy`` says otherwise.

    The encoder of a text model does not run in a batch whose tokens are all masked. Every process draws
    its own mask, so the others would wait for gradients that never come.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)


def _check_share(settings: Settings, data: Any, num_processes: int) -> None:
    """Raise ConfigError if a process would get no whole batch, and the training would end at once."""
    batch_size, each = settings.training.batch_size, ""
    if num_processes > 1:
        each = f" for each of {num_processes} processes"
    if isinstance(data, Sized) and len(data) // num_processes < batch_size:
        raise ConfigError(
            f"training.batch_size must be at most {len(data) // num_processes}, the images of "
            f"dataset={settings.dataset.name}{each}, got {batch_size}."
        )


def _how_to_continue(output_dir: Path) -> str:
    if not (output_dir / "checkpoints" / LAST).is_file():
        return "there is no checkpoint yet."
    return f"to continue from the last checkpoint, repeat the command with output_dir={output_dir}."


def _keep_earlier_metrics(output_dir: Path) -> None:
    """Rename the metrics of earlier runs, since the CSV logger would overwrite them."""
    for metrics in output_dir.glob("logs/metrics.csv"):
        number = len(list(metrics.parent.glob("metrics-*.csv"))) + 1
        metrics.rename(metrics.with_name(f"metrics-{number}.csv"))
