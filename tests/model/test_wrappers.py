"""Wrapped, compiled and unfinished models load as the plain model inside, and their artifacts load again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.artifact import artifact
from compresskit.artifact.edits import replay
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.types import call
from compresskit.model.wrappers import materialize, unwrapped

FILE = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.n, self.head = nn.BatchNorm2d(16), nn.Linear(16, 5)
        self.input_shape = (3, 8, 8)
    def forward(self, x):
        return self.head(F.relu(self.n(self.b(F.relu(self.a(x))))).mean((2, 3)))

class Children(Net):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.compile(self.a), nn.DataParallel(self.b)

class Scripted(Net):
    def __init__(self):
        super().__init__()
        self.head = torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5)))

class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.LazyConv2d(16, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(16, 3))
        self.head = nn.LazyLinear(5)
    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def in_place():
    net = Net()
    net.compile()
    return net

def parallel(): return nn.DataParallel(Net())
def compiled(): return torch.compile(Net())
def averaged(): return AveragedModel(Net())
def several(): return torch.compile(nn.DataParallel(nn.DataParallel(Net())))
def training(): return Net().train()
def whole(): return torch.jit.script(Net())
def number(): return 3
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    return f"{tmp_path}/net.py"


#: what imports torch's compiler, which takes half a second
COMPILED = [pytest.param(factory, marks=pytest.mark.integration) for factory in ("compiled", "in_place")]


@pytest.mark.parametrize("factory", ["parallel", "averaged", "several", "training", "Children", *COMPILED])
def test_wrappers_are_undone_and_so_again_in_the_artifact(net, tmp_path, factory):
    loaded = load_model(f"{net}:{factory}", seed=1)
    plain = load_model(f"{net}:Net", seed=1)
    assert not any(type(module).__name__ == "OptimizedModule" for module in loaded.module.modules())
    if factory != "Children":
        assert list(loaded.module.state_dict()) == list(plain.module.state_dict())
    assert torch.equal(call(loaded.module, loaded.example), call(plain.module, plain.example))
    artifact.save(loaded, tmp_path / "out")
    again = artifact.load(tmp_path / "out", trust_source=True)
    assert torch.equal(call(again.module, again.example), call(loaded.module, loaded.example))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
def test_a_scripted_model_is_refused_and_so_is_what_is_no_model(net):
    with pytest.raises(InputError, match="TorchScript module cannot be changed"):
        load_model(f"{net}:whole")
    with pytest.raises(InputError, match="returned a int, not an nn.Module"):
        load_model(f"{net}:number")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@pytest.mark.parametrize(
    "command", [("inspect",), ("quantize", "--scheme", "int8-weight", "--latency-rounds", "0", "-o", "out")]
)
def test_a_scripted_child_stays_as_it_is(invoke, net, command):
    name, *options = command
    code, _, err = invoke(name, f"{net}:Scripted", *options)
    assert code == 0, err


def test_lazy_layers_take_shapes_from_the_example(net, tmp_path):
    loaded = load_model(f"{net}:Lazy", inputs=["3,12,12"], seed=1)
    assert loaded.module.head.weight.shape == (5, 16)
    assert type(loaded.module.body[0]) is nn.Conv2d
    assert {edit["op"] for edit in loaded.edits} == {"materialize"}
    same = load_model(f"{net}:Lazy", inputs=["3,12,12"], seed=1)
    assert torch.equal(same.module.head.weight, loaded.module.head.weight)
    artifact.save(loaded, tmp_path / "out")
    again = artifact.load(tmp_path / "out", trust_source=True)
    assert torch.equal(call(again.module, again.example), call(loaded.module, loaded.example))
    with pytest.raises(InputError, match="give --input"):
        load_model(f"{net}:Lazy")
    with pytest.raises(InputError, match="does not run on its example input"):
        load_model(f"{net}:Lazy", inputs=["7"])


def test_an_edit_of_a_lazy_layer_fits_on_meta_and_nowhere_else():
    module = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    edits = materialize(module.eval(), torch.zeros(2, 7), "the model")
    with torch.device("meta"):
        rebuilt = replay(nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d()), edits)
    assert rebuilt[0].weight.shape == (4, 7)
    assert rebuilt[0].weight.is_meta
    with pytest.raises(InputError, match="not a lazy layer"):
        replay(nn.Sequential(nn.Linear(7, 4), nn.LazyBatchNorm1d()), edits)
    with pytest.raises(InputError, match="does not run on the example input"):
        materialize(_Unused(), torch.zeros(2, 7), "the model")


class _Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.LazyLinear(2), nn.LazyLinear(2)

    def forward(self, x):
        return self.used(x)


def test_a_plain_module_is_returned_itself():
    module = nn.Linear(2, 2)
    assert unwrapped(module, "the model") is module
