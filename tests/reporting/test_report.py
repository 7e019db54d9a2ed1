"""The report: its page needs no network, its numbers are those of the runs, and its figures are drawn."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError, DataError
from mar_accel.reporting.axes import Column
from mar_accel.reporting.front import pareto_front
from mar_accel.reporting.page import page_data
from mar_accel.reporting.points import Points, read_points
from mar_accel.reporting.report_run import write_report
from mar_accel.utils.json_files import write_json

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

ROOT = Path(__file__).parents[2]
# What a browser may load: attributes that name another file.
LOADING = ("src", "href", "data", "poster", "srcset", "action", "background", "xlink:href")


def _settings(folder: Path, *words: str | Path) -> Any:
    folders = [str(word) for word in words if isinstance(word, Path)]
    overrides = [word for word in words if isinstance(word, str)]
    return compose_settings("report", [f"output_dir={folder}", f"report.folders={folders}", *overrides])


class _Page(HTMLParser):
    """Collects what a page would load, its scripts and its visible tags."""

    def __init__(self, text: str):
        super().__init__()
        self.loads: list[str] = []
        self.metas: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in LOADING and value]
        if tag == "meta":
            self.metas.append(dict(attrs))
        self.inside = tag
        if tag in ("script", "style"):
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            self.scripts[-1] += data


def _data(report: Path) -> Any:
    page = _Page((report / "report.html").read_text())
    return json.loads(next(script for script in page.scripts if script.startswith('{"keys"')))


def test_the_page_loads_nothing_from_elsewhere(report: Path) -> None:
    page = _Page((report / "report.html").read_text())
    outside = [url for url in page.loads if not url.startswith(("#", "data:"))]
    assert outside == [] and not {"link", "iframe", "object", "embed", "base"} & (set(page.tags) - {"link"})
    style = page.scripts[0]
    assert "@import" not in style and "url(" not in style
    (policy,) = [
        meta["content"] for meta in page.metas if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    # A browser refuses every request but pictures that the page holds itself.
    rules = dict(rule.strip().split(" ", 1) for rule in str(policy).split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'none'"
    assert not re.search(r"https?:|\*", str(policy))


def test_what_people_type_cannot_break_the_page(report: Path) -> None:
    text = (report / "report.html").read_text()
    assert "<title>A &lt;sweep&gt; &amp; more</title>" in text
    # Four scripts: none of them ends before its end.
    assert text.count("</script>") == 3 and text.rstrip().endswith("</html>")


def test_the_page_has_every_setting_with_command_and_config(report: Path, sweep: Path) -> None:
    data = _data(report)
    assert [key["key"] for key in data["keys"]][:3] == [
        "cache",
        "sampler.num_iter",
        "sampler.num_diffusion_steps",
    ]
    assert len(data["points"]) == 12
    point = next(p for p in data["points"] if "lazymar" in p["name"] and "num_iter=64" in p["name"])
    assert point["command"].startswith("python -m mar_accel.evaluate cache=lazymar sampler.num_iter=64")
    assert yaml.safe_load(point["config"])["sampler"]["num_iter"] == 64
    fid = next(column["id"] for column in data["metrics"] if column["key"] == "fid")
    stored = json.loads((sweep / Path(point["folder"]).name / "metrics.json").read_text())
    assert point["row"][fid] == pytest.approx(stored["fid"])
    assert point["row"][f"{fid}_hi"] == pytest.approx(stored["fid"] + 0.2)
    assert "± 0.20" in point["text"][fid]
    share = next(column["id"] for column in data["metrics"] if column["key"] == "recognised")
    # A share has its Wilson interval.
    assert 0.82 < point["row"][f"{share}_lo"] < 0.9 < point["row"][f"{share}_hi"] < 0.95
    assert all(url.startswith("data:image/png;base64,") for url in data["images"].values())
    assert len(data["images"]) == 12 and data["hasSteps"] and set(data["parts"]) == {"time", "flops"}


def test_every_figure_is_png_and_svg(report: Path) -> None:
    names = {file.stem for file in (report / "figures").glob("*.png")}
    assert names == {file.stem for file in (report / "figures").glob("*.svg")}
    wanted = {
        *("pareto_fid_tflops_per_image", "pareto_recognised_latency_s_per_image", "heat_num_iter_cache_fid"),
        *("heat_num_iter_num_diffusion_steps_fid", "curve_num_iter_fid", "ar_steps_tokens", "samples"),
        *("time_breakdown", "flops_breakdown", "fid_difference", "recognised_difference"),
    }
    assert wanted <= names
    for name in wanted:
        with Image.open(report / "figures" / f"{name}.png") as picture:
            # 220 dots per inch: more than two inches, here with two samples only.
            assert picture.width > 500, name
            assert len(picture.convert("L").getcolors(256) or []) > 10, f"{name} is empty"
        assert "<svg" in (report / "figures" / f"{name}.svg").read_text()


def test_names_are_in_the_plot(report: Path) -> None:
    svg = (report / "figures" / "pareto_fid_tflops_per_image.svg").read_text()
    curve = (report / "figures" / "curve_num_iter_fid.svg").read_text()
    # The swept values themselves are marked.
    assert all(f">{value}<" in curve for value in (16, 32, 64)) and "e+" not in curve
    assert "lazymar K=64 T=50" in svg and "FID (less is better)" in svg and "TFLOPs per image" in svg


def test_the_tables_have_every_setting(report: Path) -> None:
    with (report / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and float(rows[0]["fid_error"]) == pytest.approx(0.2)
    assert "python -m mar_accel.evaluate" in rows[0]["command"]
    assert (report / "table.md").read_text().count("\n| ") >= 12
    assert "\\begin{tabular}" in (report / "table.tex").read_text()


def test_every_setting_is_compared_with_the_baseline_image_by_image(report: Path, sweep: Path) -> None:
    data = _data(report)
    assert set(data["differences"]) == {f"{n}_difference" for n in ("recognised", "class_score", "fid")}
    records = data["differences"]["fid_difference"]["records"]
    assert len(records) == 11 and all(own["low"] <= own["high"] for own in records)
    fails = data["failures"]
    assert len(fails) == 11 and all(len(own["worst"]) == 2 for own in fails.values())
    worst = next(iter(fails.values()))["worst"][0]
    assert worst["ours"].startswith("data:image/png") and worst["score"] <= 1
    assert any("Δ: difference to cache=lazymar" in note for note in data["notes"])
    with (report / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row["fid_difference"]) for row in rows) == 11
    assert (report / "paired.csv").is_file() and len(list(report.glob("worst_*.png"))) == 11
    # Without images there is a note instead.
    points = read_points([sweep], paired=False)
    assert not any("fid_difference" in point.numbers for point in points.points)


def test_a_table_of_collect_or_report_is_read_again(report: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_bytes((report / "table.csv").read_bytes())
    again, before = read_points([tmp_path]), read_points([report.parent / report.name])
    (point, *_), (own, *_) = again.points, before.points
    assert again.keys[0] == "cache" and point.values["sampler.num_iter"] == own.values["sampler.num_iter"]
    assert point.numbers["fid"].error == pytest.approx(0.2) and "fid_error" not in point.numbers
    assert point.command.startswith("python -m mar_accel.evaluate") and point.seeds == (0,)


@pytest.mark.slow
def test_a_tracker_gets_page_table_and_figures(make_run: Callable[..., Path], tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    runs = [make_run(tmp_path / "runs" / f"{k}", k, f"sampler.num_iter={k}") for k in (8, 16)]
    write_report(_settings(tmp_path, *runs, "logger=wandb", "report.paired=false"))
    wandb.finish()
    media = next(tmp_path.rglob("media"))
    (page,) = (media / "html").glob("report*.html")
    assert page.read_text() and list((media / "table").glob("settings*.json"))
    logged = {re.sub(r"_\d+_[0-9a-f]+$", "", file.stem) for file in (media / "images" / "figures").iterdir()}
    assert logged == {file.stem for file in (tmp_path / "figures").glob("*.png")}


def test_only_the_best_value_of_a_tuned_key_is_a_point(sweep: Path) -> None:
    points = read_points([sweep], tuned=["sampler.num_diffusion_steps"])
    assert len(points.points) == 6 and any("confirm it with a fresh seed" in note for note in points.notes)
    with pytest.raises(ConfigError, match=r"report\.objective=psnr was measured in no run; .*fid"):
        read_points([sweep], tuned=["sampler.num_diffusion_steps"], objective="psnr")


def test_the_readme_table_is_a_report(tmp_path: Path) -> None:
    """A recorded table, of which only the numbers are left."""
    points = read_points([ROOT / "experiments" / "readme_table"])
    assert points.points[0].name == "mar" and points.points[0].baseline
    assert "sampler=gtr" in points.points[1].command and points.points[0].numbers[
        "fid"
    ].value == pytest.approx(0.8318, abs=1e-4)
    write_report(_settings(tmp_path, ROOT / "experiments" / "readme_table", "report.figures=false"))
    data = _data(tmp_path)
    rows = (ROOT / "experiments" / "readme_table" / "table.csv").read_text().splitlines()
    assert len(data["points"]) == len(rows) - 1 and data["keys"] == [] and data["images"] == {}
    assert "recorded table" in data["notes"][0]


@pytest.mark.parametrize("option", ["baseline='sampler=gtr'", "tuned=[cache]"])
def test_a_recorded_table_has_no_runs_to_compare(option: str, tmp_path: Path) -> None:
    reason = rf"report\.{option.partition('=')[0]} needs runs, and .*readme_table has recorded numbers alone"
    with pytest.raises(ConfigError, match=reason):
        write_report(_settings(tmp_path, ROOT / "experiments" / "readme_table", f"report.{option}"))
    assert not list(tmp_path.iterdir())


def test_a_page_of_200_runs_is_small(sweep: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from mar_accel.reporting.page import page

    few = read_points([sweep])
    many = [replace(few.points[i % 12], name=f"{i}", label=f"setting {i}") for i in range(200)]
    text = page(Points(few.keys, few.metrics, tuple(many)), "200 runs")
    assert len(text.encode()) < 20e6


def test_photos_stay_in_the_budget(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """200 runs with photos of 256×256 pixels, which hardly compress."""
    import numpy as np

    from mar_accel.reporting.page import IMAGE_BUDGET, _images

    folder = make_run(tmp_path / "run", 0, "seed=0")
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    for index in range(10):
        Image.fromarray(noise).save(folder / "images" / f"{index:06d}.png")
    (point,) = read_points([folder]).points
    images = _images(Points((), (), (point,) * 200))
    assert len(images) == 200 and sum(map(len, images.values())) < IMAGE_BUDGET * 4 / 3 * 1.1


def test_the_front_has_the_points_that_none_beats() -> None:
    cost, quality = Column("a", "", "", better=-1), Column("b", "", "", better=1)
    rows = [
        {"a": 3.0, "b": 5.0},
        {"a": 1.0, "b": 1.0},
        {"a": 2.0, "b": 0.5},
        {"a": 3.0, "b": 4.0},
        {"a": 9.0},
    ]
    assert pareto_front(rows, cost, quality) == [rows[1], rows[0]]
    assert pareto_front(rows, cost, Column("b", "", "", better=0)) == []


def test_rows_of_two_tables_with_one_name_have_pairs_of_their_own(
    make_run: Callable[..., Path], tmp_path: Path
) -> None:
    number = 0
    for table, steps in (("a", 20), ("b", 50)):
        for row in ("mar", "gtr"):
            overrides = [f"sampler={row}", f"sampler.num_diffusion_steps={steps}"]
            make_run(tmp_path / table / "rows" / f"{row}-1", number, *overrides)
            number += 1
        (tmp_path / table / "table.csv").write_text("name\nmar\ngtr\n")
        write_json({"rows": {"mar-1": "mar", "gtr-1": "gtr"}}, tmp_path / table / "run.json")
    points = read_points([tmp_path / "a", tmp_path / "b"], paired=True).points
    assert sorted(point.name for point in points) == ["gtr (1)", "gtr (2)", "mar (1)", "mar (2)"]
    (baseline,) = [point for point in points if point.baseline]
    assert baseline.pair is None
    for point in points:
        if point.pair is not None:
            assert (point.pair.row.name, point.pair.row.runs[0].folder) == (point.name, point.folder)
    assert sum(point.pair is not None for point in points) == 3


def test_each_setting_is_shown_beside_its_own_baseline(sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep, tmp_path / "sweep")
    shutil.rmtree(tmp_path / "sweep" / "run0" / "images")
    per = ["sampler.num_iter", "sampler.num_diffusion_steps"]
    points = read_points([tmp_path / "sweep"], "cache=none", paired=True, baseline_per=per)
    data = page_data(points)
    assert data["baseline"] == f"the row with cache=none and the same {', '.join(per)}"
    assert sum(point.baseline for point in points.points) == 6
    for number, point in enumerate(points.points):
        assert point.compared_with is not None
        base = points.points[point.compared_with]
        assert base.values["cache"] == "none"
        assert [base.values[key] for key in per] == [point.values[key] for key in per]
        if point.pair is not None:
            assert (point.pair.baseline.name, data["failures"][number]["base"]) == (base.name, base.label)
    # One baseline has lost its images. The other settings are compared all the same.
    assert sum(point.pair is not None for point in points.points) == 5
    (note,) = [note for note in points.notes if "image by image" in note]
    assert note.startswith("cache=lazymar sampler.num_iter=16 sampler.num_diffusion_steps=20 is not compared")


def test_equal_names_are_told_apart(sweep: Path) -> None:
    table = ROOT / "experiments" / "readme_table"
    names = [point.name for point in read_points([table, table]).points]
    assert len(set(names)) == len(names) and names[0] == "mar (1)"


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ((), ConfigError, "report.folders is empty"),
        ((Path("nowhere"),), DataError, "report.folders=.*nowhere is not a folder"),
    ],
)
def test_wrong_folders_are_refused(
    tmp_path: Path, words: tuple[Path, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_report(_settings(tmp_path / "out", *words))
    assert not (tmp_path / "out").exists()


def test_a_wrong_baseline_is_refused_before_anything_is_written(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"report\.baseline=cache=head describes 0 rows"):
        write_report(_settings(tmp_path / "out", sweep, "report.baseline='cache=head'"))
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, sweep: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("mar_accel.reporting.report_run.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[report\]'"):
        write_report(_settings(tmp_path / "out", sweep))
