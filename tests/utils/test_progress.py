"""The bar of what takes long."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mar_accel.utils import progress as module
from mar_accel.utils.progress import progress


def test_items_pass_unchanged_and_quick_ones_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(5), "quick")) == [0, 1, 2, 3, 4]
    assert list(progress((n for n in "ab"), "generator", total=2)) == ["a", "b"]
    assert capsys.readouterr().out == ""


def test_a_slow_loop_gets_a_bar_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    class Recorder:
        def __init__(self, **settings: object):
            assert settings == {"transient": True, "disable": False}

        def add_task(self, description: str, total: int, completed: int) -> int:
            calls.append((description, total, completed))
            return 7

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: calls.append((name, *args, *kwargs.values()))

    monkeypatch.setattr(module, "Progress", Recorder)
    monkeypatch.setattr(module, "SECONDS_WITHOUT_BAR", 0.05)
    with pytest.raises(RuntimeError):
        for number in progress(range(4), "features"):
            time.sleep(0.1)
            if number == 2:
                raise RuntimeError
    assert calls[0] == ("features", 4, 1) and ("update", 7, 2) in calls and calls[-1] == ("stop",)
