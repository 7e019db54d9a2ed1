"""The command that shows a plan before any sampling."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from mar_accel.analysis.plan_report import show_plan
from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError

TINY = [
    *("model.architecture.embed_dim=16", "model.architecture.num_heads=2", "model.architecture.grid=[6,4]"),
    *("model.architecture.encoder_depth=1", "model.architecture.decoder_depth=1"),
    *("model.architecture.head_depth=1", "model.architecture.head_width=16"),
]
GTR = ["sampler=gtr", "sampler.num_diffusion_steps=8", "sampler.diffusion_steps.last_steps=4"]
GTR += ["sampler.diffusion_steps.reconstruction_steps=3", "sampler.selection.num_diffusion_steps=8"]


def _show(folder: Path, *overrides: str) -> tuple[list[dict[str, str]], dict]:
    show_plan(compose_settings("plan", [*TINY, *overrides, f"output_dir={folder}"]))
    with (folder / "plan.csv").open() as file:
        return list(csv.DictReader(file)), json.loads((folder / "run.json").read_text())


def test_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, record = _show(tmp_path, *GTR)
    assert sum(int(row["tokens"]) for row in rows) == 24
    assert [int(row["stage"]) for row in rows] == [0, 0, 1, 2]
    assert all(float(row["gflops"]) > 0 for row in rows)
    # 12 tokens in the last step: 11 at T = 3 and one at T = 8, without timesteps that the clip merged.
    assert rows[-1]["detail_tokens"] == "1" and rows[-1]["detail_diffusion_steps"] == "8"
    assert int(rows[-1]["head_evaluations"]) == 11 * 3 + 8
    assert record["num_ar_steps"] == 4 and record["gflops"] == sum(float(row["gflops"]) for row in rows)
    with Image.open(tmp_path / "order.png") as picture:
        colors = {
            picture.getpixel((24 + 28 * j + 3, 24 + 28 + 28 * i + 3)) for i in range(6) for j in range(4)
        }
    assert len(colors) == 4, "one colour for each AR step"
    printed = capsys.readouterr().out
    assert "1 at T=8" in printed and "TFLOPs per image" in printed
    grid = [line.split() for line in printed.splitlines() if line and set(line) <= set("0123 ")]
    assert len(grid) == 6 and {len(line) for line in grid} == {4}
    assert sum(line.count("3") for line in grid) == 12


def test_without_flops(tmp_path: Path) -> None:
    rows, record = _show(tmp_path, "sampler.num_iter=3", "plan.flops=false")
    assert len(rows) == 3 and "gflops" not in rows[0] and "gflops" not in record


def test_nothing_is_written_for_a_plan_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"num_iter must be between 1 and 24 .* got 25"):
        _show(tmp_path / "new", "sampler.num_iter=25")
    assert not (tmp_path / "new").exists()
