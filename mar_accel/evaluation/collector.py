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
    """Data of one of the first images: pixels uint8 [C, H, W], tokens [L, C], label."""

    image: Tensor
    tokens: Tensor
    label: int


@dataclass
class Collected:
    """Data that an evaluation works on.

    Attributes:
        features: features of all images, sorted by sample index; None without an extractor.
        images: pixels of the first images, uint8 [keep, C, H, W].
        tokens: tokens of the first images [keep, L, C].
        labels: labels of the first images [keep].
    """

    features: FeatureSet | None
    images: Tensor
    tokens: Tensor
    labels: Tensor


class Collector(pl.Callback):
    """Collects features of all images, and pixels and tokens of the first images, from all devices.

    Args:
        extractor: computes the features. None: no features.
        keep: pixels and tokens are kept for sample indices below this number.
        earlier: features of existing images, which are not sampled again.
        earlier_kept: data of existing images among the first ``keep``, by sample index.

    Attributes:
        collected: the collected data; complete after the prediction.
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
        kinds = (torch.uint8, torch.float32, torch.int64)
        self.collected = Collected(None, *(torch.empty(0, dtype=kind) for kind in kinds))
        self._parts: list[FeatureSet] = []
        self._kept: dict[int, Kept] = {}

    def on_predict_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.extractor is not None:
            self.extractor.to(pl_module.device)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Prediction, *args: Any
    ) -> None:
        images = quantise(outputs.images)
        if self.extractor is not None and len(images):
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
        """Join new and existing data; call it without arguments if nothing was sampled."""
        features, first = [*self.earlier, *parts], {**self.earlier_kept, **(kept or {})}
        if features:
            self.collected.features = FeatureSet.join(features)
        if first:
            images, tokens, labels = zip(*(first[index] for index in sorted(first)), strict=True)
            self.collected.images, self.collected.tokens = torch.stack(images), torch.stack(tokens)
            self.collected.labels = torch.tensor(labels, dtype=torch.long)
