"""Head solvers: run the diffusion chain from noise to tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from mar_accel.errors import ConfigError
from mar_accel.sampling.denoiser import Denoiser
from mar_accel.sampling.diffusion_schedule import ChainSchedule, DiffusionSchedule, diffusion_schedule
from mar_accel.sampling.parts import wrong_return
from mar_accel.utils.readable import Readable


@runtime_checkable
class Solver(Protocol):
    """Turns noise into tokens by repeated noise prediction."""

    # Whether the chain evaluates the head once per timestep, from high to low noise.
    visits_every_timestep: bool

    def sample(self, denoise: Denoiser, noise: Tensor, schedule: Any, temperature: float) -> Tensor:
        """Run a chain for n tokens.

        Args:
            denoise: guided noise prediction.
            noise: standard normal [T+1, n, C], float32; see :class:`mar_accel.sampling.noise.SampleNoise`.
                Less if the schedule's ``num_draws`` says so.
            schedule: schedule with T timesteps: a :class:`DiffusionSchedule`, or the solver's own.
            temperature: factor on the noise of ancestral steps, at least 0.

        Returns:
            Tokens [n, C].
        """
        ...


@runtime_checkable
class OwnTimesteps(Protocol):
    """A solver that chooses its timesteps. ``max_timestep`` does not apply to it."""

    def schedule(self, num_steps: int) -> ChainSchedule:
        """The timesteps of a chain with T ≥ 1 evaluations."""
        ...


def chain_schedule(solver: Solver, num_steps: int, max_timestep: int | None) -> ChainSchedule:
    """The timesteps at which a solver evaluates the head; raises ConfigError if T is out of range."""
    if isinstance(solver, OwnTimesteps):
        return solver.schedule(num_steps)
    return diffusion_schedule(num_steps, max_timestep)


class DDPM(Readable):
    """Ancestral sampling with learned-range variance and no clipping of x₀: MAR's published solver."""

    visits_every_timestep = True

    def sample(
        self, denoise: Denoiser, noise: Tensor, schedule: DiffusionSchedule, temperature: float
    ) -> Tensor:
        c = schedule.coefficients
        x = noise[0]
        for j, i in enumerate(reversed(range(schedule.num_steps)), start=1):
            epsilon, v = denoise(x, i)
            x0 = x * float(c.sqrt_recip_alphas_cumprod[i]) - epsilon * float(c.sqrt_recipm1_alphas_cumprod[i])
            x = x0 * float(c.posterior_x0_coef[i]) + x * float(c.posterior_xt_coef[i])
            if i == 0:
                break
            # log σ² = f·log β + (1−f)·log β̃ with f = (v+1)/2. Half of it is log σ.
            low, high = float(c.posterior_log_variance[i]), float(c.log_betas[i])
            log_deviation = (v + 1) * ((high - low) / 4) + low / 2
            x = torch.addcmul(x, log_deviation.exp_(), noise[j], value=temperature)
        return x


class Update(NamedTuple):
    """Factors of one step of a linear solver.

    The step is x ← x·factor + ε·factor + Σ x₀·factor + noise·factor, with earlier predictions of x₀.

    Attributes:
        x, epsilon: factors of the noisy tokens and of the noise prediction.
        previous: factors of the x₀ predictions one step ago, two steps ago, ….
        noise: factor of the new noise, before the temperature.
    """

    x: float
    epsilon: float
    previous: tuple[float, ...] = ()
    noise: float = 0.0


class LinearSolver(Readable, ABC):
    """Solver with linear steps. Their factors are computed once per schedule, before sampling.

    The factors come from diffusers' schedulers. Running these schedulers inside the chain would add dozens
    of scalar operations per head evaluation.
    """

    visits_every_timestep = True

    def __init__(self) -> None:
        self._updates: dict[DiffusionSchedule, list[Update]] = {}

    @abstractmethod
    def updates(self, schedule: DiffusionSchedule) -> list[Update]:
        """Steps of a chain, from high to low noise."""
        raise NotImplementedError

    def sample(
        self, denoise: Denoiser, noise: Tensor, schedule: DiffusionSchedule, temperature: float
    ) -> Tensor:
        if schedule not in self._updates:
            self._updates[schedule] = self._checked(self.updates(schedule), schedule.num_steps)
        c, x, predictions = schedule.coefficients, noise[0], list[Tensor]()
        for j, update in enumerate(self._updates[schedule], start=1):
            i = schedule.num_steps - j
            epsilon, _ = denoise(x, i)
            stepped = x * update.x + epsilon * update.epsilon
            for factor, x0 in zip(update.previous, predictions, strict=False):
                stepped = stepped.add(x0, alpha=factor)
            if update.noise:
                stepped = stepped.add(noise[j], alpha=update.noise * temperature)
            if update.previous:
                x0 = x * float(c.sqrt_recip_alphas_cumprod[i])
                x0 = x0.sub(epsilon, alpha=float(c.sqrt_recipm1_alphas_cumprod[i]))
                predictions = [x0, *predictions][: len(update.previous)]
            x = stepped
        return x

    def _checked(self, updates: list[Update], num_steps: int) -> list[Update]:
        if isinstance(updates, list) and len(updates) == num_steps:
            return updates
        raise wrong_return("sampler.solver", self, "updates", f"a list of {num_steps} updates", updates)


class DDIM(LinearSolver):
    """DDIM (arXiv:2010.02502) on the respaced timesteps.

    Args:
        eta: amount of noise, 0..1. 0: deterministic after the initial noise.
            1: noise of ancestral sampling with the posterior variance, scaled by the temperature.
    """

    def __init__(self, eta: float = 0.0):
        if not 0 <= eta <= 1:
            raise ConfigError(
                f"sampler.solver.eta must be between 0 (deterministic) and 1 (ancestral), got {eta}."
            )
        super().__init__()
        self.eta = eta

    def updates(self, schedule: DiffusionSchedule) -> list[Update]:
        from diffusers import DDIMScheduler

        scheduler: Any = DDIMScheduler(**_scheduler_settings(schedule), clip_sample=False)
        # float32 is too coarse for 1 − β near t = 999.
        scheduler.alphas_cumprod = torch.from_numpy(schedule.coefficients.alphas_cumprod)
        scheduler.set_timesteps(schedule.num_steps)
        x, epsilon, fresh = torch.eye(3, dtype=torch.float64, device="cpu")
        updates = []
        for i in reversed(range(schedule.num_steps)):
            factors = scheduler.step(epsilon, i, x, self.eta, variance_noise=fresh).prev_sample.tolist()
            updates.append(Update(x=factors[0], epsilon=factors[1], noise=factors[2]))
        return updates


class DPMSolver(LinearSolver):
    """Multistep DPM-Solver++ (arXiv:2211.01095) on the respaced timesteps.

    Args:
        order: order of the solver, 1, 2 or 3.
    """

    def __init__(self, order: int = 2):
        if order not in (1, 2, 3):
            raise ConfigError(f"sampler.solver.order must be 1, 2 or 3, got {order}.")
        super().__init__()
        self.order = order

    def updates(self, schedule: DiffusionSchedule) -> list[Update]:
        from diffusers import DPMSolverMultistepScheduler

        scheduler: Any = DPMSolverMultistepScheduler(
            **_scheduler_settings(schedule), solver_order=self.order, final_sigmas_type="zero"
        )
        scheduler.alphas_cumprod = schedule.coefficients.alphas_cumprod
        timesteps = list(reversed(range(schedule.num_steps)))
        scheduler.set_timesteps(timesteps=timesteps)
        scheduler.set_begin_index(0)
        x, epsilon, *previous = torch.eye(1 + self.order, dtype=torch.float32, device="cpu")
        updates = []
        for i in timesteps:
            # The latest output of the scheduler comes last. Each step drops the first one.
            scheduler.model_outputs = [None, *reversed(previous)]
            factors = scheduler.step(epsilon, i, x).prev_sample.tolist()
            updates.append(Update(factors[0], factors[1], tuple(factors[2:])))
        return updates


def _scheduler_settings(schedule: DiffusionSchedule) -> dict[str, Any]:
    """Scheduler settings that treat the chain's timesteps as a full training schedule 0 … T−1.

    diffusers' schedulers then step from each timestep to the next, and from the first to x₀. This works
    for any respacing and clip.
    """
    return {
        "num_train_timesteps": schedule.num_steps,
        "trained_betas": schedule.coefficients.betas.tolist(),
        "prediction_type": "epsilon",
    }
