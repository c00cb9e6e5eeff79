import copy

import pytest
import torch
from torch import nn

from compresskit.core.batchnorm import estimate_batchnorm
from compresskit.core.data import open_data
from compresskit.core.errors import InputError
from compresskit.core.source import load_model
from compresskit.core.types import Context
from compresskit.pruning.moments import input_moments
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.reconstruct import patches, record_targets, refit
from compresskit.pruning.structured import prune


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(3, 4, 3, stride=2, padding=1), (2, 3, 9, 8)),
        (nn.Conv2d(3, 4, (3, 2), dilation=2, padding="same"), (2, 3, 7, 7)),
        (nn.Conv1d(3, 4, 3), (2, 3, 10)),
        (nn.Linear(5, 4), (2, 7, 5)),
        (nn.Linear(5, 4), (2, 5)),
    ],
)
def test_patches_times_weight_is_the_layer(layer, shape):
    x = torch.randn(shape)
    output = layer(x)
    if isinstance(layer, nn.Linear):
        flat = output.reshape(2, -1, 4)
    else:
        flat = output.flatten(2).transpose(1, 2)
    positions = torch.arange(flat.shape[1])[::2]
    mine = patches(layer, x, positions) @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(mine, flat[:, positions].reshape(-1, 4))


def test_refit_finds_the_weights_that_made_the_targets():
    whole, cut = nn.Sequential(nn.Linear(6, 4)), nn.Sequential(nn.Linear(6, 4))
    batches = [torch.randn(50, 6) for _ in range(4)]
    targets = record_targets(whole, ["0"], batches, points=1, generator=torch.Generator())
    left = refit(cut, "0", targets["0"], batches, None, ridge=0.0, intercept=True)
    assert left < 1e-9
    torch.testing.assert_close(cut[0].weight, whole[0].weight, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cut[0].bias, whole[0].bias, rtol=1e-4, atol=1e-4)


def test_the_constant_of_a_layer_without_bias_goes_into_the_batchnorm_behind_it():
    """Two of six inputs are lost; what their mean contributed must reach the layers behind."""
    whole = nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)).eval()
    batches = [torch.randn(50, 6) + 3 for _ in range(4)]
    estimate_batchnorm(whole, batches)
    targets = record_targets(whole, ["0"], batches, points=1, generator=torch.Generator())
    assert targets["0"].norm == "1"
    cut = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)).eval()
    cut[1].load_state_dict(whole[1].state_dict())
    fewer = [x[:, :4] for x in batches]
    refit(cut, "0", targets["0"], fewer, None, ridge=0.0, intercept=True)
    expected, actual = whole(torch.cat(batches)).mean(0), cut(torch.cat(fewer)).mean(0)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


class _Residual(nn.Module):
    """A stem, then a branch added to what the stem gave."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.stem, self.branch = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.norm = norm

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.branch(x))
        y += x
        return y.relu()


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm1d(6)], ids=["bare", "batchnorm"])
def test_a_residual_branch_takes_up_what_its_shortcut_lacks(norm):
    """The cut model's shortcut is twice what it should be; only the branch can mend the sum, and can do so exactly."""
    whole = _Residual(norm).eval()
    batches = [torch.randn(60, 6) for _ in range(4)]
    estimate_batchnorm(whole, batches)
    cut = copy.deepcopy(whole)
    cut.stem.weight.data *= 2
    target = record_targets(whole, ["branch"], batches, points=1, generator=torch.Generator())["branch"]
    refit(cut, "branch", target, batches, None, ridge=0.0, intercept=target.norm is not None)
    x = torch.cat(batches)
    torch.testing.assert_close(cut(x), whole(x), rtol=1e-3, atol=1e-3)


def test_moments_are_those_of_the_inputs():
    model = nn.Sequential(nn.Linear(3, 2))
    x = torch.randn(40, 3)
    moments = input_moments(model, ["0"], [x[:25], x[25:]], points=1, generator=torch.Generator())["0"]
    assert moments.count == 40
    torch.testing.assert_close(moments.centered().float(), x.T.cov(correction=0))


def test_recalibration_gives_plain_averages():
    model = nn.Sequential(nn.BatchNorm1d(3)).eval()
    batches = [torch.randn(20, 3) + 5 for _ in range(3)]
    assert estimate_batchnorm(model, batches) == 1
    torch.testing.assert_close(model[0].running_mean, torch.cat(batches).mean(0))
    assert not model[0].training and model[0].momentum == 0.1


@pytest.mark.parametrize("how", ["inputs", "sequential"])
def test_reconstruction_brings_the_outputs_back(how):
    loaded = load_model("builtin:digits_mlp")
    data = open_data("digits", loaded.preprocessing)
    x = next(iter(data.batches("test", batch_size=200)))[0]
    expected = loaded.module(x).detach()
    gaps = {}
    for reconstruct in ("none", how):
        cut = loaded.clone()
        options = PruneOptions(ratio=0.5, criterion="reconstruction", reconstruct=reconstruct, samples=1000)
        result = prune(cut, options, Context(loaded, data=data))
        gaps[reconstruct] = float((cut.module(x).detach() - expected).square().mean())
        assert result.facts["layers_refitted"] == (0 if reconstruct == "none" else 2)
    assert gaps[how] < 0.2 * gaps["none"]


def test_a_criterion_that_needs_data_says_so():
    loaded = load_model("builtin:digits_mlp")
    with pytest.raises(InputError, match="criterion 'reconstruction' needs data"):
        prune(loaded, PruneOptions(ratio=0.5, criterion="reconstruction"), Context(loaded))
