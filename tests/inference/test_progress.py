"""The progress bar ends at the number of images, with short last batches and several processes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mar_accel.inference.progress import ImageProgress
from mar_accel.sampling.observer import Observers


def _bar(batch_sizes: list[int], num_images: int, world_size: int, num_steps: int = 5) -> list[int]:
    """Completed images after every AR step of the first process's batches."""
    trainer: Any = SimpleNamespace(
        is_global_zero=True, world_size=world_size, datamodule=SimpleNamespace(num_images=num_images)
    )
    module: Any = SimpleNamespace(observers=[])
    callback = ImageProgress()
    callback.on_predict_start(trainer, module)
    assert callback.bar is not None
    completed = []
    for size in batch_sizes:
        state: Any = SimpleNamespace(batch_size=size, plan=SimpleNamespace(steps=range(num_steps)))
        for step in range(num_steps):
            Observers(module.observers).step_end(state, step)
            completed.append(int(callback.bar.completed + 1e-6))
    callback.on_predict_end(trainer, module)
    assert module.observers == [] and callback.bar is None
    return completed


@pytest.mark.parametrize(
    ("batch_sizes", "num_images", "world_size"),
    [([16], 16, 1), ([7, 7, 2], 16, 1), ([3, 3, 2], 16, 2), ([2, 1], 5, 2), ([1], 3, 3)],
)
def test_bar_grows_to_the_number_of_images(batch_sizes: list[int], num_images: int, world_size: int) -> None:
    completed = _bar(batch_sizes, num_images, world_size)
    assert completed == sorted(completed)
    assert completed[-1] == num_images and completed[0] < num_images


def test_other_processes_show_nothing() -> None:
    trainer: Any = SimpleNamespace(is_global_zero=False)
    callback = ImageProgress()
    callback.on_predict_start(trainer, SimpleNamespace())
    assert callback.bar is None
