"""Python API in the style of diffusers: ``MARPipeline.from_pretrained("digits")([3, 7]).images``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mar_accel.config.compose import compose_sampling, compose_settings
from mar_accel.errors import ConfigError, WeightsError
from mar_accel.inference.arguments import (
    check_callbacks,
    check_progress,
    integer,
    labels_of,
    name_or_node,
    numbers,
    overrides_of,
    seed_of,
)
from mar_accel.inference.build import build_model, build_node
from mar_accel.inference.session import Prediction, Session
from mar_accel.models.autoencoders import Autoencoder, PixelAutoencoder
from mar_accel.models.mar import MAR
from mar_accel.sampling.observer import Observer, Observers
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.state import DecodeState
from mar_accel.utils.images import to_pil
from mar_accel.weights.folder import PIXEL, read_description, save_model_folder
from mar_accel.weights.loading import MODEL_HUB_FILES, MODEL_KEY, load_kl_autoencoder, load_mar
from mar_accel.weights.sources import locate

# (pipeline, index of the AR step, the step, {"tokens": [B, L, C] in decode order, "order": [B, L]})
StepEndCallback = Callable[["MARPipeline", int, ARStep, dict[str, Tensor]], object]


@dataclass
class PipelineOutput:
    """Result of a call of the pipeline.

    Attributes:
        images: N images. "pil": a list of PIL images. "np": float32 [N, H, W, 1 or 3] in 0..1. "pt": float32
            [N, 1 or 3, H, W] in 0..1.
        tokens: the sampled tokens [N, L, C], float32, on the CPU.
    """

    images: Any
    tokens: Tensor


class MARPipeline:
    """A model and its autoencoder. Each call samples images with any sampler and cache.

    Args:
        model, autoencoder: both in evaluation mode, on the same device and with the same dtype.
        name: name of the model. It is saved with the model.
        sampling: default sampling settings of the model, as ``model.sampling`` in the configs.

    Example:
        >>> pipe = MARPipeline.from_pretrained("digits")
        >>> pipe([3, 7], sampler="gtr", cache="lazymar").images[0].save("three.png")
        >>> print(pipe.summary())
    """

    def __init__(
        self,
        model: MAR,
        autoencoder: Autoencoder,
        *,
        name: str = "mar",
        sampling: Mapping[str, Any] | None = None,
    ):
        self.model = model
        self.autoencoder = autoencoder
        self.name = name
        self.sampling = dict(sampling or {})
        self._progress_bar: dict[str, Any] = {}
        self._last: Session | None = None

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path,
        *,
        model: str | None = None,
        autoencoder: str | Path | None = None,
        ema: bool = True,
    ) -> MARPipeline:
        """Load a pipeline on the CPU, in float32.

        Args:
            weights: "digits" (embedded), a model folder, a Hub repository id (``owner/name`` or
                ``owner/name@revision``), a weight file, or "random".
            model: member of the config group ``model`` that fits the weights, such as "mar_base". Required
                for a weight file and for "random".
            autoencoder: location of the autoencoder of a latent model, as ``model.autoencoder.weights``.
                None: the same as ``weights``.
            ema: whether to load the averaged weights of a checkpoint, if it has them.

        Raises:
            WeightsError: the weights are missing, damaged or belong to another model.
            ConfigError: ``model`` is unknown.
        """
        weights, autoencoder = str(weights), None if autoencoder is None else str(autoencoder)
        if model is None:
            return cls._from_folder(weights, autoencoder)
        settings = compose_settings("generate", [f"model={model}"]).model
        node = settings.autoencoder
        if "weights" in node:
            node = {**node, "weights": weights if autoencoder is None else autoencoder}
        network, decoder = build_model(replace(settings, weights=weights, ema=ema, autoencoder=node))
        return cls(network, decoder, name=settings.name, sampling=settings.sampling)

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
        return cls(network, decoder, name=described.name, sampling=described.sampling)

    def save_pretrained(self, path: str | Path) -> Path:
        """Write a model folder for ``from_pretrained`` and ``model.weights=PATH``; returns its path."""
        return save_model_folder(path, self.model, self.autoencoder, name=self.name, sampling=self.sampling)

    def to(self, *args: Any, **kwargs: Any) -> MARPipeline:
        """Move to a device or dtype in place; arguments as in ``nn.Module.to``. Returns the pipeline."""
        self.model.to(*args, **kwargs)
        self.autoencoder.to(*args, **kwargs)
        return self

    @property
    def device(self) -> torch.device:
        return self.model.fake_latent.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.fake_latent.dtype

    def set_progress_bar_config(self, **settings: Any) -> None:
        """Configure the progress bar of later calls.

        Args:
            settings: arguments of :class:`rich.progress.Progress`. ``disable=True`` hides the bar.
        """
        check_progress(settings)
        check_progress(settings)
        self._progress_bar = settings

    def __call__(
        self,
        class_labels: Sequence[int] | int,
        *,
        sampler: str | Mapping[str, Any] | Sampler = "mar",
        cache: str | Mapping[str, Any] | CachePolicy = "none",
        guidance_scale: float | None = None,
        num_iter: int | None = None,
        num_diffusion_steps: int | None = None,
        num_images_per_label: int = 1,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 16,
        output_type: Literal["pil", "np", "pt"] = "pil",
        overrides: Sequence[str] = (),
        callback_on_step_end: StepEndCallback | None = None,
        observer: Observer | None = None,
    ) -> PipelineOutput:
        """Sample images of the given labels.

        The i-th image equals that of sample index i in ``python -m mar_accel.generate`` with the same seed,
        label and settings. Only with ``cache/refresh=adaptive`` does it depend on the batch size.

        Args:
            class_labels: one label or a sequence of labels, each in 0..num_classes − 1.
            sampler, cache: name of a member of the config group, a node with a ``_target_``, or an object.
            guidance_scale: w, at least 0. 1 disables guidance. None: the default of sampler and model.
            num_iter, num_diffusion_steps: K and T, for a sampler given by name. None: its defaults.
            num_images_per_label: number of consecutive images of each label.
            seed: random seed, at least 0. None: 0. The images depend on the seed and their indices.
            generator: alternative to ``seed``; its initial seed is used.
            batch_size: number of images per batch, at least 1.
            output_type: "pil", "np" or "pt"; see :class:`PipelineOutput`.
            overrides: Hydra overrides for a sampler or cache given by name: ``["sampler.order=halton"]``.
            callback_on_step_end: called after every AR step of every batch, as in diffusers. Arguments: the
                pipeline, the step's index, the step, ``{"tokens": …, "order": …}``. The result is ignored.
            observer: receives all events; see :class:`mar_accel.sampling.observer.Observer`.

        Raises:
            ConfigError: a value is out of range, a name is unknown, or the settings are incompatible.
        """
        labels = labels_of(class_labels, self.model.config.num_classes)
        repeats = integer("num_images_per_label", num_images_per_label, 1)
        batch_size = integer("batch_size", batch_size, 1)
        check_callbacks(callback_on_step_end, observer, Observer)
        if output_type not in ("pil", "np", "pt"):
            raise ConfigError(f"output_type must be pil, np or pt, got {output_type!r}.")
        given = numbers(
            guidance_scale=guidance_scale, num_iter=num_iter, num_diffusion_steps=num_diffusion_steps
        )
        parts = self._sampling(sampler, cache, given, overrides)
        seed = seed_of(seed, generator)
        self._last = session = Session.of(self.model, self.autoencoder, *parts, seed, self.sampling)
        observers = [] if observer is None else [observer]
        if callback_on_step_end is not None:
            observers.append(_StepEnd(self, callback_on_step_end))
        labels = [label for label in labels for _ in range(repeats)]
        return _output(self._sample(session, labels, batch_size, observers), output_type)

    def _sample(
        self, session: Session, labels: Sequence[int], batch_size: int, observers: list[Observer]
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 1 or 3, H, W] and tokens [N, L, C] of all batches, on the CPU."""
        from mar_accel.inference.progress import step_progress

        images, tokens = [], []
        total = -(-len(labels) // batch_size) * len(session.plan.steps)
        with step_progress(total, **self._progress_bar) as bar:
            for start in range(0, len(labels), batch_size):
                indices = range(start, min(start + batch_size, len(labels)))
                batch = torch.tensor(
                    [labels[index] for index in indices], dtype=torch.long, device=self.device
                )
                prediction = session.sample(indices, batch, Observers([*observers, bar]))
                _warn_if_not_finite(prediction)
                images.append(prediction.images.cpu())
                tokens.append(prediction.tokens.cpu())
        return torch.cat(images), torch.cat(tokens)

    def summary(self) -> Any:
        """Cost of the last call, and savings of its cache: a :class:`mar_accel.profiling.summary.Summary`.

        Raises:
            ConfigError: the pipeline has not sampled yet.
        """
        from mar_accel.profiling.summary import summarise

        if self._last is None:
            raise ConfigError("summary() describes the last call; sample images first.")
        return summarise(self._last)

    def _sampling(
        self, sampler: Any, cache: Any, given: Mapping[str, Any], overrides: Sequence[str]
    ) -> tuple[Sampler, CachePolicy]:
        """Build sampler and cache policy from names, nodes or objects.

        Args:
            given: keys of the sampler that the call sets.
        """
        parts: dict[str, Any] = {
            "sampler": name_or_node("sampler", sampler, Sampler),
            "cache": name_or_node("cache", cache, CachePolicy),
        }
        named = [key for key, value in parts.items() if isinstance(value, str)]
        chosen = [f"{key}={parts[key]}" for key in named] + overrides_of(overrides, named)
        if "sampler" in named:
            chosen += [f"sampler.{key}={value}" for key, value in given.items()]
        for key, node in zip(parts, compose_sampling(self._model_node(), chosen), strict=True):
            if key in named:
                parts[key] = node
        built = _built("sampler", sampler, Sampler, parts["sampler"])
        if "sampler" not in named:
            built = _with_guidance_scale(built, given)
        return built, _built("cache", cache, CachePolicy, parts["cache"])

    def _model_node(self) -> dict[str, Any]:
        """The model as a node of the config group ``model``, to which samplers and caches refer."""
        return {"name": self.name, "sampling": self.sampling, "architecture": asdict(self.model.config)}

    def __repr__(self) -> str:
        where = f"{self.device}, {self.dtype}".replace("torch.", "")
        return f"MARPipeline({self.name}, {where}, sampling={self.sampling}, {self.model.config})"


class _StepEnd(Observer):
    """Calls a callback in the style of diffusers after every AR step."""

    def __init__(self, pipe: MARPipeline, callback: StepEndCallback):
        self.pipe, self.callback = pipe, callback

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        self.callback(self.pipe, step.index, step, {"tokens": state.decoded, "order": state.order})


def _built(key: str, value: Any, kind: type[Any], node: Mapping[str, Any] | None) -> Any:
    """The part of a node; ``value`` itself if it is the part."""
    return value if node is None else build_node(key, node, kind)


def _with_guidance_scale(sampler: Sampler, given: Mapping[str, Any]) -> Sampler:
    """Apply the guidance scale to a sampler that was not given by name; K and T belong to its parts."""
    for key in ("num_iter", "num_diffusion_steps"):
        if key in given:
            raise ConfigError(f"{key} changes samplers given by name; set it in the parts of this sampler.")
    return sampler.with_guidance_scale(given["guidance_scale"]) if given else sampler


def _warn_if_not_finite(prediction: Prediction) -> None:
    lost = prediction.only(~prediction.finite)
    for index, label in zip(lost.indices.tolist(), lost.labels.tolist(), strict=True):
        warnings.warn(
            f"image {index} (label {label}) is NaN or infinite; lower guidance_scale or use float32.",
            stacklevel=4,
        )


def _output(sampled: tuple[Tensor, Tensor], output_type: str) -> PipelineOutput:
    images, tokens = sampled
    if output_type == "pil":
        pictures: list[Image.Image] = [to_pil(image) for image in images]
        return PipelineOutput(pictures, tokens)
    pixels = images.clamp(0, 1)
    if output_type == "pt":
        return PipelineOutput(pixels, tokens)
    return PipelineOutput(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy()), tokens)
