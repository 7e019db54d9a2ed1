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

from mar_accel.config.compose import compose_model, compose_sampling
from mar_accel.errors import ConfigError, WeightsError
from mar_accel.inference.build import build_model, build_node, build_text_encoder
from mar_accel.inference.conditioner import Conditioner, PromptConditioner
from mar_accel.inference.inpainting import Inpainting, fitting_images, fitting_masks
from mar_accel.inference.pipeline_arguments import (
    check_callbacks,
    check_parts,
    check_place,
    check_progress,
    integer,
    labels_of,
    masks_of,
    member,
    name_or_node,
    numbers,
    overrides_of,
    path_of,
    pixels_of,
    prompts_of,
    seed_of,
    shown,
    switch,
)
from mar_accel.inference.session import Prediction, Session
from mar_accel.models.autoencoders import Autoencoder
from mar_accel.models.backbone import TokenBackbone
from mar_accel.models.lightgen import LightGenConfig
from mar_accel.models.mar import MARConfig
from mar_accel.models.text_encoder import TextEncoder
from mar_accel.models.word_encoder import WordEncoder
from mar_accel.sampling.observer import Observer, Observers
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.state import DecodeState
from mar_accel.utils.images import to_pil
from mar_accel.weights.autoencoder_folder import FIXED
from mar_accel.weights.autoencoders import load_autoencoder, require_latents
from mar_accel.weights.folder import TEXT_ENCODER_FOLDER, read_description, save_model_folder
from mar_accel.weights.loading import AUTOENCODER_KEY, MODEL_HUB_FILES, MODEL_KEY, load_mar
from mar_accel.weights.sources import locate
from mar_accel.weights.text_folder import TEXT_ENCODER_FILES, load_word_encoder

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
            A name or path alone is loaded as by ``from_pretrained``.
        name: name of the model. It is saved with the model.
        sampling: default sampling settings of the model, as ``model.sampling`` in the configs. Without a
            ``guidance_scale`` there, calls sample without guidance unless they set one.
        text_encoder: text encoder of a text-to-image model. None: the model takes labels.

    Example:
        >>> MARPipeline("scenes")("two red sevens", sampler="gtr").images[0].save("sevens.png")
        >>> pipe = MARPipeline.from_pretrained("digits")
        >>> pipe([3, 7], sampler="gtr", cache="lazymar").images[0].save("three.png")
        >>> print(pipe.summary())
    """

    def __init__(
        self,
        model: TokenBackbone | str | Path,
        autoencoder: Autoencoder | None = None,
        *,
        name: str = "mar",
        sampling: Mapping[str, Any] | None = None,
        text_encoder: TextEncoder | None = None,
    ):
        if isinstance(model, (str, Path)):
            if (autoencoder, name, sampling, text_encoder) != (None, "mar", None, None):
                raise ConfigError(
                    f"model={model} is a name, which brings all other arguments; leave them out, or use "
                    "from_pretrained."
                )
            vars(self).update(vars(type(self).from_pretrained(model)))
            return
        if autoencoder is None:
            raise ConfigError("autoencoder is missing; give it with the model, or give the name of a model.")
        check_parts(model, autoencoder, name, sampling, text_encoder)
        self.model = model
        self.text_encoder = text_encoder
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
        weights, ema = path_of("weights", weights), switch("ema", ema)
        autoencoder = None if autoencoder is None else path_of("autoencoder", autoencoder)
        if model is None:
            return cls._from_folder(weights, autoencoder)
        settings = compose_model(member("model", model))
        node = settings.autoencoder
        if "weights" not in node:
            _refuse_autoencoder(autoencoder, model)
        else:
            node = {**node, "weights": weights if autoencoder is None else autoencoder}
        settings = replace(settings, weights=weights, ema=ema, autoencoder=node)
        network, decoder = build_model(settings)
        encoder = build_text_encoder(settings) if settings.text_encoder is not None else None
        return cls(network, decoder, name=settings.name, sampling=settings.sampling, text_encoder=encoder)

    @classmethod
    def _from_folder(cls, weights: str, autoencoder: str | None) -> MARPipeline:
        path = locate(weights, MODEL_KEY, (*MODEL_HUB_FILES, *TEXT_ENCODER_FILES))
        if path is None or path.is_file():
            raise WeightsError(
                f'{weights} does not say which model it belongs to; name it, as in model="mar_base".'
            )
        described = read_description(path, MODEL_KEY)
        if described.autoencoder in FIXED:
            _refuse_autoencoder(autoencoder, described.name)
        network = load_mar(described.architecture, weights, described.name)
        source = weights if autoencoder is None else autoencoder
        decoder = load_autoencoder(described.autoencoder, source)
        require_latents(decoder, described.architecture, f"{AUTOENCODER_KEY}={source}")
        encoder = None
        if (path / TEXT_ENCODER_FOLDER).is_dir():
            encoder = WordEncoder(load_word_encoder(str(path)))
        elif isinstance(described.architecture, LightGenConfig):
            raise WeightsError(
                f"{weights} has no {TEXT_ENCODER_FOLDER}/; name a model with a text encoder, as in "
                'model="lightgen_base".'
            )
        return cls(network, decoder, name=described.name, sampling=described.sampling, text_encoder=encoder)

    def save_pretrained(self, path: str | Path) -> Path:
        """Write a model folder for ``from_pretrained`` and ``model.weights=PATH``; returns its path."""
        path = path_of("path", path)
        words = self.text_encoder.encoder if isinstance(self.text_encoder, WordEncoder) else None
        return save_model_folder(
            path, self.model, self.autoencoder, name=self.name, sampling=self.sampling, text_encoder=words
        )

    def to(self, *args: Any, **kwargs: Any) -> MARPipeline:
        """Move to a device or dtype in place; arguments as in ``nn.Module.to``. Returns the pipeline."""
        check_place(*args, **kwargs)
        self.model.to(*args, **kwargs)
        self.autoencoder.to(*args, **kwargs)
        if self.text_encoder is not None:
            self.text_encoder.to(*args, **kwargs)
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
        self._progress_bar = settings

    def __call__(
        self,
        class_labels: Sequence[int] | int | Sequence[str] | str | None = None,
        *,
        prompt: Sequence[str] | str | None = None,
        sampler: str | Mapping[str, Any] | Sampler = "mar",
        cache: str | Mapping[str, Any] | CachePolicy = "none",
        guidance_scale: float | None = None,
        num_iter: int | None = None,
        num_diffusion_steps: int | None = None,
        num_images_per_label: int = 1,
        num_images_per_prompt: int = 1,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        batch_size: int = 16,
        image: Any = None,
        mask: Any = None,
        keep_pixels: bool = True,
        output_type: Literal["pil", "np", "pt"] = "pil",
        overrides: Sequence[str] = (),
        callback_on_step_end: StepEndCallback | None = None,
        observer: Observer | None = None,
    ) -> PipelineOutput:
        """Sample images of the given labels or prompts.

        The i-th image equals that of sample index i in ``python -m mar_accel.generate`` with the same seed,
        label and settings. Only with ``cache/refresh=adaptive`` does it depend on the batch size.

        Args:
            class_labels: one label or a sequence of labels, each in 0..num_classes − 1. For a text-to-image
                model, one prompt or a sequence of prompts. An empty prompt gives the unconditional image.
            prompt: the same as ``class_labels``, by the name that diffusers has for it.
            sampler, cache: name of a member of the config group, a node with a ``_target_``, or an object.
            guidance_scale: w, at least 0. 1 disables guidance. None: the default of sampler and model.
            num_iter, num_diffusion_steps: K and T, for a sampler given by name. None: its defaults.
            num_images_per_label, num_images_per_prompt: number of consecutive images of each label or prompt.
            seed: random seed, at least 0. None: 0. The images depend on the seed and their indices.
            generator: alternative to ``seed``; its initial seed is used.
            batch_size: number of images per batch, at least 1.
            image: one image or several, whose masked parts are sampled (inpainting, outpainting). Each is a
                PIL image, an array [H, W] or [H, W, C] (uint8, or 0..1), or a tensor [C, H, W] in 0..1. The
                i-th sample takes image i mod N. None: whole images are sampled.
            mask: one mask or several, as ``image`` or boolean, [H, W]; white, 1 or True where pixels are
                sampled. A token is sampled if any of its pixels is masked; all others stay exactly.
            keep_pixels: put the given pixels back outside the mask.
            output_type: "pil", "np" or "pt"; see :class:`PipelineOutput`.
            overrides: Hydra overrides for a sampler or cache given by name: ``["sampler/order=halton"]``.
            callback_on_step_end: called after every AR step of every batch, as in diffusers. Arguments: the
                pipeline, the step's index, the step, ``{"tokens": …, "order": …}``. The result is ignored.
            observer: receives all events; see :class:`mar_accel.sampling.observer.Observer`.

        Raises:
            ConfigError: a value is out of range, a name is unknown, or the settings are incompatible.
            DataError: the text encoder does not know a word of a prompt.
        """
        if class_labels is not None and prompt is not None:
            raise ConfigError("class_labels and prompt name the same argument; set only one of them.")
        key, given_labels = ("class_labels", class_labels) if prompt is None else ("prompt", prompt)
        labels, conditioner = self._conditioned(key, given_labels)
        repeats = integer("num_images_per_label", num_images_per_label, 1)
        repeats *= integer("num_images_per_prompt", num_images_per_prompt, 1)
        batch_size = integer("batch_size", batch_size, 1)
        check_callbacks(callback_on_step_end, observer, Observer)
        keep_pixels = switch("keep_pixels", keep_pixels)
        if not isinstance(output_type, str) or output_type not in ("pil", "np", "pt"):
            raise ConfigError(f"output_type must be pil, np or pt, got {shown(output_type)}.")
        given = numbers(
            guidance_scale=guidance_scale, num_iter=num_iter, num_diffusion_steps=num_diffusion_steps
        )
        parts = self._sampling(sampler, cache, given, overrides)
        seed = seed_of(seed, generator)
        session = Session.of(self.model, self.autoencoder, *parts, seed, self.sampling, conditioner)
        if image is not None or mask is not None:
            session = session.with_inpainting(_inpainting(session, image, mask, keep_pixels))
        count = len(labels) * repeats
        session.check_batch(min(batch_size, count), "batch_size")
        session.check_images(count)
        self._last = session
        observers = [] if observer is None else [observer]
        if callback_on_step_end is not None:
            observers.append(_StepEnd(self, callback_on_step_end))
        labels = [label for label in labels for _ in range(repeats)]
        return _output(self._sample(session, labels, batch_size, observers), output_type)

    def _conditioned(self, key: str, given: Any) -> tuple[list[int], Conditioner]:
        """Labels, or numbers of prompts, and what turns them into the model's condition."""
        if isinstance(self.model.config, MARConfig):
            return labels_of(key, given, self.model.config.num_classes), Conditioner()
        if self.text_encoder is None:
            raise ConfigError("the pipeline has no text_encoder, which this model needs; give it one.")
        prompts = prompts_of(given)
        conditioner = PromptConditioner(self.text_encoder, prompts, "prompt")
        for note in conditioner.notes:
            warnings.warn(note, stacklevel=3)
        return list(range(len(prompts))), conditioner

    def _sample(
        self, session: Session, labels: Sequence[int], batch_size: int, observers: list[Observer]
    ) -> tuple[Tensor, Tensor]:
        """Images [N, 1 or 3, H, W] and tokens [N, L, C] of all batches, on the CPU."""
        from mar_accel.inference.progress import StepProgress
        from mar_accel.utils.progress import Bars

        images, tokens = [], []
        with Bars(**{"transient": True, **self._progress_bar}) as bars:
            bar = StepProgress(bars.add("sampling", len(labels), "images"))
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
        sampling = {"guidance_scale": 1.0, **self.sampling}
        return {"name": self.name, "sampling": sampling, "architecture": asdict(self.model.config)}

    def __repr__(self) -> str:
        where = f"{self.device}, {self.dtype}".replace("torch.", "")
        return f"MARPipeline({self.name}, {where}, sampling={self.sampling}, {self.model.config})"


class _StepEnd(Observer):
    """Calls a callback in the style of diffusers after every AR step."""

    def __init__(self, pipe: MARPipeline, callback: StepEndCallback):
        self.pipe, self.callback = pipe, callback

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        self.callback(self.pipe, step.index, step, {"tokens": state.decoded, "order": state.order})


def _inpainting(session: Session, image: Any, mask: Any, keep_pixels: bool) -> Inpainting:
    """The images and masks of a call; raises ConfigError if they do not fit the model."""
    if image is None or mask is None:
        raise ConfigError("image and mask belong together; set both, or none of them.")
    shape = session.image_shape()
    images = fitting_images("image", pixels_of("image", image), shape)
    masks = fitting_masks("mask", masks_of("mask", mask) * 255, shape[1:])
    return Inpainting(images, masks, keep_pixels)


def _refuse_autoencoder(autoencoder: str | None, name: str) -> None:
    if autoencoder is not None:
        raise ConfigError(f"autoencoder has no effect on {name}, which works on pixels; leave it out.")


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
