"""Long sampling says beforehand how long it will take."""

from __future__ import annotations

from typing import Any

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.inference.session import Session
from mar_accel.profiling import estimate
from mar_accel.profiling.flops import count_flops


@pytest.fixture
def session() -> Session:
    return Session.from_settings(compose_settings("generate", ["sampler.num_iter=4"]))


def test_seconds_follow_from_flops_and_peak(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "machine_peak", lambda trainer: 1e9)
    trainer = compose_settings("generate").trainer
    flops = count_flops(session.model.config, session.sampler, session.cache).total
    expected = 7 * flops / (estimate.SMALL_MODEL_SHARE * 1e9)
    assert estimate.estimated_seconds([session], [7], trainer) == pytest.approx(expected)
    assert estimate.duration(90) == "1.5 min" and estimate.duration(7200) == "2 h"


def test_only_what_is_long_is_announced(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer: Any = compose_settings("generate").trainer
    monkeypatch.setattr(estimate, "estimated_seconds", lambda *_: pytest.fail("counted for nothing"))
    estimate.announce([session], [2], trainer)
    monkeypatch.setattr(estimate, "estimated_seconds", lambda *_: 50.0)
    estimate.announce([session], [5000], trainer)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(estimate, "estimated_seconds", lambda *_: 600.0)
    estimate.announce([session], [5000], trainer)
    assert capsys.readouterr().out == "about 10 min of sampling, judged by counted FLOPs\n"
