"""Settings compared image by image with their baseline, whose images have the same classes and noise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mar_accel.config.check import check_settings
from mar_accel.config.settings import Settings
from mar_accel.data.image_sets import ImageSet, open_images
from mar_accel.errors import DataError, MarAccelError
from mar_accel.evaluation.judge import Judge
from mar_accel.evaluation.own_metrics import OwnMetrics
from mar_accel.metrics.paired import (
    MAX_FID_FEATURES,
    SMALLEST_CLASS,
    PairedDifference,
    mean_by_label,
    paired_fid_difference,
    paired_mean_difference,
    paired_share_difference,
)
from mar_accel.profiling.speed import sampling_device
from mar_accel.runs.folder import images_identity
from mar_accel.runs.stored import recorded_in
from mar_accel.sweeps.collected_table import Collected, CollectedRow
from mar_accel.sweeps.numbers import Number, number_keys
from mar_accel.sweeps.run_folders import CollectedRun
from mar_accel.utils.exact_convolutions import exact_convolutions
from mar_accel.utils.progress import progress

_BATCH = 256
RECOGNISED, SCORE, FID = "recognised", "class_score", "fid"
ABOUT_PAIRS = (
    "Δ: difference to {baseline} on the same seeds and sample indices (common random numbers), with its 95 % "
    "interval over the sample indices."
)


@dataclass(frozen=True)
class JudgedImages:
    """Images of one or several runs, with what the judge makes of them; in the order of (seed, sample index).

    Attributes:
        names: seed and sample index of each image [N].
        sets: the images of each seed, which are read when they are shown.
        asked: what each image shows by its config [N]: prompt or class, and the given picture.
        labels: class of each image [N]; −1 if unknown.
        pooled: features [N, F], where they are still needed.
        scores: the classifier's probability of the class that was asked for [N]. None: it knows no classes.
        hits: whether this class is the most probable one [N]. None: as above.
        own: values of the group ``metrics`` by name, float64 [N]; NaN for images that have none.
    """

    names: list[tuple[int, int]]
    sets: Mapping[int, ImageSet]
    asked: list[str]
    labels: Tensor
    pooled: Tensor
    scores: Tensor | None
    hits: Tensor | None
    own: Mapping[str, Tensor] = field(default_factory=dict)

    def only(self, names: Sequence[tuple[int, int]]) -> JudgedImages:
        """The images with these names, in their order."""
        place = {name: number for number, name in enumerate(self.names)}
        chosen = torch.tensor([place[name] for name in names], dtype=torch.long)
        parts = [None if part is None else part[chosen] for part in (self.scores, self.hits)]
        own = {name: values[chosen] for name, values in self.own.items()}
        asked, labels, pooled = (
            [self.asked[p] for p in chosen.tolist()],
            self.labels[chosen],
            self.pooled[chosen],
        )
        return JudgedImages(list(names), self.sets, asked, labels, pooled, parts[0], parts[1], own)

    def images(self, places: Sequence[int]) -> Tensor:
        """Some of the images, uint8 [n, C, H, W].

        Args:
            places: their places in ``names``, at least one.
        """
        return torch.cat([self.sets[seed].at([index]) for seed, index in (self.names[p] for p in places)])


@dataclass(frozen=True)
class ClassDifference:
    """Images of one class: their number, and how the shares or scores differ."""

    label: int
    count: int
    differences: Mapping[str, PairedDifference]


@dataclass(frozen=True)
class PairedRow:
    """A row compared with its baseline.

    Attributes:
        row: the row.
        baseline: the row that it is compared with.
        differences: by metric: "recognised", "class_score" and "fid", as far as the judge knows them; and
            those of the group ``metrics`` that have a value per image.
        classes: the same of every class with at least five images, worst first; empty if classes are unknown.
        worst: places of all images, worst first: by the loss of score, else by the distance of the features.
        ours, theirs: the images of both rows, pair by pair, without their features.
    """

    row: CollectedRow
    baseline: CollectedRow
    differences: Mapping[str, PairedDifference]
    ours: JudgedImages
    theirs: JudgedImages
    classes: Sequence[ClassDifference] = ()
    worst: Sequence[int] = field(default_factory=list)


def compare_with_baseline(collected: Collected, seed: int = 0) -> tuple[list[PairedRow], list[str]]:
    """Compare every row with its baseline, over the seeds and sample indices that both have.

    Args:
        collected: the table. Its runs must have kept their images.
        seed: seed of the bootstrap.

    Returns:
        The comparisons in the order of the rows, and a note for each row that cannot be compared.

    Raises:
        MarAccelError: no row can be compared, such as for a baseline without features or without images.

    Example:
        >>> pairs, notes = compare_with_baseline(collect(["multirun/evaluate"]))
        >>> for pair in pairs:
        ...     print(pair.row.name, pair.differences["fid"].low, pair.differences["fid"].high)
    """
    pairs, notes, opened = list[PairedRow](), list[str](), _Baselines()
    first: MarAccelError | None = None
    compared = [(row, collected.baseline_of(row)) for row in collected.rows]
    waiting = [(row, base) for row, base in compared if base is not None and base is not row]
    # The images of one baseline are in memory at a time.
    places = {id(row): place for place, row in enumerate(collected.rows)}
    for row, base in progress(sorted(waiting, key=lambda own: places[id(own[1])]), "pairs"):
        try:
            pairs.append(_pair(row, opened.of(base), seed))
        except MarAccelError as error:
            first = first or error
            notes.append(f"{row.name} is not compared image by image: {error}")
    if first is not None and not pairs:
        raise first
    return sorted(pairs, key=lambda pair: places[id(pair.row)]), notes


@dataclass(frozen=True)
class _Opened:
    """A baseline with its images, and what judges them and the images of its rows.

    Attributes:
        row: the row.
        judge: features and reference.
        judged_by: what the judge was built from.
        own: the metrics of the group ``metrics``.
        by_prompt: whether its images are those of prompts.
        images: its images.
    """

    row: CollectedRow
    judge: Judge
    judged_by: str
    own: _OwnMetricsOf
    by_prompt: bool
    images: JudgedImages


class _Baselines:
    """Opens baselines one after the other; those with equal judges share one."""

    def __init__(self) -> None:
        self._last: _Opened | None = None
        self._failed: dict[Path, MarAccelError] = {}

    def of(self, row: CollectedRow) -> _Opened:
        """The baseline; raises MarAccelError again if it could not be opened before."""
        folder = row.runs[0].folder
        if folder in self._failed:
            raise self._failed[folder]
        if self._last is None or self._last.row is not row:
            try:
                self._last = self._open(row)
            except MarAccelError as error:
                self._failed[folder] = error
                raise
        return self._last

    def _open(self, row: CollectedRow) -> _Opened:
        run, last = row.runs[0], self._last
        with recorded_in(run.folder):
            settings = check_settings(Settings, dict(run.config))
        parts = [run.config.get(name) for name in ("features", "reference", "trainer")]
        judged_by = json.dumps(parts, sort_keys=True, default=str)
        if last is not None and last.judged_by == judged_by:
            judge: Judge | None = last.judge
        else:
            judge = Judge.of(settings, sampling_device(settings.trainer))
        if judge is None:
            raise DataError(f"{run.folder} was evaluated with features=none, and pairs need features.")
        own, by_prompt = _OwnMetricsOf(settings), settings.dataset.prompts is not None
        return _Opened(row, judge, judged_by, own, by_prompt, _judged(row, judge, own))


def with_pairs(collected: Collected, pairs: Sequence[PairedRow], notes: Sequence[str] = ()) -> Collected:
    """The table with the differences of each row, which it then shows as columns, and with further notes."""
    found = {id(pair.row): pair.differences for pair in pairs}
    rows = tuple(_with_differences(row, found.get(id(row), {})) for row in collected.rows)
    metrics = number_keys([{key: n.value for key, n in row.numbers.items()} for row in rows])
    about = [ABOUT_PAIRS.format(baseline=collected.baseline_name)] if pairs else []
    return replace(
        collected,
        rows=rows,
        metrics=tuple(dict.fromkeys([*metrics, *collected.metrics])),
        notes=(*about, *collected.notes, *notes),
    )


def _with_differences(row: CollectedRow, differences: Mapping[str, PairedDifference]) -> CollectedRow:
    numbers = {
        difference_key(name): Number(own.difference, low=own.low, high=own.high)
        for name, own in differences.items()
    }
    return replace(row, numbers={**row.numbers, **numbers})


def difference_key(name: str) -> str:
    """The key of a difference among the numbers of a row: "fid_difference"."""
    return f"{name}_difference"


class _OwnMetricsOf:
    """The metrics of the group ``metrics`` for the prompts of a run, built once for equal prompts."""

    def __init__(self, settings: Settings):
        self._settings, self._built = settings, dict[tuple[str, ...] | None, Mapping[str, Metric]]()

    def __call__(self, run: CollectedRun) -> Mapping[str, Metric]:
        prompts = _prompts_of(run)
        key = None if prompts is None else tuple(prompts)
        if key not in self._built:
            settings = (
                self._settings if prompts is None else self._settings.with_(dataset={"prompts": prompts})
            )
            self._built[key] = OwnMetrics.of(settings, None).metrics
        return self._built[key]


def _prompts_of(run: CollectedRun) -> list[str] | None:
    return run.config["dataset"].get("prompts")


def _judged(row: CollectedRow, judge: Judge, own: _OwnMetricsOf) -> JudgedImages:
    """The images of all runs of a row, read from their folders."""
    parts = [_judged_run(run, judge, own) for run in row.runs]

    def joined(name: str) -> Any:
        tensors = [getattr(part, name) for part in parts]
        return None if any(tensor is None for tensor in tensors) else torch.cat(tensors)

    names = [name for part in parts for name in part.names]
    sets = {seed: images for part in parts for seed, images in part.sets.items()}
    values = {key: torch.cat([part.own[key] for part in parts]) for key in parts[0].own}
    labels, pooled, scores, hits = (joined(name) for name in ("labels", "pooled", "scores", "hits"))
    asked = [text for part in parts for text in part.asked]
    return JudgedImages(names, sets, asked, labels, pooled, scores, hits, values)


def _judged_run(run: CollectedRun, judge: Judge, own: _OwnMetricsOf) -> JudgedImages:
    images: ImageSet = open_images(str(run.folder), "collect.folders")
    images.require_complete("collect.folders")
    features = [judge.extractor(batch.to(judge.extractor.device)) for batch in images.batches(_BATCH)]
    logits = torch.cat([feature.logits.cpu() for feature in features])
    labels = (
        images.labels if images.labels is not None else torch.full((images.num_images,), -1, dtype=torch.long)
    )
    known = judge.extractor.recognises and not bool((labels < 0).any())
    scores = logits.softmax(dim=1).gather(1, labels[:, None]).squeeze(1) if known else None
    hits = logits.argmax(dim=1) == labels if known else None
    names = [(run.seed, int(key)) for key in images.keys]
    pooled = torch.cat([feature.pooled.cpu() for feature in features])
    values = _own_values(own(run), images, labels)
    asked = _asked(run, labels)
    return JudgedImages(names, {run.seed: images}, asked, labels, pooled, scores, hits, values)


def _asked(run: CollectedRun, labels: Tensor) -> list[str]:
    """What the images of a run show by its config; labels of text models are numbers of prompts."""
    prompts, dataset = _prompts_of(run), run.config["dataset"]
    given = ""
    if dataset.get("images") is not None:
        files = (images_identity(run.folder) or {}).get("inpainted")
        given = f" {files} {dataset['images']} {dataset.get('mask')}"
    known = [str(n) if prompts is None or n < 0 else prompts[n] for n in labels.tolist()]
    return [f"{text}{given}" for text in known]


@exact_convolutions()
def _own_values(own: Mapping[str, Metric], images: ImageSet, labels: Tensor) -> dict[str, Tensor]:
    """Values of metrics that have a method ``per_image``, by name and key as in metrics.json."""
    parts: dict[str, list[Tensor]] = {}
    for name, metric in own.items():
        per_image: Any = getattr(metric, "per_image", None)
        if per_image is None:
            continue
        for batch, numbers in zip(images.batches(_BATCH), labels.split(_BATCH), strict=True):
            for key, values in per_image(batch, numbers).items():
                parts.setdefault(f"{name}_{key}", []).append(values.double().cpu())
    return {key: torch.cat(values) for key, values in parts.items()}


def _pair(row: CollectedRow, baseline: _Opened, seed: int) -> PairedRow:
    """A row compared with its baseline."""
    judge, by_prompt = baseline.judge, baseline.by_prompt
    ours, theirs = _judged(row, judge, baseline.own), baseline.images
    there = set(theirs.names)
    common = [name for name in ours.names if name in there]
    ours, theirs = ours.only(common), theirs.only(common)
    if len(common) < 2 or ours.asked != theirs.asked:
        raise DataError(
            f"{row.name} has no images with the seeds, sample indices and classes (or prompts, and given "
            "pictures) of its baseline; sample both with the same seed and dataset."
        )
    # A class has many images and is drawn by itself. A prompt has few.
    differences = _differences(ours, theirs, judge, None if by_prompt else ours.labels, seed)
    differences |= _own_differences(ours, theirs, by_prompt, seed)
    classes, worst = _classes(ours, theirs, seed), _worst(ours, theirs)
    # Features of all rows would not fit into memory.
    ours, theirs = (replace(own, pooled=own.pooled[:0]) for own in (ours, theirs))
    return PairedRow(row, baseline.row, differences, ours, theirs, classes, worst)


def _differences(
    ours: JudgedImages, theirs: JudgedImages, judge: Judge, labels: Tensor | None, seed: int
) -> dict[str, PairedDifference]:
    found = _means(ours, theirs, labels, seed)
    if judge.reference is not None and ours.pooled.shape[1] <= MAX_FID_FEATURES:
        statistics = judge.reference.statistics
        found[FID] = paired_fid_difference(ours.pooled, theirs.pooled, statistics, labels, seed=seed)
    return found


def _means(
    ours: JudgedImages, theirs: JudgedImages, labels: Tensor | None, seed: int
) -> dict[str, PairedDifference]:
    """Differences of the recognised share and of the score."""
    found = {}
    if ours.hits is not None and theirs.hits is not None:
        found[RECOGNISED] = paired_share_difference(ours.hits, theirs.hits)
    if ours.scores is not None and theirs.scores is not None:
        found[SCORE] = paired_mean_difference(ours.scores, theirs.scores, labels, seed=seed)
    return found


def _own_differences(
    ours: JudgedImages, theirs: JudgedImages, by_prompt: bool, seed: int
) -> dict[str, PairedDifference]:
    """Differences of the means over the images that have a value in both.

    The images of a prompt are alike, so prompts are drawn, with all of their images.
    """
    found = {}
    for name, values in ours.own.items():
        known = ~(values.isnan() | theirs.own[name].isnan())
        a, b, labels = values[known], theirs.own[name][known], ours.labels[known]
        if by_prompt:
            a, b = mean_by_label(a, labels), mean_by_label(b, labels)
        if len(a) > 1:
            found[name] = paired_mean_difference(a, b, None if by_prompt else labels, seed=seed)
    return found


def _classes(ours: JudgedImages, theirs: JudgedImages, seed: int) -> list[ClassDifference]:
    if ours.scores is None:
        return []
    found = []
    for label in ours.labels.unique().tolist():
        names = [name for name, own in zip(ours.names, ours.labels.tolist(), strict=True) if own == label]
        if len(names) >= SMALLEST_CLASS:
            own = _means(ours.only(names), theirs.only(names), None, seed)
            found.append(ClassDifference(label, len(names), own))
    return sorted(found, key=lambda own: own.differences[SCORE].difference)


def _worst(ours: JudgedImages, theirs: JudgedImages) -> list[int]:
    """Places of the images, worst first."""
    if ours.scores is not None and theirs.scores is not None:
        return (ours.scores - theirs.scores).argsort(stable=True).tolist()
    distance = (ours.pooled - theirs.pooled).norm(dim=1)
    return distance.argsort(descending=True, stable=True).tolist()
