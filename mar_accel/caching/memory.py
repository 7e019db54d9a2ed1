"""How many bytes the caches keep, known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from mar_accel.caching.head import HeadCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.models.mar import MARConfig
from mar_accel.sampling.plan import Plan


@dataclass(frozen=True)
class CacheMemory:
    """Bytes per image.

    Attributes:
        token, condition: kept between AR steps, at most.
        head: kept between the timesteps of a step's longest chain of most tokens, at most.
    """

    token: int
    condition: int
    head: int

    @property
    def total(self) -> int:
        return self.token + self.condition + self.head


def cache_memory(policy: LazyMAR, config: MARConfig, plan: Plan, bytes_per_element: int) -> CacheMemory:
    """Bytes per image that a policy keeps.

    Args:
        config: architecture.
        plan: the sampler's AR steps.
        bytes_per_element: of the compute dtype: 4 for float32, 2 for bfloat16.
    """
    guided = plan.guided
    one_branch = guided and policy.condition is not None
    token = 0
    if policy.token is not None and _any_lazy(policy, plan):
        behind = config.decoder_depth - 1 - policy.token.prune_block_of(config)
        # Keys and values of these blocks; the feature of the pruning block and the decoder's input.
        widths = 2 * (config.encoder_depth + behind) + 2
        rows = 2 if guided and not one_branch else 1
        token = rows * (config.buffer_size + config.seq_len) * config.embed_dim * widths
    condition = _residual_tokens(policy, plan) * config.embed_dim if one_branch else 0
    head = _head_elements(policy.head, config, plan) if policy.head is not None else 0
    return CacheMemory(*(elements * bytes_per_element for elements in (token, condition, head)))


def _residual_tokens(policy: LazyMAR, plan: Plan) -> int:
    """Most positions whose difference of the branches is kept at once."""
    policy.refresh.start(plan)
    most = 0
    for step in plan.steps:
        # Where drift decides, every step may turn out to be a refresh.
        if policy.refresh.due(step) or policy.refresh.needs_similarity:
            horizon = policy.refresh.horizon(step)
            most = max(most, horizon - step.start if horizon > step.stop else 0)
    policy.refresh.finish()
    return most


def _any_lazy(policy: LazyMAR, plan: Plan) -> bool:
    policy.refresh.start(plan)
    lazy = not all([policy.refresh.due(step) for step in plan.steps])
    policy.refresh.finish()
    return lazy


def _head_elements(cache: HeadCache, config: MARConfig, plan: Plan) -> int:
    """Contributions of all blocks and the difference of the branches, for the most tokens at once."""
    chains = [
        chain
        for step in plan.steps
        for chain in (
            (step.num_tokens - step.num_detail_tokens, step.num_diffusion_steps),
            (step.num_detail_tokens, step.num_detail_diffusion_steps),
        )
    ]
    tokens = max((tokens for tokens, length in chains if cache.period_in(length) > 1), default=0)
    return tokens * (config.head_depth * config.head_width + (config.token_dim if plan.guided else 0))
