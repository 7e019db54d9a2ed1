"""Adaptive refresh: when the features have drifted, instead of at a fixed period."""

from __future__ import annotations

import torch
from torch import Tensor

from mar_accel.caching.refresh import (
    Branches,
    Refresh,
    RefreshBounds,
    check_counts,
    check_share,
    lacks_a_branch,
)
from mar_accel.errors import ConfigError
from mar_accel.sampling.plan import ARStep, Plan


class AdaptiveRefresh(Refresh):
    """Refreshes when the drift since the last refresh exceeds a threshold. LazyMAR does not define this.

    Each lazy step adds its mean drift, 1 − similarity, to a sum. The token cache measures the similarity;
    the mean is over the tokens and images of the batch. See docs/caches.md for two consequences:

    - The host must read one number per lazy step (see ``_HostScalar``).
    - The batch decides together, so an image can depend on the other images in its batch.

    A schedule from ``mar_accel.calibrate`` has neither. FLOPs are counted on the meta device, where tensors
    have no values. There, the decisions of the last real batch are repeated. Before the first batch, only
    the bounds decide, so the count is a lower bound.

    Args:
        threshold: drift above which the next step is a refresh, at least 0.
        warmup_steps: as in :class:`mar_accel.caching.refresh.FixedRefresh`.
        max_period: maximum number of steps from one refresh to the next, at least 1.
        max_new_share: as in FixedRefresh.

    Example:
        LazyMAR(AdaptiveRefresh(threshold=0.2), TokenCache())  # the token cache measures the drift
    """

    needs_similarity = True

    def __init__(
        self,
        threshold: float = 0.1,
        warmup_steps: int = 5,
        max_period: int = 18,
        max_new_share: float | None = 0.25,
    ):
        if threshold < 0:
            raise ConfigError(f"cache.refresh.threshold must be ≥ 0, got {threshold}.")
        check_counts(warmup_steps, "max_period", max_period)
        check_share("cache.refresh.max_new_share", max_new_share)
        self.threshold = threshold
        self.warmup_steps = warmup_steps
        self.max_period = max_period
        self.max_new_share = max_new_share
        self.last_batch: tuple[bool, ...] = ()
        self._plan: Plan | None = None
        self._branches: Branches = "difference"
        self._decisions: list[bool] = []
        self._last = 0
        self._measured = False
        self._drift: Tensor | None = None
        self._on_host = _HostScalar()

    def start(self, plan: Plan, branches: Branches = "difference") -> None:
        self._plan, self._branches = plan, branches
        self._decisions, self._last, self._drift = [], 0, None

    def due(self, step: ARStep) -> bool:
        due = self._forced(step, self._last) or self._drifted(step)
        self._decisions.append(due)
        if due:
            self._last, self._drift = step.index, None
        return due

    def _forced(self, step: ARStep, last: int) -> bool:
        assert self._plan is not None
        bounds = RefreshBounds(self.warmup_steps, self.max_period, self.max_new_share)
        return bounds.forced(self._plan, step, last) or lacks_a_branch(self._plan, step, last, self._branches)

    def _drifted(self, step: ARStep) -> bool:
        if self._drift is None:
            return False
        if self._drift.is_meta:
            assert self._plan is not None
            return len(self.last_batch) == len(self._plan.steps) and self.last_batch[step.index]
        return self._on_host.read() > self.threshold

    def horizon(self, step: ARStep) -> int:
        assert self._plan is not None
        stop = step.stop
        for later in self._plan.steps[step.index + 1 :]:
            if self._forced(later, step.index):
                break
            stop = later.stop
        return stop

    def observe(self, step: ARStep, similarity: Tensor) -> None:
        moved = 1 - similarity.mean()
        self._drift = moved if self._drift is None else self._drift + moved
        if not moved.is_meta:
            self._measured = True
            self._on_host.send(self._drift)

    def finish(self) -> None:
        if self._measured:
            self.last_batch = tuple(self._decisions)
        self._measured, self._drift = False, None


class _HostScalar:
    """Asynchronous copy of one number to the host.

    The copy is queued directly after the backbone of a step and read at the beginning of the next step. At
    that time, the device still has the diffusion chain of the step to run. The host waits for the number,
    but the device does not wait.
    """

    def __init__(self) -> None:
        self._value: Tensor | None = None
        self._event: torch.cuda.Event | None = None

    def send(self, value: Tensor) -> None:
        if not value.is_cuda:
            self._value, self._event = value, None
            return
        self._value = torch.empty((), dtype=value.dtype, device="cpu", pin_memory=True)
        self._value.copy_(value, non_blocking=True)
        self._event = torch.cuda.Event()
        self._event.record()

    def read(self) -> float:
        assert self._value is not None
        if self._event is not None:
            self._event.synchronize()
        return float(self._value)
