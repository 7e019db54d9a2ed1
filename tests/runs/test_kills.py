"""A run that is killed again and again ends with the images of one that is not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mar_accel.data.run_images import image_indices
from mar_accel.errors import ExitCode
from mar_accel.utils.images import image_name

NUM_IMAGES, NUM_KILLS = 500, 20
# Another batch size may sum in another order, which can change the last bit.
ONE_LEVEL = 1


def _pixels(folder: Path) -> np.ndarray:
    images = [Image.open(folder / "images" / image_name(index)) for index in range(NUM_IMAGES)]
    return np.stack([np.asarray(image).astype(int) for image in images])


@pytest.mark.long
def test_twenty_kills(
    start: Callable[..., subprocess.Popen[str]],
    wait_for: Callable[..., None],
    run_here: Any,
    tiny_model: list[str],
    tmp_path: Path,
) -> None:
    draw = random.Random(0)
    arguments = [*tiny_model, f"dataset.num_images={NUM_IMAGES}"]
    assert run_here("generate", *arguments, f"output_dir={tmp_path / 'whole'}").status == ExitCode.DONE
    folder = tmp_path / "run"
    for kill in range(NUM_KILLS + 1):
        trainer = [f"trainer={draw.choice(['cpu', 'ddp_cpu'])}", f"trainer.batch_size={draw.randint(1, 9)}"]
        resumed = [*arguments, *trainer, "generate.resume=true", f"output_dir={folder}"]
        process = start(tmp_path, "generate", *resumed)
        if kill == NUM_KILLS:
            break
        # Between the start, when no new image is there, and some batches later.
        enough = min(len(image_indices(folder)) + draw.randint(0, 20), NUM_IMAGES - 50)
        wait_for(lambda enough=enough: len(image_indices(folder)) >= enough, process)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not (folder / "run.json").exists()
    _, stderr = process.communicate()
    assert process.returncode == ExitCode.DONE, stderr
    assert image_indices(folder) == list(range(NUM_IMAGES))
    assert np.abs(_pixels(folder) - _pixels(tmp_path / "whole")).max() <= ONE_LEVEL
