"""What follows a layer, how often it is called, and reading from outside."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.analysis.measure.measure import macs
from compresskit.artifact.source import load_model
from compresskit.core.types import Loaded
from compresskit.decomposition.surgery.find_layers import survey


class _Followers(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))
        self.norm_a, self.norm_b = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.norm_a(self.a(x)))
        y = self.norm_b(self.b(x))
        x = F.relu(y + x)
        x = F.relu(self.c(x))
        z = self.d(x)
        return F.relu(z) + z


def test_followers_are_seen_through_functions_and_in_place_modules():
    sites, left_out = survey(Loaded(_Followers().eval(), {}, torch.randn(1, 4, 6, 6)))
    assert left_out == {}
    assert {site.name: (site.norm, site.relu) for site in sites} == {
        "a": ("norm_a", True),
        "b": ("norm_b", False),
        "c": (None, True),
        "d": (None, False),  # its output is also read beside the ReLU
    }


@pytest.mark.parametrize(
    "string", ["builtin:cifar_resnet20", "builtin:cifar_vgg", "builtin:lenet5", "builtin:lenet300"]
)
def test_the_sites_macs_add_up_to_the_counted_ones(string):
    loaded = load_model(string)
    sites, left_out = survey(loaded)
    assert left_out == {}
    assert sum(site.macs for site in sites) == macs(loaded.module, loaded.example)


def test_a_layer_called_twice_counts_twice_and_the_model_is_left_as_it_was():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return self.layer(self.layer(x)[:, :2])

    module = Twice().eval()
    (site,), _ = survey(Loaded(module, {}, torch.randn(1, 5, 6)))
    assert [call.positions for call in site.calls] == [5, 2]
    assert site.macs == 7 * 36
    assert type(module.layer) is nn.Linear and not module.layer._forward_hooks


def test_a_transposed_convolution_that_is_told_its_output_size_stays():
    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(4, 4, 3, 2)
            self.plain = nn.ConvTranspose2d(4, 4, 3, 2)

        def forward(self, x):
            return self.plain(self.up(x, output_size=(10, 10)))

    sites, left_out = survey(Loaded(Told().eval(), {}, torch.randn(1, 4, 4, 4)))
    assert [site.name for site in sites] == ["plain"]
    assert left_out == {"up": "the model calls it with more than its input"}


def test_a_shortcut_that_is_added_in_place_stands_between_a_layer_and_the_relu():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.relu = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.norm(self.conv(x))
            y += x
            return self.relu(y)

    (site,), _ = survey(Loaded(Block().eval(), {}, torch.randn(1, 4, 6, 6)))
    assert (site.norm, site.relu) == ("norm", False)
