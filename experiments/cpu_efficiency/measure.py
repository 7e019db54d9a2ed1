"""How near the decode loop of MAR-B comes to the CPU's matrix products, on one thread, by processor time.

    python experiments/cpu_efficiency/measure.py head     chains of several sizes
    python experiments/cpu_efficiency/measure.py decode   batch 2, guidance 2.9, K = 8, T = 100

Processor time does not count the time that other processes take. So the shares can be measured on a
machine that is not alone. What the user waits for is measured by ``python -m mar_accel.benchmark``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from mar_accel.config.compose import compose_settings
from mar_accel.inference.build import build_sampler
from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.profiling.flops import count_flops
from mar_accel.sampling import denoiser
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.diffusion_schedule import diffusion_schedule
from mar_accel.sampling.guidance import Guidance
from mar_accel.sampling.policy import NoCache
from mar_accel.sampling.solvers import DDPM


def processor_seconds(function: Callable[[], object], repeats: int) -> float:
    """The best of some repeats."""
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def peak() -> float:
    """FLOP/s of a 2048³ matrix product."""
    a = torch.randn(2048, 2048)
    return 2 * 2048**3 / processor_seconds(lambda: a @ a, 5)


def measure_head(limit: float, num_steps: int = 20) -> None:
    """Share of the matrix product's speed that guided chains reach."""
    net = AdaLNMLP(token_dim=16, z_dim=768, width=1024, depth=6).eval()
    for parameter in net.parameters():
        parameter.normal_(std=0.02)
    schedule = diffusion_schedule(num_steps, 950)
    times = denoiser.embed_timesteps(net, schedule.timesteps, torch.device("cpu"))
    weights = sum(p.numel() for name, p in net.named_parameters() if p.ndim == 2 and "_embed" not in name)
    print("| tokens × branches | each timestep alone | modulations together |\n|---|---|---|")
    for tokens in (1, 4, 10, 30, 62, 98):
        z, noise = torch.randn(2 * tokens, 768), torch.randn(num_steps + 1, tokens, 16)
        shares = []
        for rows in (0, 1024):
            denoiser.MODULATION_ROWS = rows

            def sample(z: torch.Tensor = z, noise: torch.Tensor = noise) -> None:
                denoise = denoiser.GuidedDenoiser(net, z, times, Guidance(2.9), [True] * len(times))
                DDPM().sample(denoise, noise, schedule, 1.0)

            flops = 2 * 2 * tokens * (weights * num_steps + 768 * 1024)
            shares.append(flops / processor_seconds(sample, 3) / limit)
        print(f"| {2 * tokens} | {shares[0]:.2f} | {shares[1]:.2f} |", flush=True)


def measure_decode(limit: float) -> None:
    """Share of the matrix product's speed that a whole decode reaches."""
    overrides = ["model=mar_base", "sampler.num_iter=8", "sampler.num_diffusion_steps=100"]
    config, batch = MARConfig(), 2
    sampler = build_sampler(compose_settings("generate", [*overrides, "sampler.guidance_scale=2.9"]))
    plan, model = sampler.plan(config.grid), MAR(config).eval()
    noise = sampler.draw(plan, 0, range(batch), config.token_dim)
    engine = Engine(model, plan, sampler.solver, NoCache(), sampler.selection)
    condition = model.condition(torch.tensor([3, 7]))
    seconds = processor_seconds(lambda: decode(engine, condition, noise), 1)
    flops = batch * count_flops(config, sampler, NoCache()).total
    limit = max(limit, peak())
    print(
        f"{flops / 1e12:.2f} TFLOPs in {seconds:.1f} s of one core: {flops / seconds / 1e9:.1f} GFLOP/s, "
        f"{flops / seconds / limit:.3f} of the matrix product's {limit / 1e9:.1f} GFLOP/s"
    )


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["head", "decode"])
    part = parser.parse_args().part
    torch.set_num_threads(1)
    torch.manual_seed(0)
    limit = peak()
    if part == "head":
        measure_head(limit)
    else:
        measure_decode(limit)


if __name__ == "__main__":
    main()
