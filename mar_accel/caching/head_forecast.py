"""Head caches that take the contribution of all later blocks from earlier timesteps of the chain.

Sources: TaylorSeer (arXiv:2503.06923); first-block caching, whose decisions are taken beforehand here.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

import torch
from torch import Tensor

from mar_accel.caching.head import FULL_ROWS, HeadCache, HeadCacheDenoiser, Modulation
from mar_accel.errors import ConfigError
from mar_accel.models.backbone import BackboneConfig
from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.sampling.guidance import Guidance
from mar_accel.sampling.model_defaults import MODEL, FromModel


class ForecastHeadCache(HeadCache):
    """Base of caches that compute the first blocks and forecast what all others add.

    A forecast is a Taylor polynomial in the timestep index t. Between refreshes, only the conditional branch
    runs, and ε_c − ε_u is forecast too.

    Args:
        order: order m of the forecast, at least 0. 0 reuses the last value.
        computed_blocks: number of first blocks that every timestep computes, at least 0.
        period, period_for, refresh_below: as in :class:`HeadCache`.
    """

    def __init__(
        self,
        order: int,
        computed_blocks: int,
        period: int = 7,
        period_for: int | None = 100,
        refresh_below: float | FromModel = MODEL,
    ):
        super().__init__(period, (), 1.0, period_for, refresh_below)
        if order < 0:
            raise ConfigError(f"cache.head.order must be ≥ 0 (0 reuses the last value), got {order}.")
        self.order = order
        self.computed_blocks = computed_blocks

    def denoiser(
        self, net: AdaLNMLP, z: Tensor, time_embeddings: Tensor, guidance: Guidance, guided: Sequence[bool]
    ) -> ForecastDenoiser:
        return ForecastDenoiser(self, net, z, time_embeddings, guidance, guided)

    def kept_per_token(self, config: BackboneConfig, guided: bool) -> int:
        return (self.order + 1) * (config.head_width + (config.token_dim if guided else 0))


class TaylorHeadCache(ForecastHeadCache):
    """TaylorSeer (arXiv:2503.06923) on the diffusion head.

    A refresh keeps F, what all blocks add to the token, with its finite differences. They are D_0 = F and
    D_{i+1} = (D_i − D_i at the refresh before)/(timesteps between both). After x further timesteps, the
    contribution is Σ_{i ≤ m} D_i·xⁱ/i!. Order m needs m + 1 refreshes; before that, the order is lower.

    Args:
        order: m, at least 0. 0 reuses F. The paper uses 1 to 4 in other models.
        period, period_for, refresh_below: as in :class:`HeadCache`.

    Example:
        TaylorHeadCache(order=1, period=10)
    """

    def __init__(
        self,
        order: int = 1,
        period: int = 7,
        period_for: int | None = 100,
        refresh_below: float | FromModel = MODEL,
    ):
        super().__init__(order, 0, period, period_for, refresh_below)


# Sixteen refreshes of a chain of 100, for the embedded digits: docs/caches.md has the command.
CALIBRATED = (0, 1, 4, 7, 11, 15, 20, 26, 33, 41, 51, 64, 78, 91, 98, 99)


class FirstBlockHeadCache(ForecastHeadCache):
    """First-block caching: all blocks but the first are reused until the first one has changed.

    The published rule compares the first block's residual with that of the last refresh while it samples, so
    that an image would depend on its batch. Here the refreshes are a list, which ``mar_accel.calibrate``
    makes from a threshold (ours).

    Args:
        timesteps: indices t of the refreshes in a chain of ``timesteps_for`` timesteps, 0 (the last) to
            ``timesteps_for`` − 1 (the noisiest, which is always one).
        timesteps_for: length of the chain that the list is made for, at least 1. The list is scaled to
            other lengths.
        refresh_below: as in :class:`HeadCache`.

    Example:
        FirstBlockHeadCache([0, 4, 12, 30, 60, 99], timesteps_for=100)
    """

    def __init__(
        self,
        timesteps: Sequence[int] = CALIBRATED,
        timesteps_for: int = 100,
        refresh_below: float | FromModel = MODEL,
    ):
        super().__init__(0, 1, refresh_below=refresh_below)
        if timesteps_for < 1:
            raise ConfigError(f"cache.head.timesteps_for must be ≥ 1, got {timesteps_for}.")
        if any(not 0 <= timestep < timesteps_for for timestep in timesteps):
            raise ConfigError(
                f"cache.head.timesteps must be between 0 and {timesteps_for - 1} for "
                f"timesteps_for={timesteps_for}, got {list(timesteps)}."
            )
        self.timesteps = tuple(timesteps)
        self.timesteps_for = timesteps_for

    def refreshes(self, index: int, num_steps: int) -> bool:
        scale = (num_steps - 1) / max(1, self.timesteps_for - 1)
        listed = {round(timestep * scale) for timestep in self.timesteps}
        below = self.setting("refresh_below") * num_steps
        return index == num_steps - 1 or index in listed or index < below


class Forecast:
    """Taylor polynomial of a tensor in the timestep index.

    Args:
        order: m, at least 0.

    Example:
        >>> forecast = Forecast(1)
        >>> forecast.keep(torch.tensor(3.0), 10), forecast.keep(torch.tensor(5.0), 8)
        (None, None)
        >>> float(forecast.at(7))
        6.0
    """

    def __init__(self, order: int):
        self.order = order
        self.differences: list[Tensor] = []
        self._index = 0

    def keep(self, value: Tensor, index: int) -> None:
        """Add the value at a refresh; indices fall."""
        kept, differences = self.differences, [value]
        for old in kept[: self.order]:
            differences.append((differences[-1] - old) / (self._index - index))
        self.differences, self._index = differences, index

    def at(self, index: int) -> Tensor:
        """The forecast for a later timestep."""
        distance, total = self._index - index, self.differences[0]
        for power, difference in enumerate(self.differences[1:], start=1):
            total = torch.add(total, difference, alpha=distance**power / factorial(power))
        return total

    def forget(self) -> None:
        self.differences = []


class ForecastDenoiser(HeadCacheDenoiser):
    """Guided noise prediction with a :class:`ForecastHeadCache`. Each chain has its own denoiser."""

    cache: ForecastHeadCache

    def __init__(
        self,
        cache: ForecastHeadCache,
        net: AdaLNMLP,
        z: Tensor,
        time_embeddings: Tensor,
        guidance: Guidance,
        guided: Sequence[bool],
    ):
        super().__init__(cache, net, z, time_embeddings, guidance, guided)
        self.computed = min(cache.computed_blocks, len(self.blocks))
        self._contribution, self._gap = Forecast(cache.order), Forecast(cache.order)

    def tensors(self) -> list[Tensor]:
        return [*self._contribution.differences, *self._gap.differences]

    def _run_refresh(self, hidden: Tensor, index: int, modulation: Modulation, count: int) -> Tensor:
        hidden = self._first_blocks(hidden, modulation)
        before = hidden[:count]
        for number, block in list(enumerate(self.blocks))[self.computed :]:
            hidden = block.modulated(hidden, *modulation.blocks[number])
        self._contribution.keep(hidden[:count] - before, index)
        return hidden

    def _run_between(self, x: Tensor, index: int, modulation: Modulation) -> Tensor:
        return self._first_blocks(self.net.input_proj(x), modulation) + self._contribution.at(index)

    def _first_blocks(self, hidden: Tensor, modulation: Modulation) -> Tensor:
        for number, block in enumerate(self.blocks[: self.computed]):
            hidden = block.modulated(hidden, *modulation.blocks[number])
        return hidden

    def _keep_difference(self, difference: Tensor | None, index: int) -> None:
        if difference is None:
            self._gap.forget()
        else:
            self._gap.keep(difference, index)

    def _difference_at(self, index: int) -> Tensor:
        return self._gap.at(index)

    def _next_between(self, index: int) -> dict[int, Modulation]:
        indices = [i for i in range(index, -1, -1) if i not in self.refreshed]
        indices = indices[: max(1, FULL_ROWS // self.conditional.shape[0])]
        return self._modulations(indices, self.conditional, range(self.computed), gates_alone=False)
