"""Models in unusual states through the techniques: saved and reloaded with the same output, or refused on one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.artifact import artifact
from compresskit.core.errors import InputError
from compresskit.core.types import call, main_output
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run

STEPS = {
    "prune": {"prune": {"target_macs": 0.7}},
    "weights": {"prune": {"granularity": "weight", "ratio": 0.5}},
    "quantize": {"quantize": {"scheme": "int8-dynamic"}},
    "decompose": {"decompose": {"energy": 0.5, "slower_layers": "allow"}},
}


class Net(nn.Module):
    input_shape = (8,)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        return self.c(F.relu(self.b(F.relu(self.a(x)))))


class NoWidth(Net):
    """Layers without inputs or outputs beside the others."""

    def __init__(self):
        super().__init__()
        self.nothing_in, self.nothing_out = nn.Linear(0, 4), nn.Linear(8, 0)

    def forward(self, x):
        return torch.cat([super().forward(x) + self.nothing_in(x[:, :0]), self.nothing_out(x)], 1)


class AnythingGoes(Net):
    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return None


class InPlace(Net):
    def forward(self, x):
        x += 1
        return super().forward(x)


class Masked(Net):
    def forward(self, x):
        return super().forward(x).masked_fill(torch.arange(4) == 3, float("-inf"))


class Spectral(nn.Module):
    """Complex weights beside real layers, as in a Fourier neural operator."""

    input_shape = (4, 16)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv1d(4, 8, 1), nn.Conv1d(8, 8, 1), nn.Conv1d(8, 2, 1)
        self.w = nn.Parameter(torch.randn(8, 8, 9, dtype=torch.cfloat) * 0.1)

    def forward(self, x):
        x = self.a(x)
        mixed = torch.fft.irfft(torch.einsum("bix,iox->box", torch.fft.rfft(x), self.w), n=16)
        return self.c(F.gelu(mixed + self.b(x)))


class Complex(Net):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (layer.to(torch.complex64) for layer in (self.a, self.b, self.c))

    def forward(self, x):
        x = self.a(torch.complex(x, 2 * x))
        return self.c(self.b(torch.complex(F.relu(x.real), F.relu(x.imag)))).abs()


def transposed():
    net = Net()
    net.b.weight = nn.Parameter(net.b.weight.detach().t().contiguous().t())
    return net


def done(folder, name, technique):
    content = {"model": f"{__file__}:{name}", "latency_rounds": 0, "steps": [STEPS[technique]]}
    report = run(Run(validate(content), folder))
    return report, artifact.load(folder, source=f"{__file__}:{name}")


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("technique", STEPS)
@pytest.mark.parametrize("name", ["NoWidth", "AnythingGoes", "InPlace", "Masked", "transposed", "Spectral"])
def test_a_model_in_an_unusual_state_is_saved_and_reloads(name, technique, tmp_path):
    if (name, technique) == ("Spectral", "prune"):
        with pytest.raises(InputError, match="no channels can go: left out a: operation _fft_r2c .* is not known"):
            done(tmp_path / "out", name, technique)
        return
    report, loaded = done(tmp_path / "out", name, technique)
    if technique == "quantize":
        assert report["steps"][0]["measurement"]["size_bytes"] < report["original"]["size_bytes"]
    inputs = torch.full((2, *loaded.example.shape[1:]), 0.5)
    with torch.no_grad():
        first, second = (main_output(call(loaded.module, inputs.clone())) for _ in range(2))
    assert first.shape[0] == 2 and torch.equal(first, second)
    if name == "Spectral":
        assert loaded.module.w.dtype is torch.complex64 and torch.equal(loaded.module.w, Spectral().w)


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize(
    "technique, match",
    [
        ("prune", "no channels can go"),
        ("weights", "no linear layer or convolution is left to prune"),
        ("quantize", "no layer is left to quantize"),
        ("decompose", r"no layer can be decomposed \(a: its weights are complex64"),
    ],
)
def test_complex_weights_are_never_cut_to_their_real_part(technique, match, tmp_path):
    with pytest.raises(InputError, match=match):
        done(tmp_path / "out", "Complex", technique)
