"""Memory and descriptors stay constant over many batches."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.data.shards import FORMATS
from mar_accel.inference.module import InferenceModule
from mar_accel.runs.generation import generate
from mar_accel.utils.host_memory import give_back_freed_memory

NUM_BATCHES, FIRST = 1000, 100


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_thousand_batches(
    kind: str, tiny_model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, tuple[int, int]] = {}
    step = InferenceModule.predict_step

    def sample(self: InferenceModule, batch: Any, batch_idx: int) -> Any:
        if batch_idx in (FIRST, NUM_BATCHES - 1):
            gc.collect()
            give_back_freed_memory()
            seen[batch_idx] = _resident_bytes(), len(os.listdir("/proc/self/fd"))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(InferenceModule, "predict_step", sample)
    arguments = [*tiny_model, "callbacks=default", "cache=lazymar", f"generate.format={kind}"]
    arguments += [
        f"dataset.num_images={2 * NUM_BATCHES}",
        "trainer.batch_size=2",
        f"output_dir={tmp_path}/run",
    ]
    assert generate(compose_settings("generate", arguments)) is not None
    (memory, descriptors), (memory_at_end, descriptors_at_end) = seen[FIRST], seen[NUM_BATCHES - 1]
    growth = memory_at_end / memory - 1
    print(f"{kind}: {memory / 2**20:.1f} MiB at batch {FIRST}, {memory_at_end / 2**20:.1f} at {NUM_BATCHES}")
    assert growth < 0.02, f"{growth:.1%}"
    assert descriptors_at_end == descriptors
