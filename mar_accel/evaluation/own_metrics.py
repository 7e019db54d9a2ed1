"""The user's own metrics: each torchmetrics.Metric in the group ``metrics`` sees all images."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from mar_accel.config.check import known_arguments, locate
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_node
from mar_accel.inference.session import Prediction
from mar_accel.metrics.catalogue import METRIC_KEYS
from mar_accel.metrics.features import quantise
from mar_accel.sampling.parts import got
from mar_accel.utils.exact_convolutions import exact_convolutions


class OwnMetrics(pl.Callback):
    """Passes all images to the metrics, and collects their values from all devices.

    Args:
        metrics: metrics by name. ``update(images, labels)`` gets uint8 [B, 1 or 3, H, W] and int64 [B].

    Attributes:
        numbers: values by name, available after the prediction.
            A metric that computes a dict gives one value ``NAME_KEY`` per key.
            None: the metric has failed, or its value is not finite.
        warnings: a sentence about each value that is None.
    """

    def __init__(self, metrics: Mapping[str, Metric]):
        self.metrics = dict(metrics)
        self.numbers: dict[str, float | None] = {}
        self.warnings: list[str] = []
        self._failed: dict[str, str] = {}

    @classmethod
    def of(cls, settings: Settings, shape: Sequence[int] | None) -> OwnMetrics:
        """Build the metrics of a config, and try a copy of each on two black images.

        Args:
            settings: settings of the evaluation.
            shape: channels, height and width of the images. None: unknown yet, and nothing is tried.

        Raises:
            ConfigError: a metric is not a torchmetrics.Metric, has the name of a built-in metric, or fails.
        """
        metrics = {}
        for name, node in settings.metrics.items():
            if name in METRIC_KEYS:
                raise ConfigError(f"metrics.{name} is the name of a built-in metric; use another name.")
            built = build_node(f"metrics.{name}", node or {}, Metric, **_prompts(settings, name, node or {}))
            if built is not None:
                metrics[name] = built
        own = cls(metrics)
        if shape is not None:
            own.try_on(shape)
        return own

    def try_on(self, shape: Sequence[int]) -> None:
        """Try a copy of each metric on two black images; raises ConfigError if one fails.

        Args:
            shape: channels, height and width of the images.
        """
        for name, metric in self.metrics.items():
            _try(name, metric, shape)

    @exact_convolutions()
    def update(self, images: Tensor, labels: Tensor) -> None:
        """Add images uint8 [B, C, H, W] with labels [B]; a metric that fails costs only its own value."""
        for name, metric in self.metrics.items():
            if name in self._failed:
                continue
            try:
                metric.update(images, labels)
            except Exception as error:
                self._failed[name] = f"update fails: {_reason(error)}"

    def compute(self) -> dict[str, float | None]:
        """The values over all images of all devices; a metric that fails does not stop the others."""
        failed, found = _of_all_processes(self._failed), dict[str, float | None]()
        for name, metric in self.metrics.items():
            if name in failed:
                found[name] = None
                self.warnings.append(f"metrics.{name} has no value: {failed[name]}.")
                continue
            try:
                numbers: dict[str, float | None] = {**_numbers(name, metric.compute())}
            except Exception as error:
                numbers = {name: None}
                self.warnings.append(f"metrics.{name} has no value: {_reason(error)}.")
            for key, value in numbers.items():
                if value is not None and not math.isfinite(value):
                    numbers[key] = None
                    self.warnings.append(f"metrics.{name} has no value: {key} is {value}.")
            for key in [key for key in numbers if key in METRIC_KEYS or key in found]:
                del numbers[key]
                self.warnings.append(
                    f"metrics.{name} gives {key}, which is the name of another number; its value is left out."
                )
            found |= numbers
        self.numbers = found
        return found

    def to(self, device: torch.device) -> None:
        """Move the metrics to the device of this process, whose values the processes exchange."""
        for metric in self.metrics.values():
            metric.to(device)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Prediction, *args: Any
    ) -> None:
        if self.metrics and len(outputs.images):
            self.update(quantise(outputs.images), outputs.labels)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.compute()


def _prompts(settings: Settings, name: str, node: Mapping[str, Any]) -> dict[str, Any]:
    """The prompts of the data set, if the class of a metric takes them and the config does not set them."""
    target = node.get("_target_")
    if target is None or "prompts" in node:
        return {}
    takes = "prompts" in (known_arguments(locate(f"metrics.{name}", target)) or ())
    return {"prompts": settings.dataset.prompts} if takes else {}


def _of_all_processes(failed: dict[str, str]) -> dict[str, str]:
    """Metrics that have failed on any process; computing one waits for all processes."""
    if not torch.distributed.is_initialized():
        return failed
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, failed)
    return {name: reason for one in gathered for name, reason in one.items()}


def _numbers(name: str, value: Any) -> dict[str, float]:
    """What a metric has computed, by name; raises ConfigError unless it is a number or a dict of numbers."""
    values = (
        {f"{name}_{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
    )
    for item in values.values():
        one = isinstance(item, Tensor | np.ndarray | np.generic) and math.prod(item.shape) == 1
        if not one and not isinstance(item, Real):
            raise ConfigError(f"compute must return a number or a dict of numbers, got {got(item)}")
    return {key: float(item) for key, item in values.items()}


def _try(name: str, metric: Metric, shape: Sequence[int]) -> None:
    """Reject a metric whose ``update`` fails, or whose ``compute`` returns something else than numbers."""
    copied = copy.deepcopy(metric)
    try:
        copied.update(torch.zeros(2, *shape, dtype=torch.uint8), torch.tensor([0, 1], dtype=torch.long))
    except Exception as error:
        raise ConfigError(
            f"metrics.{name} ({type(metric).__name__}): update(images, labels) fails on uint8 images "
            f"{[2, *shape]} and int64 labels [2]: {_reason(error)}; mend the class."
        ) from error
    try:
        _numbers(name, copied.compute())
    except (ConfigError, TypeError, AttributeError, NameError) as error:
        reason = str(error) if isinstance(error, ConfigError) else f"compute fails: {_reason(error)}"
        raise ConfigError(f"metrics.{name} ({type(metric).__name__}): {reason}; mend the class.") from error
    except Exception:
        # Some metrics need more than two images, and say so with errors of many classes.
        return


def _reason(error: Exception) -> str:
    """The first line of an error, with its class."""
    text = str(error).strip().partition("\n")[0].rstrip(".")
    return text if isinstance(error, ConfigError) else f"{type(error).__name__}: {text}"
