"""Layers that nobody reads any more, in models that answer with several maps."""

from __future__ import annotations

import torch
from torch import nn

from compresskit.analysis.answering_layers import answering_layers


class TwoHeads(nn.Module):
    """Scores and boxes of each place, the best of which are taken; the scores lead to a layer no more."""

    def __init__(self):
        super().__init__()
        self.body, self.scores, self.boxes = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 4, 1)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.relu = nn.ReLU()

    def forward(self, images):
        maps = self.relu(self.body(images))
        best = self.scores(maps).flatten(1).topk(3).values
        return {"boxes": self.frozen(self.boxes(maps)), "scores": best}


def test_the_heads_of_a_detector_answer():
    model = TwoHeads()
    names = [name for name, _ in model.named_modules() if name]
    assert answering_layers(model, torch.rand(2, 3, 8, 8), names) == ["scores", "boxes"]
    assert answering_layers(model, torch.rand(2, 3, 8, 8), ["body", "relu"]) == []
