"""Collects features and the first images while a Trainer samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from mar_accel.inference.session import Prediction
from mar_accel.metrics.features import FeatureExtractor, quantise
from mar_accel.metrics.quality import FeatureSet


class Kept(NamedTuple):
    """What is kept of one of the first images: pixels uint8 [C, H, W], tokens [L, C], label."""

    image: Tensor
    tokens: Tensor
    label: int


@dataclass
class Collected:
    """What an evaluation looks at.

    Attributes:
        features: of all images, in the order of their indices; None without extractor.
        images: uint8 [keep, C, H, W] of the first ones. tokens: [keep, L, C]. labels: [keep].
    """

    features: FeatureSet | None
    images: Tensor
    tokens: Tensor
    labels: Tensor


class Collector(pl.Callback):
    """Features of all images, and the pixels and tokens of the first ones, gathered from all devices.

    Args:
        extractor: turns images into features; None: no features.
        keep: number of images, counted by sample index, whose pixels and tokens are kept.
        earlier: features of images that need not be sampled again.
        earlier_kept: those of them that are among the first, by sample index.

    Attributes:
        collected: complete after the prediction.
    """

    def __init__(
        self,
        extractor: FeatureExtractor | None,
        keep: int,
        earlier: Sequence[FeatureSet] = (),
        earlier_kept: Mapping[int, Kept] | None = None,
    ):
        self.extractor = extractor
        self.keep = keep
        self.earlier = list(earlier)
        self.earlier_kept = dict(earlier_kept or {})
        self.collected = Collected(None, torch.empty(0), torch.empty(0), torch.empty(0))
        self._parts: list[FeatureSet] = []
        self._kept: dict[int, Kept] = {}

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.extractor is not None:
            self.extractor.to(pl_module.device)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Prediction, *args: Any
    ) -> None:
        images = quantise(outputs.images)
        if self.extractor is not None:
            features = self.extractor(images)
            self._parts.append(FeatureSet.of(features, outputs.indices, outputs.labels))
        for row, index in enumerate(outputs.indices.tolist()):
            if index < self.keep:
                tokens = outputs.tokens[row].float().cpu()
                self._kept[index] = Kept(images[row].cpu(), tokens, int(outputs.labels[row]))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        parts, kept = self._parts, self._kept
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, (parts, kept))
            parts = [part for device_parts, _ in gathered for part in device_parts]
            kept = {index: value for _, device_kept in gathered for index, value in device_kept.items()}
        self.finish(parts, kept)

    def finish(self, parts: Sequence[FeatureSet] = (), kept: Mapping[int, Kept] | None = None) -> None:
        """Put what was sampled together with what was there; without arguments, where nothing was sampled."""
        features, first = [*self.earlier, *parts], {**self.earlier_kept, **(kept or {})}
        if features:
            self.collected.features = FeatureSet.join(features)
        if first:
            images, tokens, labels = zip(*(first[index] for index in sorted(first)), strict=True)
            self.collected.images, self.collected.tokens = torch.stack(images), torch.stack(tokens)
            self.collected.labels = torch.tensor(labels)
