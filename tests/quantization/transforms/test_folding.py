"""Folding batch normalization: same outputs, only where it is the only reader, and replayable."""

import copy

import pytest
import torch
from torch import nn

from compresskit.analysis.dataflow import trace
from compresskit.artifact.edits import replay
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.quantization.transforms.folding import find_pairs, fold_batchnorm


def randomized(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            if module.affine:
                nn.init.normal_(module.weight, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model.eval()


CASES = {
    "conv2d": (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()), (1, 3, 6, 6)),
    "depthwise": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (1, 4, 6, 6)),
    "conv1d": (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4, affine=False)), (1, 3, 6)),
    "conv3d": (nn.Sequential(nn.Conv3d(2, 4, 2, bias=False), nn.BatchNorm3d(4)), (1, 2, 3, 4, 4)),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2, bias=False), nn.BatchNorm2d(4)), (1, 3, 4, 4)),
    "grouped transposed": (nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)), (1, 4, 4, 4)),
    "linear": (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), (2, 3)),
}


@pytest.mark.parametrize("case", CASES)
def test_folded_model_computes_the_same(case):
    model, shape = CASES[case]
    model = randomized(copy.deepcopy(model))
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = model(inputs)
    loaded = Loaded(model, {}, inputs)
    assert fold_batchnorm(loaded) == [("0", "1")]
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)
    rebuilt = replay(copy.deepcopy(CASES[case][0]), loaded.edits).eval()
    rebuilt.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(rebuilt(inputs), model(inputs))


class TwoReaders(nn.Module):
    """Both the normalization and the shortcut read the convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.bn = nn.BatchNorm2d(2)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


class NormFirst(nn.Module):
    """The normalization stands after the convolution by name only."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)
        self.bn = nn.BatchNorm2d(2)

    def forward(self, x):
        return self.conv(self.bn(x))


class SharedNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.bn = nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.bn(self.second(self.bn(self.first(x))))


@pytest.mark.parametrize("model", [TwoReaders(), NormFirst(), SharedNorm()], ids=lambda model: type(model).__name__)
def test_pairs_that_must_not_be_folded(model):
    assert find_pairs(model, trace(model, torch.randn(1, 2, 3, 3))) == []


def test_a_normalization_with_an_activation_leaves_the_activation():
    timm = pytest.importorskip("timm")
    norm = timm.layers.BatchNormAct2d(4)
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 3), norm))
    inputs = torch.randn(1, 3, 5, 5)
    expected = model(inputs)
    fold_batchnorm(Loaded(model, {}, inputs))
    assert isinstance(model[1], nn.ReLU)
    torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)


def test_a_malformed_edit_is_refused():
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))
    with pytest.raises(InputError, match="does not fold into ReLU"):
        replay(model, [{"op": "fold", "target": "0", "norm": "1"}])
