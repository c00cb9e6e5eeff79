import pytest
import torch
from pydantic import ValidationError

from compresskit.artifact import edits, source
from compresskit.core.errors import InputError
from compresskit.model import builders
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


def pruned(string, model_args=None, **options):
    loaded = source.load_model(
        string, model_args=model_args, inputs=None if string.startswith("builtin") else ["3,64,64"]
    )
    original = loaded.clone()
    return original, prune(loaded, PruneOptions(**options), Context(original))


def assert_replays(loaded):
    """The edits alone turn the source into the pruned geometry."""
    rebuilt = edits.replay(builders.build(loaded.source), loaded.edits).eval()
    rebuilt.load_state_dict(loaded.module.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(rebuilt(loaded.example), loaded.module(loaded.example))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("digits_cnn", {}),
        ("digits_mlp", {}),
        ("lenet5", {}),
        ("lenet300", {}),
        ("cifar_plain20", {}),
        ("cifar_vgg", {"width": 8}),
    ],
)
def test_builtin_models_at_half_the_macs(name, arguments):
    _, result = pruned(f"builtin:{name}", arguments, target_macs=0.5)
    assert 0.45 <= result.facts["macs_kept"] <= 0.5
    assert result.facts["largest_difference"] <= 1e-8 and result.facts["difference_dtype"] == "float64"
    assert_replays(result.loaded)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_torchvision_families(name):
    pytest.importorskip("torchvision")
    _, result = pruned(f"torchvision:{name}", ratio=0.5)
    assert result.facts["macs_kept"] < 0.5
    assert result.facts["largest_difference"] <= 1e-8
    assert_replays(result.loaded)


@pytest.mark.integration
def test_padded_shortcuts_change_their_pads():
    _, result = pruned("builtin:cifar_resnet56", target_macs=0.5)
    module = result.loaded.module
    shortcut, stage = module.layer2[0].shortcut, module.layer2[0].conv2.out_channels
    assert shortcut.pad_before + module.conv1.out_channels + shortcut.pad_after == stage < 32
    assert 0.495 <= result.facts["macs_kept"] <= 0.5


def test_protected_layers_and_overrides():
    _, result = pruned("builtin:digits_cnn", ratio=0.5, protect=["0"], ratios={"3": 0.25})
    assert [m.out_channels for m in result.loaded.module if isinstance(m, torch.nn.Conv2d)] == [64, 96, 64]


def test_an_unreachable_budget_is_reported():
    _, result = pruned("builtin:digits_cnn", target_macs=0.1, min_keep_ratio=0.9)
    assert any("asked to keep 10.0%" in note for note in result.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing says how much"),
        ({"ratio": 0.5, "target_macs": 0.5}, "exclude each other"),
        ({"ratio": 1.2}, "less than 1"),
        ({"ratio": 0.5, "criterion": "l3"}, "did you mean 'l"),
        ({"ratio": 0.5, "scope": "globl"}, "did you mean 'global'"),
        ({"ratios": {"a": 1.0}}, "below 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        PruneOptions(**options)


def test_a_pattern_that_matches_nothing_names_the_nearest_layer():
    with pytest.raises(InputError, match="did you mean 'layer1.0.conv1'"):
        pruned("builtin:cifar_resnet20", ratio=0.5, protect=["layer1.0.konv1"])


def test_a_model_without_free_channels_is_refused():
    torch.manual_seed(0)
    loaded = source.load_model("builtin:digits_mlp")
    loaded.module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    with pytest.raises(InputError, match="no channels can go"):
        prune(loaded, PruneOptions(ratio=0.5), Context(loaded))


def test_same_seed_same_model():
    first = pruned("builtin:digits_cnn", ratio=0.5, criterion="random")[1].loaded.module
    second = pruned("builtin:digits_cnn", ratio=0.5, criterion="random")[1].loaded.module
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
