"""Comparisons with the baseline as tables and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from mar_accel.evaluation.pictures import labelled_strips
from mar_accel.metrics.catalogue import Metric
from mar_accel.metrics.paired import PairedDifference
from mar_accel.sweeps.numbers import metric_of
from mar_accel.sweeps.pairs import FID, RECOGNISED, SCORE, PairedRow, difference_key
from mar_accel.utils import markdown
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.images import save_png
from mar_accel.utils.whole_files import written_whole

ABOUT = (
    "Differences to the baseline on the same seeds and sample indices, with 95 % intervals "
    "over the sample indices. 'narrower': how many times as wide the interval would be without pairing."
)
_NAMES = (RECOGNISED, SCORE, FID)


def paired_heading(pairs: Sequence[PairedRow]) -> list[str]:
    """Names of the columns."""
    baseline = ["compared with"] if _has_several_baselines(pairs) else []
    return [
        "setting",
        *baseline,
        "images",
        *(text for n in _names(pairs) for text in (_metric(n).column, "narrower")),
    ]


def _names(pairs: Sequence[PairedRow]) -> list[str]:
    """Names of the differences that any pair has: those of the judge first."""
    found = dict.fromkeys(name for pair in pairs for name in pair.differences)
    return [*(name for name in _NAMES if name in found), *(name for name in found if name not in _NAMES)]


def _has_several_baselines(pairs: Sequence[PairedRow]) -> bool:
    return len({id(pair.baseline) for pair in pairs}) > 1


def paired_cells(pair: PairedRow, pairs: Sequence[PairedRow]) -> list[str]:
    """The cells of a row."""
    baseline = [pair.baseline.name] if _has_several_baselines(pairs) else []
    cells = [pair.row.name, *baseline, str(len(pair.ours.names))]
    for name in _names(pairs):
        found = pair.differences.get(name)
        cells += ["–", "–"] if found is None else [difference_text(name, found), _narrower(found)]
    return cells


def _narrower(found: PairedDifference) -> str:
    # Where no image differs, the interval has no width.
    return f"{found.narrower:.1f}×" if math.isfinite(found.narrower) else "–"


def difference_text(name: str, found: PairedDifference) -> str:
    """A difference with its interval, such as ``+0.50 (+0.07 to +0.98)``.

    Args:
        name: "recognised", "class_score", "fid" or that of a metric of the group ``metrics``.
        found: the difference.
    """
    return _metric(name).with_interval(found.difference, found.low, found.high)


def _metric(name: str) -> Metric:
    return metric_of(difference_key(name))


def write_pairs(pairs: Sequence[PairedRow], folder: Path, worst: int) -> None:
    """Write ``paired.csv``, ``paired.md``, ``classes.csv``, ``worst.csv`` and ``worst_<n>.png`` for each row.

    Args:
        pairs: the comparisons, at least one.
        folder: an existing folder.
        worst: number of worst images of a row in table and picture; 0 for none.
    """
    write_csv([_record(pair) for pair in pairs], folder / "paired.csv")
    left = 2 if _has_several_baselines(pairs) else 1
    text = markdown.table(paired_heading(pairs), [paired_cells(pair, pairs) for pair in pairs], left)
    with written_whole(folder / "paired.md") as temporary:
        temporary.write_text(f"{text}\n{ABOUT}\n", encoding="utf-8")
    classes = [
        {"setting": pair.row.name, "class": own.label, "images": own.count, **_numbers(own.differences)}
        for pair in pairs
        for own in pair.classes
    ]
    if classes:
        write_csv(classes, folder / "classes.csv")
    # Pictures of an earlier table could be mistaken for those of this one.
    for old in (*folder.glob("worst_*.png"), folder / "worst.csv"):
        old.unlink(missing_ok=True)
    if not worst:
        return
    records = [{"setting": pair.row.name, **record} for pair in pairs for record in worst_images(pair, worst)]
    write_csv(records, folder / "worst.csv")
    for number, pair in enumerate(pairs, 1):
        save_png(_worst_picture(pair, worst), folder / f"worst_{number}.png")


def worst_images(pair: PairedRow, count: int) -> list[dict[str, Any]]:
    """The worst images of a row: seed, sample index, class, and the scores of both rows; None: unknown."""
    scores = [own.scores for own in (pair.theirs, pair.ours)]
    return [
        {
            **dict(zip(("seed", "index"), pair.ours.names[place], strict=True)),
            "class": int(pair.ours.labels[place]) if pair.ours.labels[place] >= 0 else None,
            **{
                name: None if own is None else round(float(own[place]), 4)
                for name, own in zip(("score_baseline", "score"), scores, strict=True)
            },
        }
        for place in pair.worst[:count]
    ]


def worst_lines(pair: PairedRow, count: int) -> list[str]:
    """The worst images of a row, as text: seed, sample index, class and both scores."""
    lines = []
    for own in worst_images(pair, count):
        label = "" if own["class"] is None else f": class {own['class']}"
        scores = "" if own["score"] is None else f", score {own['score_baseline']:.2f} → {own['score']:.2f}"
        lines.append(f"seed {own['seed']} index {own['index']}{label}{scores}")
    return lines


def _worst_picture(pair: PairedRow, count: int) -> Image:
    """The worst images of a row below those of the baseline, with class, scores, seed and sample index."""
    captions = []
    for own in worst_images(pair, count):
        label = [] if own["class"] is None else [f"class {own['class']}"]
        scores = [] if own["score"] is None else [f"{own['score_baseline']:.2f} → {own['score']:.2f}"]
        captions.append("\n".join([*label, *scores, f"seed {own['seed']}", f"index {own['index']}"]))
    places = pair.worst[:count]
    rows = [("baseline", pair.theirs.images(places)), (_short(pair.row.name), pair.ours.images(places))]
    return labelled_strips(rows, captions)


def _record(pair: PairedRow) -> dict[str, Any]:
    names = {"setting": pair.row.name, "baseline": pair.baseline.name}
    return {**names, "images": len(pair.ours.names), **_numbers(pair.differences)}


def _numbers(differences: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, own in differences.items():
        found |= {f"{name}_baseline": own.theirs, name: own.ours, f"{name}_difference": own.difference}
        found |= {f"{name}_low": own.low, f"{name}_high": own.high, f"{name}_narrower": own.narrower}
    return found


def _short(name: str) -> str:
    """A name in lines of at most a few words, for the margin of a picture."""
    return "\n".join(name.split())
