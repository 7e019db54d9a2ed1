"""Memory of the caches, computed before sampling."""

from __future__ import annotations

from dataclasses import dataclass

from mar_accel.caching.head import HeadCache
from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.token import TokenCache
from mar_accel.models.backbone import BackboneConfig
from mar_accel.sampling.plan import ARStep, Plan


@dataclass(frozen=True)
class CacheMemory:
    """Maximum cache memory in bytes per image.

    Attributes:
        token, condition: kept between AR steps.
        head: kept between the timesteps of the chain that needs most memory.
    """

    token: int
    condition: int
    head: int

    @property
    def total(self) -> int:
        return self.token + self.condition + self.head


def cache_memory(policy: LazyMAR, config: BackboneConfig, plan: Plan, bytes_per_element: int) -> CacheMemory:
    """Compute the cache memory of a policy.

    Args:
        policy: the caches.
        config: architecture of the model.
        plan: AR steps of the sampler.
        bytes_per_element: size of the compute dtype: 4 for float32, 2 for bfloat16.
    """
    condition_cache, token_cache = policy.condition, policy.token
    refreshes = _refreshes_that_keep(policy, config, plan)
    token = condition = 0
    for step, horizon in refreshes:
        if token_cache is not None:
            token = max(token, policy.trunk_branches(config, step) * _token_elements(token_cache, config))
        if condition_cache is not None:
            positions = condition_cache.stop(plan, step, horizon) - step.start
            condition = max(condition, positions * config.embed_dim if positions > step.num_tokens else 0)
    head = _head_elements(policy.head, config, plan) if policy.head is not None else 0
    return CacheMemory(*(elements * bytes_per_element for elements in (token, condition, head)))


def _refreshes_that_keep(policy: LazyMAR, config: BackboneConfig, plan: Plan) -> list[tuple[ARStep, int]]:
    """Refreshes that lazy steps may follow, each with the end of the last such step in the decode order."""
    refresh, found = policy.refresh, []
    policy.start_refresh(config, plan)
    for step in plan.steps:
        # An adaptive schedule can refresh at any step.
        if refresh.due(step) or refresh.needs_similarity:
            horizon = refresh.horizon(step)
            if horizon > step.stop:
                found.append((step, horizon))
    refresh.finish()
    return found


def _token_elements(cache: TokenCache, config: BackboneConfig) -> int:
    """Elements per row: keys and values of the blocks, feature of the pruning block, decoder input."""
    after = config.decoder_depth - 1 - cache.prune_block_of(config)
    widths = 2 * (config.encoder_depth + after) + 2
    return (config.buffer_size + config.seq_len) * config.embed_dim * widths


def _head_elements(cache: HeadCache, config: BackboneConfig, plan: Plan) -> int:
    """Elements of the largest chain: contributions of all blocks, and the difference of the branches."""
    most = 0
    for step in plan.steps:
        for tokens, length in (
            (step.num_tokens - step.num_detail_tokens, step.num_diffusion_steps),
            (step.num_detail_tokens, step.num_detail_diffusion_steps),
        ):
            if not tokens:
                continue
            timesteps = plan.schedules[length].timesteps
            if not cache.reuses(len(timesteps)):
                continue
            guided = any(step.guidance.covers(timestep) for timestep in timesteps)
            most = max(most, tokens * cache.kept_per_token(config, guided))
    return most
