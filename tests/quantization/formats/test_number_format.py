"""Every row of FORMATS keeps the same promises: what it stores, reads back, weighs, and computes in layers."""

import copy
import math

import pytest
import torch
from torch import nn

from compresskit.artifact.edits import replay
from compresskit.quantization.formats.number_format import Settings
from compresskit.quantization.formats.uniform import sqnr_db
from compresskit.quantization.layers.conversion import convert
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.layers.quantized_layer import to_matrix
from compresskit.quantization.layers.weights import bytes_by_kind, store
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.plan import quantizable_parameters
from compresskit.quantization.tables import FORMATS

LAYERS = {
    "linear without bias": (lambda: nn.Linear(70, 9, bias=False), (3, 70)),
    "conv": (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 4, 5, 5)),
    "lstm": (lambda: nn.LSTM(5, 7), (4, 2, 5)),
}
SETTINGS = Settings(QuantizeOptions())


def spec_of(name, layer, **changes):
    number_format = FORMATS.load(name)
    fields = number_format.geometry(number_format.bits, QuantizeOptions()) | changes
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    return Spec(parameters=quantizable_parameters(layer), format=name, axis=axis, **fields)


def quantized(name, make, **changes):
    """A layer in a format, and the layer that it was made of."""
    torch.manual_seed(0)
    layer = make().eval()
    original, spec = copy.deepcopy(layer), spec_of(name, layer, **changes)
    convert(layer, spec)
    for parameter in spec.parameters:
        matrix = to_matrix(original._parameters[parameter].detach(), spec.axis)
        store(layer, parameter, layer.number_format.quantize(matrix, spec, SETTINGS))
    return layer, original


def leaves(module, inputs):
    return torch.utils._pytree.tree_leaves(module(inputs))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", FORMATS)
def test_a_layer_computes_with_the_weights_that_it_stores(name, kind):
    make, shape = LAYERS[kind]
    layer, original = quantized(name, make)
    for parameter in layer.spec.parameters:
        weight, stored = original._parameters[parameter].detach(), layer.dequantized(parameter).detach()
        assert sqnr_db(weight, stored) > (12 if layer.spec.bits == 2 else 15)
        weight.copy_(stored)
    inputs = torch.randn(shape)
    for ours, theirs in zip(leaves(layer, inputs), leaves(original, inputs), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", FORMATS)
def test_codes_are_unpacked_as_they_were_packed_and_weigh_what_the_format_says(name, kind):
    layer, original = quantized(name, LAYERS[kind][0])
    number_format, spec, size = layer.number_format, layer.spec, 0
    for parameter in spec.parameters:
        matrix = to_matrix(original._parameters[parameter].detach(), spec.axis)
        codes = number_format.quantize(matrix, spec, SETTINGS)["values"]
        assert torch.equal(layer.codes(parameter).float(), codes.float())
        size += number_format.bytes(*matrix.shape, spec)
    kinds = bytes_by_kind(layer)
    assert kinds["values"] + kinds["scales"] + kinds["codebooks"] == size
    packed = sum(math.ceil(layer.parameter_shapes[name].numel() * spec.bits / 8) for name in spec.parameters)
    assert kinds["values"] == packed


@pytest.mark.parametrize("name", FORMATS)
def test_an_edit_makes_the_same_tensors_on_meta_and_copies_are_independent(name):
    layer, original = quantized(name, LAYERS["conv"][0])
    with torch.device("meta"):
        rebuilt = nn.Sequential(LAYERS["conv"][0]())
    replay(rebuilt, [layer.spec.as_edit("0")])
    ours, theirs = layer.state_dict(), rebuilt[0].state_dict()
    assert list(ours) == list(theirs)
    assert all((ours[key].shape, ours[key].dtype) == (theirs[key].shape, theirs[key].dtype) for key in ours)
    weights, other = layer.dequantized("weight"), copy.deepcopy(layer)
    for tensor in other.state_dict().values():
        tensor.zero_()
    assert torch.equal(layer.dequantized("weight"), weights)


@pytest.mark.parametrize("kind", ["linear without bias", "conv"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_model_made_double_computes_in_double(name, kind):
    make, shape = LAYERS[kind]
    layer, _ = quantized(name, make)
    inputs = torch.randn(shape)
    single = layer(inputs)
    double = layer.double()(inputs.double())
    assert double.dtype == layer.weight_dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_weights_read_without_gradients_follow_what_changes(name):
    layer, _ = quantized(name, LAYERS["linear without bias"][0])
    inputs = torch.ones(1, 70)
    with torch.no_grad():
        assert bool((layer(inputs) != 0).any())
        part = next(part for part in ("codebook", "scale", "scale_step") if hasattr(layer, f"weight_{part}"))
        before = layer(inputs)
        getattr(layer, f"weight_{part}").add_(1)
        assert not torch.equal(layer(inputs), before)


#: what releases before number formats were objects wrote for a Linear(6, 4), and the tensors they stored
OLDER = {
    "int": (
        {"bits": 4, "packed": True, "scale_type": "float16"},
        {"values": ((12,), torch.uint8), "scale": ((4, 1), torch.float16)},
    ),
    "int, affine groups": (
        {"format": "int", "bits": 8, "granularity": "group", "group_size": 4, "symmetric": False},
        {"values": ((4, 6), torch.uint8), "scale": ((4, 2), torch.float32), "zero_point": ((4, 2), torch.uint8)},
    ),
    "int, a byte each": (
        {"format": "int", "bits": 7, "granularity": "tensor"},
        {"values": ((4, 6), torch.int8), "scale": ((1, 1), torch.float32)},
    ),
    "float8": (
        {"format": "float8", "bits": 8},
        {"values": ((4, 6), torch.float8_e4m3fn), "scale": ((4, 1), torch.float32)},
    ),
    "codebook": (
        {"format": "codebook", "bits": 3, "granularity": "tensor", "packed": True, "zero_index": True}
        | {"scale_type": "float16"},
        {"values": ((9,), torch.uint8), "codebook": ((7,), torch.float32)},
    ),
}


@pytest.mark.parametrize("name", OLDER)
def test_records_of_earlier_releases_make_the_same_tensors(name):
    record, tensors = OLDER[name]
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    replay(model, [{"op": "quantized", "target": "0", "parameters": ["weight"], **record}])
    found = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in model.state_dict().items()}
    assert found == {f"0.weight_{part}": shape_and_type for part, shape_and_type in tensors.items()}
