"""Cross-layer equalization: by hand, function kept, ranges equal, pairs found by their readers."""

import torch
from torch import nn
from torch.nn import functional as F

from compresskit.analysis.dataflow import trace
from compresskit.quantization.transforms.equalization import equalize, equalize_pair, find_pairs, input_channel_ranges


def test_two_linear_layers_by_hand():
    first, second = nn.Linear(1, 2), nn.Linear(2, 1)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[8.0], [1.0]]))
        first.bias.copy_(torch.tensor([4.0, 3.0]))
        second.weight.copy_(torch.tensor([[2.0, 9.0]]))
    factors = equalize_pair(first, second)
    # s = sqrt(r1 / r2): sqrt(8 / 2) = 2, sqrt(1 / 9) = 1 / 3
    torch.testing.assert_close(factors, torch.tensor([2.0, 1 / 3]))
    torch.testing.assert_close(first.weight.detach(), torch.tensor([[4.0], [3.0]]))
    torch.testing.assert_close(first.bias.detach(), torch.tensor([2.0, 9.0]))
    torch.testing.assert_close(second.weight.detach(), torch.tensor([[4.0, 3.0]]))


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, groups=3), nn.MaxPool2d(2), nn.ReLU(),
        nn.Conv2d(6, 4, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[0].weight[1] *= 100
        model[2].weight[3] *= 0.01
    return model


def test_function_is_kept_and_ranges_become_equal():
    model, inputs = network(), torch.randn(2, 2, 10, 10, generator=torch.Generator().manual_seed(1))
    expected = model(inputs)
    pairs = equalize(model, trace(model, inputs))
    # the pair around ReLU6 is not scale-invariant
    assert pairs == [("0", "2"), ("2", "5")]
    torch.testing.assert_close(model(inputs), expected, rtol=1e-3, atol=1e-5)
    for first, second in pairs:
        own = model.get_submodule(first).weight.detach().abs().flatten(1).amax(1)
        torch.testing.assert_close(own, input_channel_ranges(model.get_submodule(second)), rtol=5e-3, atol=1e-6)


def test_a_channel_that_is_zero_on_one_side_is_left_alone():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        first.weight[0] = 0
        second.weight[:, 1] = 0
    before = first.weight.detach().clone()
    assert equalize_pair(first, second).tolist() == [1.0, 1.0]
    assert torch.equal(first.weight, before)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        y = F.relu(self.a(x))
        return self.b(y) + self.c(y), y


def test_a_tensor_with_two_readers_or_returned_makes_no_pair():
    model = Branching()
    assert find_pairs(model, trace(model, torch.randn(1, 2))) == []
