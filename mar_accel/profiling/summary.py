"""Summary of the savings of a sampler and a cache."""

from __future__ import annotations

from dataclasses import dataclass

from mar_accel.caching.lazymar import LazyMAR
from mar_accel.caching.memory import cache_memory
from mar_accel.inference.session import Session
from mar_accel.profiling.flops import count_mean
from mar_accel.sampling.policy import NoCache
from mar_accel.sampling.sampler import Sampler


@dataclass(frozen=True)
class Summary:
    """Cost of sampling one image, compared with the unaccelerated model.

    Attributes:
        num_ar_steps: number of AR steps; the largest where images with several masks are inpainted.
        num_guided_steps: number of AR steps that run both guidance branches.
        num_refreshes: number of AR steps that the cache computes in full; None without LazyMAR.
        share_reused: share of the sampler's FLOPs that the cache saves; 0..1.
        cache_bytes: largest memory of the cache per image, in bytes.
        tflops: counted TFLOPs per image.
        tflops_unaccelerated: TFLOPs of ``sampler=mar cache=none`` with the same guidance scale.
    """

    num_ar_steps: int
    num_guided_steps: int
    num_refreshes: int | None
    share_reused: float
    cache_bytes: int
    tflops: float
    tflops_unaccelerated: float

    @property
    def flops_ratio(self) -> float:
        """FLOPs of the unaccelerated model divided by the FLOPs of this sampling."""
        return self.tflops_unaccelerated / self.tflops

    def __str__(self) -> str:
        lines = [
            f"AR steps: {self.num_ar_steps}, {self.num_guided_steps} of them guided",
            f"FLOPs: {self.tflops:.4g} T per image, {self.flops_ratio:.2f} times fewer than unaccelerated",
        ]
        if self.share_reused:
            refreshes = "" if self.num_refreshes is None else f"{self.num_refreshes} refreshes, "
            lines.append(
                f"Cache: {refreshes}{self.share_reused:.0%} of the work reused, "
                f"{self.cache_bytes / 2**20:.1f} MiB kept per image"
            )
        return "\n".join(lines)


def summarise(session: Session) -> Summary:
    """Count the cost of sampling with a session; this takes seconds for the largest models.

    Example:
        >>> print(summarise(session))  # AR steps, FLOPs and cache memory
    """
    config, sampler, cache = session.model.config, session.sampler, session.cache
    # Masks take turns, so each of them has the same share of the images.
    num_images = 1 if session.inpainting is None else len(session.inpainting.masks)
    plans = session.plans.counted(num_images)
    counted = count_mean(config, sampler, cache, plans)
    without = counted if type(cache) is NoCache else count_mean(config, sampler, NoCache(), plans)
    published = Sampler(guidance_scale=sampler.guidance_scale).for_model(session.defaults)
    plain_plans = session.with_sampling(published, NoCache()).plans.counted(num_images)
    plain = count_mean(config, published, NoCache(), plain_plans)
    plan = max((plan for plan, _ in plans), key=lambda plan: len(plan.steps))
    refreshes, kept = None, 0
    if isinstance(cache, LazyMAR):
        refreshes = cache.num_refreshes(config, plan)
        kept = cache_memory(cache, config, plan, session.model.fake_latent.element_size()).total
    return Summary(
        num_ar_steps=len(plan.steps),
        num_guided_steps=sum(step.guided for step in plan.steps),
        num_refreshes=refreshes,
        share_reused=1 - counted.total / without.total,
        cache_bytes=kept,
        tflops=counted.total / 1e12,
        tflops_unaccelerated=plain.total / 1e12,
    )
