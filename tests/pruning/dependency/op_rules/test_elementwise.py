import torch
from torch import nn


class Prefixed(nn.Module):
    """Prefix tokens that may be none: a concatenation of an empty slice with the rest."""

    def __init__(self):
        super().__init__()
        self.prefixes = 0
        self.embed, self.head = nn.Linear(5, 12), nn.Linear(12, 2)

    def forward(self, x):
        x = self.embed(x)
        x = torch.cat([x[:, : self.prefixes], x[:, self.prefixes :].tanh()], dim=1)
        return self.head(x)


def test_concatenation_with_an_empty_part(halved):
    sizes, _ = halved(Prefixed(), torch.randn(1, 4, 5))
    assert sizes == {"embed": 12}
