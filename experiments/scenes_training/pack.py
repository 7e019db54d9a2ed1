"""Keep the weights of a training of ``scenes`` in the repository.

    python experiments/scenes_training/pack.py outputs/scenes/checkpoints/last.ckpt
    python experiments/scenes_training/pack.py outputs/scenes/checkpoints/last.ckpt --ship
    python experiments/scenes_training/pack.py outputs/scenes/checkpoints/last.ckpt --current

The first writes ``model/`` beside this file: the averaged weights in half precision (8 MB). They can be
sampled, and ``training.initial_weights=experiments/scenes_training/model`` begins a training with them. The
optimiser's moments (32 MB) are left out; a short warm-up finds them again. ``--ship`` also replaces the
embedded model, ``mar_accel/assets/scenes``, and its model card, which states the number of steps.
``--current`` takes weights that are not averaged: an average of few steps still contains the random start.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from mar_accel.config.compose import compose_settings
from mar_accel.training.export import export_weights
from mar_accel.weights.sources import embedded_folder

MODEL = Path(__file__).parent / "model"
BATCH_SIZE = 32
CARD = """# scenes

A small LightGen (arXiv:2503.08619) with its text encoder: composed scenes of handwritten digits from
captions, 64×64 pixels. Weights in half precision. The command and the state of the training are in
[experiments/scenes_training](../../../experiments/scenes_training/README.md).

| | |
|---|---|
| Training | {steps:,} steps of {batch_size} images ({images:,} images), averaged weights |
| Parameters | {parameters:.1f} M, and {text_parameters:.1f} M in the text encoder |
| Data | scenes drawn at random (`mar_accel/data/scenes.py`) with scikit-learn's handwritten digits |
| Words | the 56 of `mar_accel.data.captions.VOCABULARY` |

What it can do: `python -m mar_accel.evaluate model=scenes dataset=scenes_eval dataset.num_images=2400`

Sample it: `python -m mar_accel.generate model=scenes dataset=prompts "dataset.prompts=[a red three]"`
"""


def steps_of(checkpoint: Path) -> int:
    """The number of steps that a checkpoint has behind it."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return int(state["global_step"])


def pack(checkpoint: Path, folder: Path, averaged: bool = True) -> Path:
    """Write the weights of a checkpoint as a model folder."""
    model = compose_settings("train", ["model=scenes", "dataset=scenes"]).model
    return export_weights(checkpoint, model, folder, torch.float16, averaged)


def model_card(checkpoint: Path) -> str:
    """The model card of the weights of a checkpoint."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["state_dict"]
    sizes = {
        part: sum(value.numel() for name, value in state.items() if name.startswith(part)) / 1e6
        for part in ("model.", "conditioner.")
    }
    steps = steps_of(checkpoint)
    return CARD.format(
        steps=steps,
        batch_size=BATCH_SIZE,
        images=steps * BATCH_SIZE,
        parameters=sizes["model."],
        text_parameters=sizes["conditioner."],
    )


def main() -> None:
    """Pack a checkpoint, and ship it if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--ship", action="store_true", help="also replace the embedded model")
    kind.add_argument("--current", action="store_true", help="take the weights that are not averaged")
    arguments = parser.parse_args()
    print(pack(arguments.checkpoint, MODEL, averaged=not arguments.current))
    progress = {"steps": steps_of(arguments.checkpoint)}
    (MODEL / "progress.json").write_text(json.dumps(progress) + "\n")
    if arguments.ship:
        folder = pack(arguments.checkpoint, embedded_folder("scenes"))
        (folder / "README.md").write_text(model_card(arguments.checkpoint))
        print(folder)


if __name__ == "__main__":
    main()
