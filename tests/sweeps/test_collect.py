"""The collected table: what differs between runs, numbers over seeds with their errors, and its files."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from mar_accel.config.compose import compose_settings
from mar_accel.errors import ConfigError, DataError
from mar_accel.metrics.catalogue import METRICS
from mar_accel.metrics.intervals import wilson_interval
from mar_accel.runs.arguments import folders_as_override
from mar_accel.runs.record import run_record
from mar_accel.sweeps.collected import collect
from mar_accel.sweeps.collected_table import Collected
from mar_accel.sweeps.numbers import number_over_seeds
from mar_accel.sweeps.run_folders import read_runs
from mar_accel.sweeps.tables import notes
from mar_accel.utils import latex
from mar_accel.utils.json_files import write_json

NUMBERS = {
    **{"num_images": 200, "fid": 2.0, "fid_std_error": 0.5, "kid": -2.583, "kid_std": 0.1},
    **{"recognised": 0.975, "recognised_std_error": 0.011, "tflops_per_image": 1.0},
    **{"latency_s_per_image": 0.5, "latency_s_per_image_min": 0.4, "latency_s_per_image_max": 0.7},
    **{"psnr": 20.0, "psnr_std": 4.0, "fidelity_images": 64},
}


def _finished(folder: Path, *overrides: str, **numbers: float) -> Path:
    """A finished evaluation that was never sampled."""
    folder.mkdir(parents=True)
    settings = compose_settings("evaluate", [*overrides, f"output_dir={folder}"])
    write_json(run_record(settings, identity={}), folder / "run.json")
    write_json({**NUMBERS, **numbers}, folder / "metrics.json")
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three settings, one with two seeds, none of whose folders says what it is."""
    folder = tmp_path_factory.mktemp("sweep")
    _finished(folder / "a", "sampler=mar", "cache=none", "seed=0", tflops_per_image=4.0)
    _finished(folder / "b", "sampler=gtr", "cache=lazymar", "cache.token.ratios=0.1", fid=3.0)
    _finished(folder / "c", "sampler=gtr", "cache=lazymar", "cache.token.ratios=0.2", fid=4.0, own=1.5)
    _finished(folder / "d", "sampler=gtr", "cache=lazymar", "cache.token.ratios=0.2", "seed=1", fid=6.0)
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "run.json").write_text((folder / "a" / "run.json").read_text())
    return folder


@pytest.fixture(scope="module")
def collected(sweep: Path) -> Collected:
    return collect([sweep])


def test_swept_keys_are_found_by_comparing_configs(collected: Collected) -> None:
    assert collected.keys == ("sampler", "cache", "cache.token.ratios")
    assert [dict(row.values) for row in collected.rows] == [
        {"sampler": "mar", "cache": "none"},
        {"sampler": "gtr", "cache": "lazymar", "cache.token.ratios": 0.1},
        {"sampler": "gtr", "cache": "lazymar", "cache.token.ratios": 0.2},
    ]
    assert [row.seeds for row in collected.rows] == [(0,), (0,), (0, 1)]
    assert collected.baseline_name == "sampler=mar cache=none"
    assert "unfinished is left out" in collected.notes[0]


def test_runs_with_other_references_and_data_are_one_table(tmp_path: Path) -> None:
    _finished(tmp_path / "plain")
    _finished(tmp_path / "scans", "reference.augmentations=0")
    _finished(tmp_path / "scenes", "model=scenes", "dataset=scenes_eval", "dataset.num_images=6")
    assert len(collect([tmp_path]).rows) == 3


def test_runs_of_two_models_with_their_default_judges_are_one_table(tmp_path: Path) -> None:
    prompts = ["model=scenes", "dataset=prompts", "dataset.prompts=[a six]", "features=scenes"]
    for name, overrides in (("digits", ["sampler=mar"]), ("scenes", prompts)):
        folder = _finished(tmp_path / name, *overrides)
        record = json.loads((folder / "run.json").read_text())
        write_json({**record, "overrides": overrides}, folder / "run.json")
    assert {row.values["model"] for row in collect([tmp_path]).rows} == {"digits", "scenes"}
    _finished(tmp_path / "none", "features=none", "reference=none")
    judges = {(row.values["features"], row.values["reference"]) for row in collect([tmp_path]).rows}
    assert judges == {("digits", "digits"), ("scenes", "none"), ("none", "none")}


def test_a_member_that_is_not_there_does_not_hide_the_other_runs(tmp_path: Path) -> None:
    """It may lie in a folder of one's own, or have been renamed."""
    for name, sampler in (("a", "mar"), ("b", "halton")):
        folder = _finished(tmp_path / name, f"sampler={sampler}")
        record = json.loads((folder / "run.json").read_text())
        gone = "gone" if name == "b" else sampler
        write_json({**record, "overrides": [f"sampler={gone}"]}, folder / "run.json")
    assert {row.values["sampler"] for row in collect([tmp_path]).rows} == {"mar", "halton"}


def test_the_baseline_is_described_as_on_the_command_line(tmp_path: Path) -> None:
    """By groups that are the same in all rows, by numbers in any form, and by lists."""
    ratios = "[[0,1.0],[2,0.5]]"
    _finished(tmp_path / "a", "cache=none", "sampler.guidance_scale=3.0")
    _finished(tmp_path / "b", "cache=lazymar", "sampler.guidance_scale=3.0", f"cache.token.ratios={ratios}")
    _finished(tmp_path / "c", "cache=lazymar", "sampler.guidance_scale=3.0", "cache.token.ratios=0.5")
    for wanted, name in (
        ("sampler=mar cache=none sampler.guidance_scale=3", "cache=none"),
        ("cache=none sampler.order=random", "cache=none"),
        (f"cache.token.ratios={ratios}", "cache=lazymar cache.token.ratios=[[0, 1.0], [2, 0.5]]"),
        ("cache.token.ratios=[[0, 1], [2, .5]]", "cache=lazymar cache.token.ratios=[[0, 1.0], [2, 0.5]]"),
        ("cache.token.ratios=0.50", "cache=lazymar cache.token.ratios=0.5"),
    ):
        assert collect([tmp_path], wanted).baseline_name == name


def test_failed_runs_of_a_sweep_are_named(sweep: Path) -> None:
    runs = [
        {"number": 0, "folder": str(sweep / "a"), "overrides": [], "reason": None},
        {"number": 1, "folder": None, "overrides": ["sampler=fast"], "reason": "sampler=fast is unknown."},
        {"number": 2, "folder": str(sweep / "gone"), "overrides": ["seed=9"], "reason": "out of memory."},
    ]
    (sweep / "tables").mkdir(exist_ok=True)
    (sweep / "tables" / "mine.json").write_text(json.dumps({"runs": runs}))
    table = collect([sweep / "tables" / "mine.json"])
    assert len(table.rows) == 1
    first, second = table.notes[:2]
    assert first == "a run is left out: run 1 (sampler=fast) failed: sampler=fast is unknown."
    assert second.endswith("gone is left out: run 2 (seed=9) failed: out of memory.")


def test_a_key_that_a_member_sets_is_no_swept_key(tmp_path: Path) -> None:
    _finished(tmp_path / "a", "sampler=mar")
    _finished(tmp_path / "b", "sampler=mar", "sampler.num_iter=32", "sampler.temperature=0.9")
    _finished(
        tmp_path / "c",
        "sampler=mar",
        "sampler.diffusion_steps=disa",
        "cache=lazymar",
        "cache.token.threshold=0.5",
    )
    table = collect([tmp_path])
    rows = [{"cache": "none", **row.values} for row in table.rows]
    assert sorted(table.keys) == sorted(
        (
            "cache",
            "cache.token.threshold",
            "sampler.num_iter",
            "sampler.temperature",
            "sampler.diffusion_steps",
        )
    )
    assert [row["sampler.num_iter"] for row in rows] == [64, 32, 64]
    assert [row["sampler.diffusion_steps"] for row in rows] == ["constant", "constant", "disa"]
    assert [(row["cache"], row.get("cache.token.threshold")) for row in rows] == [
        *(("none", None), ("none", None), ("lazymar", 0.5)),
    ]


@pytest.mark.parametrize("sampler", ["mar", "lightgen"])
def test_a_sweep_of_a_number_has_one_sampler(tmp_path: Path, sampler: str) -> None:
    """Members such as mar_32 and lightgen_32 have values of this sweep."""
    for k in (16, 32, 256):
        _finished(tmp_path / str(k), f"sampler={sampler}", f"sampler.num_iter={k}")
    table = collect([tmp_path])
    assert table.keys == ("sampler.num_iter",)
    assert sorted(row.values["sampler.num_iter"] for row in table.rows) == [16, 32, 256]


def test_a_part_that_inherits_keeps_its_name(tmp_path: Path) -> None:
    """The file of four stages has no class: it changes a key of the three stages."""
    for name in ("gtr", "gtr_four_stages"):
        sizes = "sampler.step_sizes.rates=[2.67,10.67,64,64]"
        _finished(tmp_path / name, "sampler=gtr", sizes, f"sampler/order={name}")
    table = collect([tmp_path])
    assert table.keys == ("sampler.order",)
    assert {row.values["sampler.order"] for row in table.rows} == {"gtr", "gtr_four_stages"}


def test_baselines_are_told_apart_but_in_a_table(tmp_path: Path) -> None:
    for name, baseline in (("c", "a"), ("d", "b")):
        _finished(tmp_path / name, f"evaluate.baseline={tmp_path / baseline}")
    assert collect([tmp_path]).keys == ("evaluate.baseline",)
    first = _finished(tmp_path / "table" / "rows" / "mar", "evaluate.baseline=none")
    _finished(first.parent / "gtr", "sampler=gtr", f"evaluate.baseline={first}")
    shutil.copytree(tmp_path / "table", tmp_path / "copied")
    for table in ("table", "copied"):
        assert collect([tmp_path / table]).keys == ("sampler",)


def test_a_run_that_is_left_out_for_a_newer_one_is_named(tmp_path: Path) -> None:
    for name, judged in (("old", "x"), ("new", "y"), ("copy", "y")):
        folder = _finished(tmp_path / name)
        record = json.loads((folder / "run.json").read_text())
        record |= {"identity": {"evaluation": judged}, "finished": {"old": "1"}.get(name, "2")}
        write_json(record, folder / "run.json")
    (note,) = [note for note in collect([tmp_path]).notes if "left out" in note]
    assert note == f"left out, since a newer run has the same settings and seed: {tmp_path / 'old'}."


def test_members_with_other_parts_keep_their_names(tmp_path: Path) -> None:
    names = ["mar", "halton", "gtr", "gtr_19", "disa", "emigm"]
    for name in names:
        _finished(tmp_path / name, f"sampler={name}")
    table = collect([tmp_path])
    assert sorted(row.values["sampler"] for row in table.rows) == sorted(names)


def test_numbers_over_seeds_have_mean_error_and_spread(collected: Collected) -> None:
    number = collected.rows[2].numbers["fid"]
    assert (number.value, number.count) == (5.0, 2)
    assert number.spread == pytest.approx(2**0.5) and number.error == pytest.approx(1.0)
    assert number.text(_metric("fid")) == "5.00 ± 1.00 [σ 1.41]"
    one = collected.rows[1].numbers
    assert one["fid"].text(_metric("fid")) == "3.00 ± 0.50"
    assert one["psnr"].error == 0.5, "of the mean of 64 images"
    assert one["tflops_per_image"].error is None, "counted"
    assert one["recognised"].text(_metric("recognised")) == "97.5% (94.3–98.9%)"
    assert one["latency_s_per_image"].text(_metric("latency_s_per_image")) == "0.5 (0.4–0.7)"
    pooled = collected.rows[2].numbers["recognised"]
    assert (pooled.low, pooled.high) == wilson_interval(0.975, 400)


def test_few_images_say_nothing_about_kid(collected: Collected) -> None:
    assert "kid" not in collected.rows[0].numbers
    many = number_over_seeds("kid", [{**NUMBERS, "num_images": 1000}])
    assert many is not None and many.text(_metric("kid")) == "-2583.000 ± 100.000"


def test_ratios_refer_to_the_baseline(collected: Collected, sweep: Path) -> None:
    assert [collected.ratio(row, "tflops_per_image").value for row in collected.rows] == [1.0, 4.0, 4.0]  # type: ignore[union-attr]
    other = collect([sweep], "cache=lazymar cache.token.ratios=0.1")
    assert other.rows[0].values["cache.token.ratios"] == 0.1
    assert [other.ratio(row, "tflops_per_image").value for row in other.rows] == [1.0, 0.25, 1.0]  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="describes 2 rows; choose one of: sampler=gtr"):
        collect([sweep], "cache=lazymar")
    with pytest.raises(ConfigError, match="describes 0 rows"):
        collect([sweep], "cache=fast")


def test_seconds_of_other_machines_are_not_compared(tmp_path: Path) -> None:
    folders = [_finished(tmp_path / name, f"cache={name}") for name in ("none", "head")]
    record = json.loads((folders[1] / "run.json").read_text())
    record["hardware"]["torch_threads"] = 99
    write_json(record, folders[1] / "run.json")
    table = collect([tmp_path])
    assert table.ratio(table.rows[1], "latency_s_per_image") is None
    assert table.ratio(table.rows[1], "tflops_per_image") is not None
    assert any("2 machines or numbers of threads" in note for note in table.notes)


def test_weights_of_the_same_name_are_told_apart_and_copies_are_not(tmp_path: Path) -> None:
    for name, content in (("a", "x"), ("b", "y"), ("copy", "x")):
        record = json.loads((_finished(tmp_path / name) / "run.json").read_text())
        record["identity"] = {"content": {"weights": {"model": content}}}
        write_json(record, tmp_path / name / "run.json")
    table = collect([tmp_path])
    assert [row.values for row in table.rows] == [{"weights.model": "x"}, {"weights.model": "y"}]
    assert len(table.runs) == 2


def test_the_command_writes_all_tables(run_here: Any, sweep: Path, tmp_path: Path) -> None:
    long = tmp_path / ("a long name, with spaces and a 'quote' " * 3).strip()
    (long / "x").parent.mkdir()
    for name in "ad":
        (long / name).symlink_to(sweep / name)
    outcome = run_here("collect", str(sweep), str(long), f"output_dir={tmp_path / 'out'}")
    assert outcome.status == 0, outcome.stderr
    assert "cache.token.ratios" in outcome.stdout and "97.5% (94.3–98.9%)" in outcome.stdout
    assert "…" not in outcome.stdout and "3 settings, 4 runs" in outcome.stdout
    with (tmp_path / "out" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["fid"] for row in rows] == ["2.0", "3.0", "5.0"] and rows[0]["cache.token.ratios"] == ""
    assert [row["fid_error"] for row in rows] == ["0.5", "0.5", "1.0"]
    assert rows[2]["folders"] == f"{sweep / 'c'} {sweep / 'd'}" and rows[2]["seeds"] == "0 1"
    assert [row["flops_ratio"] for row in rows] == ["1.0", "4.0", "4.0"] and "own" not in rows[2]
    assert "| mar | none | – | 1 |" in (tmp_path / "out" / "table.md").read_text()
    text = (tmp_path / "out" / "table.tex").read_text()
    assert r"97.5\% (94.3--98.9\%)" in text and text.count(r"\\") == 4


@pytest.mark.parametrize(
    ("folder", "message"),
    [("missing", "is not a folder"), ("empty", "has no finished run"), ("damaged", "has no finished run")],
)
def test_what_cannot_be_collected_is_said(tmp_path: Path, folder: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    with pytest.raises(DataError, match=message):
        read_runs([tmp_path / folder])


def test_runs_of_one_dataset_are_told_apart(tmp_path: Path) -> None:
    """Other members of the group, such as dataset=folder, lack values that a user gives."""
    for count in (100, 200):
        _finished(tmp_path / str(count), f"dataset.num_images={count}")
    rows = collect([tmp_path]).rows
    assert sorted(row.values["dataset.num_images"] for row in rows) == [100, 200]


# File, key and value that no run writes, and what is said of it. null: it was not measured.
_DAMAGED: list[tuple[str, str, Any, str | None]] = [
    ("metrics.json", "fid", "x", 'fid cannot be "x"'),
    ("metrics.json", "fid", [1], "fid cannot be [1]"),
    ("metrics.json", "fid_std_error", -1, "fid"),
    ("metrics.json", "recognised", 7, "recognised cannot be 7"),
    ("metrics.json", "tflops_per_image", -1, "tflops_per_image cannot be -1"),
    ("metrics.json", "num_images", True, "num_images cannot be true"),
    ("metrics.json", "fid", math.nan, None),
    ("metrics.json", "fid", 10**400, None),
    ("run.json", "config", [], "run.json is damaged at config;"),
    ("run.json", "hardware", "x", "run.json is damaged at hardware;"),
    ("run.json", "hardware", {"gpus": [1]}, "run.json is damaged at hardware.gpus;"),
    ("run.json", "overrides", [1], "run.json is damaged at overrides;"),
    ("run.json", "identity", {"content": 3}, "run.json is damaged at identity.content;"),
    ("run.json", "identity", None, None),
    ("run.json", "hardware", None, None),
]


@pytest.mark.parametrize(("name", "key", "value", "words"), _DAMAGED)
def test_a_damaged_run_is_left_out(
    name: str, key: str, value: Any, words: str | None, sweep: Path, tmp_path: Path
) -> None:
    for run in "ab":
        shutil.copytree(sweep / run, tmp_path / run)
    file = tmp_path / "b" / name
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    table = collect([tmp_path])
    assert len(table.rows) == (2 if words is None else 1)
    assert words is None or any(words in note for note in table.notes), table.notes
    assert all(math.isfinite(n.value) for row in table.rows for n in row.numbers.values())


@pytest.mark.parametrize("content", ["[" * 100_000, "\xff", "NaN", "[]"])
def test_a_record_that_cannot_be_read_is_none(content: str, sweep: Path, tmp_path: Path) -> None:
    shutil.copytree(sweep / "a", tmp_path / "a")
    (tmp_path / "a" / "metrics.json").write_text(content, encoding="latin-1")
    with pytest.raises(DataError, match="not finished, or its record is damaged"):
        read_runs([tmp_path])


def test_folders_need_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b").mkdir()
    arguments = ["--config-dir", "conf", "a=b", "x y", "seed=1", "+z=2", "it's"]
    assert folders_as_override(arguments, "k") == [
        *("--config-dir", "conf", "seed=1", "+z=2", "k=['a=b','x y','it\\'s']"),
    ]
    assert folders_as_override(["seed=1"], "k") == ["seed=1"]


def test_wilson_interval() -> None:
    # The worked example of Brown, Cai and DasGupta's formula: 16 of 16, and 8 of 10.
    assert wilson_interval(1.0, 16) == pytest.approx((0.80639, 1.0), abs=1e-4)
    assert wilson_interval(0.8, 10) == pytest.approx((0.49016, 0.94333), abs=1e-4)
    assert wilson_interval(0.0, 5)[0] == 0.0


def test_latex_has_no_special_signs() -> None:
    assert latex.escape("a_b 5% ± 1 & {x}~") == r"a\_b 5\% $\pm$ 1 \& \{x\}\textasciitilde{}"


def _metric(key: str) -> Any:
    return next(metric for metric in METRICS if metric.key == key)


def test_a_swept_number_stays_a_setting_of_the_chosen_member(tmp_path: Path) -> None:
    """K = 32 and T = 50 are also the values of mar_reduced, which nobody chose."""
    for k in (16, 32, 64):
        overrides = [f"sampler.num_iter={k}", "sampler.num_diffusion_steps=50"]
        folder = _finished(tmp_path / str(k), *overrides)
        record = json.loads((folder / "run.json").read_text())
        write_json({**record, "overrides": overrides}, folder / "run.json")
    assert collect([tmp_path]).keys == ("sampler.num_iter",)


def test_each_sampler_may_have_its_own_baseline(tmp_path: Path) -> None:
    for sampler, flops in (("mar", 4.0), ("gtr", 1.0)):
        for seed in (0, 1):
            own = [f"sampler={sampler}", f"seed={seed}"]
            _finished(tmp_path / f"{sampler}{seed}", *own, tflops_per_image=flops)
            lazy = ["cache=lazymar", "cache.token.ratios=0.1"]
            _finished(tmp_path / f"{sampler}{seed} lazy", *own, *lazy, tflops_per_image=flops / 2)
    _finished(tmp_path / "halton", "sampler=halton", "cache=lazymar", tflops_per_image=2.0)
    table = collect([tmp_path], "cache=none", baseline_per=["sampler"])
    assert [row.values["cache"] for row in table.rows[:2]] == ["none", "none"], "baselines come first"
    for row in table.rows:
        sampler, base, ratio = (
            row.values["sampler"],
            table.baseline_of(row),
            table.ratio(row, "tflops_per_image"),
        )
        if sampler == "halton":
            assert base is None and ratio is None
        else:
            assert base is not None and ratio is not None
            assert (base.values["sampler"], base.values["cache"]) == (sampler, "none")
            assert ratio.value == (1.0 if row is base else 2.0)
    about = notes(table)
    assert any("the row with cache=none and the same sampler needs" in note for note in about)
    (note,) = [note for note in about if note.startswith("not compared")]
    assert "no row with the same sampler has cache=none: sampler=halton" in note
    # Without a description it is the row with the most FLOPs of each sampler.
    most = collect([tmp_path], baseline_per=["sampler"])
    assert {row.values["sampler"] for row in most.baselines} == {"gtr", "halton", "mar"}
    assert [row.values["cache"] for row in most.baselines].count("none") == 2


@pytest.mark.parametrize(
    ("baseline", "per", "message"),
    [
        (
            "cache=lazymar",
            ["sampler"],
            "describes 2 rows with sampler=gtr; choose one of: .*baseline_per",
        ),
        ("cache=none", [], "describes 2 rows; choose one of"),
        ("cache=none", ["cache"], "collect.baseline_per has cache, which collect.baseline describes, too"),
        ("cache=none", ["sampler.foo"], "has sampler.foo, which is no key of these runs"),
        ("cache=head", ["sampler"], "describes 0 rows"),
    ],
)
def test_a_baseline_is_one_row(baseline: str, per: list[str], message: str, tmp_path: Path) -> None:
    for sampler in ("mar", "gtr"):
        _finished(tmp_path / sampler, f"sampler={sampler}")
    for ratio in (0.1, 0.2):
        _finished(tmp_path / f"{ratio}", "sampler=gtr", "cache=lazymar", f"cache.token.ratios={ratio}")
    with pytest.raises(ConfigError, match=message):
        collect([tmp_path], baseline, baseline_per=per)
