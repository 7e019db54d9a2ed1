"""Features and reference that a config evaluates images with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mar_accel.config.settings import Settings
from mar_accel.inference.build import build_node
from mar_accel.metrics.features import FeatureExtractor
from mar_accel.metrics.reference import Reference, ReferenceSource


@dataclass
class Judge:
    """The feature extractor and the reference images."""

    extractor: FeatureExtractor
    reference: Reference | None

    @staticmethod
    def check(settings: Settings) -> None:
        """Raise MarAccelError if features or reference are not available; nothing is computed."""
        source: ReferenceSource | None = build_node("reference", settings.reference, ReferenceSource)
        if build_node("features", settings.features, FeatureExtractor) is not None and source is not None:
            source.check()

    def try_on(self, shape: Sequence[int]) -> None:
        """Try the extractor on a black image; raises DataError if it does not support such images.

        Args:
            shape: channels, height and width of the images.
        """
        self.extractor(torch.zeros(1, *shape, dtype=torch.uint8, device=self.extractor.device))

    @staticmethod
    def of(settings: Settings, device: torch.device | str = "cpu") -> Judge | None:
        """Features and reference of a config; None for ``features=none``.

        Args:
            settings: settings of the run.
            device: where the features of the reference are computed, and the extractor stays.

        Raises:
            MarAccelError: one of them is not available. This is checked before any sampling.
        """
        source: ReferenceSource | None = build_node("reference", settings.reference, ReferenceSource)
        extractor: FeatureExtractor | None = build_node("features", settings.features, FeatureExtractor)
        if extractor is None:
            return None
        if source is not None:
            source.check()
        extractor.to(device)
        return Judge(extractor, source.load(extractor, device) if source is not None else None)
