"""Train a MAR model: ``python -m mar_accel.train model=digits dataset=digits``."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from mar_accel.cli import command
from mar_accel.errors import ConfigError
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.training import TrainingConfig, TrainingModule


def _resume_path(config: TrainingConfig, output_dir: Path) -> str | None:
    if config.resume is None:
        return None
    if config.resume == "last":
        last = output_dir / "checkpoints" / "last.ckpt"
        return str(last) if last.is_file() else None
    if not Path(config.resume).is_file():
        raise ConfigError(f"training.resume={config.resume} is not a file; give a checkpoint, last or null.")
    return config.resume


def train(config: DictConfig) -> Path:
    """Train as the config says; returns the folder with the averaged weights."""
    settings = TrainingConfig(**OmegaConf.to_container(config.training, resolve=True))  # type: ignore[arg-type]
    output_dir = Path(config.output_dir)
    pl.seed_everything(config.seed, verbose=False)
    torch.set_float32_matmul_precision("high")
    module = TrainingModule(MAR(MARConfig(**config.model.architecture)), settings)
    data = instantiate(config.dataset.training_data, batch_size=settings.batch_size)
    checkpoints = ModelCheckpoint(
        dirpath=output_dir / "checkpoints",
        filename="step-{step}",
        auto_insert_metric_name=False,
        every_n_train_steps=settings.checkpoint_every,
        save_last=True,
    )
    trainer = pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        precision=config.trainer.precision,
        max_steps=settings.max_steps,
        gradient_clip_val=settings.gradient_clip,
        callbacks=[EMAWeightAveraging(decay=settings.ema_decay), checkpoints],
        logger=instantiate(config.logger) if "_target_" in config.logger else False,
        default_root_dir=output_dir,
        log_every_n_steps=50,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=_resume_path(settings, output_dir), weights_only=False)
    return output_dir


@command("train")
def main(config: DictConfig) -> None:
    train(config)


if __name__ == "__main__":
    main()
