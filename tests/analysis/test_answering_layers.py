"""Layers that nobody reads any more, in models that answer with several maps."""

from __future__ import annotations

import torch
from torch import nn

from compresskit.analysis.answering_layers import answering_layers, layers_behind_choices


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


class TwoStages(nn.Module):
    """One head for two maps, and a second head for the rows that the first one picks."""

    def __init__(self):
        super().__init__()
        self.body, self.scores, self.box = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 1), nn.Linear(4, 2)

    def forward(self, images):
        maps = self.body(images).relu()
        found = torch.cat([self.scores(one).flatten(1) for one in (maps, maps[..., ::2, ::2])], 1)
        rows = maps.flatten(2).mT[0][found[0].topk(3).indices % maps[0, 0].numel()]
        return self.box(rows)


def test_a_head_of_several_maps_answers_and_one_behind_a_choice_only_where_rows_may_be_any():
    model, images = TwoStages(), torch.rand(2, 3, 8, 8)
    names = ["body", "scores", "box"]
    assert answering_layers(model, images, names) == ["scores"]
    assert answering_layers(model, images, names, rows="any") == ["scores", "box"]
    assert layers_behind_choices(model, images) >= {"box"} and "body" not in layers_behind_choices(model, images)
