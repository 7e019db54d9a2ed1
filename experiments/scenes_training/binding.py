"""Whether a model of scenes knows which colour belongs to the digit, and which to the background.

    python experiments/scenes_training/binding.py mar_accel/assets/scenes

prints the training loss of 64 scenes of one digit with all tokens masked. There are three losses: for their
own captions, for captions with the two colours exchanged, and without a caption. A model that ignores the
order of the words has the same loss for the first two.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mar_accel import MARPipeline
from mar_accel.data.captions import tokenize
from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scenes import PLAIN, Scene, draw_scene
from mar_accel.models.text_encoder import encode_text
from mar_accel.models.word_encoder import WordEncoder

NUM_SCENES = 64
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def single_digits(rng: np.random.Generator) -> list[Scene]:
    """Random scenes of one digit on a plain background."""
    scenes: list[Scene] = []
    while len(scenes) < NUM_SCENES:
        scene = draw_scene(rng)
        if len(scene.objects) == 1:
            scenes.append(replace(scene, pattern=PLAIN))
    return scenes


def caption(digit: int, colour: str, background: str) -> str:
    return f"a {colour} {DIGITS[digit]} on a plain {background} background"


@torch.inference_mode()
def losses(folder: Path) -> dict[str, float]:
    """Losses by kind of caption; all kinds see the same scenes, noise and timesteps."""
    pipe = MARPipeline.from_pretrained(str(folder))
    assert isinstance(pipe.text_encoder, WordEncoder)
    model, encoder = pipe.model, pipe.text_encoder.encoder
    rng = np.random.default_rng(5)
    scenes = single_digits(rng)
    latents = pipe.autoencoder.encode(SceneDrawer()(scenes, rng))
    said = [(scene.objects[0].digit, scene.objects[0].colour, scene.background) for scene in scenes]
    texts = {
        "true": [caption(digit, colour, background) for digit, colour, background in said],
        "exchanged": [caption(digit, background, colour) for digit, colour, background in said],
    }
    length, channels = model.config.seq_len, model.config.token_dim
    generator = torch.Generator().manual_seed(0)
    order = torch.rand(NUM_SCENES, length, generator=generator).argsort(1)
    timesteps = torch.randint(300, 950, (NUM_SCENES, length), generator=generator)
    noise = torch.randn(NUM_SCENES, length, channels, generator=generator)
    conditions = {
        kind: model.condition(encode_text(encoder, tokenize(captions))) for kind, captions in texts.items()
    }
    conditions["none"] = model.unconditional(NUM_SCENES)
    return {
        kind: model.training_loss(latents, condition, order, length, timesteps, noise).item()
        for kind, condition in conditions.items()
    }


if __name__ == "__main__":
    print(", ".join(f"{kind} {loss:.4f}" for kind, loss in losses(Path(sys.argv[1])).items()))
