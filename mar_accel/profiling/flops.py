"""FLOPs of sampling one image, counted on tensors without storage.

The real decode loop runs with the given sampler and cache policy on torch's meta device.
So the count includes everything that a policy computes, and nothing that it skips.
No weights are needed.
A multiply-add counts as two FLOPs.
Only matrix products count, as in the published tables.
Norms, activations and the Fourier transform of a token selection count as zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mar_accel.models.backbone import BackboneConfig
from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.models.families import make_network
from mar_accel.models.lightgen import LightGenConfig
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.denoiser import Denoiser
from mar_accel.sampling.diffusion_schedule import ChainSchedule
from mar_accel.sampling.noise import SampleNoise
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.sampler import Sampler
from mar_accel.sampling.singlestep import DPMSolverSinglestep
from mar_accel.sampling.solvers import DDIM, DDPM, DPMSolver, Solver
from mar_accel.sampling.state import DecodeState

# They evaluate the head once per timestep, and have no matrix products of their own.
_WITHOUT_PRODUCTS = (DDPM, DDIM, DPMSolver, DPMSolverSinglestep)


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one image, with both guidance branches, without the autoencoder and a text encoder.

    Attributes:
        condition: what is computed once for the condition: text blocks, and keys and values of the text.
        encoder: from the token embedding to the last encoder block.
        decoder: from the encoder's output to the conditioning vectors.
        head: diffusion head, including its embeddings of timesteps and conditioning vectors.
        per_step: FLOPs of each AR step; they add up to ``total``. The first step includes the condition.
            Empty for a mean over images with several plans.
    """

    condition: int
    encoder: int
    decoder: int
    head: int
    per_step: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.condition + self.encoder + self.decoder + self.head


@torch.inference_mode()
def count_flops(
    config: BackboneConfig, sampler: Sampler, cache: CachePolicy, plan: Plan | None = None
) -> FlopCount:
    """Count the FLOPs of sampling one image; this takes seconds for the largest models.

    Args:
        config: architecture; the model is built without weights.
        sampler: defines guidance, AR steps and diffusion steps.
        cache: the cache policy; its state is reset, as at the start of a batch.
        plan: plan of the sampler. None: that of whole images with seed 0.

    Raises:
        ConfigError: sampler, cache and model cannot be combined.

    Example:
        >>> count = count_flops(model.config, sampler, NoCache())
        >>> count.total / 1e12  # TFLOPs per image
    """
    plan = sampler.plan(config.grid) if plan is None else plan
    cache.check(config, plan, sampler.solver)
    counter = _Counter()
    with torch.device("meta"):
        model = make_network(config).eval()
        model.diffloss.net = _CountedHead(counter, config)
        inputs = _inputs_without_storage(config)
        noise = _noise_without_storage(plan, config.token_dim)
    solver = _EvaluationsAlone() if type(sampler.solver) in _WITHOUT_PRODUCTS else sampler.solver
    engine = Engine(model, plan, solver, cache, sampler.selection)
    sections = _Sections(counter)
    with counter:
        decode(engine, model.condition(inputs), noise, sections)
    # FLOPs before the first step (condition, embeddings of the timesteps) count towards the first step.
    totals = sections.totals
    per_step = tuple(after - before for before, after in zip([0, *totals], totals, strict=False))
    return FlopCount(**counter.flops, per_step=per_step)


def count_mean(
    config: BackboneConfig, sampler: Sampler, cache: CachePolicy, plans: Sequence[tuple[Plan, int]]
) -> FlopCount:
    """The mean FLOPs per image, where images have several plans; see :func:`count_flops`.

    Args:
        plans: each plan with its number of images, as :meth:`mar_accel.inference.plans.Plans.counted` gives.

    Returns:
        The means, rounded to whole FLOPs. With several plans ``per_step`` is empty, since their steps differ.
    """
    counts = [(count_flops(config, sampler, cache, plan), number) for plan, number in plans]
    if len(counts) == 1:
        return counts[0][0]
    images = sum(number for _, number in counts)
    means = {
        part: round(sum(getattr(count, part) * number for count, number in counts) / images)
        for part in ("condition", "encoder", "decoder", "head")
    }
    return FlopCount(**means, per_step=())


def _inputs_without_storage(config: BackboneConfig) -> Tensor:
    """What one image is conditioned on: a label [1], or text features [1, N, width]."""
    if isinstance(config, LightGenConfig):
        return torch.empty(1, config.max_text_length, config.caption_channels, dtype=torch.float32)
    return torch.empty(1, dtype=torch.int64)


def _noise_without_storage(plan: Plan, token_dim: int) -> SampleNoise:
    length = plan.num_tokens
    return SampleNoise(
        order=torch.empty(1, length, dtype=torch.int64),
        noise=torch.empty(plan.num_draws, 1, length, token_dim, dtype=torch.float32),
        selection_scores=torch.empty(1, length, dtype=torch.float32),
    )


class _Counter(TorchDispatchMode):
    """Counts FLOPs by section; each operation runs only once per set of argument shapes.

    Chains repeat a few operations hundreds of thousands of times.
    Running all of them would take minutes even without storage.
    A repeated operation returns a tensor of the known shape and adds the known count.

    Attributes:
        flops: FLOPs by section.
        section: section that the next operations belong to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = {"condition": 0, "encoder": 0, "decoder": 0, "head": 0}
        self.section = "condition"
        self._seen: dict[Any, tuple[int, Any]] = {}

    @property
    def total(self) -> int:
        return sum(self.flops.values())

    def once(self, function: Callable[..., Tensor], x: Tensor, *args: Any) -> Tensor:
        """Count a whole function of ``x`` and further arguments only once per shape of ``x``.

        Its FLOPs and the shape of its result must depend only on the shape of ``x``.
        """
        key = (function.__name__, _description(x))
        if key not in self._seen:
            before = self.total
            result = function(x, *args)
            self._seen[key] = self.total - before, _description(result)
            return result
        flops, description = self._seen[key]
        self.flops[self.section] += flops
        return _tensors_like(description)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _shares_storage(func):
            # The result shares storage with an argument, so the operation must really run.
            if func._overloadpacket not in flop_registry:
                return func(*args, **kwargs)
            flops, result = _run(func, args, kwargs)
        else:
            key = (func, _description(args), _description(tuple(kwargs.items())))
            if key in self._seen:
                flops, description = self._seen[key]
                self.flops[self.section] += flops
                return _tensors_like(description)
            flops, result = _run(func, args, kwargs)
            if _without_storage(result):
                self._seen[key] = flops, _description(result)
        self.flops[self.section] += flops
        return result


@functools.cache
def _shares_storage(func: Any) -> bool:
    """Whether an operation is a view, works in place or writes into an argument."""
    return any(argument.alias_info is not None for argument in func._schema.arguments)


def _run(func: Any, args: Any, kwargs: Any) -> tuple[int, Any]:
    """FLOPs and result of an operation; attention is split into its two matrix products."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        result = func(*args, **kwargs)
    return counter.get_total_flops(), result


class _TensorDescription(NamedTuple):
    """Everything that can affect the result of an operation on a tensor without storage."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def _description(value: Any) -> Any:
    """A hashable form of a value, with tensors replaced by their descriptions.

    All floats count as equal, since they cannot change a shape.
    """
    if isinstance(value, Tensor):
        return _TensorDescription(value.shape, value.stride(), value.dtype, value.device)
    if isinstance(value, (list, tuple)):
        return tuple([_description(item) for item in value])
    return float if isinstance(value, float) else value


def _tensors_like(description: Any) -> Any:
    """New tensors without storage that match a description."""
    if isinstance(description, _TensorDescription):
        shape, stride, dtype, device = description
        return torch.empty_strided(shape, stride, dtype=dtype, device=device)
    return tuple([_tensors_like(item) for item in description])


def _without_storage(result: Any) -> bool:
    """Whether all tensors of a result are on the meta device and thus have no values."""
    if isinstance(result, (list, tuple)):
        return all(_without_storage(item) for item in result)
    return isinstance(result, Tensor) and result.is_meta


class _CountedHead(AdaLNMLP):
    """The head's network; each evaluation runs only once per number of rows, which the condition has too."""

    def __init__(self, counter: _Counter, config: BackboneConfig):
        super().__init__(config.token_dim, config.embed_dim, config.head_width, config.head_depth)
        self._counter = counter

    def evaluate(self, x: Tensor, activated: Tensor) -> Tensor:
        return self._counter.once(super().evaluate, x, activated)

    def evaluate_modulated(self, x: Tensor, modulations: Sequence[tuple[Tensor, ...]]) -> Tensor:
        return self._counter.once(super().evaluate_modulated, x, modulations)


class _EvaluationsAlone(Solver):
    """Evaluates the head as a solver does, without the steps between. They have nothing to count."""

    visits_every_timestep = True

    def sample(self, denoise: Denoiser, noise: Tensor, schedule: ChainSchedule, temperature: float) -> Tensor:
        for index in reversed(range(schedule.num_steps)):
            denoise(noise[0], index)
        return noise[0]


class _Sections(Observer):
    """Tells the counter which part of the model is running.

    Attributes:
        totals: the counter's total after each AR step.
    """

    def __init__(self, counter: _Counter):
        self.counter = counter
        self.totals: list[int] = []

    def start(self, state: DecodeState) -> None:
        # The embeddings of the timesteps.
        self.counter.section = "head"

    def step_start(self, state: DecodeState, step: ARStep) -> None:
        self.counter.section = "encoder"

    def encoded(self, state: DecodeState, step: ARStep, x: Tensor) -> None:
        self.counter.section = "decoder"

    def conditioning(self, state: DecodeState, step: ARStep, z: Tensor) -> None:
        self.counter.section = "head"

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        self.totals.append(self.counter.total)
