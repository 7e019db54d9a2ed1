"""Random numbers of a sample: decode order, noise and selection scores.

All are drawn on the CPU from generators seeded by (seed, sample index). An image therefore does not depend
on the batch, the number of devices, or on resuming a run. Noise is indexed by (chain step, token position),
so different methods use common random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Stream(IntEnum):
    """Independent random streams of a sample."""

    ORDER = 0
    NOISE = 1
    SELECTION = 2


class RunStream(IntEnum):
    """Independent random streams of a run, for what all its images share."""

    STEP_SIZES = 0


@dataclass
class SampleNoise:
    """The random numbers of a batch.

    Attributes:
        order: decode orders [B, L], int64: permutations of the grid positions, first to decode first.
        noise: standard normal [T+1, B, L, C]. ``noise[0]`` starts the chain of a token; ``noise[j]`` is
            added at its j-th ancestral step. Without such steps, [1, B, L, C].
        selection_scores: uniform [B, L] in 0..1, for selections that choose tokens at random.
    """

    order: Tensor
    noise: Tensor
    selection_scores: Tensor

    def to(self, device: torch.device | str) -> SampleNoise:
        return SampleNoise(
            self.order.to(device, non_blocking=True),
            self.noise.to(device, non_blocking=True),
            self.selection_scores.to(device, non_blocking=True),
        )


def sample_generator(seed: int, index: int, stream: Stream) -> torch.Generator:
    """Generator of one random stream of a sample; ``seed`` and ``index`` must be ≥ 0."""
    state = np.random.SeedSequence([seed, index, int(stream)]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


def run_generator(seed: int, stream: RunStream) -> np.random.Generator:
    """Generator of one random stream of a run; ``seed`` must be ≥ 0."""
    return np.random.default_rng(np.random.SeedSequence([seed, int(stream)]))


def draw_noise(
    seed: int, indices: Sequence[int], num_tokens: int, token_dim: int, num_draws: int
) -> tuple[Tensor, Tensor]:
    """Draw noise [num_draws, B, L, C] and selection scores [B, L] for the samples ``indices``.

    ``noise[j]`` does not depend on the number of draws: it is draw j+1 of the sample's noise stream.
    """
    # Always float32, whatever default dtype the trainer's precision sets. Chains of 100 steps need it.
    kind: Any = {"dtype": torch.float32, "device": "cpu"}
    noise = torch.empty(num_draws, len(indices), num_tokens, token_dim, **kind)
    scores = torch.empty(len(indices), num_tokens, **kind)
    for row, index in enumerate(indices):
        generator = sample_generator(seed, index, Stream.NOISE)
        for step in range(num_draws):
            noise[step, row] = torch.randn(num_tokens, token_dim, generator=generator, **kind)
        generator = sample_generator(seed, index, Stream.SELECTION)
        scores[row] = torch.rand(num_tokens, generator=generator, **kind)
    return noise, scores
