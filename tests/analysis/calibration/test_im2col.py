"""Rows against layers, against torch's own unfold, and against loops by hand."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.analysis.calibration.im2col import input_rows, output_positions, output_rows, window_of
from compresskit.core.types import Loaded
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context

#: even kernels are padded by torch as they are here
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
DOUBLE = torch.float64
LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), (7, 5)),
    "linear-tokens": (lambda: nn.Linear(5, 4), (2, 3, 7, 5)),
    "linear-one-row": (lambda: nn.Linear(5, 4), (5,)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    "conv1d-circular": (lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), (3, 4, 9)),
    "conv1d-no-batch": (lambda: nn.Conv1d(4, 6, 3), (4, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 9, 8)),
    "conv2d-1x1": (lambda: nn.Conv2d(3, 4, 1), (2, 3, 4, 5)),
    "conv2d-whole": (lambda: nn.Conv2d(3, 4, (4, 5)), (2, 3, 4, 5)),
    "conv2d-dilated": (lambda: nn.Conv2d(4, 6, (3, 2), padding=(2, 1), dilation=(2, 1)), (2, 4, 7, 6)),
    "conv2d-same-even": (lambda: nn.Conv2d(3, 4, (4, 2), dilation=(1, 3), padding="same"), (2, 3, 7, 7)),
    "conv2d-same-reflected": (lambda: nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect"), (1, 4, 5, 5)),
    "conv2d-valid": (lambda: nn.Conv2d(4, 4, 3, padding="valid"), (1, 4, 5, 5)),
    "conv2d-depthwise": (lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 6, 6)),
    "conv3d": (lambda: nn.Conv3d(2, 3, (2, 1, 3), (1, 2, 1), (1, 0, 1)), (2, 2, 3, 4, 3)),
    "transposed-1d-grouped": (lambda: nn.ConvTranspose1d(4, 6, 3, 2, groups=2, bias=False), (6, 4, 9)),
    "transposed-2d": (lambda: nn.ConvTranspose2d(4, 6, (3, 4), (2, 3), (1, 2), (1, 2), dilation=(2, 1)), (3, 4, 5, 4)),
    "transposed-3d": (lambda: nn.ConvTranspose3d(2, 4, 2, 2), (1, 2, 2, 3, 2)),
}


def _made(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer, inputs = make().double(), torch.randn(shape, dtype=DOUBLE)
    return layer, inputs, layer(inputs).detach()


def _matrix(layer: nn.Module) -> torch.Tensor:
    """The weight as (groups, out / groups, columns)."""
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    if getattr(layer, "transposed", False):  # (in, out / groups, *kernel)
        parts = [part.transpose(0, 1).flatten(1) for part in weight.chunk(groups)]
    else:
        parts = [part.flatten(1) for part in weight.chunk(groups)]
    return torch.stack(parts)


@pytest.mark.parametrize("name", LAYERS)
def test_rows_times_weights_are_the_layers_outputs(name):
    layer, inputs, outputs = _made(name)
    window = window_of(layer)
    rows, expected = input_rows(window, inputs), output_rows(window, outputs)
    made = torch.cat([rows[:, group] @ part.mT for group, part in enumerate(_matrix(layer))], 1)
    torch.testing.assert_close(made if layer.bias is None else made + layer.bias.detach(), expected)
    assert rows.shape[2] == window.columns(inputs.shape[-1 - len(window.kernel)])
    examples, each = output_positions(window, outputs)
    assert len(rows) == examples * each
    assert examples == (inputs.shape[0] if inputs.dim() > 1 + len(window.kernel) else 1)


@pytest.mark.parametrize("name", LAYERS)
def test_some_rows_are_those_of_all(name):
    layer, inputs, outputs = _made(name)
    window = window_of(layer)
    rows, wanted = input_rows(window, inputs), output_rows(window, outputs)
    some = torch.randint(len(rows), (11,), generator=torch.Generator().manual_seed(1))
    assert torch.equal(input_rows(window, inputs, some), rows[some])
    assert torch.equal(output_rows(window, outputs, some), wanted[some])
    assert input_rows(window, inputs, some[:0]).shape == (0, *rows.shape[1:])


@pytest.mark.parametrize("name", ["conv2d", "conv2d-1x1", "conv2d-whole", "conv2d-dilated", "conv2d-depthwise"])
def test_rows_are_those_of_torchs_unfold(name):
    layer, inputs, _ = _made(name)
    unfolded = F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    expected = unfolded.transpose(1, 2).reshape(-1, layer.groups, unfolded.shape[1] // layer.groups)
    assert torch.equal(input_rows(window_of(layer), inputs), expected)


def test_rows_of_a_transposed_convolution_by_hand():
    layer = nn.ConvTranspose2d(2, 3, (2, 3), (2, 1), (1, 0), (1, 0), dilation=(1, 2)).double()
    inputs = torch.randn(2, 2, 3, 4, dtype=DOUBLE)
    height, width = layer(inputs).shape[2:]
    expected = torch.zeros(2, height, width, 2, 2, 3, dtype=DOUBLE)
    # input (y, x) reaches output (stride y + dilation i - padding, ...) through tap (i, j)
    for y, x, i, j in product(range(3), range(4), range(2), range(3)):
        down, right = 2 * y + i - 1, x + 2 * j
        if 0 <= down < height and 0 <= right < width:
            expected[:, down, right, :, i, j] += inputs[:, :, y, x]
    assert torch.equal(input_rows(window_of(layer), inputs), expected.reshape(-1, 1, 12))


@pytest.mark.parametrize("name", ["linear-tokens", "conv2d-dilated", "transposed-2d"])
def test_layouts_and_number_types_are_of_no_account(name):
    layer, inputs, _ = _made(name)
    window, some = window_of(layer), torch.tensor([4, 0, 9])
    turned = inputs.transpose(0, -1).contiguous().transpose(0, -1)
    wider = torch.cat([inputs, inputs], -1)[..., : inputs.shape[-1]]
    whole = input_rows(window, inputs)
    for other in (turned, wider):
        assert not other.is_contiguous()
        assert torch.equal(input_rows(window, other), whole)
        assert torch.equal(input_rows(window, other, some), whole[some])
    half = input_rows(window, inputs.bfloat16(), some)
    assert half.dtype == torch.bfloat16 and torch.equal(half, whole[some].bfloat16())


def test_channels_last_inputs_give_the_same_rows():
    layer, inputs, _ = _made("conv2d")
    some, last = torch.tensor([3, 1]), inputs.to(memory_format=torch.channels_last)
    assert torch.equal(input_rows(window_of(layer), last, some), input_rows(window_of(layer), inputs)[some])


@pytest.mark.integration
def test_the_transformers_librarys_linear_layer_has_rows():
    utils = pytest.importorskip("transformers.pytorch_utils")
    layer, inputs = utils.Conv1D(4, 5).double(), torch.randn(2, 3, 5, dtype=DOUBLE)
    rows = input_rows(window_of(layer), inputs)[:, 0]
    torch.testing.assert_close(rows @ layer.weight + layer.bias, output_rows(window_of(layer), layer(inputs)))


def test_other_layers_have_none():
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2), nn.LSTM(2, 2), nn.ConvTranspose1d(2, 2, 1), nn.ReLU())
    assert [number for number, layer in enumerate(model) if window_of(layer) is not None] == [1, 3]
    assert window_of(model[0]) is None


class PadsLikeTensorFlow(nn.Conv2d):
    """timm's Conv2dSame and others: the last position is where the input ends, whatever the stride."""

    def forward(self, x):
        sides = []
        for length, kernel, stride in zip(x.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            extra = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            sides += [extra // 2, extra - extra // 2]
        return F.conv2d(F.pad(x, sides), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Standardized(nn.Conv1d):
    def forward(self, x):
        return F.conv1d(x, self.weight - self.weight.mean(), self.bias, padding=self.padding)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (6, 5)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), ((5, 2), (2, 1)), (1, 2)])
def test_rows_of_convolutions_that_pad_by_themselves(size, kernel, stride):
    torch.manual_seed(0)
    layer, inputs = PadsLikeTensorFlow(3, 4, kernel, stride).double(), torch.randn(2, 3, *size, dtype=DOUBLE)
    watched = []
    layer.register_forward_hook(lambda *_: watched.append(1))
    with torch.no_grad():
        outputs = layer(inputs)
        rows = input_rows(window_of(layer, inputs), inputs)[:, 0]
    expected = output_rows(window_of(layer), outputs) - layer.bias.detach()
    torch.testing.assert_close(rows @ layer.weight.detach().flatten(1).T, expected)
    assert watched == [1] and layer.weight.grad is None


def test_a_forward_of_its_own_that_pads_as_it_says_keeps_its_window():
    layer = Standardized(2, 3, 3, padding=1)
    assert window_of(layer, torch.zeros(1, 2, 6)) == window_of(layer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.integration
def test_a_quantized_layer_of_a_short_type_pads_as_its_float_class(dtype):
    plain, own = nn.Conv2d(3, 4, 3, padding=1), PadsLikeTensorFlow(3, 4, 3, 2)
    inputs = torch.zeros(1, 3, 8, 8)  # statistics are taken in float32
    for layer in (plain, own):
        wanted, kind = window_of(layer, inputs), type(layer)
        module = nn.Sequential(layer.to(dtype))
        loaded = Loaded(module.eval(), {}, inputs.to(dtype))
        result = quantize(loaded, QuantizeOptions(), Context(original=loaded))
        (quantized,) = [one for one in result.loaded.module.modules() if isinstance(one, nn.Conv2d)]
        assert type(quantized).forward is not kind.forward
        assert window_of(quantized, inputs) == wanted
