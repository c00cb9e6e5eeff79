import pytest
import torch
from torch import nn
from torch.nn import functional as F


@pytest.mark.parametrize(("first", "second", "units"), [(8, 12, 4), (12, 12, 12), (12, 8, 4), (4, 6, 8), (8, 16, 8)])
def test_group_norms_that_meet_lose_the_same_positions_of_each_group(first, second, units, halved):
    """Positions that differ modulo the greatest common divisor of the widths go apart, or blocks of their multiple."""
    width = 96
    model = nn.Sequential(
        nn.Conv2d(3, width, 1), nn.GroupNorm(width // first, width), nn.ReLU(), nn.GroupNorm(width // second, width),
        nn.Conv2d(width, 4, 1),
    )  # fmt: skip
    assert halved(model, torch.randn(2, 3, 4, 4))[0] == {"0": units}


class Skip(nn.Module):
    """Group norms of 8 groups over 32 and 64 channels and over both, as diffusion models have them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 64, 1), nn.Conv2d(96, 4, 1)
        self.n1, self.n2, self.n3 = nn.GroupNorm(8, 32), nn.GroupNorm(8, 64), nn.GroupNorm(8, 96)

    def forward(self, x):
        a = self.a(x)
        b = self.n2(self.b(F.silu(self.n1(a))))
        return self.c(F.silu(self.n3(torch.cat([b, a], 1))))


def test_group_norms_over_a_concatenation_lose_positions_modulo_four(halved):
    assert halved(Skip(), torch.randn(2, 3, 4, 4))[0] == {"a": 4}
