import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.pruning.dependency.graph import build_graph
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


class Scripted(nn.Module):
    """Two convolutions, and a head whose code TorchScript holds."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.head = torch.jit.script(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)))

    def forward(self, x):
        return self.head(F.relu(self.second(F.relu(self.first(x)))).mean((2, 3)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_scripted_child_and_what_it_reads_are_left_out_and_named(halved):
    graph = build_graph(Scripted().eval(), torch.randn(2, 3, 8, 8))
    assert set(graph.left_out) == {"second", "head.0", "head.2"}
    assert graph.left_out["second"] == "head is scripted, so its code cannot follow"
    assert halved(Scripted(), torch.randn(2, 3, 8, 8))[0] == {"first": 16}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_model_that_is_scripted_whole_is_refused():
    module = torch.jit.script(nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 2)).eval())
    loaded = Loaded(module, {}, torch.randn(1, 4))
    with pytest.raises(InputError, match="the model is scripted"):
        prune(loaded, PruneOptions(ratio=0.5), Context(loaded))


class Asserting(nn.Module):
    """A block that checks its width by `check`."""

    def __init__(self, check, width=16):
        super().__init__()
        self.check, self.channels = check, width
        self.enter, self.inner, self.leave = nn.Conv2d(3, width, 1), nn.Conv2d(width, width, 1), nn.Conv2d(width, 2, 1)

    def forward(self, x):
        x = self.enter(x)
        self.check(self, x)
        return self.leave(F.relu(self.inner(x)))


def by_assert(net, x):
    assert x.shape[1] == net.channels


def by_raise(net, x):
    if x.size(1) != net.channels:
        raise ValueError(x.shape)


def by_reversed(net, x):
    assert net.channels == x.shape[1], x.shape


def by_check(net, x):
    torch._check(x.shape[1] == net.channels)


def by_torch_assert(net, x):
    torch._assert(x.size(1) == net.channels, "width")


def by_membership(net, x):
    assert x.shape[1] in (1, net.channels)


def by_shape(net, x):
    assert x.shape[1:2] == (net.channels,)


def by_layer(net, x):
    assert x.shape[1] == net.inner.in_channels


@pytest.mark.parametrize(
    "check", [by_assert, by_raise, by_reversed, by_check, by_torch_assert, by_membership, by_shape, by_layer]
)
def test_a_width_that_forward_checks_is_an_edit(check, halved):
    model = Asserting(check)
    assert halved(model, torch.randn(2, 3, 4, 4))[0] == {"enter": 16, "inner": 16}
    assert model.channels == (16 if check is by_layer else 8)


def test_a_width_checked_against_a_number_stays():
    def check(net, x):
        assert x.shape[1] == 16

    graph = build_graph(Asserting(check).eval(), torch.randn(2, 3, 4, 4))
    assert [group.name for group in graph.groups] == ["inner"]
    assert "a comparison of sizes with the number 16" in graph.left_out["enter"]


@pytest.mark.parametrize("name", ["enter", "inner", "leave"])
def test_a_protected_layer_keeps_its_outputs(name):
    model = Asserting(by_assert).eval()
    before = {n: layer.weight.shape[0] for n, layer in model.named_children()}
    loaded = Loaded(nn.Sequential(model, nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1)).eval(), {}, torch.randn(2, 3, 4, 4))
    prune(loaded, PruneOptions(ratio=0.5, protect=[f"0.{name}"]), Context(loaded.clone()))
    assert getattr(loaded.module[0], name).weight.shape[0] == before[name]


def test_a_protected_block_keeps_all_its_layers():
    loaded = Loaded(nn.Sequential(Asserting(by_assert), nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 1)).eval(), {},
                    torch.randn(2, 3, 4, 4))  # fmt: skip
    prune(loaded, PruneOptions(ratio=0.5, protect=["0"]), Context(loaded.clone()))
    assert [layer.weight.shape[0] for layer in loaded.module[0].children()] == [16, 16, 2]
    assert loaded.module[1].weight.shape[0] == 4


class Lazily(nn.Module):
    """Its first forward puts up hooks, marks that they are there, and fills the containers that it keeps."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 16), nn.Linear(16, 2)
        self.ready, self.widths, self.seen, self.calls = False, {}, set(), []
        self.kept = []

    def forward(self, x):
        if not self.ready:
            self.enter.register_forward_hook(lambda _module, _args, output: self.kept.append(output))
            self.ready = True
        self.kept = []
        x = self.enter(x)
        self.widths.setdefault("enter", x * 0)
        self.seen.add(x.size(0))
        self.calls.append(x)
        (kept,) = self.kept  # a second hook would keep a second one
        return self.leave(F.relu(kept) + self.widths["enter"])


def test_what_a_first_forward_leaves_in_its_modules_does_not_outlive_the_trace(halved):
    module, x = Lazily().eval(), torch.randn(3, 4)
    for _ in range(2):
        build_graph(module, x)
        assert not module.ready
        assert not module.enter._forward_hooks
        assert (module.widths, module.seen, module.calls, module.kept) == ({}, set(), [], [])
    assert halved(module, x)[0] == {"enter": 16}


@pytest.mark.integration
def test_a_transformers_model_that_never_ran_is_cut():
    """Its first forward installs hooks that collect hidden states."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        hidden_sizes=[16, 16, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=16, num_labels=3,
    )  # fmt: skip
    module = transformers.SegformerForSemanticSegmentation(config).eval()
    loaded = Loaded(module, {}, {"pixel_values": torch.randn(1, 3, 32, 32)})
    result = prune(loaded, PruneOptions(ratio=0.5), Context(loaded))
    assert result.facts["macs_kept"] < 0.4
    assert not [note for note in result.notes if "left out" in note]
