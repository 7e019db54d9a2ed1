"""Random weights: the same each time, and no layer without effect."""

from __future__ import annotations

import time

import torch

from mar_accel.models.mar import MAR, MARConfig
from mar_accel.weights.loading import load_mar
from mar_accel.weights.random_weights import fill_randomly


def test_reproducible(tiny_config: MARConfig, tiny_model: MAR) -> None:
    state = torch.random.get_rng_state()
    again = load_mar(tiny_config, "random", "tiny")
    torch.testing.assert_close(again.state_dict(), tiny_model.state_dict(), rtol=0, atol=0)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator is left alone"


def test_every_weight_matters(tiny_model: MAR) -> None:
    """Doubling any weight changes the head's output, so that none is skipped when timing."""
    order = torch.arange(16).unsqueeze(0)
    tokens, x = torch.randn(1, 8, 1), torch.randn(8, 1)

    @torch.no_grad()
    def output(unconditional: bool) -> torch.Tensor:
        label = tiny_model.condition(torch.tensor([1]))
        condition = tiny_model.unconditional(1) if unconditional else label
        z = tiny_model(condition, tokens, order[:, :8], order[:, 8:])
        return tiny_model.diffloss.net(x, torch.full((8,), 500), z[0])

    before = output(False), output(True)
    assert all(bool(out.isfinite().all()) and out.std() > 0.1 for out in before)
    for name, parameter in tiny_model.named_parameters():
        if not name.endswith("bias"):
            with torch.no_grad():
                parameter.mul_(2)
                changed = not all(map(torch.equal, before, (output(False), output(True))))
                parameter.div_(2)
            assert changed, name


def test_large_matrices_do_not_repeat_themselves() -> None:
    linear = torch.nn.Linear(4096, 2048, bias=False)
    fill_randomly(linear)
    assert len({tuple(row[:8].tolist()) for row in linear.weight}) == 2048
    assert abs(float(linear.weight.detach().std()) * 64 - 1) < 0.01


def test_base_model_is_ready_in_seconds() -> None:
    # Time of the processor, which other processes do not lengthen.
    start = time.process_time()
    model = load_mar(MARConfig(), "random", "mar_base")
    assert time.process_time() - start < 30
    assert sum(parameter.numel() for parameter in model.parameters()) == 207_924_768
