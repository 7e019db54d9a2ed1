"""Tables over several configs: resumed, compared with the first row, timed in turn."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mar_accel.config.compose import compose_settings
from mar_accel.config.rows import Row, load_rows, merge_overrides, select_rows
from mar_accel.config.settings import Settings
from mar_accel.errors import ConfigError
from mar_accel.reporting.recorded import read_table
from mar_accel.sweeps import table_rows
from mar_accel.sweeps import table_timing as timing
from mar_accel.sweeps.numbers import Number, metric_of, number_over_seeds
from mar_accel.sweeps.table_correlation import write_correlation
from mar_accel.sweeps.table_files import _log, _revisions, csv_records, row_table
from mar_accel.sweeps.table_result import RowResult, add_timings
from mar_accel.sweeps.table_rows import row_is_finished
from mar_accel.sweeps.table_run import TableError, evaluate_table
from mar_accel.utils.csv_files import write_csv

SHARED = [
    "sampler.num_diffusion_steps=6",
    "dataset.num_images=20",
    "trainer.batch_size=10",
    "evaluate.fidelity_images=5",
    "table.timing_rounds=2",
]
ROWS = """
- name: plain
- name: short
  overrides: [sampler.num_diffusion_steps=2]
- name: cold
  overrides: [sampler.temperature=0.5]
- name: both
  overrides: [sampler.num_diffusion_steps=2, sampler.temperature=0.8]
"""


def _overrides(folder: Path, tiny: list[str], rows: Path) -> list[str]:
    paths = [f"reference.cache_dir={folder}", f"output_dir={folder / 'out'}", f"table.rows={rows}"]
    return [*tiny, *SHARED, *paths]


def _run(folder: Path, tiny: list[str]) -> list[RowResult]:
    rows = folder / "rows.yaml"
    if not rows.exists():
        rows.write_text(ROWS)
    overrides = _overrides(folder, tiny, rows)
    table = evaluate_table(compose_settings("evaluate_table", overrides), overrides)
    assert not table.failures
    return table.rows


@pytest.fixture(scope="module")
def finished(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RowResult]]:
    folder = tmp_path_factory.mktemp("table")
    return folder, _run(folder, tiny)


def test_rows_are_compared_with_the_first(finished: tuple[Path, list[RowResult]]) -> None:
    _, (plain, short, cold, both) = finished
    assert plain.metrics["speedup"] == 1 and plain.metrics["psnr"] is None
    assert all(row.metrics["fidelity_images"] == 5 for row in (short, cold, both))
    assert 0 < short.metrics["psnr"] < 110 and cold.metrics["latent_mse"] > 0
    assert len({row.metrics["identity"]["images"] for row in finished[1]}) == 4
    assert len({row.metrics["fid"] for row in finished[1]}) == 4


def test_finished_rows_are_kept_and_a_lost_one_is_made_again(
    finished: tuple[Path, list[RowResult]], tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, before = finished
    sampled = []
    evaluate = table_rows.evaluate
    monkeypatch.setattr(
        table_rows, "evaluate", lambda config, calls: sampled.append(config) or evaluate(config, calls)
    )
    (before[2].folder / "metrics.json").unlink()
    errors = [folder / "out" / "rows" / f"{before[number].folder.name}.error.txt" for number in (1, 2)]
    for file in errors:
        file.write_text("what went wrong with the row before")
    after = _run(folder, tiny)
    assert [config.output_dir for config in sampled] == [str(before[2].folder)]
    assert not any(file.exists() for file in errors)
    for old, new in zip(before, after, strict=True):
        for key in ("fid", "psnr", "latency_s_per_image", "speedup"):  # the timing is kept as well
            expected = old.metrics[key]
            assert new.metrics[key] == (expected if expected is None else pytest.approx(expected, rel=1e-6))


def test_files_of_a_table(finished: tuple[Path, list[RowResult]]) -> None:
    folder, results = finished
    out = folder / "out"
    coefficients = write_correlation(results, folder)
    lines = (out / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[:6] if line != lines[1]] == [
        *("| setting", "| plain", "| short", "| cold", "| both")
    ]
    assert "Δ recognised | Δ class score | Δ FID" in lines[0] and "speedup" in lines[0]
    assert any("python -m mar_accel.evaluate_table" in line for line in lines[6:])
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["plain", "short", "cold", "both"]
    assert float(rows[1]["fid"]) == results[1].metrics["fid"] and rows[0]["fid_difference"] == ""
    assert float(rows[1]["fid_difference"]) == pytest.approx(
        float(rows[1]["fid"]) - float(rows[0]["fid"]), abs=1e-5
    )
    assert all(float(row["fid_difference_low"]) <= float(row["fid_difference_high"]) for row in rows[1:])
    assert min(Image.open(out / "strips.png").size) > 200
    assert {file.name for file in out.glob("worst_*.png")} == {f"worst_{n}.png" for n in (1, 2, 3)}
    assert (out / "table.tex").read_text().count("\\\\") == 5
    assert set(coefficients) == {"spearman_psnr", "pearson_psnr", "spearman_latent_mse", "pearson_latent_mse"}
    assert all(-1 <= value <= 1 for value in coefficients.values())
    assert (folder / "correlation.png").stat().st_size > 1000


def test_a_row_that_fails_leaves_the_others(finished: tuple[Path, list[RowResult]], tiny: list[str]) -> None:
    folder, before = finished
    broken = "- name: broken\n  overrides: [sampler.num_iter=9999]\n"
    names = ROWS.replace("- name: short", f"{broken}- name: short")
    (folder / "with_broken.yaml").write_text(names)
    overrides = _overrides(folder, tiny, folder / "with_broken.yaml")
    table = evaluate_table(compose_settings("evaluate_table", overrides), overrides)
    results, failures = table.rows, table.failures
    assert [row.name for row in results] == [row.name for row in before]
    assert list(failures) == ["broken"] and "got 9999" in failures["broken"]
    assert [run.status for run in table.runs] == ["skipped", "failed", "skipped", "skipped", "skipped"]
    assert "run 1 (broken) failed: " in (folder / "out" / "table.md").read_text()


def test_without_its_first_row_a_table_cannot_be_compared(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(table_rows, "evaluate", fail)
    with pytest.raises(TableError, match="plain, the first row, has failed: RuntimeError: a bug"):
        _run(tmp_path, tiny)
    (report,) = (tmp_path / "out" / "rows").glob("plain-*.error.txt")
    assert "Traceback" in report.read_text()


def test_equal_rows_are_one_run_and_several_values_are_several_rows(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mar_accel.utils.progress.SECONDS_BETWEEN_LINES", 0)
    (tmp_path / "rows.yaml").write_text(
        "- name: plain\n- name: again\n- {name: k, overrides: ['sampler.num_iter=2,3']}\n"
        "- {name: none, overrides: [cache=none]}\n"
    )
    overrides = [*_overrides(tmp_path, tiny, tmp_path / "rows.yaml"), "table.timing_rounds=1"]
    overrides += ["dataset.num_images=2", "trainer.batch_size=2"]
    table = evaluate_table(compose_settings("evaluate_table", overrides), overrides)
    # A log shows what the table is doing.
    log = capsys.readouterr().out
    assert all(
        f"{line}, " in log for line in ("plain: 2 of 2 images", "rows: 3 of 3 rows", "timing: 6 of 6 batches")
    )
    names = ["plain", "again", "k sampler.num_iter=2", "k sampler.num_iter=3", "none"]
    assert [row.name for row in table.rows] == names and len(table.runs) == 3
    assert table.rows[0].folder == table.rows[1].folder == table.rows[4].folder
    assert sorted(path.name.split("-")[0] for path in (tmp_path / "out" / "rows").glob("[!.]*")) == [
        *("k", "k", "plain")
    ]
    # A row of another name has the images of the old one.
    (tmp_path / "rows.yaml").write_text("- name: renamed\n")
    (row,) = evaluate_table(compose_settings("evaluate_table", overrides), overrides).rows
    assert row.metrics["fid"] == pytest.approx(table.rows[0].metrics["fid"], rel=1e-6)
    before, after = (next((own.folder / "images").iterdir()).stat() for own in (table.rows[0], row))
    assert before.st_nlink > 1 and after.st_nlink > 1


def test_rows_that_differ_only_in_number_or_judge_have_numbers_of_their_own(
    tiny: list[str], tmp_path: Path
) -> None:
    (tmp_path / "rows.yaml").write_text(
        "- {name: plain, overrides: [features=digits]}\n- {name: n, overrides: ['dataset.num_images=2,4']}\n"
        "- {name: j, overrides: ['reference.augmentations=0,1']}\n"
    )
    overrides = [*_overrides(tmp_path, tiny, tmp_path / "rows.yaml"), "table.timing_rounds=1"]
    overrides += ["dataset.num_images=4", "trainer.batch_size=2"]
    # As from Python: outside of a command, Hydra has no context.
    for _ in range(2):
        table = evaluate_table(compose_settings("evaluate_table", overrides), overrides)
        assert not table.failures
        rows = {row.name: row.metrics for row in table.rows}
        assert rows["n dataset.num_images=2"]["num_images"] == 2
        assert rows["n dataset.num_images=4"]["num_images"] == 4
        fids = [rows[f"j reference.augmentations={number}"]["fid"] for number in (0, 1)]
        assert fids[0] != pytest.approx(fids[1], rel=1e-6)
    assert {run.status for run in table.runs} == {"skipped"}


def test_a_row_is_finished_only_with_the_comparison_and_number_asked_for(
    finished: tuple[Path, list[RowResult]], tiny: list[str], tmp_path: Path
) -> None:
    folder, (plain, short, cold, _) = finished

    def is_finished(first: RowResult | None, *more: str, file: Path = short.folder / "metrics.json") -> bool:
        overrides = [*_overrides(folder, tiny, folder / "rows.yaml"), *more]
        if first is not None:
            overrides.append("sampler.num_diffusion_steps=2")
        merged = merge_overrides([o for o in overrides if not o.startswith("table.")])
        return row_is_finished(file, compose_settings("evaluate", merged), first)

    assert is_finished(plain)
    assert not is_finished(cold)
    assert not is_finished(plain, "evaluate.fidelity_images=6")
    assert not is_finished(plain, "dataset.num_images=30")
    assert not is_finished(plain, "evaluate.lpips=true")
    for changed, lpips in (({"lpips": 0.1}, "true"), ({"latent_mse": None}, "false")):
        (tmp_path / "metrics.json").write_text(json.dumps(short.metrics | changed))
        answer = is_finished(plain, f"evaluate.lpips={lpips}", file=tmp_path / "metrics.json")
        assert answer == ("lpips" in changed)
    # The first row has to hold the tokens that the others are to be compared with.
    for number, enough in ((4, False), (5, True)):
        (tmp_path / "metrics.json").write_text(json.dumps(plain.metrics))
        save_file({"tokens": torch.zeros(number, 2, 1)}, tmp_path / "tokens.safetensors")
        assert is_finished(None, file=tmp_path / "metrics.json") == enough
    assert is_finished(None, file=plain.folder / "metrics.json")
    # A row that was compared with another is not the first.
    (tmp_path / "metrics.json").write_text(json.dumps(plain.metrics | {"baseline": "another"}))
    assert not is_finished(None, file=tmp_path / "metrics.json")


def test_a_table_is_logged(finished: tuple[Path, list[RowResult]], tmp_path: Path) -> None:
    config = compose_settings("evaluate_table", ["logger=csv", f"output_dir={tmp_path}"])
    _log(config, finished[1], row_table(finished[1]), tmp_path)
    with next(tmp_path.rglob("metrics.csv")).open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["short/fid"]) == pytest.approx(finished[1][1].metrics["fid"])
    assert float(row["both/speedup"]) > 0


def test_rows_have_one_trainer(tiny: list[str], tmp_path: Path) -> None:
    """They are timed together, by the trainer of the first one."""
    (tmp_path / "rows.yaml").write_text(
        "- name: a\n- {name: small, overrides: [trainer.batch_size=5]}\n"
        "- {name: half, overrides: [trainer.precision=bf16-true]}\n"
    )
    overrides = _overrides(tmp_path, tiny, tmp_path / "rows.yaml")
    with pytest.raises(
        ConfigError, match=r"half has trainer\.precision=bf16-true where the first row has 32"
    ):
        evaluate_table(compose_settings("evaluate_table", overrides), overrides)
    assert not (tmp_path / "out").exists()


def test_own_metrics_are_in_the_files_and_in_the_log(
    finished: tuple[Path, list[RowResult]], tmp_path: Path
) -> None:
    lines = [
        replace(row, metrics={**row.metrics, "ink_mean": number / 10})
        for number, row in enumerate(finished[1])
    ]
    table = row_table(lines)
    first, short = table.rows[:2]
    difference = Number(0.1, low=-0.2, high=0.4)
    rows = (first, replace(short, numbers={**short.numbers, "ink_mean_difference": difference}))
    table = replace(table, rows=rows, metrics=(*table.metrics, "ink_mean_difference"))
    write_csv(csv_records(table, lines[:2]), tmp_path / "table.csv")
    plain, changed = read_table(tmp_path)
    assert plain.numbers["ink_mean"].value == 0 and "ink_mean_difference" not in plain.numbers
    assert changed.numbers["ink_mean"].value == 0.1 and changed.numbers["ink_mean_difference"] == difference
    assert {*changed.numbers} <= {*table.metrics}, "bounds of an interval are no numbers of their own"
    settings = compose_settings("evaluate_table", ["logger=csv", f"output_dir={tmp_path}"])
    _log(settings, lines[:2], table, tmp_path)
    assert "short/ink_mean" in next(tmp_path.rglob("metrics.csv")).read_text()


@pytest.mark.long
def test_a_killed_table_goes_on_and_two_processes_agree(
    finished: tuple[Path, list[RowResult]],
    start: Callable[..., subprocess.Popen[str]],
    wait_for: Callable[..., None],
    tiny: list[str],
    tmp_path: Path,
) -> None:
    folder, before = finished
    overrides = _overrides(folder, tiny, folder / "rows.yaml")
    overrides = [o for o in overrides if not o.startswith("output_dir=")] + [f"output_dir={tmp_path}"]
    overrides.append("trainer=ddp_cpu")
    process = start(tmp_path, "evaluate_table", *overrides)
    wait_for(lambda: any(tmp_path.glob("rows/short-*/config.yaml")), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (first,) = tmp_path.glob("rows/plain-*/metrics.json")
    written = first.stat().st_mtime_ns
    process = start(tmp_path, "evaluate_table", *overrides)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert first.stat().st_mtime_ns == written
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, result in zip(rows, before, strict=True):
        assert float(row["fid"]) == pytest.approx(result.metrics["fid"], rel=1e-3)
        assert row["num_devices"] == "2"


def test_correlation_of_made_up_rows(tmp_path: Path) -> None:
    def row(name: str, psnr: float | None, fid: float, order: str = "random") -> RowResult:
        mse = None if psnr is None else 10 ** (-psnr / 10)
        metrics = {"psnr": psnr, "latent_mse": mse, "fid": fid, "fidelity_images": 8}
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").write_text(f"sampler: {{order: {order}}}")
        return RowResult(name, folder, metrics)

    rows = [
        row("first", None, 1.0),
        row("a", 30, 1.1),
        row("b", 20, 2.0),
        row("c", 10, 9.0),
        row("d", 5, 12.0),
    ]
    coefficients = write_correlation(rows, tmp_path)
    assert coefficients["spearman_psnr"] == pytest.approx(-1)
    assert coefficients["spearman_latent_mse"] == pytest.approx(1)
    assert len(coefficients) == 4  # all rows have the same order
    with (tmp_path / "correlation.csv").open() as file:
        assert [float(r["fid_change"]) for r in csv.DictReader(file)] == pytest.approx([0.1, 1, 8, 11])
    assert write_correlation(rows[:3], tmp_path) == {}
    assert not list(tmp_path.glob("correlation*"))
    # Good images that are other ones: only the rows of the same order are predicted still.
    coefficients = write_correlation([*rows, row("e", 1, 1.0, "gtr"), row("f", 2, 0.9, "gtr")], tmp_path)
    assert coefficients["spearman_psnr_same_order"] == pytest.approx(-1)
    assert coefficients["spearman_psnr"] > -0.5


def test_speedups_are_medians_of_the_rounds() -> None:
    rows = [RowResult(name, Path(), {"tflops_per_image": 0.5}) for name in ("slow", "fast")]
    add_timings(rows, [[4.0, 8.0, 6.0], [2.0, 2.0, 2.0]], batch_size=5)
    fast = rows[1].metrics
    assert (fast["speedup"], fast["speedup_min"], fast["speedup_max"]) == (3, 2, 4)
    assert fast["latency_s_per_image"] == 2 and fast["achieved_flops"] == 0.25e12
    number = number_over_seeds("speedup", [fast])
    assert number is not None and number.text(metric_of("speedup")) == "3.00 (2.00–4.00)"


def test_the_note_names_the_revisions_of_images_that_were_kept(tmp_path: Path) -> None:
    rows = []
    for name, earlier in (("plain", {}), ("fast", {"earlier_revisions": ["old1", "old2"]})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"git_revision": "new", **earlier}))
        rows.append(RowResult(name, tmp_path / name, {}))
    assert _revisions(rows[:1]) == []
    assert _revisions(rows) == ["The rows come from the revisions new, old1, old2."]


def test_timings_are_kept_for_the_same_batch_and_revision(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []

    def time_in_process(plan: Settings, on_batch: object) -> list[list[float]]:
        timed.append(plan.dataset.num_images)
        return [[float(len(timed))]]

    monkeypatch.setattr(timing, "time_in_process", time_in_process)

    def seconds(num_images: int, revision: str = "a") -> float:
        monkeypatch.setattr(timing, "environment", lambda: {"revision": revision})
        settings = [f"dataset.num_images={num_images}", "trainer.batch_size=10"]
        config = compose_settings("evaluate", [*tiny, *settings])
        return timing.time_rows([config], ["row"], 1, tmp_path)[0][0]

    assert seconds(20) == 1 and seconds(30) == 1  # ten images per round
    assert seconds(6) == 2 and seconds(20) == 3
    assert seconds(20, "b") == 4 and seconds(20, "b") == 4
    assert timed == [20, 6, 20, 20]


NO_ROWS = {
    "- name: a\n- name: a\n": "needs rows with unique names",
    "- name: a/b\n": "needs rows with unique names of at most 100 characters without slashes",
    f"- name: {'n' * 101}\n": "needs rows with unique names",
    '- name: "a\\nb"\n': "needs rows with unique names",
    "just words": "is not a list of name and overrides",
    "a: [\n": "is not a list of name and overrides",
    "": "is not a list of name and overrides",
    "- a\n": "is not a list of name and overrides",
    "- overrides: []\n": r"rows\[0\]\.name is not set",
    "- name: null\n": r"rows\[0\]\.name must be text",
    "- {name: a, override: [seed=1]}\n": r"did you mean rows\[0\]\.overrides\?",
    "- {name: a, overrides: seed=1}\n": r"rows\[0\]\.overrides must be a list, got 'seed=1'",
    "- name: a\n- {name: b, overrides: [3]}\n": r"rows\[1\]\.overrides\[0\] must be text, got 3",
    "- {name: a, overrides: {seed: 1}}\n": r"rows\[0\]\.overrides must be a list",
    "- {name: a, overrides: ['seed=[1,']}\n": r"row a: seed=\[1, cannot be read",
    "- {name: a, overrides: [output_dir=x]}\n": "overrides output_dir=x, but output_dir belongs to",
    "- {name: a, overrides: [hydra/sweeper=search]}\n": "but hydra belongs to the whole",
    "- {name: a, overrides: [sweep.only=seed]}\n": "but sweep belongs to the whole",
}


@pytest.mark.parametrize(("text", "words"), NO_ROWS.items())
def test_rows_files_that_cannot_be_used(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"^table\.rows=\S+rows\.yaml.*{words}"):
        load_rows(tmp_path / "rows.yaml")


def test_rows_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="is not a list of name and overrides"):
        load_rows(tmp_path / "rows.yaml")
    with pytest.raises(ConfigError, match="is not a file"):
        load_rows(tmp_path / "none.yaml")


def test_a_typo_in_the_last_row_is_found_before_the_first_is_sampled(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text("- name: a\n- name: b\n  overrides: [sampler=unknown]\n")
    with pytest.raises(ConfigError, match="unknown"):
        _run(tmp_path, tiny)
    assert not (tmp_path / "out").exists()


def test_the_rows_of_the_project_are_readable() -> None:
    root = Path(__file__).parents[2]
    files = list(root.glob("experiments/*/rows.yaml"))
    assert root / "experiments/readme_table/rows.yaml" in files
    for file in files:
        assert load_rows(file)
    assert json.dumps(merge_overrides(["a=1", "b=2"], ["+a=3"])) == '["b=2", "+a=3"]'


def test_rows_are_chosen_by_name_beside_the_first() -> None:
    rows = [Row(name, ()) for name in ("plain", "a", "b")]
    assert select_rows(rows, None, "only", keep_first=True) == rows
    assert [row.name for row in select_rows(rows, ["b", "a"], "only", keep_first=True)] == ["plain", "b", "a"]
    assert [row.name for row in select_rows(rows, ["b", "plain"], "only")] == ["b", "plain"]
    with pytest.raises(ConfigError, match=r"table\.only: c is not defined; choose one of plain, a, b\."):
        select_rows(rows, ["c"], "table.only")
