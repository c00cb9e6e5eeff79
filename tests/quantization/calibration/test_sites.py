"""Which activations are quantized."""

import torch
from torch import nn
from torch.nn import functional as F

from compresskit.analysis.dataflow import trace
from compresskit.quantization.calibration.sites import find_sites


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 2, 3, padding=1)
        self.conv2 = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.conv2(F.relu(self.conv1(x))))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), Residual(), Residual(), nn.Flatten(), nn.Linear(32, 3)).eval()


LAYERS = ["0", "1.conv1", "1.conv2", "2.conv1", "2.conv2", "4"]


def test_sites_are_layer_inputs_and_what_additions_touch():
    model = network()
    record = trace(model, torch.randn(1, 1, 4, 4))
    sites = find_sites(model, record, LAYERS, additions=True)
    assert [site.module for site in sites if site.side == "input"] == LAYERS
    # additions read the convolutions and the blocks before, and the blocks return what they write
    assert sorted(site.module for site in sites if site.side == "output") == ["0", "1", "1.conv2", "2", "2.conv2"]
    keys = {(site.module, site.side): site.key for site in sites}
    assert keys["1", "output"] == keys["2.conv1", "input"]
    only_inputs = find_sites(model, record, LAYERS, additions=False)
    assert [site.module for site in only_inputs] == LAYERS


def test_a_residual_stream_that_is_normalized_first_stays_in_float():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x):
            return x + self.down(F.gelu(self.up(self.norm(x))))

    model = nn.Sequential(nn.Linear(3, 4), Block(), Block(), nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    layers = ["0", "1.up", "1.down", "2.up", "2.down", "4"]
    record = trace(model, torch.randn(2, 3))
    sites = find_sites(model, record, layers, additions=True)
    assert [(site.module, site.side) for site in sites] == [(name, "input") for name in layers]
    # without the last normalization, what the second block returns is read by a layer
    bare = nn.Sequential(*model[:3], model[4])
    sites = find_sites(
        bare, trace(bare, torch.randn(2, 3)), ["0", "1.up", "1.down", "2.up", "2.down", "3"], additions=True
    )
    outputs = [site.module for site in sites if site.side == "output"]
    assert outputs[-1] == "2" and "2.down" in outputs


class Wrapped(nn.Module):
    """A convolution and its activation function, which others share."""

    def __init__(self, conv, act):
        super().__init__()
        self.conv, self.act = conv, act

    def forward(self, x):
        return self.act(self.conv(x))


class Split(nn.Module):
    """A split, an addition on one half, and a concatenation, as in YOLO's C2f."""

    def __init__(self):
        super().__init__()
        act = nn.SiLU()
        self.first, self.second = Wrapped(nn.Conv2d(2, 4, 1), act), Wrapped(nn.Conv2d(2, 2, 1), act)
        self.pool, self.last = nn.MaxPool2d(3, 1, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        one, two = self.first(x).chunk(2, 1)
        three = two + self.second(two)
        return self.last(torch.cat([one, two, three, self.pool(three)], 1))


def test_what_is_concatenated_split_and_pooled_is_quantized_once_where_it_comes_from():
    model = Split().eval()
    record = trace(model, torch.randn(1, 2, 4, 4))
    layers = ["first.conv", "second.conv", "last"]
    sites = {(site.module, site.side): site.key for site in find_sites(model, record, layers, additions=True)}
    # the halves have no module that returns them: the whole is quantized, and what reads a half shares its range
    assert sites["second.conv", "input"] == sites["first", "output"] == record.single_output("first")
    assert ("second", "output") in sites and ("last", "input") in sites
    # the sum is returned by no module and read by the pool and the concatenation
    assert ("pool", "output") in sites


def test_a_list_that_a_module_takes_is_no_place_to_quantize():
    class Concat(nn.Module):
        def forward(self, parts):
            return torch.cat(parts, 1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.join, self.last = nn.Conv2d(1, 2, 1), Concat(), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            found = self.conv(x)
            return self.last(self.join([found.tanh(), found.sigmoid()]))

    model = Net().eval()
    sites = find_sites(model, trace(model, torch.randn(1, 1, 2, 2)), ["conv", "last"], additions=True)
    assert ("join", "input") not in {(site.module, site.side) for site in sites}


class Flat(nn.Module):
    """Residuals without blocks, ReLUs without modules of their own, and a tensor that a layer and a pool read."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1)
        self.third, self.last = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        x = self.first(x).relu()
        x = x + F.relu(self.second(x))
        x = F.relu(self.third(x))
        return self.last(x).mean((2, 3)) + x.mean((2, 3))


def test_what_a_relu_without_a_module_makes_is_quantized_where_it_comes_from():
    model = Flat().eval()
    record = trace(model, torch.randn(1, 1, 4, 4))
    sites = find_sites(model, record, ["first", "second", "third", "last"], additions=True)
    rectified = {site.module: site.key for site in sites if site.rectified}
    assert set(rectified) == {"first", "second", "third"}
    inputs = {site.module: site.key for site in sites if site.side == "input"}
    assert rectified["first"] == inputs["second"] and rectified["third"] == inputs["last"]
