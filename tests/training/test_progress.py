"""What a training tells a log file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mar_accel.training.progress import TrainingProgress
from mar_accel.utils import progress


def test_a_log_gets_lines_with_the_loss(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    trainer: Any = SimpleNamespace(is_global_zero=True, max_steps=1000, global_step=100)
    callback = TrainingProgress(50)
    callback.on_train_start(trainer, None)
    for batch_idx in range(100):
        now[0] += 0.5
        trainer.global_step += 1
        loss = torch.tensor(0.5 if trainer.global_step < 150 else 0.25)
        callback.on_train_batch_end(trainer, None, {"loss": loss}, None, batch_idx)
    callback.on_train_end(trainer, None)
    # The 100 steps of before count neither for the rate nor for the time.
    assert capsys.readouterr().out == "training: 160 of 1000 steps, 2 steps/s, 0:07:00 left, loss 0.25\n"


def test_other_processes_tell_nothing() -> None:
    trainer: Any = SimpleNamespace(is_global_zero=False)
    callback = TrainingProgress(50)
    callback.on_train_start(trainer, None)
    callback.on_train_batch_end(trainer, None, {}, None, 0)
    callback.on_exception(trainer, None, RuntimeError())
    assert callback.bar is None
