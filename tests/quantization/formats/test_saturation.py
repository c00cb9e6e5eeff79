"""Codes of 8 bits whose products with bytes do not saturate when neighbours are added in 16 bits."""

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.quantization.formats.saturation import is_depthwise, pair_distance, smallest_scale
from compresskit.quantization.layers.quantized_layer import quantized_layers
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context


def test_the_smallest_scale_by_hand():
    rows = torch.tensor([[1.0, 2.0, -4.0, 3.0], [-1.0, -5.0, 0.0, 5.5]])
    # sums of one sign: 1 + 2 and 4 alone; 1 + 5 and 5.5 alone
    assert (smallest_scale(rows, 1) * 127).flatten().tolist() == pytest.approx([4.0, 6.0])
    # channels two apart: (1, -4), (2, 3); (-1, 0), (-5, 5.5)
    assert (smallest_scale(rows, 2) * 127).flatten().tolist() == pytest.approx([5.0, 5.5])


def test_which_layers_have_neighbours():
    assert is_depthwise(nn.Conv2d(8, 16, 3, groups=8)) and not is_depthwise(nn.Conv2d(1, 4, 3))
    assert pair_distance(nn.Conv2d(8, 4, 3)) == 9 and pair_distance(nn.Linear(6, 2)) == 1
    assert pair_distance(nn.Conv2d(3, 4, 3)) is None and pair_distance(nn.ConvTranspose2d(8, 4, 2)) is None


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.wise = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
        self.point, self.head = nn.Conv2d(8, 12, 1), nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.point(self.wise(self.stem(x).relu()).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("given", [{}, {"code_range": "half"}, {"code_range": "full"}])
def test_eight_bits_where_no_two_products_saturate(images, given):
    torch.manual_seed(0)
    loaded = Loaded(Net().eval(), {}, torch.randn(1, 3, 8, 8))
    options = QuantizeOptions(scheme="int8-static", calibration_samples=8, **given)
    notes = quantize(loaded, options, Context(loaded, data=images((3, 8, 8)))).notes
    layers = quantized_layers(loaded.module)
    bits = {name: layers[name].spec.bits for name in ("stem", "wise", "point", "head")}
    if given:
        assert set(bits.values()) == {7 if given["code_range"] == "half" else 8}
        return
    assert bits == {"stem": 7, "wise": 8, "point": 8, "head": 8}
    assert any("1 of 4 layers" in note for note in notes)
    for name in ("point", "head"):
        codes = layers[name].get_buffer("weight_values").reshape(layers[name].parameter_shapes["weight"][0], -1, 2)
        sums = torch.maximum(codes.int().clamp(min=0).sum(2), -codes.int().clamp(max=0).sum(2))
        assert 64 < int(sums.max()) <= 128
