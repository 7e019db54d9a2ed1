"""What every calibration leaves: the config of the cache, its overrides, and what it saves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mar_accel.config.settings import Node, Settings
from mar_accel.data.run_files import RECORD_FILE
from mar_accel.inference.build import build_node
from mar_accel.inference.session import Session
from mar_accel.profiling.flops import count_flops
from mar_accel.runs.output_dir import prepare_output_dir
from mar_accel.runs.record import run_record
from mar_accel.sampling.policy import CachePolicy, NoCache
from mar_accel.utils.json_files import write_json


def counted_with(session: Session, cache: Node | None) -> int:
    """FLOPs per image of a session's model and sampler with the cache of a config node; None: without one."""
    policy: CachePolicy = NoCache() if cache is None else build_node("cache", cache, CachePolicy)
    policy = policy.for_model(session.defaults)
    return count_flops(session.model.config, session.sampler, policy, session.plan).total


def write_calibration(
    settings: Settings, cache: Node, overrides: Sequence[str], flops_ratio: float, **numbers: Any
) -> Path:
    """Write ``cache.yaml``, ``overrides.txt`` and the record of a calibration.

    Args:
        settings: settings of the run.
        cache: config node of the calibrated cache.
        overrides: overrides that turn the cache of the config into it.
        flops_ratio: counted FLOPs without a cache divided by those with it.
        numbers: what else the record says.

    Returns:
        The run folder.
    """
    output_dir = prepare_output_dir(Path(settings.output_dir).absolute())
    OmegaConf.save(OmegaConf.create(cache), output_dir / "cache.yaml")
    (output_dir / "overrides.txt").write_text("\n".join(overrides) + "\n")
    record = run_record(settings, flops_ratio=flops_ratio, **numbers, overrides_of_cache=list(overrides))
    write_json(record, output_dir / RECORD_FILE)
    return output_dir
