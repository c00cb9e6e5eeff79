"""The way back: an artifact is loaded, trained in anybody's loop, and saved as an artifact again."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import compresskit as package
from compresskit.artifact import artifact
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run

NET = """
from torch import nn

def make(width: int = 8):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 10))
    net.input_shape = (1, 8, 8)
    return net

def shapeless():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture(scope="module")
def pruned(digits_model: Path, tmp_path_factory) -> Path:
    """The trained digits model without half of its channels."""
    folder = tmp_path_factory.mktemp("pruned") / "model"
    content = {"model": str(digits_model), "latency_rounds": 0, "steps": [{"prune": {"ratio": 0.5, "round_to": 1}}]}
    run(Run(validate(content), folder))
    return folder


@pytest.fixture
def net_file(tmp_path, monkeypatch) -> str:
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return "net.py:make"


def train(module: nn.Module, steps: int = 30) -> float:
    """A plain loop on digits; the accuracy on test data afterwards."""
    data = open_data("digits", load_model("builtin:digits_cnn").preprocessing)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    module.train()
    batches = iter(data.batches("train", batch_size=64, shuffle=True).at_epoch(step) for step in range(steps))
    for (inputs, targets), _ in zip((batch for epoch in batches for batch in epoch), range(steps), strict=False):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    module.eval()
    inputs, targets = next(iter(data.batches("test", batch_size=400)))
    with torch.no_grad():
        return float((module(inputs).argmax(1) == targets).float().mean())


def outputs(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(inputs)


def test_a_pruned_model_is_trained_in_a_loop_saved_and_goes_on_from_there(pruned, tmp_path, compresskit):
    module = package.load(str(pruned))
    before = train(module, 0)
    assert train(module) > before + 0.3
    module.train()
    size_bytes = package.save(module, tmp_path / "trained")
    assert all(layer.training for layer in module.modules())  # left as it was
    assert size_bytes == (tmp_path / "trained" / artifact.WEIGHTS).stat().st_size
    x = torch.randn(3, 1, 8, 8)
    torch.save((x, outputs(module, x)), tmp_path / "expected.pt")
    script = (
        "import torch, compresskit; x, y = torch.load('expected.pt', weights_only=True)\n"
        "with torch.no_grad(): assert torch.equal(compresskit.load('trained')(x), y)"
    )
    root = str(Path(package.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": root}
    )
    assert done.returncode == 0, done.stderr
    first, second = artifact.load(pruned), artifact.load(tmp_path / "trained")
    assert (second.edits, second.storage, second.preprocessing) == (first.edits, first.storage, first.preprocessing)
    assert compresskit("verify", "trained").returncode == 0
    steps = [{"prune": {"ratio": 0.25, "round_to": 1}}, {"quantize": {}}]
    content = {"model": str(tmp_path / "trained"), "latency_rounds": 0, "steps": steps}
    report = run(Run(validate(content), tmp_path / "smaller"))
    assert report["steps"][0]["measurement"]["macs"] < report["original"]["macs"]
    assert report["steps"][1]["measurement"]["size_bytes"] < 0.5 * size_bytes


@pytest.mark.parametrize(
    "wrap",
    [
        copy.deepcopy,
        nn.DataParallel,
        AveragedModel,
        torch.compile,
        lambda module: torch.compile(nn.DataParallel(module)),
    ],
    ids=["copy", "data-parallel", "averaged", "compiled", "both"],
)
def test_copies_and_wrappers_remember_where_they_came_from(pruned, tmp_path, wrap):
    module = package.load(str(pruned))
    with torch.no_grad():
        next(module.parameters()).mul_(1.5)
    package.save(wrap(module), tmp_path / "saved")
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(outputs(package.load(str(tmp_path / "saved")), x), outputs(module, x))
    assert not any("origin" in name for name in module.state_dict())


def test_zeros_and_codes_are_stored_as_they_were(digits_model, tmp_path):
    steps = [{"prune": {"ratio": 0.8, "granularity": "weight"}}]
    run(Run(validate({"model": str(digits_model), "latency_rounds": 0, "steps": steps}), tmp_path / "sparse"))
    steps = [{"quantize": {"scheme": "int4-weight", "coding": "huffman"}}]
    run(Run(validate({"model": str(tmp_path / "sparse"), "latency_rounds": 0, "steps": steps}), tmp_path / "int4"))
    for name in ("sparse", "int4"):
        size_bytes = package.save(package.load(str(tmp_path / name)), tmp_path / f"{name}-again")
        assert size_bytes == (tmp_path / name / artifact.WEIGHTS).stat().st_size
        assert artifact.load(tmp_path / f"{name}-again").storage == artifact.load(tmp_path / name).storage


def test_any_module_is_saved_with_the_string_that_builds_it(net_file, tmp_path):
    net = load_model(net_file, model_args={"width": 5}).module
    with pytest.raises(InputError, match="was not loaded by compresskit.load; name what builds it"):
        package.save(net, tmp_path / "out")
    with pytest.raises(InputError, match="1.weight has shape .5, 64., its source and edits make it .8, 64."):
        package.save(net, tmp_path / "out", source=net_file)
    package.save(net, tmp_path / "out", source=net_file, model_args={"width": 5})
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(outputs(package.load(str(tmp_path / "out"), source=net_file), x), outputs(net, x))
    with pytest.raises(InputError, match="exists"):
        package.save(net, tmp_path / "out", source=net_file, model_args={"width": 5})
    package.save(net, tmp_path / "out", source=net_file, model_args={"width": 5}, force=True)
    with pytest.raises(InputError, match="model_args would be ignored: name source too"):
        package.save(net, tmp_path / "other", model_args={"width": 5})


def test_an_example_may_be_given_in_a_batch_of_any_size(net_file, tmp_path):
    net = load_model("net.py:shapeless").module
    with pytest.raises(InputError, match="its input shape is unknown; give example"):
        package.save(net, tmp_path / "out", source="net.py:shapeless")
    with pytest.raises(InputError, match="does not take its example input: RuntimeError"):
        package.save(net, tmp_path / "out", source="net.py:shapeless", example=torch.zeros(2, 3, 8, 8))
    assert not (tmp_path / "out").exists()
    package.save(net, tmp_path / "out", source="net.py:shapeless", example=torch.zeros(7, 1, 8, 8))
    assert artifact.load(tmp_path / "out", source="net.py:shapeless").example.shape == (1, 1, 8, 8)


def test_a_result_of_a_module_in_memory_is_saved_with_the_string_that_builds_the_module(net_file, tmp_path):
    net = load_model(net_file).module
    cut = package.prune(net, example=torch.zeros(1, 1, 8, 8), ratio=0.5, round_to=1, latency_rounds=0).model
    with torch.no_grad():
        cut[4].bias += 1
    package.save(cut, tmp_path / "out", source=net_file)
    again = package.load(tmp_path / "out", trust_source=True)
    assert again[1].out_features == 4 and torch.equal(again[4].bias, cut[4].bias)
    with pytest.raises(InputError, match="has a layer .2. that its source does not build"):
        other = net_file.replace(":make", ":shapeless")
        package.save(cut, tmp_path / "other", source=other, example=torch.zeros(1, 64))


def test_lazy_layers_of_a_source_take_their_shapes_from_the_example(tmp_path):
    (tmp_path / "lazy.py").write_text("from torch import nn\n\ndef make():\n    return nn.LazyLinear(2)\n")
    net, example = torch.nn.LazyLinear(2), torch.ones(4, 3)
    net(example)
    package.save(net, tmp_path / "out", source=f"{tmp_path / 'lazy.py'}:make", example=example)
    assert torch.equal(package.load(tmp_path / "out", trust_source=True)(example), net(example))


def test_what_is_not_the_source_s_model_any_more_is_refused(pruned, net_file, tmp_path):
    def refused(module: nn.Module) -> str:
        with pytest.raises(InputError) as refusal:
            package.save(module, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        (line,) = str(refusal.value).splitlines()
        return line

    def damaged(change) -> nn.Module:
        module = package.load(net_file)
        change(module)
        return module

    assert "has a layer '5' that its source does not build" in refused(damaged(lambda net: net.append(nn.ReLU())))
    assert "lacks layer '4'" in refused(damaged(lambda net: net.__delitem__(3)))
    narrow = damaged(lambda net: setattr(net[1], "weight", nn.Parameter(torch.ones(4, 64))))
    assert "1.weight has shape [4, 64]" in refused(narrow)
    assert "has a tensor 'extra'" in refused(damaged(lambda net: net.register_buffer("extra", torch.ones(1))))
    assert "lacks tensor '4.bias'" in refused(damaged(lambda net: net[4].register_parameter("bias", None)))
    assert "holds NaN" in refused(damaged(lambda net: net[1].weight.data.fill_(torch.nan)))
    swapped = damaged(lambda net: net.__setitem__(2, nn.Sigmoid()))
    assert "computes something else than its source with the same weights" in refused(swapped)
    assert "does not take its example input" in refused(damaged(lambda net: net.__setitem__(0, nn.Identity())))
    pruned_again = package.load(str(pruned))
    first = next(layer for layer in pruned_again.modules() if isinstance(layer, nn.Conv2d))
    first.weight = nn.Parameter(first.weight[:-1])
    assert "cut with compresskit prune" in refused(pruned_again)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_weights_that_training_computes_are_saved_plain(net_file, tmp_path):
    from torch.nn.utils import parametrizations, prune, weight_norm

    for number, wrap in enumerate((parametrizations.weight_norm, weight_norm, torch.compile, masked := _masked(prune))):
        module = package.load(net_file)
        module[1] = wrap(module[1])
        train(module, 2)
        expected, names = outputs(module, torch.ones(2, 1, 8, 8)), list(module.state_dict())
        module.train()
        package.save(module, tmp_path / f"out{number}")
        assert list(module.state_dict()) == names and module.training  # left as it was
        found = package.load(str(tmp_path / f"out{number}"), source=net_file)
        assert torch.allclose(outputs(found, torch.ones(2, 1, 8, 8)), expected, atol=1e-5)
        assert list(found.state_dict()) == list(package.load(net_file).state_dict())
    assert wrap is masked and (found[1].weight == 0).float().mean() == 0.5


def _masked(prune):
    return lambda layer: prune.l1_unstructured(layer, "weight", 0.5)


def test_synchronized_batch_norms_are_the_same_model(digits_model, tmp_path):
    module = package.load(str(digits_model))
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
    package.save(nn.SyncBatchNorm.convert_sync_batchnorm(module), tmp_path / "out", source=str(digits_model))
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(outputs(package.load(str(tmp_path / "out")), x), outputs(package.load(str(digits_model)), x))


def test_weights_trained_elsewhere_go_into_an_artifact_from_the_shell(pruned, tmp_path, invoke):
    module = package.load(str(pruned))
    train(module, 3)
    torch.save({"model": {f"module.{name}": value for name, value in module.state_dict().items()}}, "mine.pt")
    torch.save(load_model("builtin:digits_cnn", model_args={"width": 16}).module.state_dict(), "whole.pt")
    code, _, err = invoke(
        "quantize", pruned, "--weights", "mine.pt", "--scheme", "int8-weight", "-o", "out", "--latency-rounds", 0, "-q"
    )
    assert code == 0, err
    found = artifact.load(Path("out"))
    assert found.edits[: len(artifact.load(pruned).edits)] == artifact.load(pruned).edits
    x = torch.randn(16, 1, 8, 8)
    assert (outputs(found.module, x) - outputs(module, x)).abs().max() < 0.1 * outputs(module, x).abs().max()
    code, _, err = invoke("inspect", pruned, "--weights", "whole.pt")
    assert code == 2 and "whole.pt" in err and "has shape" in err
    code, _, err = invoke("inspect", "out", "--weights", "mine.pt")
    assert code == 2 and "is quantized: its layers hold codes" in err
    code, _, err = invoke("inspect", pruned, "--weights", "pretrained")
    assert code == 2 and "no published weights" in err
    for line in err.splitlines():
        assert line.startswith("compresskit: ")
