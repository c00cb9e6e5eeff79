import pytest
import torch
from torch import nn

from compresskit.artifact import source
from compresskit.core.types import Loaded
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured import output_dependence
from compresskit.pruning.structured.output_dependence import weak_layers
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


def deep(activation, layers=60):
    torch.manual_seed(0)
    blocks = [layer for _ in range(layers) for layer in (nn.Linear(16, 16), activation())]
    return nn.Sequential(*blocks, nn.Linear(16, 4)).eval()


def notes_of(module, example, **options):
    loaded = Loaded(module, {}, example, name="net")
    result = prune(loaded, PruneOptions(**{"ratio": 0.5} | options), Context(loaded))
    assert result.facts["largest_difference"] <= 1e-8
    return [note for note in result.notes if "the proof says little" in note]


def weights_of(module):
    return {name: [layer.weight] for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}


@pytest.mark.integration
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
def test_a_deep_untrained_net_is_said_to_ignore_its_first_layers(activation):
    module, example = deep(activation), torch.ones(1, 16)
    weak = weak_layers(module.double(), example, weights_of(module), 1e-6)
    assert weak[:2] == ["0", "2"] and 5 < len(weak) < 60
    with torch.no_grad():
        before = module(example.double())
        nn.init.normal_(module[0].weight, std=0.2)
        assert (module(example.double()) - before).abs().max() < 1e-6 * before.abs().max()
    (note,) = notes_of(deep(activation), example, round_to=1)
    assert note == (
        f"the proof says little of 0, 2 and {len(weak) - 2} more: changing them moves the output by less than 1e-6 of "
        "its largest value; the example or the weights may be degenerate"
    )


class Branch(nn.Module):
    """A residual branch whose last layer starts at zero."""

    def __init__(self):
        super().__init__()
        self.stem, self.inner, self.gate = nn.Linear(8, 32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 3)
        nn.init.zeros_(self.gate.weight)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(x + self.gate(torch.relu(self.inner(x))))


def test_only_the_layer_behind_a_zero_weight_is_named():
    torch.manual_seed(0)
    (note,) = notes_of(Branch().eval(), torch.randn(1, 8))
    assert note.startswith("the proof says little of inner: changing it moves")


class Net(nn.Module):
    """Three layers; `how` says what stands between forward and the gradient."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.first, self.second, self.head = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 50)

    def forward(self, x):
        with torch.set_grad_enabled(self.how != "no_grad" and torch.is_grad_enabled()):
            x = self.first(x)
            x = self.second(torch.round(8 * x) / 8 if self.how == "round" else torch.relu(x))
            x = self.head(torch.relu(x))
        if self.how == "integers":
            return (100 * x).round().long()
        return x.softmax(-1) if self.how == "softmax" else x


@pytest.mark.parametrize("how", ["plain", "softmax", "no_grad", "round", "integers"])
def test_an_ordinary_net_is_passed_over_in_silence_with_and_without_a_gradient(how):
    torch.manual_seed(0)
    assert not notes_of(Net(how).eval(), torch.randn(1, 8))


@pytest.mark.parametrize("how", ["no_grad", "integers"])
def test_without_a_gradient_the_ignored_first_layers_are_found_by_changing_them(how):
    class Deep(Net):
        def __init__(self):
            super().__init__(how)
            self.first = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), deep(nn.Tanh)[:-1], nn.Linear(16, 32))

    torch.manual_seed(0)
    module = Deep().double().eval()
    weights = weights_of(module)
    weak = weak_layers(module, torch.randn(1, 8), weights, 1e-6)
    assert weak == list(weights)[: len(weak)] and 5 < len(weak) < 60


@pytest.mark.integration
@pytest.mark.parametrize("string", ["builtin:digits_cnn", "torchvision:resnet18"])
def test_default_initialized_networks_are_passed_over_in_silence(string):
    pytest.importorskip("torchvision")
    loaded = source.load_model(string, inputs=None if string.startswith("builtin") else ["3,64,64"])
    assert not notes_of(loaded.module, loaded.example)


@pytest.mark.parametrize("how", ["plain", "integers"])
def test_the_model_and_the_random_state_stay_as_they_are(how):
    torch.manual_seed(0)
    module, example = Net(how).eval(), torch.randn(1, 8)
    nn.init.zeros_(module.second.weight)  # so that weights are changed
    module.head.weight.requires_grad_(False)
    module.first.weight.grad = gradient = torch.ones(32, 8)
    before, drawn = {name: value.clone() for name, value in module.state_dict().items()}, torch.get_rng_state()
    assert weak_layers(module, example, weights_of(module), 1e-6)[0] == "first"
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert module.first.weight.grad is gradient and module.second.weight.grad is None
    assert module.second.bias.grad is None and not module.head.weight.requires_grad


def test_a_forward_that_fails_here_leaves_the_cut_alone_and_is_logged():
    class Once(Net):
        def forward(self, x):
            if torch.is_grad_enabled():
                raise ValueError("no training here")
            return super().forward(x)

    torch.manual_seed(0)
    lines = []
    loaded = Loaded(Once("plain").eval(), {}, torch.randn(1, 8), name="net")
    result = prune(loaded, PruneOptions(ratio=0.5), Context(loaded, log=lines.append))
    assert result.facts["groups_pruned"] == 2
    assert [line for line in lines if "was not measured: ValueError: no training here" in line]


def test_an_empty_output_says_nothing():
    class Empty(Net):
        def forward(self, x):
            return super().forward(x)[:, :0]

    module = Empty("plain").eval()
    assert output_dependence.weak_layers(module, torch.randn(1, 8), weights_of(module), 1e-6) == []
