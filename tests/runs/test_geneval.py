"""GenEval's layout, read by the rules of its official scorer."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mar_accel.config.compose import compose_settings
from mar_accel.data.run_images import PngImages
from mar_accel.evaluation.run import evaluate
from mar_accel.runs.geneval import write_geneval
from mar_accel.utils.images import image_name

METADATA = [
    {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"},
    {"tag": "counting", "include": [{"class": "clock", "count": 2}], "prompt": "a photo of two clöcks"},
    {"tag": "colors", "include": [{"class": "cow", "count": 1, "color": "red"}], "prompt": "a/red/../cow"},
]


def _as_the_scorer_reads(folder: Path) -> dict[str, tuple[dict[str, Any], list[int]]]:
    """Every sub-folder with a number: its metadata, and the colour of its numbered images in order."""
    found = {}
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if not path.is_dir() or not name.isdigit():
            continue
        with open(path / "metadata.jsonl", encoding="utf-8") as file:
            metadata = json.load(file)
        images = [
            int(np.asarray(Image.open(path / "samples" / image))[0, 0])
            for image in sorted(os.listdir(path / "samples"))
            if re.match(r"\d+\.png", image)
        ]
        found[name] = metadata, images
    return found


def test_layout(tmp_path: Path) -> None:
    lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in METADATA)
    (tmp_path / "meta.jsonl").write_text(lines, encoding="utf-8")
    overrides = ["model=scenes", "dataset=geneval", f"dataset.path={tmp_path / 'meta.jsonl'}"]
    dataset = compose_settings("generate", [*overrides, "dataset.num_images_per_prompt=2"]).dataset
    assert dataset.num_images == 6 and dataset.prompts == [line["prompt"] for line in METADATA]
    (tmp_path / "images").mkdir()
    for index in range(9):
        pixels = np.full((4, 4), index, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / image_name(index))
    for count, expected in (
        (6, [[0, 1], [2, 3], [4, 5]]),
        (3, [[0, 1], [2]]),
        (9, [[0, 1, 6, 7], [2, 3, 8], [4, 5]]),
    ):
        folder = write_geneval(PngImages(tmp_path), dataset, count)
        assert folder == tmp_path / "geneval"
        read = _as_the_scorer_reads(folder)
        assert list(read) == [f"{i:05d}" for i in range(len(expected))]
        assert [images for _, images in read.values()] == expected
        assert [metadata for metadata, _ in read.values()] == METADATA[: len(expected)]
    assert sorted(path.name for path in (tmp_path / "geneval" / "00000" / "samples").iterdir()) == [
        "0000.png", "0001.png", "0002.png", "0003.png",
    ]  # fmt: skip


def test_an_evaluation_leaves_it_too(tiny_scenes: list[str], tmp_path: Path) -> None:
    record = {"tag": "single_object", "include": [{"class": "six", "count": 1}], "prompt": "a six"}
    (tmp_path / "meta.jsonl").write_text(json.dumps(record) + "\n")
    overrides = ["dataset=geneval", f"dataset.path={tmp_path / 'meta.jsonl'}", "trainer.batch_size=4"]
    overrides += ["features=none", "evaluate.baseline=none", "evaluate.profile=false"]
    evaluate(compose_settings("evaluate", [*tiny_scenes, *overrides, f"output_dir={tmp_path / 'run'}"]))
    assert len(list((tmp_path / "run" / "geneval" / "00000" / "samples").iterdir())) == 4
