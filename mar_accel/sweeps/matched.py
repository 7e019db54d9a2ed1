"""Settings of equal cost: for every combination, the value of one key that brings it nearest to a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from mar_accel.config.overrides import key_of, value_of
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError, MarAccelError
from mar_accel.inference.build import build_sampling
from mar_accel.sweeps.combinations import Combination, Compose, compose_run
from mar_accel.sweeps.cost import Target
from mar_accel.sweeps.job_config import JobConfig

# A setting that misses the cost by more, at the end of its values, is said to miss it.
_FAR = math.log(1.1)


def match_cost(
    combinations: Sequence[Combination],
    key: str,
    compose: Compose,
    read: Callable[[JobConfig], Settings],
    command: str,
    target: Target,
) -> list[Combination]:
    """Of the combinations that differ only in a key, the one that costs nearest to a target.

    The cost must grow or fall with the key. It is counted or measured for about log2 of its values.

    Args:
        combinations: all combinations, with every value of the key that may be chosen.
        key: the key, such as "sampler.num_iter".
        compose: composes the config of a job.
        read: the settings of a config.
        command: the command.
        target: the wanted cost.

    Raises:
        ConfigError: the key is not swept, or the cost of a combination is not known before it is sampled.

    Example:
        >>> match_cost(all_of_them, "sampler.num_iter", compose, read, "evaluate", CountedFlops(ratio=4.0))
    """
    groups: dict[tuple[str, ...], list[Combination]] = {}
    for combination in combinations:
        rest = (combination.row, *(o for o in combination.overrides if key_of(o) != key))
        groups.setdefault(rest, []).append(combination)
    if all(len(group) == 1 for group in groups.values()):
        raise ConfigError(
            f"sweep.adjust={key} is not swept; give it the values to choose from: {key}=range(8,65)."
        )

    def excess(combination: Combination) -> float:
        _, config = compose_run(combination, compose, command)
        if config is None:
            return math.inf
        try:
            settings = read(config)
            build_sampling(settings)
        except MarAccelError:
            return math.inf
        return target.excess(settings)

    return [_nearest(_in_order(group, key), key, excess, target.unit) for group in groups.values()]


def _in_order(group: Sequence[Combination], key: str) -> Sequence[Combination]:
    """The combinations by the key's values, if these are numbers; in their own order otherwise."""
    texts = [next(value_of(o) for o in own.overrides if key_of(o) == key) for own in group]
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return group
    return [own for _, own in sorted(zip(values, group, strict=True), key=lambda pair: pair[0])]


def _nearest(
    group: Sequence[Combination], key: str, excess_of: Callable[[Combination], float], unit: str = "FLOPs"
) -> Combination:
    """The combination of a group that is nearest to the target, by halving the range.

    Args:
        group: the combinations, in the order of the key's values.
        key: the key.
        excess_of: logarithm of the cost over the target; infinite for a refused value.
        unit: what is compared, for the message.
    """
    excess = lru_cache(maxsize=None)(lambda number: excess_of(group[number]))
    low, high = 0, len(group) - 1
    # A method may refuse the smallest or largest values, such as too few AR steps for its stages.
    while low < high and math.isinf(excess(low)):
        low += 1
    while low < high and math.isinf(excess(high)):
        high -= 1
    ends = (low, high)
    rises = excess(high) >= excess(low)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if (excess(middle) < 0) == rises else (low, middle)
    best = min({low, high, *ends}, key=lambda number: abs(excess(number)))
    # If all values are refused, the run says why.
    if math.isfinite(excess(best)):
        chosen = [o for o in group[best].overrides if key_of(o) in ("model", "sampler", "cache", key)]
        beyond = best in ends and abs(excess(best)) > _FAR
        reach = "; the swept values do not reach it" if beyond else ""
        share = f"{math.exp(excess(best)):.3f} of the wanted {unit}{reach}"
        print(f"matched: {' '.join(chosen)}: {share}", flush=True)
    return group[best]
