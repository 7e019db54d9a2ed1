"""The bar of what takes long."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from mar_accel.utils import progress as module
from mar_accel.utils.progress import Bars, PlainLines, progress


class Clock:
    """Stands still but for what a test lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.mark.usefixtures("clock")
def test_items_pass_unchanged_and_quick_ones_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(5), "quick")) == [0, 1, 2, 3, 4]
    assert list(progress((n for n in "ab"), "generator", total=2)) == ["a", "b"]
    assert capsys.readouterr().out == ""


def test_a_slow_loop_gets_a_bar_that_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
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
    monkeypatch.setattr(module, "shows_bars", lambda: True)
    with pytest.raises(RuntimeError):
        for number in progress(range(4), "features"):
            clock.now += 2 * module.SECONDS_WITHOUT_BAR
            if number == 2:
                raise RuntimeError
    assert calls[0] == ("features", 4, 1) and ("update", 7, 2) in calls and calls[-1] == ("stop",)


def test_without_a_terminal_lines_are_printed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in progress(range(100), "features"):
        clock.now += 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "features: 8 of 100 steps, 0.25 steps/s, 0:06:08 left"
    assert len(lines) == 12 and lines[-1].startswith("features: 96 of 100")


def test_lines_count_what_was_there_but_not_for_the_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = PlainLines("sampling", 500, "images", completed=400)
    clock.now = 30
    lines.update(400)
    clock.now = 50
    lines.update(420)
    clock.now = 60
    lines.update(430)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "sampling: 400 of 500 images, 0 images/s"
    assert second == "sampling: 430 of 500 images, 0.5 images/s, 0:02:20 left"


def test_bars_print_lines_without_a_terminal(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        rows, row = bars.add("rows", 2, "rows"), bars.add("gtr", 200, "images")
        for _ in range(3):
            clock.now += 20
            row.advance(24.5)
        rows.advance()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "gtr: 49 of 200 images, 1.23 images/s, 0:02:03 left",
        "rows: 1 of 2 rows, 0.0167 rows/s, 0:01:00 left",
    ]


def test_bars_of_a_terminal_print_no_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    screen = StringIO()
    with Bars(console=Console(file=screen, force_terminal=True, width=80)) as bars:
        clock.now += 40
        bars.add("timing", 3).advance()
    assert "timing" in screen.getvalue() and capsys.readouterr().out == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_hidden_bars_and_other_processes_print_nothing(
    rank: int, clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_first_process", lambda: rank == 0)
    with Bars(disable=rank == 0) as bars:
        clock.now += 40
        bars.add("timing", 3).advance()
    assert capsys.readouterr().out == ""
