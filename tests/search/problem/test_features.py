"""What an agent sees of layers."""

from __future__ import annotations

import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.search.problem.features import layer_features


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.depthwise = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, (5, 3), padding=2, groups=8)
        self.norm, self.head, self.unused = nn.BatchNorm2d(8), nn.Linear(8, 5), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(input=self.norm(self.depthwise(self.conv(x))).mean((2, 3)))


def test_features_of_layers_with_a_weight_matrix():
    names = ["conv", "depthwise", "norm", "head", "unused", "missing", "conv"]
    found = layer_features(Loaded(Net().eval(), {}, torch.randn(1, 3, 9, 11)), names)
    assert found == {
        "conv": {"c": 3.0, "n": 8.0, "h": 9.0, "w": 11.0, "stride": 2.0, "k": 3.0, "depthwise": 0.0},
        "depthwise": {"c": 8.0, "n": 8.0, "h": 4.0, "w": 5.0, "stride": 1.0, "k": 5.0, "depthwise": 1.0},
        "head": {"c": 8.0, "n": 5.0, "h": 1.0, "w": 1.0, "stride": 1.0, "k": 1.0, "depthwise": 0.0},
    }
