"""The user's own metrics: each torchmetrics.Metric in the group ``metrics`` sees all images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torchmetrics import Metric

from mar_accel.config.settings import Settings
from mar_accel.data.pictures import read_image
from mar_accel.errors import ConfigError
from mar_accel.inference.build import build_node
from mar_accel.inference.session import Prediction
from mar_accel.metrics.catalogue import METRIC_KEYS
from mar_accel.metrics.features import quantise
from mar_accel.runs.folder import IMAGES
from mar_accel.utils.images import image_name


class OwnMetrics(pl.Callback):
    """Passes all images to the metrics, and collects their values from all devices.

    Args:
        metrics: metrics by name. ``update(images, labels)`` gets uint8 [B, 1 or 3, H, W] and int64 [B].

    Attributes:
        numbers: values by name, available after the prediction.
            A metric that computes a dict gives one value ``NAME_KEY`` per key.
    """

    def __init__(self, metrics: Mapping[str, Metric]):
        self.metrics = dict(metrics)
        self.numbers: dict[str, float] = {}

    @classmethod
    def of(cls, settings: Settings) -> OwnMetrics:
        """Build the metrics of a config.

        Raises:
            ConfigError: a metric is not a torchmetrics.Metric, or has the name of a built-in metric.
        """
        metrics = {}
        for name, node in settings.metrics.items():
            if name in METRIC_KEYS:
                raise ConfigError(f"metrics.{name} is the name of a built-in metric; use another name.")
            built = build_node(f"metrics.{name}", node or {}, Metric)
            if built is not None:
                metrics[name] = built
        return cls(metrics)

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Add images uint8 [B, C, H, W] with labels [B]."""
        for metric in self.metrics.values():
            metric.update(images, labels)

    def update_from_folder(self, output_dir: Path, indices: Sequence[int], labels: Sequence[int]) -> None:
        """Add images of an earlier run from its folder, one by one."""
        for index, label in zip(indices, labels, strict=True):
            if self.metrics:
                image = read_image(output_dir / IMAGES / image_name(index))
                self.update(image[None], torch.tensor([label], dtype=torch.long))

    def compute(self) -> dict[str, float]:
        """The values over all images of all devices."""
        for name, metric in self.metrics.items():
            value: Any = metric.compute()
            values = (
                {f"{name}_{key}": item for key, item in value.items()}
                if isinstance(value, dict)
                else {name: value}
            )
            self.numbers |= {key: float(item) for key, item in values.items()}
        return self.numbers

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for metric in self.metrics.values():
            metric.to(pl_module.device)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Prediction, *args: Any
    ) -> None:
        if self.metrics and len(outputs.images):
            self.update(quantise(outputs.images), outputs.labels)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.compute()
