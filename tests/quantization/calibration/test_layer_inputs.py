"""Statistics of layers' inputs against the inputs themselves."""

import torch
from torch import nn

from compresskit.analysis.calibration.moments import output_error
from compresskit.quantization.calibration.layer_inputs import InputsInTurn, collect_inputs, roundable
from compresskit.quantization.layers.conversion import convert
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.layers.quantized_layer import to_matrix


def test_streamed_moments_are_the_means_over_all_rows():
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    batches = [torch.randn(4, 3), torch.randn(7, 3)]
    statistics = collect_inputs(nn.Sequential(layer), ["0"], batches)["0"]
    moments = statistics.moments
    rows = torch.cat(batches).double()
    torch.testing.assert_close(moments.second_moment()[0], rows.T @ rows / 11, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moments.mean()[0], rows.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.channels.largest, rows.abs().amax(0).float())
    torch.testing.assert_close(statistics.channels.mean(), rows.abs().mean(0), rtol=1e-5, atol=1e-6)


def test_moments_see_the_scaled_input():
    layer = convert(nn.Linear(2, 2), Spec(input_multiplier=True))
    layer.input_multiplier.copy_(torch.tensor([0.5, 2.0]))
    statistics = collect_inputs(nn.Sequential(layer), ["0"], [torch.tensor([[2.0, 1.0]])])["0"]
    assert statistics.moments.mean().tolist() == [[1.0, 2.0]]


def test_output_error_is_the_measured_one():
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, groups=2, bias=False)
    inputs = torch.randn(2, 4, 6, 6)
    statistics = collect_inputs(nn.Sequential(layer), ["0"], [inputs])["0"]
    delta = torch.randn_like(layer.weight) * 0.1
    measured = torch.nn.functional.conv2d(inputs, delta, groups=2).square().sum(1).mean()
    predicted = output_error(to_matrix(delta, 0), statistics.moments.second_moment())
    torch.testing.assert_close(predicted, measured, rtol=1e-4, atol=1e-6)


def test_layers_whose_rounding_cannot_follow_their_inputs_are_left_out():
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 2), nn.ConvTranspose1d(2, 2, 1))
    assert roundable(model, ["0", "1", "2"]) == ["1"]


def test_statistics_of_layers_in_turn_are_those_of_one_pass_and_few_are_held():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(4, 2)).eval()
    batches, names = [torch.randn(32, 6) for _ in range(2)], ["0", "2", "3", "4"]
    passes = []
    net.register_forward_hook(lambda *_: passes.append(1))
    together = collect_inputs(net, names, batches, seed=1)
    passes.clear()
    in_turn = InputsInTurn(net, names, batches, 1, most_bytes=2 * 8 * 8**2)
    for name in names:
        moments = in_turn.get(name).moments
        assert torch.equal(moments.second_moment(), together[name].moments.second_moment())
        assert in_turn.get(name).moments is moments and len(in_turn._held) <= 2
    assert len(passes) == 2 * len(batches)  # 36 + 64, then 64 + 16 numbers of 8 bytes
    assert in_turn.get("1") is None
