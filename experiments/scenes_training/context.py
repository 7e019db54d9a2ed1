"""What a model of scenes learns from known tokens.

    python experiments/scenes_training/context.py mar_accel/assets/scenes

prints the error of the predicted pixels at a noisy timestep, for the same masked tokens beside none, 64 and
192 known ones. A model that uses the tokens beside a masked one gains from the last step, too. It also
prints how similar the encoder's positions of neighbours are (their mean cosine), and how much z changes
beside a changed token and far from it. Last comes the share of the loss that early and late timesteps have.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mar_accel import MARPipeline
from mar_accel.data.captions import caption, tokenize
from mar_accel.data.scene_images import SceneDrawer
from mar_accel.data.scenes import CHECKS, PLAIN, STRIPES, draw_scene
from mar_accel.models.condition import Condition
from mar_accel.models.diffusion import add_noise, training_coefficients
from mar_accel.models.text_encoder import encode_text
from mar_accel.models.transformer import gather_tokens, scatter_tokens
from mar_accel.models.word_encoder import WordEncoder

NUM_SCENES, NUM_TOKENS, SIDE = 64, 256, 16
TIMESTEP, JUDGED = 900, 64
KNOWN = (0, 64, 192)


class Probe:
    """Scenes with stripes, checks and plain backgrounds, and a model that is asked about them."""

    def __init__(self, folder: Path) -> None:
        pipe = MARPipeline.from_pretrained(str(folder))
        assert isinstance(pipe.text_encoder, WordEncoder)
        self.model, self.autoencoder, encoder = pipe.model, pipe.autoencoder, pipe.text_encoder.encoder
        rng = np.random.default_rng(99)
        patterns = (STRIPES, CHECKS, PLAIN, PLAIN)
        scenes = [replace(draw_scene(rng), pattern=patterns[i % 4]) for i in range(NUM_SCENES)]
        self.tokens = self.model.patchify(self.autoencoder.encode(SceneDrawer()(scenes, rng)))
        ids = tokenize([caption(scene, rng) for scene in scenes])
        self.condition: Condition = self.model.condition(encode_text(encoder, ids))
        self.order = torch.rand(NUM_SCENES, NUM_TOKENS, generator=_seed(5)).argsort(1)

    def vectors(self, known: int, tokens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """z of the masked tokens, their positions, and those of the known tokens."""
        masked, there = self.order.split([NUM_TOKENS - known, known], dim=1)
        tokens = self.tokens if tokens is None else tokens
        return self.model(self.condition, gather_tokens(tokens, there), there, masked), masked, there

    def error(self, known: int, timestep: int) -> float:
        """Mean squared error of the pixels, in -1..1, of the first masked positions."""
        z, masked, _ = self.vectors(known)
        errors = self._noise_errors(z[:, :JUDGED], masked[:, :JUDGED], timestep)
        # The error of the clean tokens that this noise stands for. Other tokens have none.
        errors = errors * float(training_coefficients().sqrt_recipm1_alphas_cumprod[timestep])
        errors = errors.unflatten(0, (NUM_SCENES, JUDGED))
        wrong = scatter_tokens(torch.zeros_like(self.tokens), masked[:, :JUDGED], errors)
        difference = 2 * (self._pixels(self.tokens + wrong) - self._pixels(self.tokens))
        return difference.square().mean().item() * NUM_TOKENS / JUDGED

    def _pixels(self, tokens: Tensor) -> Tensor:
        """Images of tokens [B, L, C], in 0..1."""
        return self.autoencoder.decode(self.model.unpatchify(tokens))

    def loss_share(self, first: int, end: int) -> float:
        """Share of the noise prediction's error that these timesteps have, with half of the tokens known."""
        z, masked, _ = self.vectors(NUM_TOKENS // 2)
        middles = range(50, 1000, 100)
        errors = {t: self._noise_errors(z, masked, t).square().mean().item() for t in middles}
        return sum(errors[t] for t in middles if first <= t < end) / sum(errors.values())

    def _noise_errors(self, z: Tensor, masked: Tensor, timestep: int) -> Tensor:
        """Errors of the predicted noise of masked tokens, [B·n, C]."""
        clean = gather_tokens(self.tokens, masked).flatten(0, 1)
        noise = torch.randn(clean.shape, generator=_seed(timestep))
        t = torch.full((len(clean),), timestep)
        output = self.model.diffloss.net(add_noise(clean, t, noise), t, z.flatten(0, 1))
        return output[:, : clean.shape[1]] - noise

    def change(self, distance: int) -> float:
        """Mean change of z at this distance (in rows and columns) from a known token that is inverted."""
        before, masked, there = self.vectors(NUM_TOKENS // 2)
        changes = []
        for column in range(0, there.shape[1], 16):
            place = there[:, column : column + 1]
            tokens = self.tokens.clone()
            tokens[torch.arange(NUM_SCENES), place[:, 0]] *= -1
            moved = (self.vectors(NUM_TOKENS // 2, tokens)[0] - before).norm(dim=-1)
            apart = (masked // SIDE - place // SIDE).abs() + (masked % SIDE - place % SIDE).abs()
            changes.append(moved[apart == distance])
        return torch.cat(changes).mean().item()

    def neighbour_cosine(self) -> float:
        """Mean cosine of the encoder's positions of tokens that lie side by side, less their mean."""
        positions = self.model.encoder_pos_embed_learned[0]
        positions = F.normalize(positions - positions.mean(0), dim=1).unflatten(0, (SIDE, SIDE))
        return (positions[:, 1:] * positions[:, :-1]).sum(-1).mean().item()


def _seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@torch.inference_mode()
def main(folder: Path) -> None:
    probe = Probe(folder)
    errors = ", ".join(f"{known} known {probe.error(known, TIMESTEP):.3f}" for known in KNOWN)
    print(f"error at timestep {TIMESTEP}: {errors}")
    print(f"cosine of neighbours' positions: {probe.neighbour_cosine():.2f}")
    print(f"change of z at a distance of 1: {probe.change(1):.3f}, of 12: {probe.change(12):.3f}")
    print(
        f"loss of timesteps 0–499: {probe.loss_share(0, 500):.0%}, 700–999: {probe.loss_share(700, 1000):.0%}"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
