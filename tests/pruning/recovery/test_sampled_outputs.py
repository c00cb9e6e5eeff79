import pytest
import torch
from torch import nn

from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.pruning.importance.calibration_statistics import input_moments
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.batchnorm import estimate_batchnorm
from compresskit.training.context import Context


def test_moments_are_those_of_the_inputs():
    model = nn.Sequential(nn.Linear(3, 2))
    x = torch.randn(40, 3)
    moments = input_moments(model, ["0"], [x[:25], x[25:]], points=1, generator=torch.Generator())["0"]
    assert moments.count == 40
    torch.testing.assert_close(moments.covariance()[0].float(), x.T.cov(correction=0))


def test_recalibration_gives_plain_averages():
    model = nn.Sequential(nn.BatchNorm1d(3)).eval()
    batches = [torch.randn(20, 3) + 5 for _ in range(3)]
    assert estimate_batchnorm(model, batches) == 1
    torch.testing.assert_close(model[0].running_mean, torch.cat(batches).mean(0))
    assert not model[0].training and model[0].momentum == 0.1


@pytest.mark.integration
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
