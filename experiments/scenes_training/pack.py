"""Keep the state of the training of ``scenes`` in the repository, small enough to be committed.

    python experiments/scenes_training/pack.py outputs/train/checkpoints/last.ckpt

writes ``model/`` beside this file: the averaged weights in half precision (8 MB). They can be sampled, and
``training.initial_weights=experiments/scenes_training/model`` begins a training with them. The optimiser's
moments (32 MB) are left out; a short warm-up finds them again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from mar_accel.config.compose import compose_settings
from mar_accel.training.export import export_averaged


def pack(checkpoint: Path, folder: Path) -> Path:
    """Write the averaged weights of a checkpoint and the number of its steps."""
    export_averaged(
        checkpoint, compose_settings("train", ["model=scenes", "dataset=scenes"]).model, folder, torch.float16
    )
    steps = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    (folder / "progress.json").write_text(json.dumps({"steps": steps}) + "\n")
    return folder


if __name__ == "__main__":
    print(pack(Path(sys.argv[1]), Path(__file__).parent / "model"))
