"""Objects from a composed config."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from mar_accel.caching.policy import CachePolicy
from mar_accel.errors import MarAccelError
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.sampler import Sampler


def build_part(part: DictConfig) -> Any:
    """Instantiate what a config describes; its own complaint is what the user reads, not Hydra's."""
    try:
        return instantiate(part)
    except InstantiationException as error:
        cause: BaseException | None = error
        while isinstance(cause, InstantiationException):
            cause = cause.__cause__
        if isinstance(cause, MarAccelError):
            raise cause from None
        raise


def build_sampler(config: DictConfig) -> Sampler:
    """The sampler of a config; raises ConfigError where its values are wrong."""
    return build_part(config.sampler)


def build_cache(config: DictConfig) -> CachePolicy:
    """The cache policy of a config; raises ConfigError where its values are wrong."""
    return build_part(config.cache)


def build_architecture(model: DictConfig) -> MARConfig:
    """The architecture that a member of the group ``model`` describes."""
    return MARConfig(**OmegaConf.to_container(model.architecture, resolve=True))  # type: ignore[arg-type]


def build_model(model: DictConfig) -> tuple[MAR, Autoencoder]:
    """Model and autoencoder of a member of the group ``model``, with the weights that it names."""
    network = MAR(build_architecture(model))
    return network.eval(), instantiate(model.autoencoder).eval()


def build_trainer(
    config: DictConfig, callbacks: Sequence[pl.Callback], output_dir: Path, logger: Logger | None = None
) -> pl.Trainer:
    """A Trainer that predicts as the config says: no checkpoints, no bars but those of the callbacks."""
    # A command builds several: once is enough to be told that there is no TPU.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    return pl.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        strategy=config.trainer.strategy,
        precision=config.trainer.precision,
        callbacks=list(callbacks),
        logger=logger or False,
        default_root_dir=output_dir,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
