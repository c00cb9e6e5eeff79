"""Quantized layers: exact arithmetic for every kind, replay on meta, refusals."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.export.float_reference import float_twin
from compresskit.quantization.formats import uniform
from compresskit.quantization.formats.integer import grid_parts, safe_scale_type
from compresskit.quantization.formats.number_format import Settings
from compresskit.quantization.layers.conversion import convert
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.layers.quantized_layer import Quantized, from_matrix, quantized_layers, to_matrix
from compresskit.quantization.layers.weights import bytes_by_kind, store
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.plan import quantizable_parameters

IMAGES = (2, 4, 7, 6)
KINDS = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2, padding=1), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding="valid"), IMAGES),
    "reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), IMAGES),
    "conv3d": (lambda: nn.Conv3d(4, 2, 2, bias=False), (1, 4, 3, 4, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1, groups=2), IMAGES),
    "lstm": (lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True), (5, 2, 4)),
    "gru cell": (lambda: nn.GRUCell(4, 3), (2, 4)),
}


def fill(layer, weights, spec):
    """Give a converted layer the codes of the given float weights; returns what it should compute with."""
    expected = {}
    for name, weight in weights.items():
        matrix = to_matrix(weight, spec.axis)
        if spec.format == "float8":
            store(layer, name, layer.number_format.quantize(matrix, spec, Settings(QuantizeOptions())))
            continue
        grid = uniform.make_grid(
            matrix, spec.bits, spec.granularity, spec.group_size,
            symmetric=spec.symmetric, search="minmax", scale_type=spec.scale_type,
        )  # fmt: skip
        codes = grid.nearest(matrix)
        store(layer, name, grid_parts(grid, codes, spec))
        expected[name] = from_matrix(grid.values(codes), weight.shape, spec.axis)
    return expected


def spec_for(layer, **changes):
    axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    return Spec(parameters=quantizable_parameters(layer), axis=axis, **changes)


SPECS = {
    "int8": {},
    "int8 affine": {"symmetric": False},
    "int4 group": {"bits": 4, "granularity": "group", "group_size": 5, "packed": True, "scale_type": "float16"},
    "int3 tensor": {"bits": 3, "granularity": "tensor", "packed": True},
    "int2 affine": {"bits": 2, "symmetric": False, "packed": True},
}


@pytest.mark.parametrize("spec_name", SPECS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_layer_is_the_float_layer_with_rounded_weights(kind, spec_name):
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    layer, inputs = make().eval(), torch.randn(shape)
    spec = spec_for(layer, **SPECS[spec_name])
    reference = copy.deepcopy(layer)
    weights = {name: layer._parameters[name].detach().clone() for name in spec.parameters}
    convert(layer, spec)
    with torch.no_grad():
        for name, value in fill(layer, weights, spec).items():
            reference._parameters[name].copy_(value)
    results, wanted = layer(inputs), reference(inputs)
    for ours, theirs in zip(
        torch.utils._pytree.tree_leaves(results), torch.utils._pytree.tree_leaves(wanted), strict=True
    ):
        assert torch.equal(ours, theirs)
    assert isinstance(layer, type(reference))


def test_multihead_attention_with_quantized_projections():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    reference = copy.deepcopy(attention)
    spec = spec_for(attention)
    weight = attention.in_proj_weight.detach().clone()
    convert(attention, spec)
    with torch.no_grad():
        reference.in_proj_weight.copy_(fill(attention, {"in_proj_weight": weight}, spec)["in_proj_weight"])
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(attention(x, x, x)[0], reference(x, x, x)[0])


def test_embedding_and_float8():
    torch.manual_seed(0)
    layer = nn.Embedding(10, 6)
    weight = layer.weight.detach().clone()
    convert(layer, Spec(parameters=("weight",), format="float8"))
    fill(layer, {"weight": weight}, layer.spec)
    rows = layer(torch.tensor([3, 3, 9]))
    # e4m3 has three mantissa bits: half a step is a sixteenth of the value; tiny values are subnormal
    torch.testing.assert_close(rows, weight[[3, 3, 9]], rtol=1 / 16, atol=float(weight.abs().max()) / 448 / 64)
    assert not torch.equal(rows, weight[[3, 3, 9]])


def test_codebook_weights_are_looked_up():
    layer = convert(nn.Linear(3, 2, bias=False), Spec(parameters=("weight",), format="codebook", bits=2, packed=True))
    indices = torch.tensor([[0, 1, 2], [3, 3, 0]])
    store(layer, "weight", {"values": indices, "codebook": torch.tensor([0.0, 1.0, -2.0, 0.5])})
    assert layer.weight.tolist() == [[0.0, 1.0, -2.0], [0.5, 0.5, 0.0]]
    assert layer(torch.ones(1, 3)).tolist() == [[-1.0, 1.0]]
    assert layer.weight_values.tolist() == [0b11100100, 0b0011]


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_input_is_quantized_before_the_layer(mode):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    inputs = torch.randn(5, 4)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    spec = Spec(parameters=("weight",), input=mode)
    convert(layer, spec)
    rounded = fill(layer, {"weight": weight}, spec)["weight"]
    scale, zero_point = uniform.range_to_scale(inputs.min(), inputs.max(), 8, symmetric=False)
    if mode == "static":
        layer.input_scale.copy_(scale)
        layer.input_zero_point.copy_(zero_point)
    expected = F.linear(uniform.round_trip(inputs, scale, zero_point, 8), rounded, bias)
    assert torch.equal(layer(inputs), expected)


def test_gradients_pass_straight_through_the_quantized_input():
    layer = convert(nn.Linear(2, 1, bias=False), Spec(parameters=("weight",), input="static"))
    fill(layer, {"weight": torch.tensor([[1.0, 1.0]])}, layer.spec)
    layer.input_scale.fill_(0.1)
    inputs = torch.tensor([[0.33, 100.0]], requires_grad=True)  # the second saturates at 25.5
    output = layer(inputs)
    assert float(output.detach()) == pytest.approx(0.3 + 25.5)
    output.backward()
    assert inputs.grad.tolist() == [[pytest.approx(1.0), 0.0]]


def test_a_deep_copy_is_independent():
    layer = convert(nn.Linear(2, 2), Spec(parameters=("weight",)))
    fill(layer, {"weight": torch.eye(2)}, layer.spec)
    other = copy.deepcopy(layer)
    other.weight_values.zero_()
    assert torch.equal(layer.weight, torch.eye(2))
    assert isinstance(other, Quantized) and list(quantized_layers(nn.Sequential(layer, other))) == ["0", "1"]


def test_sub_byte_weights_take_their_bits():
    layer = convert(
        nn.Linear(64, 32, bias=False), Spec(parameters=("weight",), bits=3, packed=True, scale_type="float16")
    )
    assert bytes_by_kind(layer) == {
        "values": 64 * 32 * 3 // 8,
        "positions": 0,
        "scales": 64,
        "codebooks": 0,
        "overhead": 0,
        "float": 0,
    }


def test_tiny_scales_are_not_stored_in_half_precision():
    spec = Spec(parameters=("weight",), bits=4, scale_type="float16")
    assert safe_scale_type(torch.full((2, 3), 1e-5), spec) == "float32"
    assert safe_scale_type(torch.ones(2, 3), spec) == "float16"


@pytest.mark.parametrize("kind", ["conv2d", "lstm", "transposed"])
def test_the_float_twin_computes_with_the_rounded_weights(kind):
    make, shape = KINDS[kind]
    torch.manual_seed(0)
    model, inputs = nn.Sequential(make()).eval(), torch.randn(shape)
    spec = spec_for(model[0])
    weights = {name: model[0]._parameters[name].detach().clone() for name in spec.parameters}
    convert(model[0], spec)
    fill(model[0], weights, spec)
    twin = float_twin(model)
    assert type(twin[0]) is type(make()) and not quantized_layers(twin)
    ours, theirs = (torch.utils._pytree.tree_leaves(net(inputs)) for net in (model, twin))
    assert all(torch.equal(first, second) for first, second in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("layer", "shape", "channel_axis"),
    [(nn.Linear(4, 3), (2, 5, 4), 2), (nn.Conv2d(4, 4, 3, groups=4), (2, 4, 5, 5), 1)],
)
def test_each_channel_has_a_range_of_its_own(layer, shape, channel_axis):
    torch.manual_seed(0)
    sizes = torch.tensor([1e-2, 1, 10, 100]).view(-1, *[1] * (len(shape) - 1 - channel_axis))
    values = torch.randn(shape) * sizes
    depthwise = isinstance(layer, nn.Conv2d)
    quantized = convert(layer, spec_for(layer, input="dynamic", input_ranges="channel"))
    found = quantized.quantize_input(values)
    for channel in range(4):
        own, other = values.select(channel_axis, channel), found.select(channel_axis, channel)
        step = (own.max().clamp(min=0) - own.min().clamp(max=0)) / 255
        assert 0 < float((own - other).abs().max()) <= 0.51 * float(step)
    # integer kernels add up products of one scale only
    assert quantized.mac_bits == (8 if depthwise else None)


def test_each_token_has_a_range_of_its_own():
    torch.manual_seed(0)
    layer = nn.Linear(6, 3)
    values = torch.randn(2, 5, 6) * torch.tensor([1e-3, 1, 10, 100, 1e3])[:, None]
    spec = spec_for(layer, input="dynamic", input_ranges="token")
    quantized = convert(layer, spec)
    low, high = values.amin(-1, keepdim=True).clamp(max=0), values.amax(-1, keepdim=True).clamp(min=0)
    step = (high - low) / 255
    zero = torch.round(-low / step)
    wanted = (torch.clamp(torch.round(values / step) + zero, 0, 255) - zero) * step
    torch.testing.assert_close(quantized.quantize_input(values), wanted, rtol=1e-4, atol=1e-7)
    error = (quantized.quantize_input(values) - values).abs().amax((0, 2)) / values.abs().amax((0, 2))
    assert float(error.max()) < 1 / 200  # also of the tokens that are small beside the others
