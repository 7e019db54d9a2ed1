"""The page in a browser, where there is one: Node.js, puppeteer-core in NODE_PATH, and CHROMIUM."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.reporting.report_run import write_report

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

CHROMIUM, MODULES = os.environ.get("CHROMIUM", ""), os.environ.get("NODE_PATH", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("node") and Path(CHROMIUM).is_file() and Path(MODULES, "puppeteer-core").is_dir()),
        reason="needs Node.js, CHROMIUM (a browser) and NODE_PATH with puppeteer-core",
    ),
]


def opened(folder: Path) -> Any:
    """What a browser saw of the report in a folder."""
    command = ["node", str(Path(__file__).with_name("browser.mjs")), str(folder / "report.html")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def _number(text: str) -> float:
    return float(text.split(" ")[0].split("±")[0])


def test_a_sweep_in_a_browser(report: Path) -> None:
    seen = opened(report)
    assert seen["errors"] == []
    assert seen["requests"] == [f"file://{report}/report.html"]
    # The chart of differences, and the two worst images of a setting beside those of the baseline.
    assert seen["figures"] == {
        **{"tradeoff": 1, "against": 1 + 2 * 2, "heat": 2, "curves": 2, "parts": 1, "images": 12}
    }
    values = [_number(text) for text in seen["ascending"]]
    assert values == sorted(values) and len(set(values)) > 3
    assert [_number(text) for text in seen["descending"]] == sorted(values, reverse=True)
    assert len(seen["filtered"]) == 6 and seen["count"] == "6 of 12 settings"
    assert "python -m mar_accel.evaluate" in seen["drawer"] and "num_iter:" in seen["drawer"]


def test_the_readme_table_in_a_browser(tmp_path: Path) -> None:
    table = Path(__file__).parents[2] / "experiments" / "readme_table"
    write_report(
        compose_settings(
            "report", [f"output_dir={tmp_path}", f"report.folders=['{table}']", "report.figures=false"]
        )
    )
    seen = opened(tmp_path)
    assert (
        seen["errors"] == [] and len(seen["rows"]) == len((table / "table.csv").read_text().splitlines()) - 1
    )
    # Without runs there is nothing to draw but the plot and the FLOPs.
    assert (
        seen["figures"]["tradeoff"] == 1 and seen["figures"]["parts"] == 1 and seen["figures"]["images"] == 0
    )
