"""Weights as codes into tables: exactly what the formats dequantize to."""

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.export.exporters.export_program import LOOKUPS, export_program
from compresskit.quantization.formats.fixed_groups.lookups import Lookup, block_scales, by_rows, padded_codes
from compresskit.quantization.layers.quantized_layer import quantized_layers
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context


def test_a_table_by_hand():
    levels, codes = torch.tensor([-1.0, 0.0, 2.0]), torch.tensor([[0, 1, 2], [2, 2, 0]], dtype=torch.uint8)
    plain = Lookup(levels, codes).of(torch.Size((3, 2)), 1)
    assert plain.weights().tolist() == [[-1.0, 2.0], [0.0, 2.0], [2.0, -1.0]]
    rows = by_rows(levels, codes, torch.tensor([[1.0, 10.0], [2.0, 20.0]]), 2).of(torch.Size((2, 3)), 0)
    assert padded_codes(rows).shape == (2, 4) and block_scales(rows).tolist() == [1.0, 10.0, 2.0, 20.0]
    assert rows.weights().tolist() == [[-1.0, 0.0, 20.0], [4.0, 4.0, -20.0]]
    flat = Lookup(levels, codes, torch.tensor([1.0, 10.0]), "flat", 4).of(torch.Size((2, 3)), 0)
    assert padded_codes(flat).shape == (8,)
    assert flat.weights().tolist() == [[-1.0, 0.0, 2.0], [2.0, 20.0, -10.0]]


@pytest.mark.parametrize(
    "levels, offset",
    [
        (torch.arange(256) - 128, -128),
        (torch.arange(4) - 2, -2),
        (torch.tensor([0.0, 2.0]), None),
        (torch.arange(200), None),
    ],
)
def test_consecutive_integers_are_told(levels, offset):
    found = Lookup(levels, torch.zeros(1, 1, dtype=torch.uint8)).as_integers()
    assert (None if found is None else int(found)) == offset


@pytest.mark.integration
@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "codebook", "bits": 3},
        {"scheme": "nf4"},
        {"scheme": "nf4-double"},
        {"scheme": "mxfp4"},
        {"scheme": "nvfp4"},
        {"scheme": "float8-weight"},
        {"scheme": "float8-weight", "granularity": "group", "group_size": 24},
        {"scheme": "float8-e5m2", "granularity": "tensor"},
        {"scheme": "int8-weight"},
        {"scheme": "int4-weight", "granularity": "group", "group_size": 16},
    ],
    ids=str,
)
def test_programs_keep_the_codes_of_each_format(options):
    torch.manual_seed(0)
    # 50 columns are no multiple of any block
    loaded = Loaded(nn.LSTM(50, 6, batch_first=True).eval(), {}, torch.randn(1, 3, 50))
    quantize(loaded, QuantizeOptions(first_last="same", **options), Context(original=loaded.clone()))
    lookups = export_program(loaded.module, loaded.example).graph_module.meta[LOOKUPS]
    (layer,) = quantized_layers(loaded.module).values()
    assert set(lookups) == {"weight_ih_l0_lowered", "weight_hh_l0_lowered"}
    for name, lookup in lookups.items():
        assert torch.equal(lookup.weights(), layer.dequantized(name.removesuffix("_lowered")))
