import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F


class Spline(nn.Module):
    """A layer of plain parameters: fixed basis functions of every feature, mixed by (out, in, functions)."""

    def __init__(self, features, out, functions=5):
        super().__init__()
        self.out = out
        self.register_buffer("centers", torch.linspace(-1, 1, functions).expand(features, -1).contiguous())
        self.base, self.mix = (
            nn.Parameter(torch.randn(out, features)),
            nn.Parameter(torch.randn(out, features, functions)),
        )

    def forward(self, x):
        basis = torch.exp(-(x.unsqueeze(-1) - self.centers).square())
        return F.linear(F.silu(x), self.base) + F.linear(basis.view(x.size(0), -1), self.mix.view(self.out, -1))


def test_layers_over_basis_functions_of_each_feature_lose_features(halved):
    model = nn.Sequential(Spline(6, 16), Spline(16, 12), Spline(12, 3))
    assert halved(model, torch.randn(4, 6))[0] == {"0.base": 16, "1.base": 12, "1.centers": 5, "2.centers": 5}
    assert model[1].mix.shape == (6, 8, 2) and model[1].centers.shape == (8, 2)


class Deformed(nn.Module):
    def __init__(self, groups=1, offset_groups=1, masked=True):
        super().__init__()
        ops = pytest.importorskip("torchvision.ops")
        self.enter, self.leave = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 2, 1)
        self.offset, self.mask = nn.Conv2d(16, 18 * offset_groups, 3, padding=1), nn.Conv2d(16, 9 * offset_groups, 1)
        self.deform = ops.DeformConv2d(16, 16, 3, padding=1, groups=groups)
        self.masked = masked

    def forward(self, x):
        x = F.relu(self.enter(x))
        mask = torch.sigmoid(self.mask(x)) if self.masked else None
        return self.leave(F.relu(self.deform(x, self.offset(x), mask)))


@pytest.mark.parametrize("masked", [True, False])
def test_deformable_convolutions_lose_channels_and_keep_their_offsets(masked, halved):
    model = Deformed(masked=masked)
    assert halved(model, torch.randn(2, 3, 6, 6))[0] == {"enter": 16, "deform": 16}
    assert model.offset.weight.shape[:2] == (18, 8) and model.deform.weight.shape[:2] == (8, 8)
    assert (model.deform.in_channels, model.deform.out_channels) == (8, 8)


@pytest.mark.parametrize(("groups", "offset_groups"), [(2, 1), (1, 2), (2, 2)])
def test_grouped_deformable_convolutions_are_exact(groups, offset_groups, halved):
    model = Deformed(groups, offset_groups)
    halved(model, torch.randn(2, 3, 6, 6))
    assert np.isfinite(model(torch.randn(2, 3, 6, 6)).detach().numpy()).all()
