"""Blocks of GGUF files: the library gguf reads from them what the layers compute with."""

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.export.exporters.hugging_face.gguf_blocks import blocks_of
from compresskit.quantization.layers.quantized_layer import quantized_layers
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

library = pytest.importorskip("gguf")
GROUPS = {"granularity": "group", "group_size": 32}


def blocks_and_weight(columns, **scheme):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(columns, 48))
    loaded = Loaded(model, {}, torch.randn(1, columns))
    quantize(loaded, QuantizeOptions(first_last="same", **scheme), Context(loaded.clone()))
    (layer,) = quantized_layers(loaded.module).values()
    return blocks_of(layer), loaded.module[0].weight.detach()


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_k_quants_are_read_exactly(bits):
    (kind, data), weight = blocks_and_weight(512, scheme=f"q{bits}-k")
    assert kind == f"Q{bits}_K"
    found = library.dequantize(data, library.GGMLQuantizationType[kind])
    torch.testing.assert_close(torch.from_numpy(found), weight, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("columns", "scheme", "kind"),
    [
        (192, {"scheme": "q4-k"}, "Q4_1"),
        (192, {"scheme": "q5-k"}, "Q5_1"),
        (64, {"scheme": "int8-weight", "bits": 5, **GROUPS}, "Q5_0"),
        (64, {"scheme": "int8-weight", "bits": 5, "weight_range": "affine", **GROUPS}, "Q5_1"),
        (64, {"scheme": "int8-weight", "bits": 6, **GROUPS}, "Q8_0"),
    ],
)
def test_simple_blocks_are_read_but_for_scales_in_float16(columns, scheme, kind):
    (found, data), weight = blocks_and_weight(columns, **scheme)
    assert found == kind
    values = torch.from_numpy(library.dequantize(data, library.GGMLQuantizationType[kind]))
    torch.testing.assert_close(values, weight, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("columns", "scheme"), [(192, "q6-k"), (40, "q4-k"), (64, "nf4")])
def test_what_no_block_holds(columns, scheme):
    blocks, _ = blocks_and_weight(columns, scheme=scheme)
    assert blocks is None
