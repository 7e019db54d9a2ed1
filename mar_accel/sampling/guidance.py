"""Guidance schedules: the guidance scale of each AR step."""

from __future__ import annotations


class GuidanceSchedule:
    """Maps progress to a guidance scale."""

    def scale(self, guidance_scale: float, progress: float) -> float:
        """w of a step.

        Args:
            guidance_scale: the final w.
            progress: share of tokens counted as decoded once the step is done, in (0, 1].
        """
        raise NotImplementedError


class LinearGuidance(GuidanceSchedule):
    """w_k = 1 + (w − 1)·(L − m_k)/L: no guidance at first, all of it at the end (MAR)."""

    def scale(self, guidance_scale: float, progress: float) -> float:
        return 1 + (guidance_scale - 1) * progress


class ConstantGuidance(GuidanceSchedule):
    """The same w at every step."""

    def scale(self, guidance_scale: float, progress: float) -> float:
        return guidance_scale
