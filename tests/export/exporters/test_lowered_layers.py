"""Layers in standard operators compute what the quantized ones compute."""

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.export.exporters.lowered_layers import lower
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

INPUTS = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def test_lowering_leaves_the_model_alone(run):
    module = run(scheme="int8-static").loaded.module
    before = module(INPUTS)
    lower(module)
    assert torch.equal(module(INPUTS), before)
    assert "Lowered" not in str(module)


@pytest.mark.parametrize(
    "options",
    [
        {"scheme": "int8-weight"},
        {"scheme": "int4-weight", "weight_range": "affine"},
        {"scheme": "int4-weight", "granularity": "group", "group_size": 5},
        {"scheme": "float8-weight"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag, nn.LSTM, nn.Conv3d, nn.ConvTranspose1d])
def test_every_kind_of_layer_lowers(kind, options):
    torch.manual_seed(0)
    tables = {nn.Embedding: (9, 7), nn.EmbeddingBag: (9, 7), nn.LSTM: (6, 5, 2), nn.Conv3d: (2, 3, 2)}
    layer = kind(*tables.get(kind, (2, 4, 3)))
    floats = {nn.LSTM: (4, 3, 6), nn.Conv3d: (2, 2, 3, 4, 4), nn.ConvTranspose1d: (2, 2, 8)}
    inputs = torch.randn(floats[kind]) if kind in floats else torch.tensor([[1, 8, 1], [0, 3, 2]])
    loaded = Loaded(nn.Sequential(layer).eval(), {}, inputs[:1])
    quantize(loaded, QuantizeOptions(first_last="same", **options), Context(original=loaded.clone()))
    with torch.no_grad():
        wanted, found = loaded.module(inputs), lower(loaded.module)(inputs)
    pairs = zip(torch.utils._pytree.tree_leaves(wanted), torch.utils._pytree.tree_leaves(found), strict=True)
    for ours, lowered in pairs:
        torch.testing.assert_close(lowered, ours)


@pytest.mark.parametrize(("bits", "ranges"), [(8, "token"), (4, "token"), (4, "channel")])
def test_ranges_of_tokens_and_channels_lower_to_arithmetic(bits, ranges):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4)).eval()
    loaded = Loaded(net, {}, torch.randn(2, 5, 6) * torch.tensor([0.01, 1, 10, 0.1, 100])[:, None])
    options = QuantizeOptions(scheme="int8-dynamic", activation_bits=bits, dynamic_ranges=ranges, reconstruct="none")
    quantize(loaded, options, Context(loaded.clone()))
    assert net[0].spec.input_ranges == ranges
    with torch.no_grad():
        torch.testing.assert_close(lower(net)(loaded.example), net(loaded.example), rtol=1e-4, atol=1e-4)


def test_ranges_of_tokens_multiply_integers_in_onnxruntime(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 8)).eval()
    loaded = Loaded(net, {}, torch.randn(2, 5, 16) * torch.tensor([0.01, 1, 10, 0.1, 100])[:, None])
    options = QuantizeOptions(scheme="int8-dynamic", dynamic_ranges="token", reconstruct="none")
    quantize(loaded, options, Context(loaded.clone()))
    facts = export(loaded, ExportOptions(cold_start="skip", rounds=0), Context(loaded), tmp_path / "m.onnx")
    assert facts["integer_macs"] == 1.0
    assert facts["largest_difference"] < 1e-3  # of tokens that differ by four orders of magnitude
