"""Where activations are quantized, and which ranges they get."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.analysis.dataflow import trace
from compresskit.core.errors import InputError
from compresskit.quantization.calibration.calibration import find_sites, observe, store_range
from compresskit.quantization.calibration.observers import Levels
from compresskit.quantization.formats.conversion import convert
from compresskit.quantization.formats.layer_spec import Spec


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


def test_ranges_by_hand_and_shared_between_sites_of_one_tensor():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.fill_(2.0)
    record = trace(model, torch.ones(1, 1))
    sites = find_sites(model, record, ["0", "1"], additions=False)
    ranges = observe(model, sites, [torch.tensor([[1.0]]), torch.tensor([[-3.0], [0.5]])], observer="minmax")
    assert [ranges[site.key] for site in sites] == [(-3.0, 1.0), (-6.0, 2.0)]


def test_auto_chooses_the_range_of_least_output_error():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4)).eval()
    batches = [torch.randn(512, 8) for _ in range(3)]
    batches[0][0, 0] = 40.0
    record = trace(model, batches[0])
    (site,) = find_sites(model, record, ["0"], additions=False)
    levels = Levels(3, False)

    def output_error(edges):
        layer = convert(nn.Linear(8, 4), Spec(input="static", input_bits=3))
        layer.load_state_dict(model[0].state_dict(), strict=False)
        store_range(layer, "input", edges, levels)
        return sum(float((layer(batch) - model(batch)).detach().square().sum()) for batch in batches)

    errors = {
        name: output_error(observe(model, [site], batches, observer=name, levels=levels, percentile=99.0)[site.key])
        for name in ("minmax", "moving-average", "percentile", "mse", "entropy")
    }
    chosen = observe(model, [site], batches, observer="auto", levels=levels, percentile=99.0)[site.key]
    assert output_error(chosen) == pytest.approx(min(errors.values()))
    assert min(errors.values()) < 0.8 * errors["minmax"]


def test_no_finite_data_is_refused():
    model = nn.Sequential(nn.Linear(1, 1)).eval()
    sites = find_sites(model, trace(model, torch.ones(1, 1)), ["0"], additions=False)
    with pytest.raises(InputError, match="no finite input of layer '0'"):
        observe(model, sites, [torch.tensor([[float("nan")]])], observer="minmax")
    with pytest.raises(InputError, match="no finite input of layer '0'"):
        observe(model, sites, [], observer="mse")
