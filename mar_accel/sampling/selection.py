"""Token selection: which tokens of a step get more diffusion steps."""

from __future__ import annotations

from torch import Tensor


class TokenSelection:
    """Chooses tokens by a score; subclasses say which.

    Args:
        fraction: β, the share of a step's tokens that is chosen, 0..1.
        num_diffusion_steps: T_detail of the chosen tokens.
    """

    def __init__(self, fraction: float, num_diffusion_steps: int):
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
