"""LazyMAR's caches as one policy with optional parts.

Source: LazyMAR (arXiv:2503.12450).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mar_accel.caching.condition import ConditionCache
from mar_accel.caching.head import HeadCache
from mar_accel.caching.refresh import Refresh
from mar_accel.caching.token import TokenCache
from mar_accel.errors import ConfigError
from mar_accel.models.backbone import BackboneConfig
from mar_accel.models.condition import Condition
from mar_accel.models.diffusion_head import AdaLNMLP
from mar_accel.sampling.denoiser import Denoiser
from mar_accel.sampling.parts import check_part, is_flag, wrong_return
from mar_accel.sampling.plan import ARStep, Plan
from mar_accel.sampling.policy import CachePolicy
from mar_accel.sampling.solvers import Solver
from mar_accel.sampling.state import DecodeState


class LazyMAR(CachePolicy):
    """Token, condition and head cache, alone or in any combination.

    A refresh step computes the whole backbone. A lazy step reuses parts of it:

    - The token cache recomputes only the tokens that moved. Without it, all tokens are recomputed.
    - The condition cache skips the unconditional branch. It has no effect at steps without guidance.

    The head cache skips most of the head's work at all steps.

    Args:
        refresh: decides which AR steps are refreshes.
        token, condition, head: the caches. None: not used.

    Example:
        LazyMAR(FixedRefresh(), TokenCache(), ConditionCache(), HeadCache())  # cache=lazymar
    """

    def __init__(
        self,
        refresh: Refresh,
        token: TokenCache | None = None,
        condition: ConditionCache | None = None,
        head: HeadCache | None = None,
    ):
        check_part("cache.refresh", refresh, Refresh)
        check_part("cache.token", token, TokenCache, optional=True)
        check_part("cache.condition", condition, ConditionCache, optional=True)
        check_part("cache.head", head, HeadCache, optional=True)
        self.refresh = refresh
        self.token = token
        self.condition = condition
        self.head = head

    def check(self, model: BackboneConfig, plan: Plan, solver: Solver) -> None:
        self.refresh.check(plan)
        if self.token is not None:
            self.token.check(model)
        elif self.refresh.needs_similarity:
            raise ConfigError(
                "cache.refresh needs the similarities of a token cache, but cache.token=null; add a token "
                "cache or set cache/refresh=fixed."
            )
        if self.head is not None:
            self.head.check(solver)
        if self.condition is not None and self.token is None and self.head is None and not plan.guided:
            raise ConfigError(
                "cache.condition needs guidance, but the sampler guides no AR step; raise "
                "sampler.guidance_scale or set cache=none."
            )
        # A schedule of one's own fails here, before anything is sampled.
        self.start_refresh(model, plan)

    def start(self, state: DecodeState) -> None:
        self.finish()
        self.start_refresh(state.model.config, state.plan)

    def start_refresh(self, model: BackboneConfig, plan: Plan) -> None:
        """Start the refresh schedule for the caches of this policy."""
        if self.condition is not None:
            self.refresh.start(plan, "difference")
        else:
            self.refresh.start(plan, "shared" if model.shared_trunk else "both")

    def num_refreshes(self, model: BackboneConfig, plan: Plan) -> int:
        """Number of refreshes. An adaptive schedule gives the number of the last batch."""
        last_batch: tuple[bool, ...] = getattr(self.refresh, "last_batch", ())
        if len(last_batch) == len(plan.steps):
            return sum(last_batch)
        self.start_refresh(model, plan)
        count = sum([self.refresh.due(step) for step in plan.steps])
        self.refresh.finish()
        return count

    def conditioning_vectors(self, state: DecodeState, step: ARStep) -> Tensor:
        output = self._refresh(state, step) if self._due(step) else self._lazy(state, step)
        positions = state.predicted(step).repeat(output.shape[0] // state.batch_size, 1)
        return state.model.conditioning_vectors(output, positions)

    def _due(self, step: ARStep) -> bool:
        due = self.refresh.due(step)
        if not is_flag(due):
            where = f" at AR step {step.index}"
            raise wrong_return("cache.refresh", self.refresh, "due", "True or False", due, where)
        return due

    def _horizon(self, step: ARStep) -> int:
        horizon = self.refresh.horizon(step)
        if not isinstance(horizon, int):
            where = f" at AR step {step.index}"
            raise wrong_return("cache.refresh", self.refresh, "horizon", "an integer", horizon, where)
        return horizon

    def _refresh(self, state: DecodeState, step: ARStep) -> Tensor:
        """Outputs of all branches [R, n, D] at the predicted positions; fills the caches."""
        horizon, stop = self._horizon(step), step.stop
        if self.condition is not None:
            # The difference is needed at all positions that guided lazy steps will predict.
            stop = self.condition.stop(state.plan, step, horizon)
        targets, condition = state.order[:, step.start : stop], state.condition_of(step)
        if self.token is None or horizon == step.stop:
            decoded = _plain_pass(state, step, targets, condition)
        else:
            rows = state.batch_size * self.trunk_branches(state.model.config, step)
            decoded = self.token.full_pass(state, step, targets, rows)
        output = state.model.part_branches(decoded, targets, condition)
        if self.condition is not None:
            self.condition.finish()
            if stop > step.stop:
                self.condition.keep(output, step)
        return output[:, : step.num_tokens]

    def _lazy(self, state: DecodeState, step: ARStep) -> Tensor:
        """Outputs of all branches [R, n, D] at the predicted positions, with the help of the caches."""
        condition, positions = state.condition_of(step).first(self._branches(step)), state.predicted(step)
        if self.token is None:
            decoded = _plain_pass(state, step, positions, condition)
        else:
            decoded, similarity = self.token.lazy_pass(state, step, condition)
            self.refresh.observe(step, similarity[: state.batch_size])
        output = state.model.part_branches(decoded, positions, condition)
        if self.condition is not None and step.guided:
            output = self.condition.both_branches(output, step)
        return output

    def _branches(self, step: ARStep) -> int:
        """Number of branches that a lazy step computes."""
        return 1 if self.condition is not None else step.num_branches

    def trunk_branches(self, model: BackboneConfig, step: ARStep) -> int:
        """Number of branches in encoder and decoder at a lazy step, for which a refresh keeps tokens."""
        return 1 if model.shared_trunk else self._branches(step)

    def denoiser(
        self, net: AdaLNMLP, z: Tensor, time_embeddings: Tensor, step: ARStep, guided: Sequence[bool]
    ) -> Denoiser:
        # With a refresh at every timestep, nothing is reused.
        if self.head is None or not self.head.reuses(time_embeddings.shape[0]):
            return super().denoiser(net, z, time_embeddings, step, guided)
        return self.head.denoiser(net, z, time_embeddings, step.guidance, guided)

    def finish(self) -> None:
        for part in (self.token, self.condition):
            if part is not None:
                part.finish()
        self.refresh.finish()


def _plain_pass(state: DecodeState, step: ARStep, targets: Tensor, condition: Condition) -> Tensor:
    """Output of the last decoder block [rows, m, D] at grid positions [B, m]."""
    model, (tokens, known) = state.model, state.known(step)
    x = state.encoded(step, model.encode_tokens(condition, tokens, known))
    repeats = len(x) // state.batch_size
    return model.decode(model.decoder_inputs(x, known.repeat(repeats, 1)), targets.repeat(repeats, 1))
