"""Token selection: chooses the tokens of an AR step that get more diffusion steps."""

from __future__ import annotations

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.utils.autocast import without_autocast
from mar_accel.utils.readable import Readable


class TokenSelection(Readable):
    """Selects the tokens with the highest scores. A custom selection defines ``scores``.

    Args:
        fraction: share β of the tokens of a step that is selected, 0..1.
        num_diffusion_steps: T_detail of the selected tokens, at least T of the other tokens.

    Example:
        class LargeNorm(TokenSelection):
            def scores(self, z, random_scores):
                return z.norm(dim=-1)
    """

    def __init__(self, fraction: float = 0.1, num_diffusion_steps: int = 50):
        if not 0 <= fraction <= 1:
            raise ConfigError(f"sampler.selection.fraction must be between 0 and 1, got {fraction}.")
        self.fraction = fraction
        self.num_diffusion_steps = num_diffusion_steps

    def num_selected(self, num_tokens: int) -> int:
        """Number of selected tokens among the n tokens of a step: β·n, rounded."""
        return round(self.fraction * num_tokens)

    def scores(self, z: Tensor, random_scores: Tensor) -> Tensor:
        """Scores [B, n]. The tokens with the highest scores are selected.

        Args:
            z: conditioning vectors of the conditional branch [B, n, D].
            random_scores: uniform [B, n] in 0..1, drawn per sample and position.
        """
        raise NotImplementedError


class NoSelection(TokenSelection):
    """Selects no token."""

    def __init__(self) -> None:
        super().__init__(fraction=0.0, num_diffusion_steps=0)


class FrequencySelection(TokenSelection):
    """GtR's FTS (arXiv:2510.17171): selects by the high frequencies of the conditioning vectors.

    Args:
        fraction, num_diffusion_steps: see :class:`TokenSelection`.
        lowest: select the tokens with the lowest scores, for comparison.
    """

    def __init__(self, fraction: float = 0.1, num_diffusion_steps: int = 50, lowest: bool = False):
        super().__init__(fraction, num_diffusion_steps)
        self.lowest = lowest

    def scores(self, z: Tensor, random_scores: Tensor) -> Tensor:
        scores = frequency_scores(z)
        return -scores if self.lowest else scores


class RandomSelection(TokenSelection):
    """Selects random tokens per image."""

    def scores(self, z: Tensor, random_scores: Tensor) -> Tensor:
        return random_scores


class AllTokens(TokenSelection):
    """Selects every token: the whole reconstruction stage has T_detail diffusion steps."""

    def __init__(self, num_diffusion_steps: int = 50):
        super().__init__(fraction=1.0, num_diffusion_steps=num_diffusion_steps)

    def scores(self, z: Tensor, random_scores: Tensor) -> Tensor:
        return random_scores


def frequency_scores(z: Tensor) -> Tensor:
    """Frequency score s = Σ_{n=1}^{⌊D/2⌋} A(n)·(1 + n/⌊D/2⌋).

    A(n) are the magnitudes of the DFT along the features.

    Args:
        z: vectors [..., D] of any float dtype; computed in float32.

    Returns:
        Scores [...], float32.
    """
    magnitudes = torch.fft.rfft(z.float(), dim=-1).abs()[..., 1:]
    half = z.shape[-1] // 2
    weights = 1 + torch.arange(1, half + 1, dtype=magnitudes.dtype, device=z.device) / half
    with without_autocast(z.device):
        return magnitudes @ weights
