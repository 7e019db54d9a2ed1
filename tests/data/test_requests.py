"""Requests for many images: no lists of indices, whatever is finished."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mar_accel.config.settings import DatasetSettings
from mar_accel.data.requests import DealtBatches, GenerationRequests, LabelledIndices


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


def test_a_billion_images_on_eight_devices_take_no_memory() -> None:
    tracemalloc.start()
    missing = _requests(10**9, 4).without(range(8000), num_processes=8)
    dealt = [DealtBatches(missing.requests, 4, rank, 8) for rank in range(8)]
    firsts = [next(iter(batches))[0].tolist() for batches in dealt]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5e6
    assert firsts == [[8000 + rank + 8 * place for place in range(4)] for rank in range(8)]
    assert sum(len(batches.places) for batches in dealt) == 10**9 - 8000


def test_fifty_thousand_images_are_dealt_without_a_search_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    get = LabelledIndices.__getitem__

    def note(self: LabelledIndices, item: int) -> tuple[int, int]:
        asked.append(item)
        return get(self, item)

    monkeypatch.setattr(LabelledIndices, "__getitem__", note)
    requests = _requests(50_000, 4).without({*range(0, 40_000, 2), *range(41_000, 45_000)})
    batches = iter(requests.predict_dataloader())
    next(batches)
    assert asked == [0, 1, 2, 3], "the first batch asks for its own places only"
    assert sum(len(indices) for indices, _ in batches) + 4 == requests.num_images == len(asked)


@given(
    num_images=st.integers(1, 60),
    batch_size=st.integers(1, 7),
    finished=st.sets(st.integers(0, 59)),
    num_processes=st.integers(1, 9),
)
def test_requests_are_dealt_once(
    num_images: int, batch_size: int, finished: set[int], num_processes: int
) -> None:
    requests = _requests(num_images, batch_size).without(finished, num_processes).requests
    dealt = [DealtBatches(requests, batch_size, rank, num_processes) for rank in range(num_processes)]
    batches = [[batch for batch in process] for process in dealt]
    assert [len(process) for process in dealt] == [len(process) for process in batches]
    pairs = [
        pair
        for process in batches
        for indices, labels in process
        for pair in zip(indices.tolist(), labels.tolist(), strict=True)
    ]
    assert sorted(pairs) == [requests[place] for place in range(len(requests))], "once each, none repeated"
    for process in batches:
        assert all(len(indices) == batch_size for indices, _ in process[:-1])


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


def test_the_first_requests_are_at_least_one_per_process() -> None:
    """A process without a request would end while the others wait for it."""
    requests = _requests(10, 2)
    assert [requests.first(count, 4).num_images for count in (1, 4, 6, 20)] == [4, 4, 6, 10]
