"""Nested identities of a run: its samples, its images, its evaluation and its measurement.

Each identity contains the previous one.
Runs with the same image identity may share images.
Runs with the same evaluation identity have the same metrics, except for speed.
A speed belongs to one measurement identity and is never shown for another one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mar_accel.config.check import locate, model_defaults_below
from mar_accel.config.settings import DatasetSettings, Settings
from mar_accel.runs.contents import content_of, sources_of
from mar_accel.sampling.model_defaults import MODEL
from mar_accel.utils.fingerprints import size_and_time
from mar_accel.utils.json_files import with_whole_numbers
from mar_accel.weights.loading import AUTOENCODER_KEY, DETOK_STATISTICS, MODEL_KEY

# Keys that never count: folders for output and caches, logging and resuming.
NEVER_COUNTS = (
    *("output_dir", "logger", "reference.cache_dir", "dataset.training_data"),
    *("generate.resume", "evaluate.resume", "evaluate.baseline_dir", "evaluate.objective"),
    *("evaluate.save_images", "sweep"),
)
# Keys of the dataset that only count where images are inpainted.
INPAINTING = ("images", "mask", "keep_pixels")
DIGITS = 12


@dataclass(frozen=True)
class Identity:
    """The values that count at each level, as plain data; each level is named by a hash.

    Attributes:
        samples: values that determine class and noise of a sample index.
            Runs with equal samples can be compared image by image.
        images: values that determine the images, independent of their number.
        evaluation: also the number of images, the features and the reference.
        measurement: also the conditions of a speed measurement that the config sets.
    """

    samples: dict[str, Any]
    images: dict[str, Any]
    evaluation: dict[str, Any]
    measurement: dict[str, Any]

    @classmethod
    def of(cls, settings: Settings) -> Identity:
        """The identity of a config, with the content of the files and classes that it names."""
        plain = _without(asdict(settings), NEVER_COUNTS)
        weights: dict[str, Any] = {
            "model": content_of(settings.model.weights, MODEL_KEY),
            "autoencoder": content_of(settings.model.autoencoder.get("weights"), AUTOENCODER_KEY),
        }
        if "statistics" in settings.model.autoencoder:
            weights["statistics"] = content_of(_statistics(settings.model.autoencoder))
        encoder = size_and_time((settings.model.text_encoder or {}).get("weights"))
        if encoder is not None:
            weights["text_encoder"] = encoder
        plain["model"] = {**plain["model"], "text_encoder": _encoder_settings(settings.model.text_encoder)}
        dataset = _without({"dataset": plain["dataset"]}, _unnamed_prompts(settings.dataset))["dataset"]
        given = (settings.dataset.images, settings.dataset.mask)
        # Files below the folders do not count: a run may write there.
        inpainted = [size_and_time(value, below=False) for value in given]
        unnamed = set(INPAINTING) if settings.dataset.images is None else set()
        unnamed |= {key for key, files in zip(("images", "mask"), inpainted, strict=True) if files}
        dataset = {key: value for key, value in dataset.items() if key not in unnamed}
        samples = {
            "seed": settings.seed,
            "model": {
                **_without(plain["model"], ("sampling", "published")),
                **_unnamed(plain["model"], weights),
            },
            "weights": weights,
            "dataset": dataset,
            "guidance_scale": settings.sampler.get("guidance_scale"),
        }
        if settings.dataset.images is not None:
            samples["inpainted"] = inpainted
        images = {
            **samples,
            "defaults": _left_to_model(settings),
            "sampler": settings.sampler,
            "cache": settings.cache,
            "trainer": {key: plain["trainer"][key] for key in _image_conditions(settings)},
            "sources": sources_of(plain["model"], settings.sampler, settings.cache),
        }
        return cls(samples, images, *_judged(settings, plain, images))

    @property
    def images_hash(self) -> str:
        """Hash of the images, independent of their number."""
        return digest(self.images)

    @property
    def evaluation_hash(self) -> str:
        """Hash of an evaluation without its speed."""
        return digest(self.evaluation)

    @property
    def measurement_hash(self) -> str:
        """Hash of an evaluation with its measurement conditions; it names the runs of a sweep."""
        return digest(self.measurement)

    def record(self) -> dict[str, str]:
        """The hashes, for run.json and metrics.json."""
        return {
            "samples": digest(self.samples),
            "images": self.images_hash,
            "evaluation": self.evaluation_hash,
            "measurement": self.measurement_hash,
        }


def _judged(
    settings: Settings, plain: dict[str, Any], images: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The identities of evaluation and measurement."""
    judges = plain["evaluate"] if settings.command in ("evaluate", "evaluate_table") else {}
    judges.pop("format", None)
    timed = {key: judges.pop(key) for key in ("timing_rounds", "profile") if key in judges}
    evaluation = {
        **images,
        "format": settings.image_format,
        "num_images": settings.dataset.num_images,
        "limit": settings.trainer.limit_predict_batches,
        "features": plain["features"],
        "reference": plain["reference"],
        "metrics": plain["metrics"],
        "evaluate": judges,
        "judge_files": {
            "features": _file_or_folder(settings.features.get("weights")),
            "reference": size_and_time(settings.reference.get("source")),
            "images": size_and_time(judges.get("images")),
            "baseline": size_and_time(settings.evaluate.baseline_folder) if judges else None,
        },
        "judge_sources": sources_of(plain["features"], plain["reference"], plain["metrics"]),
    }
    measurement = {
        **evaluation,
        "trainer": plain["trainer"],
        "callbacks": plain["callbacks"],
        "callback_sources": sources_of(plain["callbacks"]),
        "timed": timed,
    }
    return evaluation, measurement


def _statistics(node: dict[str, Any]) -> str | None:
    """The file of DeTok's statistics of latents: the given one, or the one beside a file of the tokenizer."""
    if node["statistics"] is not None:
        return str(node["statistics"])
    source = Path(str(node.get("weights"))).expanduser()
    return str(source.parent / DETOK_STATISTICS) if os.path.isfile(source) else None


def _file_or_folder(value: str | None) -> Any:
    """What tells the content of a judge's weights: a digest of a file, sizes and times of a folder."""
    return content_of(value) or size_and_time(value)


def _encoder_settings(node: dict[str, Any] | None) -> dict[str, Any] | None:
    """What determines the text features, without the device and the folder that keeps them."""
    return None if node is None else {k: v for k, v in node.items() if k not in ("device", "cache_dir")}


def _unnamed_prompts(dataset: DatasetSettings) -> tuple[str, ...]:
    """Keys of a data set that do not count: its size, and prompts that follow from it and the source."""
    keys = ("dataset.num_images", "dataset.metadata", "dataset.prompt_column")
    if dataset.prompts is None:
        return (*keys, "dataset.prompts", "dataset.num_images_per_prompt", "dataset.prompt_source")
    return keys if dataset.prompt_source is None else (*keys, "dataset.prompts")


def _left_to_model(settings: Settings) -> dict[str, Any]:
    """Model defaults that sampler and cache use, by the key that uses them.

    A default of the model only counts if it is used.
    """
    found: dict[str, Any] = {}
    for group in ("sampler", "cache"):
        for key, default, fallback, value in model_defaults_below(group, getattr(settings, group), MODEL):
            if value == MODEL:
                found[key] = settings.model.sampling.get(default, fallback)
    return found


def _image_conditions(settings: Settings) -> tuple[str, ...]:
    """Keys of the trainer that affect the images."""
    batches = ("batch_size", "devices", "num_nodes") if decides_per_batch(settings) else ()
    return ("precision", *batches)


def decides_per_batch(settings: Settings) -> bool:
    """Whether an image depends on its batch, as with adaptive refresh, which decides once per batch.

    The images of a batch depend on the batch size and on the number of devices.
    """
    refresh = settings.cache.get("refresh")
    target = refresh.get("_target_") if isinstance(refresh, dict) else None
    # A class of one's own that inherits or repeats the adaptive one decides per batch as well.
    return target is not None and getattr(locate("cache.refresh", target), "needs_similarity", False)


def why_whole_batches(settings: Settings) -> str | None:
    """Why a batch must not be sampled in parts; None if it may be."""
    if not decides_per_batch(settings):
        return None
    return "cache.refresh decides for all images of a batch together"


def digest(value: Any) -> str:
    """Twelve hexadecimal digits of a value's hash; whole floats count as integers."""
    text = json.dumps(with_whole_numbers(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def config_key(key: str) -> str:
    """The key in a config that a dotted key of an identity stands for."""
    return "sampler.guidance_scale" if key == "guidance_scale" else key.removeprefix("defaults.")


def differences(there: Any, here: Any) -> list[tuple[str, Any, Any]]:
    """Dotted keys at which two identities differ, with both values."""
    a, b = dict(_flat(there)), dict(_flat(here))
    return [(key, a.get(key), b.get(key)) for key in sorted({*a, *b}) if a.get(key) != b.get(key)]


def _unnamed(model: dict[str, Any], weights: dict[str, str | None]) -> dict[str, Any]:
    """The model's values without the names of files whose content is known."""
    autoencoder = dict(model["autoencoder"])
    if weights["autoencoder"] is not None:
        autoencoder["weights"] = None
    if weights.get("statistics") is not None:
        autoencoder["statistics"] = None
    return {
        "weights": model["weights"] if weights["model"] is None else None,
        "autoencoder": autoencoder,
    }


def _without(values: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    """The values without the given dotted keys."""
    result = dict(values)
    for key in keys:
        group, dot, name = key.partition(".")
        if not dot:
            result.pop(group, None)
        elif isinstance(result.get(group), dict):
            result[group] = {other: value for other, value in result[group].items() if other != name}
    return result


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, with_whole_numbers(value)
