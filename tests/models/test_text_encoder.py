"""A small text encoder, trained from scratch, can tell which colour belongs to which noun."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mar_accel.data.captions import caption, tokenize
from mar_accel.data.scenes import COLOURS, draw_scene
from mar_accel.models.cross_attention import CrossBlock, TextEmbedder
from mar_accel.models.text_encoder import T5Size, encode_text, make_t5_encoder

WIDTH = 128


class ColoursOfCaption(nn.Module):
    """Predicts the colours of object and background, sRGB [B, 2, 3], from a caption alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = make_t5_encoder(T5Size(vocab_size=56, dim=WIDTH))
        self.embed = TextEmbedder(WIDTH, 2, WIDTH, 4)
        self.queries = nn.Parameter(torch.randn(2, WIDTH) * 0.02)
        self.cross = nn.ModuleList(CrossBlock(WIDTH, 4) for _ in range(2))
        self.colour = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        text = self.embed(encode_text(self.encoder, ids))
        x = self.queries.expand(len(ids), -1, -1)
        for block in self.cross:
            x = block(x, *block.keys_values(text))
        return self.colour(x)


def coloured_scenes(count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of captions that name both colours, and the colours [count, 2, 3] of object and background."""
    texts, colours = [], []
    while len(texts) < count:
        scene = draw_scene(rng)
        text = caption(scene, rng)
        if scene.category == "colors" and " on " in text:
            texts.append(text)
            colours.append([COLOURS[scene.objects[0].colour], COLOURS[scene.background]])
    return tokenize(texts), torch.tensor(colours)


@pytest.mark.long
def test_a_small_encoder_binds_colours_to_nouns():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = ColoursOfCaption()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
    for _ in range(300):
        ids, colours = coloured_scenes(32, rng)
        loss = F.mse_loss(model(ids), colours)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    ids, colours = coloured_scenes(256, rng)
    palette = torch.tensor(list(COLOURS.values()))
    with torch.inference_mode():
        named = torch.cdist(model(ids).flatten(0, 1), palette).argmin(1)
    right = named == torch.cdist(colours.flatten(0, 1), palette).argmin(1)
    # An encoder without word order knows both colours but exchanges them, and names at most half of them.
    assert right.float().mean() > 0.95
