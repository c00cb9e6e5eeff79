"""Weights that are computed in every forward become plain ones, with equal outputs, and so again in a rebuilt model."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from compresskit.artifact import artifact
from compresskit.artifact.edits import replay
from compresskit.model.plain_weights import computed_tensors, fold, fold_checked

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")


class Symmetric(nn.Module):
    """A square matrix of a vector: the computed tensor has another shape than the stored one."""

    def forward(self, vector):
        return torch.outer(vector, vector)

    def right_inverse(self, matrix):
        return matrix.diagonal().abs().sqrt()


class EqualizedLearningRate:
    """The hook form that many generators use: `NAME_orig` times a constant, set before every forward."""

    name = "weight"

    def compute_weight(self, module):
        return module.weight_orig * 0.5

    def __call__(self, module, inputs):
        module.weight = self.compute_weight(module)


def equalized(layer):
    weight = layer.weight
    del layer._parameters["weight"]
    layer.register_parameter("weight_orig", nn.Parameter(weight.data))
    layer.register_forward_pre_hook(EqualizedLearningRate())
    return layer


def symmetric():
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Symmetric(), unsafe=True)
    return layer


def masked(layer):
    prune.random_unstructured(layer, "weight", 0.5)
    prune.l1_unstructured(layer, "weight", 0.2)  # a container of two methods
    return prune.l1_unstructured(layer, "bias", 0.5)


def masked_norm():
    layer = nn.utils.weight_norm(nn.Linear(6, 4))
    prune.random_unstructured(layer, "weight_v", 0.3)
    return layer


def spectral_of_norm():
    return parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(6, 4)))


def recurrent():
    layer = nn.LSTM(6, 5)
    for name in ("weight_hh_l0", "weight_ih_l0"):
        parametrizations.weight_norm(layer, name)
    return layer


MAKERS = {
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv1d(6, 4, 3)), (2, 6, 9)),
    "weight norm, whole": (lambda: parametrizations.weight_norm(nn.Linear(6, 4), dim=None), (2, 6)),
    "weight norm hook": (lambda: nn.utils.weight_norm(nn.ConvTranspose2d(6, 4, 3), dim=1), (2, 6, 5, 5)),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv2d(6, 4, 3)), (2, 6, 5, 5)),
    "spectral norm hook": (lambda: nn.utils.spectral_norm(nn.Linear(6, 4)), (2, 6)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(6, 6)), (2, 6)),
    "own, other shape": (symmetric, (2, 6)),
    "hook of the same form": (lambda: equalized(nn.Linear(6, 4)), (2, 6)),
    "masks": (lambda: masked(nn.Linear(6, 4)), (2, 6)),
    "mask below weight norm": (masked_norm, (2, 6)),
    "two in a row": (spectral_of_norm, (2, 6)),
    "recurrent": (recurrent, (3, 2, 6)),
    "recurrent hook": (lambda: nn.utils.weight_norm(nn.GRU(6, 5), "weight_hh_l0"), (3, 2, 6)),
}


NOT_ON_META = ("orthogonal", "masks", "mask below weight norm")  # torch cannot make them there


@pytest.fixture
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def first(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("kind", MAKERS)
def test_outputs_stay_and_the_edits_do_the_same_to_a_new_module(kind):
    make, shape = MAKERS[kind]
    module, x = nn.Sequential(make()).eval(), torch.randn(shape)
    expected = first(module(x)).detach()
    edits, notes = fold(module)
    assert torch.allclose(first(module(x)), expected, rtol=0, atol=1e-12)
    assert len(edits) == 1
    assert not computed_tensors(module[0])
    assert not hasattr(module[0], "parametrizations")
    state = module.state_dict()
    for device in ("cpu",) if kind in NOT_ON_META else ("cpu", "meta"):
        with torch.device(device):
            rebuilt = replay(nn.Sequential(make()), json.loads(json.dumps(edits))).eval()
        assert type(rebuilt[0]) is type(module[0])
        assert {name: value.shape for name, value in rebuilt.state_dict().items()} == {
            name: value.shape for name, value in state.items()
        }
        assert list(rebuilt.state_dict()) == list(state)
        rebuilt.load_state_dict(state, assign=True)
        assert torch.equal(first(rebuilt(x)), first(module(x)))
    assert torch.equal(first(copy.deepcopy(module)(x)), first(module(x)))


def test_a_mask_leaves_zeros_and_the_weight_can_be_trained():
    module = nn.Sequential(masked(nn.Linear(6, 4)))
    zeros = module[0].weight == 0
    fold(module)
    assert zeros.any()
    assert torch.equal(module[0].weight == 0, zeros)
    assert isinstance(module[0].weight, nn.Parameter)
    assert module[0].weight.requires_grad


def test_tensors_computed_from_the_same_originals_stay_one():
    first_layer, second = nn.Linear(5, 5), nn.Linear(5, 5)
    second.weight = first_layer.weight
    for layer in (first_layer, second):
        parametrizations.spectral_norm(layer)
        layer.parametrizations.weight[0]._u.fill_(5**-0.5)
        layer.parametrizations.weight[0]._v.fill_(5**-0.5)
    module = nn.Sequential(first_layer, second).eval()
    fold(module)
    assert module[0].weight is module[1].weight


def test_what_draws_at_random_is_left_and_named():
    class Noise(nn.Module):
        def forward(self, weight):
            return weight + torch.randn_like(weight)

    module = nn.Sequential(nn.Linear(4, 4), parametrizations.weight_norm(nn.Linear(4, 4)))
    parametrize.register_parametrization(module[0], "weight", Noise())
    edits, notes = fold(module.eval())
    assert [edit["target"] for edit in edits] == ["1"]
    assert any("draws at random" in note and note.startswith("0:") for note in notes)
    assert parametrize.is_parametrized(module[0])


def test_folding_is_undone_where_forward_needs_the_originals():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.utils.weight_norm(nn.Linear(4, 4))
            self.other = parametrizations.weight_norm(nn.Linear(4, 4))

        def forward(self, x):
            return self.other(self.layer(x)) * self.layer.weight_g.mean()

    module = Reads().eval()
    names, x = list(module.state_dict()), torch.randn(2, 4)
    expected = module(x)
    edits, notes = fold_checked(module, x)
    assert edits == []
    assert "stay so" in notes[0]
    assert "weight_g" in notes[0]
    assert list(module.state_dict()) == names
    assert torch.equal(module(x), expected)


FILE = """
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations as P, prune

class Net(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.a, self.b = norm(nn.Conv2d(3, 32, 3, padding=1)), norm(nn.Conv2d(32, 32, 3, padding=1))
        self.head = nn.Linear(32, 5)
        self.input_shape = (3, 8, 8)
    def forward(self, x):
        return self.head(F.relu(self.b(F.relu(self.a(x)))).mean((2, 3)))

def masked(layer):
    return prune.l1_unstructured(layer, "weight", 0.3)

def weight(): return Net(P.weight_norm)
def spectral(): return Net(P.spectral_norm)
def weight_hook(): return Net(nn.utils.weight_norm)
def spectral_hook(): return Net(nn.utils.spectral_norm)
def mask(): return Net(masked)
def orthogonal(): return Net(P.orthogonal)
def plain(): return Net(lambda layer: layer)
"""


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(FILE)
    return f"{tmp_path}/net.py"


PRUNE, QUANTIZE = ("prune", "--target-macs", "0.5"), ("quantize", "--scheme", "int8-weight")
DECOMPOSE = ("decompose", "--keep-ratio", "0.5")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("technique", "factory"),
    [
        *((PRUNE, factory) for factory in ("weight", "spectral", "weight_hook", "spectral_hook", "mask")),
        *((QUANTIZE, factory) for factory in ("weight", "spectral_hook", "mask")),
        *((DECOMPOSE, factory) for factory in ("spectral", "weight_hook")),
    ],
)
def test_every_technique_applies_and_its_artifact_reloads(invoke, net, tmp_path, factory, technique):
    name, *options = technique
    code, _, err = invoke(name, f"{net}:{factory}", *options, "--latency-rounds", "0", "-o", "out")
    assert code == 0, err
    assert "folded into plain weights: a.weight, b.weight" in err
    loaded = artifact.load(tmp_path / "out", trust_source=True)
    assert [edit["op"] for edit in loaded.edits[:2]] == ["plain_weights", "plain_weights"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "folded" in manifest["provenance"]["loaded"][0]
    if name == "prune":
        after = json.loads((tmp_path / "out" / "report.json").read_text())["steps"][0]["measurement"]["macs"]
        before = json.loads((tmp_path / "out" / "report.json").read_text())["original"]["macs"]
        assert 0.4 * before < after <= 0.5 * before


@pytest.mark.parametrize("factory", ["tcn", "disc", "tcn_old", "disc_old"])
def test_the_shared_cases_lose_half_of_their_macs(invoke, shared_dir, tmp_path, factory):
    case = shared_dir / "cases" / "parametrized.py"
    if not case.is_file():
        pytest.skip(f"{case} is not there")
    shape = "16,64" if factory.startswith("tcn") else "3,32,32"
    code, _, err = invoke(
        *("prune", f"{case}:{factory}", "--target-macs", "0.5", "--latency-rounds", "0"), "--input", shape, "-o", "out"
    )
    assert code == 0, err
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["steps"][0]["measurement"]["macs"] <= 0.5 * report["original"]["macs"]
    artifact.load(tmp_path / "out", trust_source=True)
