"""Guidance of one's own: none for the first part of the tokens, then a quadratic ramp."""

from mar_accel.sampling.guidance import GuidanceSchedule, Progress


class RampGuidance(GuidanceSchedule):
    """w = 1 until a share of the tokens is decoded; steps with w = 1 run one branch and cost half.

    Args:
        start: share of the tokens, 0 to 1.
    """

    def __init__(self, start: float = 0.3):
        self.start = start

    def scale(self, guidance_scale: float, progress: Progress) -> float:
        share = max(0.0, progress.decoded - self.start) / (1 - self.start)
        return 1 + (guidance_scale - 1) * share**2
