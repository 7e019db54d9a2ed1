"""Token selection: which tokens of a step get more diffusion steps."""

from __future__ import annotations

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.utils.readable import Readable


class TokenSelection(Readable):
    """Chooses tokens by a score; subclasses say which.

    Args:
        fraction: β, the share of a step's tokens that is chosen, 0..1.
        num_diffusion_steps: T_detail of the chosen tokens, at least that of the others.
    """

    def __init__(self, fraction: float = 0.1, num_diffusion_steps: int = 50):
        if not 0 <= fraction <= 1:
            raise ConfigError(
                f"sampler.selection.fraction={fraction} must be a share of the tokens; choose 0 to 1."
            )
        self.fraction = fraction
        self.num_diffusion_steps = num_diffusion_steps

    def num_selected(self, num_tokens: int) -> int:
        """How many of a step's n tokens are chosen: β·n, rounded."""
        return round(self.fraction * num_tokens)

    def scores(self, z: Tensor, random_scores: Tensor) -> Tensor:
        """Scores [B, n]; the highest are chosen.

        Args:
            z: conditioning vectors of the conditional branch [B, n, D].
            random_scores: uniform [B, n], drawn per sample and position.
        """
        raise NotImplementedError


class NoSelection(TokenSelection):
    """No token is chosen."""

    def __init__(self) -> None:
        super().__init__(fraction=0.0, num_diffusion_steps=0)


class FrequencySelection(TokenSelection):
    """GtR's FTS: the tokens whose conditioning vectors have most high frequencies (arXiv:2510.17171).

    Args:
        fraction, num_diffusion_steps: see :class:`TokenSelection`.
        lowest: choose the tokens with the lowest scores instead, to compare with.
    """

    def __init__(self, fraction: float = 0.1, num_diffusion_steps: int = 50, lowest: bool = False):
        super().__init__(fraction, num_diffusion_steps)
        self.lowest = lowest

    def scores(self, z: Tensor, random_scores: Tensor) -> Tensor:
        scores = frequency_scores(z)
        return -scores if self.lowest else scores


class RandomSelection(TokenSelection):
    """Tokens drawn at random, per image."""

    def scores(self, z: Tensor, random_scores: Tensor) -> Tensor:
        return random_scores


class AllTokens(TokenSelection):
    """Every token is chosen: the reconstruction stage at T_detail throughout."""

    def __init__(self, num_diffusion_steps: int = 50):
        super().__init__(fraction=1.0, num_diffusion_steps=num_diffusion_steps)

    def scores(self, z: Tensor, random_scores: Tensor) -> Tensor:
        return random_scores


def frequency_scores(z: Tensor) -> Tensor:
    """s = Σ_{n=1}^{⌊D/2⌋} A(n)·(1 + n/⌊D/2⌋), A the magnitudes of the DFT along the features.

    Args:
        z: vectors [..., D], any floating type; computed in float32.

    Returns:
        [...], float32.
    """
    magnitudes = torch.fft.rfft(z.float(), dim=-1).abs()[..., 1:]
    half = z.shape[-1] // 2
    weights = 1 + torch.arange(1, half + 1, device=z.device) / half
    return magnitudes @ weights
