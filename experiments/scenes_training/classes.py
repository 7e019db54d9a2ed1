"""What z of a model of scenes says about its token: a linear probe.

    python experiments/scenes_training/classes.py mar_accel/assets/scenes

prints what linear layers, fitted to 384 scenes by least squares, read from z of the masked tokens of 128
other scenes: the colour and the digit of the nearest object, and the layout. Scenes have one object, or a
pair whose caption names the left or upper one first. Chance is 0.17 for colours and 0.10 for digits. A model
that knows the two digits of a caption, but not which is where, has 0.50; so has one without the layout.

It also prints the mean squared error of the ink (0 to 4), and that with another digit in the captions. Where
they are equal, the model does not draw the digit that it reads.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel import MARPipeline
from mar_accel.data.captions import caption, tokenize
from mar_accel.data.scene_classes import NUM_CLASSES, token_classes
from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scenes import Scene, draw_scene
from mar_accel.models.text_encoder import encode_text
from mar_accel.models.transformer import gather_tokens
from mar_accel.models.word_encoder import WordEncoder

FITTED, JUDGED, NUM_TOKENS = 384, 128, 256
CATEGORIES = {"one object": "colors", "a pair": "position"}
# Numbers of the kinds in ``token_classes``.
INK, COLOUR, DIGIT, LAYOUT = 0, 3, 4, 5


@dataclass(frozen=True)
class Scenes:
    """Scenes of a category, with captions [B, N], and with captions that name other digits."""

    tokens: Tensor
    classes: Tensor
    captions: Tensor
    wrong: Tensor


def draw(pipe: MARPipeline, category: str) -> Scenes:
    rng = np.random.default_rng(7)
    scenes: list[Scene] = []
    while len(scenes) < FITTED + JUDGED:
        scene = draw_scene(rng)
        if scene.category == category:
            scenes.append(scene)
    images, coverage = SceneDrawer().with_coverage(scenes, rng)
    classes = token_classes(scenes, coverage).flatten(2).transpose(1, 2)
    tokens = pipe.model.patchify(pipe.autoencoder.encode(images))
    others = [
        replace(scene, objects=tuple(replace(item, digit=(item.digit + 3) % 10) for item in scene.objects))
        for scene in scenes
    ]
    return Scenes(tokens, classes, _captions(scenes), _captions(others))


def _captions(scenes: list[Scene]) -> Tensor:
    rng = np.random.default_rng(8)
    return tokenize([caption(scene, rng, reading_order=1.0) for scene in scenes])


@torch.inference_mode()
def read(pipe: MARPipeline, scenes: Scenes, num_known: int) -> str:
    """What the layers read, where this number of tokens is known."""
    order = torch.rand(len(scenes.tokens), NUM_TOKENS, generator=torch.Generator().manual_seed(0)).argsort(1)
    masked, known = order.split([NUM_TOKENS - num_known, num_known], dim=1)
    classes = gather_tokens(scenes.classes, masked)
    z, wrong = (_vectors(pipe, scenes, texts, masked, known) for texts in (scenes.captions, scenes.wrong))
    found = []
    for name, kind in {"colour": COLOUR, "digit": DIGIT, "layout": LAYOUT}.items():
        hot = F.one_hot(classes[..., kind], NUM_CLASSES[kind]).double()
        right = (LinearProbe(z, hot)(z).argmax(-1) == classes[..., kind])[FITTED:]
        found.append(f"{name} {right.float().mean().item():.2f}")
    ink = classes[..., [INK]].double()
    layer = LinearProbe(z, ink)
    errors = [(layer(vectors) - ink)[FITTED:].square().mean().item() for vectors in (z, wrong)]
    return ", ".join(found) + f", ink {errors[0]:.3f} and {errors[1]:.3f} with another digit"


def _vectors(pipe: MARPipeline, scenes: Scenes, captions: Tensor, masked: Tensor, known: Tensor) -> Tensor:
    assert isinstance(pipe.text_encoder, WordEncoder)
    condition = pipe.model.condition(encode_text(pipe.text_encoder.encoder, captions))
    return pipe.model(condition, gather_tokens(scenes.tokens, known), known, masked)


class LinearProbe:
    """A linear layer, fitted to the first scenes by least squares."""

    def __init__(self, z: Tensor, targets: Tensor):
        inputs, fitted = self._inputs(z[:FITTED]).flatten(0, 1), targets[:FITTED].flatten(0, 1)
        self.weights = torch.linalg.solve(inputs.T @ inputs, inputs.T @ fitted)

    def __call__(self, z: Tensor) -> Tensor:
        return self._inputs(z) @ self.weights

    @staticmethod
    def _inputs(z: Tensor) -> Tensor:
        return torch.cat([z, torch.ones_like(z[..., :1])], dim=-1).double()


def main(folder: Path) -> None:
    pipe = MARPipeline.from_pretrained(str(folder))
    for title, category in CATEGORIES.items():
        scenes = draw(pipe, category)
        for known in (0, 192):
            print(f"{title}, {known} known: {read(pipe, scenes, known)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
