"""Python API in the style of diffusers: ``MARPipeline.from_pretrained("digits")([3, 7]).images``."""

from __future__ import annotations

import operator
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
from mar_accel.inference.build import build_model, build_node
from mar_accel.inference.session import Prediction, Session
from mar_accel.models.autoencoders import Autoencoder, PixelAutoencoder
from mar_accel.models.mar import MAR
from mar_accel.sampling.observer import Observer, Observers
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import CachePolicy, DecodeState
from mar_accel.sampling.sampler import Sampler
from mar_accel.utils.images import to_pil
from mar_accel.weights.folder import PIXEL, read_description, save_model_folder
from mar_accel.weights.loading import MODEL_HUB_FILES, MODEL_KEY, load_kl_autoencoder, load_mar
from mar_accel.weights.sources import locate

# (pipeline, index of the AR step, the step, {"tokens": [B, L, C] in decode order, "order": [B, L]})
StepEndCallback = Callable[["MARPipeline", int, ARStep, dict[str, Tensor]], object]


@dataclass
class PipelineOutput:
    """What a call of the pipeline gives.

    Attributes:
        images: one picture per image: PIL images; with output_type="np" float32 [N, H, W, 1 or 3] in 0..1,
            with "pt" float32 [N, 1 or 3, H, W] in 0..1.
        tokens: the sampled tokens [N, L, C], float32, on the CPU.
    """

    images: Any
    tokens: Tensor


class MARPipeline:
    """A model with its autoencoder, to be sampled with any sampler and cache.

    Args:
        model, autoencoder: in evaluation mode, both on the same device and of the same dtype.
        name: of the model, which is saved with it.
        sampling: sampling defaults of the model by name, as ``model.sampling`` in the configs.

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
        """Write a model folder, which ``from_pretrained`` and ``model.weights=PATH`` read; returns it."""
        return save_model_folder(path, self.model, self.autoencoder, name=self.name, sampling=self.sampling)

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

    def set_progress_bar_config(self, **settings: Any) -> None:
        """Settings of the progress bar of later calls.

        Args:
            settings: ``disable=True`` hides it; others go to :class:`rich.progress.Progress`.
        """
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
        """Sample images of some labels.

        The i-th image is that of sample index i in ``python -m mar_accel.generate`` under the same seed,
        label and settings, whatever the batch size (only ``cache/refresh=adaptive`` depends on it).

        Args:
            class_labels: a label or labels, each in 0 … num_classes − 1.
            sampler, cache: a member of the config group, a node with a ``_target_``, or an object.
            guidance_scale: w, at least 0; 1 disables guidance. None: what the model and the sampler say.
            num_iter, num_diffusion_steps: K and T of a sampler given by name; None: as the sampler says.
            num_images_per_label: images of each label, one after the other.
            seed: decides the images together with their indices, at least 0; 0 unless given.
            generator: its initial seed is taken, in place of ``seed``.
            batch_size: images that are sampled at once, at least 1.
            output_type: "pil", "np" or "pt"; see :class:`PipelineOutput`.
            overrides: further Hydra overrides of members given by name: ``["sampler.order=halton"]``.
            callback_on_step_end: called as in diffusers after every AR step of every batch, with the
                pipeline, the step's index, the step, and ``{"tokens": …, "order": …}``. Its result is unused.
            observer: is told everything; see :class:`mar_accel.sampling.observer.Observer`.

        Raises:
            ConfigError: a value is out of its range, a member is unknown, or what is asked for cannot be
                combined.
        """
        labels = _check_labels(class_labels, self.model.config.num_classes)
        _check_at_least("num_images_per_label", num_images_per_label, 1)
        labels = [label for label in labels for _ in range(num_images_per_label)]
        _check_at_least("batch_size", batch_size, 1)
        if output_type not in ("pil", "np", "pt"):
            raise ConfigError(f"output_type must be pil, np or pt, got {output_type!r}.")
        given = {
            "guidance_scale": guidance_scale,
            "num_iter": num_iter,
            "num_diffusion_steps": num_diffusion_steps,
        }
        parts = self._sampling(sampler, cache, given, overrides)
        self._last = session = Session.of(
            self.model, self.autoencoder, *parts, _seed(seed, generator), self.sampling
        )
        observers = [] if observer is None else [observer]
        if callback_on_step_end is not None:
            observers.append(_StepEnd(self, callback_on_step_end))
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
                batch = torch.tensor([labels[index] for index in indices], device=self.device)
                prediction = session.sample(indices, batch, Observers([*observers, bar]))
                _warn_if_not_finite(prediction)
                images.append(prediction.images.cpu())
                tokens.append(prediction.tokens.cpu())
        return torch.cat(images), torch.cat(tokens)

    def summary(self) -> Any:
        """What the last call took and what its cache saved: see :class:`mar_accel.profiling.summary.Summary`.

        Raises:
            ConfigError: nothing has been sampled yet.
        """
        from mar_accel.profiling.summary import summarise

        if self._last is None:
            raise ConfigError("summary() tells of the last call; sample something first.")
        return summarise(self._last)

    def _sampling(
        self, sampler: Any, cache: Any, given: Mapping[str, Any], overrides: Sequence[str]
    ) -> tuple[Sampler, CachePolicy]:
        """Sampler and cache policy as objects."""
        values = [f"sampler.{key}={value}" for key, value in given.items() if value is not None]
        names = [
            f"{key}={value}" for key, value in (("sampler", sampler), ("cache", cache)) if _is_name(value)
        ]
        of_sampler = values if isinstance(sampler, str) else []
        nodes = compose_sampling(self._model_node(), [*names, *of_sampler, *overrides])
        built: list[Any] = []
        for key, value, node, kind in (
            ("sampler", sampler, nodes[0], Sampler),
            ("cache", cache, nodes[1], CachePolicy),
        ):
            if not isinstance(value, (str, Mapping, kind)):
                raise ConfigError(f"{key} must be a name, a node or a {kind.__name__}, got {value!r}.")
            if isinstance(value, str):
                built.append(build_node(key, node, kind))
            else:
                built.append(build_node(key, value, kind) if isinstance(value, Mapping) else value)
        if not isinstance(sampler, str):
            built[0] = _with_guidance_scale(built[0], given)
        return built[0], built[1]

    def _model_node(self) -> dict[str, Any]:
        """The model as a member of the group ``model``, for what samplers and caches read of it."""
        return {"name": self.name, "sampling": self.sampling, "architecture": asdict(self.model.config)}

    def __repr__(self) -> str:
        where = f"{self.device}, {self.dtype}".replace("torch.", "")
        return f"MARPipeline({self.name}, {where}, sampling={self.sampling}, {self.model.config})"


class _StepEnd(Observer):
    """Calls a diffusers-like callback after every AR step."""

    def __init__(self, pipe: MARPipeline, callback: StepEndCallback):
        self.pipe, self.callback = pipe, callback

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        self.callback(self.pipe, step.index, step, {"tokens": state.decoded, "order": state.order})


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _with_guidance_scale(sampler: Sampler, given: Mapping[str, Any]) -> Sampler:
    """A sampler that came as an object, under another guidance scale; K and T are its parts' own."""
    for key in ("num_iter", "num_diffusion_steps"):
        if given[key] is not None:
            raise ConfigError(f"{key} changes samplers given by name; give it to the parts of this sampler.")
    return (
        sampler if given["guidance_scale"] is None else sampler.with_guidance_scale(given["guidance_scale"])
    )


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


def _seed(seed: int | None, generator: torch.Generator | None) -> int:
    if generator is not None:
        if seed is not None:
            raise ConfigError("seed and generator decide the same; give one of them.")
        return generator.initial_seed()
    seed = 0 if seed is None else seed
    _check_at_least("seed", seed, 0)
    return seed


def _check_labels(labels: Sequence[int] | int, num_classes: int) -> list[int]:
    labels = [labels] if isinstance(labels, int) else list(labels)
    if not labels:
        raise ConfigError("class_labels is empty; give at least one label.")
    checked = []
    for label in labels:
        # Integers of numpy and torch are as good as Python's.
        number = operator.index(label) if hasattr(label, "__index__") else -1
        if isinstance(label, bool) or not 0 <= number < num_classes:
            raise ConfigError(
                f"class_labels must be classes of the model, 0 to {num_classes - 1}, got {label}."
            )
        checked.append(number)
    return checked


def _check_at_least(name: str, value: int, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigError(f"{name} must be an integer, got {value!r}.")
    if value < minimum:
        raise ConfigError(f"{name} must be ≥ {minimum}, got {value}.")
