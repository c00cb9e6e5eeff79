"""Adapters are all that is trained, and become part of the weights."""

from importlib.util import find_spec

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import compresskit
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.quantization.layers.conversion import convert
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.training.adapters import adaptable, adapters
from compresskit.training.options import RecoverOptions

# peft imports transformers, which every worker would do while it only collects
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed"),
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.norm = nn.Embedding(9, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.sparse, self.quantized, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 9)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.quantized(self.sparse(self.norm(self.inner(self.embed(tokens))))))


def loaded_net() -> Loaded:
    torch.manual_seed(0)
    net = Net()
    convert(net.quantized, Spec(("weight",)))
    return Loaded(net, {}, torch.arange(4)[None], storage={"sparse.weight": "bitmap"})


def test_only_adapters_change_and_the_merged_layer_computes_what_they_did():
    loaded = loaded_net()
    before = {name: parameter.detach().clone() for name, parameter in loaded.module.named_parameters()}
    net = loaded.module
    net.sparse.requires_grad_(requires_grad=False)
    with torch.no_grad():
        net.quantized.weight_scale.fill_(0.01)
        net.quantized.weight_values.copy_(torch.arange(64).view(8, 8) - 30)
    assert adaptable(loaded) == ["inner"]
    with adapters(loaded, 2, seed=0) as trained:
        assert trained == 2 * (8 + 8) == sum(one.numel() for one in net.parameters() if one.requires_grad)
        optimizer = torch.optim.SGD([one for one in net.parameters() if one.requires_grad], lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            net(loaded.example).square().sum().backward()
            optimizer.step()
        with torch.no_grad():
            wanted = net(loaded.example)
    assert type(net.inner) is nn.Linear
    changed = {name for name, one in net.named_parameters() if not torch.equal(one, before[name])}
    assert changed == {"inner.weight"}
    assert torch.linalg.matrix_rank(net.inner.weight - before["inner.weight"], atol=1e-6) == 2
    assert [name for name, one in net.named_parameters() if not one.requires_grad] == ["sparse.weight", "sparse.bias"]
    with torch.no_grad():
        torch.testing.assert_close(net(loaded.example), wanted, rtol=1e-5, atol=1e-5)


def test_models_without_float_linear_layers_are_refused():
    loaded = Loaded(nn.Conv2d(3, 3, 1), {}, torch.zeros(1, 3, 4, 4))
    with pytest.raises(InputError, match="has no linear layers of float weights to adapt"), adapters(loaded, 2, seed=0):
        pass


def test_a_step_recovers_by_adapters(tmp_path):
    with pytest.raises(ValidationError, match="lora would be ignored: recover is 'none'"):
        RecoverOptions(lora=4)
    assert RecoverOptions(mode="finetune", lora=4).packages() == {"peft": "peft"}
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    result = compresskit.prune(
        net, data="digits", ratio=0.5, recover={"mode": "finetune", "lora": 4, "epochs": 1, "lr": 0.1},
        reconstruct="none", output=tmp_path / "out", latency_rounds=0, model_arg={},
    )  # fmt: skip
    recovery = result.report["steps"][0]["facts"]["recovery"]
    assert recovery["trained_parameters"] == 4 * (64 + 32) + 4 * (32 + 10)
    assert [type(one).__name__ for one in result.model] == ["Flatten", "Linear", "ReLU", "Linear"]
