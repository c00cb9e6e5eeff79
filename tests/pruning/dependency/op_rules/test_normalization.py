import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Standardized(nn.Conv2d):
    """Convolution whose filters are normalized to zero mean and unit variance."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, weight=self.gain.view(-1), training=True).reshape_as(self.weight)
        return self._conv_forward(x, weight, self.bias)


def test_standardized_filters_lose_inputs_and_outputs(halved):
    model = nn.Sequential(
        Standardized(3, 8, 3), nn.ReLU(), Standardized(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 4, 1)
    )
    sizes, share = halved(model, torch.randn(1, 3, 8, 8))
    assert sizes == {"0": 8, "2": 12} and share < 0.4
    assert model[2].weight.shape == (6, 4, 3, 3) and model[2].gain.shape == (6, 1, 1, 1)


class GroupNormBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.norm, self.mix = nn.Conv2d(8, width, 1), nn.GroupNorm(4, width), nn.Conv2d(width, 8, 1)

    def forward(self, x):
        return x + self.mix(self.norm(self.conv(x)).relu())


@pytest.mark.integration
def test_many_group_norms_all_stay_rectangular(halved):
    """Every one of 24 different normalizations loses whole groups, however many there are."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *(GroupNormBlock(12) for _ in range(24)), nn.Conv2d(8, 2, 1))
    sizes, _ = halved(model, torch.randn(1, 3, 4, 4))
    assert sizes == {"0": 8} | {f"{block}.conv": 4 for block in range(1, 25)}
