"""Python API as diffusers has it: ``MARPipeline.from_pretrained("digits")(class_labels=[3, 7]).images``."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import Tensor

from mar_accel.config.compose import compose_config
from mar_accel.config.messages import sentence_for
from mar_accel.errors import ConfigError, WeightsError
from mar_accel.inference.build import build_cache, build_model, build_sampler
from mar_accel.models.autoencoders import Autoencoder, PixelAutoencoder
from mar_accel.models.mar import MAR
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.observer import Observer
from mar_accel.utils.images import to_pil
from mar_accel.weights.folder import PIXEL, read_description, save_model_folder
from mar_accel.weights.loading import MODEL_HUB_FILES, MODEL_KEY, load_kl_autoencoder, load_mar
from mar_accel.weights.sources import locate

CONFIG_NAME = "generate"


@dataclass
class PipelineOutput:
    """What a call of the pipeline gives.

    Attributes:
        images: one picture per label, 8-bit grey or RGB.
        tokens: the sampled tokens [B, L, C], float32, on the CPU.
    """

    images: list[Image.Image]
    tokens: Tensor


class MARPipeline:
    """A model with its autoencoder, to be sampled with any sampler and cache of the config groups.

    Args:
        model, autoencoder: in evaluation mode, both on the same device and of the same dtype.
        name: of the model, which is saved with it.
        guidance_scale: w unless a call says otherwise; 1: no guidance.
        max_timestep: clip of the timesteps unless a call says otherwise; see :class:`Sampler`.
        head_refresh_below: share of a chain that head caches compute at its end unless a call says otherwise,
            0..1; see :class:`HeadCache`.
    """

    def __init__(
        self,
        model: MAR,
        autoencoder: Autoencoder,
        *,
        name: str = "mar",
        guidance_scale: float = 1.0,
        max_timestep: int | str | None = "auto",
        head_refresh_below: float = 0.0,
    ):
        self.model = model
        self.autoencoder = autoencoder
        self.name = name
        self.guidance_scale = guidance_scale
        self.max_timestep = max_timestep
        self.head_refresh_below = head_refresh_below

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path,
        *,
        model: str | None = None,
        autoencoder: str | Path | None = None,
        ema: bool = True,
    ) -> MARPipeline:
        """A pipeline on the CPU, float32.

        Args:
            weights: "digits" (embedded), a model folder, a Hub repository id (``owner/name`` or
                ``owner/name@revision``), a weight file, or "random".
            model: member of the config group ``model`` ("mar_base", …) that the weights belong to; needed for
                a file and for "random", which do not say it themselves.
            autoencoder: where the autoencoder of a latent model is, as ``model.autoencoder.weights``; None:
                where the weights are.
            ema: take the averaged weights of a checkpoint that has them.

        Raises:
            WeightsError: weights are missing, damaged or of another model.
            ConfigError: ``model`` is unknown.
        """
        weights, autoencoder = str(weights), None if autoencoder is None else str(autoencoder)
        if model is None:
            return cls._from_folder(weights, autoencoder)
        config = _compose([f"model={model}"]).model
        config.weights, config.ema = weights, ema
        if autoencoder is not None and "weights" in config.autoencoder:
            config.autoencoder.weights = autoencoder
        network, decoder = build_model(config)
        return cls(
            network,
            decoder,
            name=config.name,
            guidance_scale=config.sampling.guidance_scale,
            max_timestep=config.sampling.max_timestep,
            head_refresh_below=config.sampling.get("head_refresh_below", 0.0),
        )

    @classmethod
    def _from_folder(cls, weights: str, autoencoder: str | None) -> MARPipeline:
        path = locate(weights, MODEL_KEY, MODEL_HUB_FILES)
        if path is None or path.is_file():
            raise WeightsError(
                f'{weights} does not say which model it belongs to; name it, as in model="mar_base".'
            )
        described = read_description(path, MODEL_KEY)
        network = load_mar(described.architecture, weights, described.name)
        decoder = (
            PixelAutoencoder()
            if described.autoencoder == PIXEL
            else load_kl_autoencoder(weights if autoencoder is None else autoencoder)
        )
        return cls(
            network,
            decoder,
            name=described.name,
            guidance_scale=described.guidance_scale,
            max_timestep=described.max_timestep,
            head_refresh_below=described.head_refresh_below,
        )

    def save_pretrained(self, path: str | Path) -> Path:
        """Write a model folder, which ``from_pretrained`` and ``model.weights=PATH`` read; returns it."""
        return save_model_folder(
            path,
            self.model,
            self.autoencoder,
            name=self.name,
            guidance_scale=self.guidance_scale,
            max_timestep=self.max_timestep,
            head_refresh_below=self.head_refresh_below,
        )

    def to(self, *args: Any, **kwargs: Any) -> MARPipeline:
        """Move to a device and/or dtype, in place, with the arguments of ``nn.Module.to``; returns itself."""
        self.model.to(*args, **kwargs)
        self.autoencoder.to(*args, **kwargs)
        return self

    @property
    def device(self) -> torch.device:
        return self.model.fake_latent.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.fake_latent.dtype

    def __call__(
        self,
        class_labels: Sequence[int] | int,
        *,
        sampler: str = "mar",
        cache: str = "none",
        guidance_scale: float | None = None,
        num_iter: int | None = None,
        num_diffusion_steps: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        overrides: Sequence[str] = (),
        observer: Observer | None = None,
    ) -> PipelineOutput:
        """Sample one image per label.

        The i-th image is that of sample index i in ``python -m mar_accel.generate`` under the same seed,
        label and settings, whatever the batch size (which only ``cache/refresh=adaptive`` depends on).

        Args:
            class_labels: a label or labels, each in 0 … num_classes − 1.
            sampler, cache: members of the config groups of these names.
            guidance_scale, num_iter, num_diffusion_steps: w (at least 0; 1: no guidance), K and T; None: what
                the model and the sampler say.
            seed: decides the images together with their indices; at least 0.
            batch_size: images that are sampled at once, at least 1.
            overrides: further Hydra overrides, such as ``["sampler.order=halton"]``.
            observer: is told what happens in every batch; see :class:`mar_accel.sampling.observer.Observer`.

        Raises:
            ConfigError: a value is out of its range, a member is unknown, or what is asked for cannot be
                combined.
        """
        labels = _check_labels(class_labels, self.model.config.num_classes)
        _check_at_least("seed", seed, 0)
        _check_at_least("batch_size", batch_size, 1)
        given = {
            "guidance_scale": guidance_scale,
            "num_iter": num_iter,
            "num_diffusion_steps": num_diffusion_steps,
        }
        settings = [f"sampler.{key}={value}" for key, value in given.items() if value is not None]
        config = _compose([f"sampler={sampler}", f"cache={cache}", *settings, *overrides])
        config.model = self._model_config()
        parts, policy = build_sampler(config), build_cache(config)
        plan = parts.plan(self.model.config.grid)
        policy.check(self.model.config, plan, parts.solver)
        engine = Engine(self.model, plan, parts.solver, policy, parts.selection)
        observer = Observer() if observer is None else observer
        images, tokens = [], []
        for start in range(0, len(labels), batch_size):
            indices = range(start, min(start + batch_size, len(labels)))
            noise = parts.draw(plan, seed, indices, self.model.config.token_dim).to(self.device)
            batch_labels = torch.tensor([labels[index] for index in indices], device=self.device)
            batch = decode(engine, self.model.class_embedding(batch_labels), noise, observer)
            images += [to_pil(image) for image in self._decode_images(batch, observer)]
            tokens.append(batch.cpu())
        return PipelineOutput(images, torch.cat(tokens))

    @torch.inference_mode()
    def _decode_images(self, tokens: Tensor, observer: Observer) -> Tensor:
        """Tokens [B, L, C] to images [B, 1 or 3, H, W], float32."""
        latents = self.model.unpatchify(tokens).to(self.dtype)
        observer.autoencoder_start(latents)
        images = self.autoencoder.decode(latents).float()
        observer.autoencoder_end(images)
        return images

    def _model_config(self) -> DictConfig:
        """The model as a member of the group ``model``, for what samplers and caches read of it."""
        return OmegaConf.create(
            {
                "name": self.name,
                "sampling": {
                    "guidance_scale": self.guidance_scale,
                    "max_timestep": self.max_timestep,
                    "head_refresh_below": self.head_refresh_below,
                },
                "architecture": asdict(self.model.config),
            }
        )


def _compose(overrides: list[str]) -> DictConfig:
    """The config of generate; what is wrong with the overrides becomes a ConfigError."""
    try:
        return compose_config(CONFIG_NAME, overrides)
    except Exception as error:
        sentence = sentence_for(error, CONFIG_NAME)
        if sentence is None:
            raise
        raise ConfigError(sentence) from error


def _check_labels(labels: Sequence[int] | int, num_classes: int) -> list[int]:
    labels = [labels] if isinstance(labels, int) else list(labels)
    if not labels:
        raise ConfigError("class_labels is empty; give at least one label.")
    checked = []
    for label in labels:
        # Whole numbers of numpy and torch are as good as Python's.
        number = operator.index(label) if hasattr(label, "__index__") else -1
        if isinstance(label, bool) or not 0 <= number < num_classes:
            raise ConfigError(
                f"class_labels: {label} is not a class of the model; give labels in 0 to {num_classes - 1}."
            )
        checked.append(number)
    return checked


def _check_at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise ConfigError(f"{name}={value} is too small; give at least {minimum}.")
