"""What images are judged with: the features and the reference that a config names."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import DictConfig

from mar_accel.inference.build import build_part
from mar_accel.metrics.features import FeatureExtractor
from mar_accel.metrics.reference import Reference, ReferenceSource


@dataclass
class Judge:
    """Features, and what they are compared with."""

    extractor: FeatureExtractor
    reference: Reference | None

    @staticmethod
    def of(config: DictConfig) -> Judge:
        """Features and reference of a config; refuses what does not exist before anything is sampled."""
        source: ReferenceSource | None = build_part(config.reference)
        if source is not None:
            source.check()
        extractor = build_part(config.features)
        return Judge(extractor, source.load(extractor) if source is not None else None)
