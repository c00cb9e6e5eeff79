"""Models in float16, bfloat16 and float64 through every technique: the type is kept, and the result is right.

Each run has a twin, the same weights in float32, whose result it must agree with.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from compresskit.artifact import artifact
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run

pytestmark = pytest.mark.integration

TOLERANCE = {"bfloat16": 0.06, "float16": 0.01, "float64": 1e-4}
TECHNIQUES = {
    "channels": {"prune": {"target_macs": 0.6}},
    "channels by data, trained": {
        "prune": {"ratio": 0.3, "criterion": "taylor", "recover": "finetune", "epochs": 1, "lr": 0.01}
    },
    "blocks": {"prune": {"granularity": "block", "ratio": 0.5}},
    "weights": {"prune": {"granularity": "weight", "ratio": 0.5, "saliency": "sparsegpt"}},
    "int8-weight": {"quantize": {"scheme": "int8-weight"}},
    "gptq": {"quantize": {"scheme": "int4-weight", "rounding": "gptq", "bias_correction": True}},
    "int8-static": {"quantize": {"scheme": "int8-static"}},
    "int8-dynamic": {"quantize": {"scheme": "int8-dynamic", "smooth": 0.5}},
    "codebook": {"quantize": {"scheme": "codebook"}},
    "float8": {"quantize": {"scheme": "float8-weight"}},
    "qat": {"quantize": {"scheme": "int8-static", "qat": "kd", "epochs": 1, "lr": 0.001}},
    "low rank": {"decompose": {"energy": 0.5, "slower_layers": "allow"}},
    "distilled": {"distill": {"epochs": 1, "lr": 0.01}},
}
#: greedy and trained results are compared loosely: a tie or an unlucky rounding sends them another way
LOOSE = {"channels by data, trained", "qat", "distilled", "weights"}


class Block(nn.Module):
    def __init__(self, channels, inner):
        super().__init__()
        self.a = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.b = nn.Conv2d(inner, channels, 3, padding=1)

    def forward(self, x):
        return x + self.b(F.relu(self.norm(self.a(x))))


class Net(nn.Module):
    """Convolutions with shortcuts, and a linear layer behind a norm that stays in float32."""

    input_shape = (3, 6, 6)

    def __init__(self):
        super().__init__()
        self.out_norm = nn.LayerNorm(16)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Block(8, 16), Block(8, 16)])
        self.hidden, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = F.relu(self.hidden(x.mean((2, 3))))
        return self.head(self.out_norm(x.float()).to(x.dtype))


def net(dtype, twin=False):
    torch.manual_seed(0)
    model = Net()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    model.to(getattr(torch, dtype)).out_norm.float()
    return model.float() if twin else model


def images():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(128, 3, 6, 6, generator=generator)
    y = (x[:, 0].mean((1, 2)) > 0).long() * 2
    return (x[:64], y[:64]), (x[64:], y[64:])


def done(folder, technique, **arguments):
    content = {
        "model": f"{__file__}:net",
        "model_arg": arguments,
        "data": f"{__file__}:images",
        "latency_rounds": 0,
        "steps": [TECHNIQUES[technique]],
    }
    report = run(Run(validate(content), folder))
    return report, artifact.load(folder, source=f"{__file__}:net")


@cache
def outputs_of_twin(technique, dtype, parent):
    _, loaded = done(parent / f"{technique}-{dtype}-twin", technique, dtype=dtype, twin=True)
    return outputs(loaded.module)


@torch.no_grad()
def outputs(module):
    stem = module.stem if hasattr(module.stem, "weight") else module.stem[0]  # a chain where it was factored
    inputs = images()[1][0][:8].to(stem.weight.dtype)
    return module(inputs).detach()


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return tmp_path_factory.mktemp("twins")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_type_is_kept_and_the_result_is_the_float32_twins(technique, dtype, tmp_path, parent):
    report, loaded = done(tmp_path / "out", technique, dtype=dtype)
    wanted, found = outputs_of_twin(technique, dtype, parent), outputs(loaded.module)
    assert found.dtype is getattr(torch, dtype)
    error = (found.double() - wanted.double()).norm() / wanted.double().norm()
    assert error < (max(TOLERANCE[dtype], 0.02) * 4 if technique in LOOSE else TOLERANCE[dtype])
    stored = load_file(tmp_path / "out" / artifact.WEIGHTS)
    types = {name.split("::")[0]: tensor.dtype for name, tensor in stored.items() if tensor.is_floating_point()}
    assert {types.pop("out_norm.weight"), types.pop("out_norm.bias")} == {torch.float32}
    extra = ("_scale", "_multiplier", "_codebook", "_values")
    plain = {name: kind for name, kind in types.items() if not name.endswith(extra)}
    assert set(plain.values()) == {getattr(torch, dtype)}
    before = sum(tensor.numel() * tensor.element_size() for tensor in net(dtype).state_dict().values())
    assert 0 < report["original"]["size_bytes"] - before < 4096  # the header
    assert report["steps"][0]["measurement"]["size_bytes"] == (tmp_path / "out" / artifact.WEIGHTS).stat().st_size
