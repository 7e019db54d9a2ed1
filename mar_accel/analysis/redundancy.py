"""Redundancy that caches exploit, measured while a model samples without a cache.

Source: LazyMAR (arXiv:2503.12450, section 3): token redundancy and condition redundancy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel.caching.token import TokenCache
from mar_accel.models.transformer import gather_tokens
from mar_accel.sampling.plan import ARStep
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.state import DecodeState
from mar_accel.utils.autocast import without_autocast

CATEGORIES = ("predicted now", "just decoded", "decoded earlier", "not yet decoded")


@dataclass
class StepFeatures:
    """Features of all tokens at one AR step, in decode order.

    Attributes:
        output: output of the last block before the norm, conditional branch [B, L, D].
        value: values in the pruning block, conditional branch [B, L, D].
        unconditional: like ``output``, unconditional branch; None if the step is not guided.
    """

    output: Tensor
    value: Tensor
    unconditional: Tensor | None


class FeatureRecorder(CachePolicy):
    """Computes all positions at every step and collects statistics of their features.

    It must be a cache policy and not an observer.
    In a plain pass, the last decoder block only computes the predicted positions.

    Args:
        token: token cache that defines the pruning block.

    Attributes:
        statistics: statistics of all batches so far.

    Example:
        >>> recorder = FeatureRecorder(TokenCache(prune_block=3))
        >>> session.with_sampling(session.sampler, recorder).sample([0], labels)
        >>> recorder.statistics.residual_ratio()
    """

    def __init__(self, token: TokenCache):
        self.token = token
        self.statistics = RedundancyStatistics()
        self._steps: list[StepFeatures] = []

    def start(self, state: DecodeState) -> None:
        self.token.check(state.model.config)
        self._steps = []

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        batch = state.batch_size
        # Positions are in decode order, so the tokens of a step form a slice.
        decoded = self.token.full_pass(state, step, state.order, rows=batch)
        output = state.model.part_branches(decoded, state.order, state.condition_of(step))
        assert self.token.store is not None and self.token.store.feature is not None
        value = self.token.store.feature[:, state.model.config.buffer_size :]
        self._steps.append(
            StepFeatures(
                output[:batch].float(),
                gather_tokens(value, state.order).float(),
                output[batch:].float() if step.guided else None,
            )
        )
        if step is state.plan.steps[-1]:
            self.statistics.add(self._steps, state)
        positions = state.predicted(step).repeat(output.shape[0] // batch, 1)
        return state.model.conditioning_vectors(output[:, step.start : step.stop], positions)

    def finish(self) -> None:
        self.token.finish()
        self._steps = []


@dataclass
class RedundancyStatistics:
    """Sums over images; the methods return means.

    Attributes:
        num_images: number of images so far.
    """

    num_images: int = 0
    _distances: dict[tuple[int, str, str], float] = field(default_factory=dict)
    _counts: dict[tuple[int, str], int] = field(default_factory=dict)
    _mse: dict[tuple[int, str], float] = field(default_factory=dict)
    _similarity: dict[str, Tensor] = field(default_factory=dict)

    def add(self, steps: list[StepFeatures], state: DecodeState) -> None:
        """Add the features of one batch at all AR steps."""
        batch = state.batch_size
        self.num_images += batch
        for step in state.plan.steps[1:]:
            new, old = steps[step.index], steps[step.index - 1]
            self._add_distances(step, state.plan.steps[step.index - 1], new, old)
            for name, a, b in _branches(new, old):
                key = (step.index, name)
                self._mse[key] = self._mse.get(key, 0.0) + batch * float((a - b).square().mean())
        for name in ("output", "residual") if all(step.guided for step in state.plan.steps) else ("output",):
            matrix = batch * _similarity_matrix([_feature(features, name) for features in steps])
            self._similarity[name] = self._similarity.get(name, torch.zeros_like(matrix)) + matrix

    def _add_distances(self, step: ARStep, previous: ARStep, new: StepFeatures, old: StepFeatures) -> None:
        slices = {
            "predicted now": slice(step.start, step.stop),
            "just decoded": slice(previous.start, previous.stop),
            "decoded earlier": slice(0, previous.start),
            "not yet decoded": slice(step.stop, None),
        }
        for kind in ("output", "value"):
            distance = 1 - F.cosine_similarity(getattr(new, kind), getattr(old, kind), dim=-1)
            for category, where in slices.items():
                key = (step.index, category, kind)
                self._distances[key] = self._distances.get(key, 0.0) + float(distance[:, where].sum())
        for category, where in slices.items():
            count = distance[:, where].numel()
            self._counts[step.index, category] = self._counts.get((step.index, category), 0) + count

    def distance_rows(self) -> list[dict[str, float | int | str]]:
        """Mean cosine distance to the previous step, for each AR step and token category."""
        return [
            {
                "step": step,
                "category": category,
                "tokens": count // self.num_images,
                "output_distance": self._distances[step, category, "output"] / count,
                "value_distance": self._distances[step, category, "value"] / count,
            }
            for (step, category), count in self._counts.items()
            if count
        ]

    def mse_rows(self) -> list[dict[str, float | int]]:
        """Mean squared difference to the previous step, for both branches and their difference.

        All rows have the same keys. A branch that a step or the one before it did not run is NaN.
        """
        means = {key: total / self.num_images for key, total in self._mse.items()}
        names = dict.fromkeys(name for _, name in means)
        return [
            {"step": step, **{name: means.get((step, name), math.nan) for name in names}}
            for step in dict.fromkeys(step for step, _ in means)
        ]

    def residual_ratio(self) -> float | None:
        """Mean squared difference of the conditional branch divided by that of the residual.

        The residual is the difference of the two branches.

        Returns:
            The ratio; None if no two neighbouring steps are guided.
        """
        rows = [row for row in self.mse_rows() if not math.isnan(row.get("residual", math.nan))]
        if not rows:
            return None
        return sum(row["conditional"] for row in rows) / sum(row["residual"] for row in rows)

    def matrices(self) -> dict[str, Tensor]:
        """Cosine similarity [K, K] between the features of all pairs of AR steps.

        It is the mean over tokens and images.
        """
        return {name: matrix / self.num_images for name, matrix in self._similarity.items()}


def _feature(features: StepFeatures, name: str) -> Tensor:
    if name == "output":
        return features.output
    assert features.unconditional is not None
    return features.unconditional - features.output


def _branches(new: StepFeatures, old: StepFeatures) -> list[tuple[str, Tensor, Tensor]]:
    """Name, current feature and previous feature, for both branches and their difference."""
    branches = [("conditional", new.output, old.output)]
    if new.unconditional is not None and old.unconditional is not None:
        branches.append(("unconditional", new.unconditional, old.unconditional))
        branches.append(("residual", _feature(new, "residual"), _feature(old, "residual")))
    return branches


def _similarity_matrix(steps: list[Tensor]) -> Tensor:
    """Cosine similarity [K, K] between steps, averaged over images and tokens.

    Args:
        steps: features of each step [B, L, D].
    """
    unit = torch.stack([F.normalize(x, dim=-1).flatten() for x in steps])
    with without_autocast(unit.device):
        return (unit @ unit.T / steps[0].shape[:2].numel()).cpu()
