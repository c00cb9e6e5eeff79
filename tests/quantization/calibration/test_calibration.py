"""Where activations are quantized, and which ranges they get."""

import pytest
import torch
from torch import nn

from compresskit.analysis.dataflow import trace
from compresskit.core.errors import InputError
from compresskit.quantization.calibration.calibration import observe, store_range
from compresskit.quantization.calibration.observers import Levels
from compresskit.quantization.calibration.sites import find_sites
from compresskit.quantization.layers.conversion import convert
from compresskit.quantization.layers.layer_spec import Spec


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
