"""FLOPs of sampling one image, counted on tensors without storage.

The decode loop itself runs, with the sampler and the cache policy that are asked about, on torch's meta
device: so whatever a policy does or leaves out is in the count. No weights are needed. A multiply-add
counts as two FLOPs; what is not a matrix product (norms, activations, the Fourier transform of a token
selection) counts as none, as in the published tables.
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

from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.models.mar import MAR, MARConfig
from mar_accel.sampling.decode import Engine, decode
from mar_accel.sampling.noise import SampleNoise
from mar_accel.sampling.observer import Observer
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.policy import CachePolicy, DecodeState
from mar_accel.sampling.sampler import Sampler


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one image, both branches of guidance included; the autoencoder is not.

    Attributes:
        encoder: from the embedding of tokens to the encoder's last block.
        decoder: from the encoder's output to the conditioning vectors.
        head: diffusion head, with its embeddings of timesteps and conditioning vectors.
        per_step: one number per AR step; they add up to ``total``.
    """

    encoder: int
    decoder: int
    head: int
    per_step: tuple[int, ...]

    @property
    def total(self) -> int:
        return self.encoder + self.decoder + self.head


@torch.inference_mode()
def count_flops(config: MARConfig, sampler: Sampler, cache: CachePolicy) -> FlopCount:
    """Count the FLOPs of sampling one image; seconds for the largest models.

    Args:
        config: architecture; the model is built without weights.
        sampler: guidance, AR steps and diffusion steps are its own.
        cache: its state is lost, as at the start of a batch.

    Raises:
        ConfigError: sampler, cache and model cannot be combined.
    """
    plan = sampler.plan(config.grid)
    cache.check(config, plan, sampler.solver)
    counter = _Counter()
    with torch.device("meta"):
        model = MAR(config).eval()
        model.diffloss.net = _CountedHead(counter, config)
        embedding = torch.empty(1, config.embed_dim)
        noise = _noise_without_storage(plan, config.token_dim)
    engine = Engine(model, plan, sampler.solver, cache, sampler.selection)
    sections = _Sections(counter)
    with counter:
        decode(engine, embedding, noise, sections)
    # What comes before the first step (the embeddings of the timesteps) counts into it.
    totals = sections.totals
    per_step = tuple(after - before for before, after in zip([0, *totals], totals, strict=False))
    return FlopCount(**counter.flops, per_step=per_step)


def _noise_without_storage(plan: Plan, token_dim: int) -> SampleNoise:
    length = plan.num_tokens
    return SampleNoise(
        order=torch.empty(1, length, dtype=torch.int64),
        noise=torch.empty(plan.max_diffusion_steps + 1, 1, length, token_dim),
        selection_scores=torch.empty(1, length),
    )


class _Counter(TorchDispatchMode):
    """Counts by section; an operation is run and counted once for each set of argument shapes.

    Chains repeat the same few operations hundreds of thousands of times, and running them takes minutes
    even without storage. What repeats gets a result of the shape, and the count, that it had before.

    Attributes:
        flops: by section.
        section: what is counted next belongs to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = {"encoder": 0, "decoder": 0, "head": 0}
        self.section = "head"
        self._seen: dict[Any, tuple[int, Any]] = {}

    @property
    def total(self) -> int:
        return sum(self.flops.values())

    def once(self, function: Callable[..., Tensor], *args: Any) -> Tensor:
        """The same for a whole function whose FLOPs and result depend on its arguments' shapes alone."""
        key = (function.__name__, _description(args))
        if key not in self._seen:
            before = self.total
            result = function(*args)
            self._seen[key] = self.total - before, _description(result)
            return result
        flops, description = self._seen[key]
        self.flops[self.section] += flops
        return _tensors_like(description)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _shares_storage(func):
            # The result belongs to an argument, so there is no other way than to run it.
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
    """An operation's FLOPs and result. Attention is taken apart into its two matrix products."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        result = func(*args, **kwargs)
    return counter.get_total_flops(), result


class _TensorDescription(NamedTuple):
    """All that the result of an operation on tensors without storage can depend on."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def _description(value: Any) -> Any:
    """A value with its tensors described, hashable. Floats cannot change a shape, so they count as equal."""
    if isinstance(value, Tensor):
        return _TensorDescription(value.shape, value.stride(), value.dtype, value.device)
    if isinstance(value, (list, tuple)):
        return tuple([_description(item) for item in value])
    return float if isinstance(value, float) else value


def _tensors_like(description: Any) -> Any:
    """New tensors without storage as described."""
    if isinstance(description, _TensorDescription):
        shape, stride, dtype, device = description
        return torch.empty_strided(shape, stride, dtype=dtype, device=device)
    return tuple([_tensors_like(item) for item in description])


def _without_storage(result: Any) -> bool:
    """Whether every tensor of a result is on the meta device, so that its values cannot matter."""
    if isinstance(result, (list, tuple)):
        return all(_without_storage(item) for item in result)
    return isinstance(result, Tensor) and result.is_meta


class _CountedHead(AdaLNMLP):
    """The head's network; an evaluation is run and counted once for each set of argument shapes."""

    def __init__(self, counter: _Counter, config: MARConfig):
        super().__init__(config.token_dim, config.embed_dim, config.head_width, config.head_depth)
        self._counter = counter

    def evaluate(self, x: Tensor, activated: Tensor) -> Tensor:
        return self._counter.once(super().evaluate, x, activated)

    def evaluate_modulated(self, x: Tensor, modulations: Sequence[tuple[Tensor, ...]]) -> Tensor:
        return self._counter.once(super().evaluate_modulated, x, modulations)


class _Sections(Observer):
    """Tells the counter which part of the model works, and keeps its total after each AR step."""

    def __init__(self, counter: _Counter):
        self.counter = counter
        self.totals: list[int] = []

    def step_start(self, state: DecodeState, step: ARStep) -> None:
        self.counter.section = "encoder"

    def encoded(self, state: DecodeState, step: ARStep, x: Tensor) -> None:
        self.counter.section = "decoder"

    def conditioning(self, state: DecodeState, step: ARStep, z: Tensor) -> None:
        self.counter.section = "head"

    def step_end(self, state: DecodeState, step: ARStep) -> None:
        self.totals.append(self.counter.total)
