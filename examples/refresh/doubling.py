"""A cache refresh of one's own: the steps 0, 1, 2, 4, 8, 16, … are computed in full."""

from mar_accel.caching.refresh import StaticRefresh
from mar_accel.sampling.plan import ARStep, Plan


class DoublingRefresh(StaticRefresh):
    """Refreshes whenever the step's index has grown by a factor since the last refresh.

    Args:
        factor: above 1.
    """

    def __init__(self, factor: float = 2.0):
        super().__init__()
        self.factor = factor

    def wants(self, plan: Plan, step: ARStep, last: int) -> bool:
        return step.index >= self.factor * max(1, last) or step.index == 1
