"""Requests for many images: no lists of indices, whatever is finished."""

from __future__ import annotations

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from mar_accel.config.settings import DatasetSettings
from mar_accel.data.requests import GenerationRequests


def _requests(num_images: int, batch_size: int) -> GenerationRequests:
    return GenerationRequests(DatasetSettings("digits", num_images, num_classes=10), batch_size)


def test_a_billion_images_take_no_memory() -> None:
    tracemalloc.start()
    requests = _requests(10**9, 4)
    missing = requests.without({*range(4000), 10**9 - 1}, num_processes=8)
    batch = next(iter(missing.predict_dataloader()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6
    assert [part.tolist() for part in batch] == [[4000, 4001, 4002, 4003], [0, 1, 2, 3]]
    assert missing.num_images == 10**9 - 4000 and missing.requests[10**9 - 4001] == (10**9 - 1, 9)


@given(
    num_images=st.integers(1, 40),
    batch_size=st.integers(1, 7),
    finished=st.sets(st.integers(0, 45)),
    num_processes=st.integers(1, 9),
)
def test_missing_are_whole_batches(
    num_images: int, batch_size: int, finished: set[int], num_processes: int
) -> None:
    indices = range(num_images)
    batches = [set(indices[start : start + batch_size]) for start in range(0, num_images, batch_size)]
    missing = _requests(num_images, batch_size).without(finished, num_processes).requests.indices
    left, needed = list(missing), {index for batch in batches if batch - finished for index in batch}
    assert left == sorted(left) and needed <= set(left) and len(set(left)) == len(left)
    assert all(not batch & set(left) or batch <= set(left) for batch in batches)
    assert [index for index in range(-2, num_images + 3) if index in missing] == left
    if needed:
        assert len(left) >= min(num_processes, num_images)
        assert len(left) - len(needed) < num_processes + batch_size
    else:
        assert not left
