"""The bar of what takes long."""

from __future__ import annotations

import time

import pytest

from mar_accel.metrics import progress as module
from mar_accel.metrics.progress import progress


def test_items_pass_unchanged_and_quick_ones_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(5), "quick")) == [0, 1, 2, 3, 4]
    assert list(progress((n for n in "ab"), "generator", total=2)) == ["a", "b"]
    assert capsys.readouterr().out == ""


def test_a_slow_loop_names_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_WITHOUT_BAR", 0.01)
    monkeypatch.setenv("TTY_INTERACTIVE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    for _ in progress(range(3), "features of the reference"):
        time.sleep(0.02)
    assert "features of the reference" in capsys.readouterr().out
