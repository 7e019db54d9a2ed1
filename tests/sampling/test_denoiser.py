"""The guided noise prediction: modulations of several timesteps at once change nothing."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.sampling import denoiser
from mar_accel.sampling.denoiser import GuidedDenoiser, embed_timesteps
from mar_accel.sampling.guidance import Guidance

TIMESTEPS = tuple(range(0, 1000, 111))


@pytest.fixture
def net() -> AdaLNMLP:
    torch.manual_seed(0)
    net = AdaLNMLP(token_dim=3, z_dim=8, width=16, depth=2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net.requires_grad_(False)


def _guided(net: AdaLNMLP, x: Tensor, z: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """The definition: both branches in full, at one timestep."""
    conditional, unconditional = (net(x, torch.full((5,), t), rows) for rows in z.chunk(2))
    epsilon, v = conditional.chunk(2, dim=-1)
    epsilon_u = unconditional.chunk(2, dim=-1)[0]
    return epsilon_u + 2.5 * (epsilon - epsilon_u), v


# From the noisiest down, as chains go; some left out; one again and again; upwards.
@pytest.mark.parametrize("visited", [range(9, -1, -1), (9, 5, 4, 0), (7, 7, 6, 7), range(10)])
@pytest.mark.parametrize("rows_together", [0, 20, 37, 1000])
def test_equals_the_definition_whatever_is_computed_together(
    net: AdaLNMLP, visited: Iterable[int], rows_together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(denoiser, "MODULATION_ROWS", rows_together)
    z = torch.randn(10, 8)
    denoise = GuidedDenoiser(net, z, embed_timesteps(net, TIMESTEPS, z.device), Guidance(2.5), [True] * 10)
    for index in visited:
        x = torch.randn(5, 3)
        for actual, expected in zip(denoise(x, index), _guided(net, x, z, TIMESTEPS[index]), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_modulations_are_read_once_for_several_timesteps(
    net: AdaLNMLP, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten timesteps of ten rows fit into one computation."""
    computed, modulations = [], AdaLNMLP.modulations

    def counted(net: AdaLNMLP, activated: Tensor, memory: list[Tensor]) -> list[tuple[Tensor, ...]]:
        computed.append(len(activated))
        return modulations(net, activated, memory)

    monkeypatch.setattr(AdaLNMLP, "modulations", counted)
    z = torch.randn(10, 8)
    denoise = GuidedDenoiser(net, z, embed_timesteps(net, TIMESTEPS, z.device), Guidance(2.5), [True] * 10)
    for index in reversed(range(10)):
        denoise(torch.randn(5, 3), index)
    assert computed == [10]
