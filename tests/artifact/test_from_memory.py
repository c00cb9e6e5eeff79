"""Modules that a session holds: what builds them again is found where it can be, else the module is kept."""

from __future__ import annotations

import json
import sys
import types

import pytest
import torch
from torch import nn

from compresskit.artifact import artifact
from compresskit.artifact.from_memory import loaded_from
from compresskit.artifact.origin import remember
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.user_code.in_memory import MemorySource, find, is_in_memory, label, named_objects

X = torch.randn(3, 4)


class Fixed(nn.Module):
    """Builds without arguments."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x)


class Sized(Fixed):
    """Its default builds another model."""

    def __init__(self, features: int = 4):
        super().__init__()
        self.layer = nn.Linear(features, 3 * features)


@pytest.fixture
def home(monkeypatch) -> types.ModuleType:
    """An importable module that holds the classes above."""
    module = types.ModuleType("home_of_nets")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for kind in (Fixed, Sized):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)
    return module


def test_a_class_that_builds_the_module_is_named_as_its_source(home):
    assert loaded_from(Fixed(), example=X).source == {
        "kind": "module", "module": "home_of_nets", "factory": "Fixed", "args": {},
    }  # fmt: skip
    assert loaded_from(Sized(4), example=X).source["kind"] == "module"
    wider = Sized(5)
    assert isinstance(loaded_from(wider, example=torch.randn(1, 5)).source, MemorySource)
    changed = Fixed()
    changed.layer = nn.Sequential(nn.Linear(4, 2), nn.ReLU())
    assert isinstance(loaded_from(changed, example=X).source, MemorySource)
    assert isinstance(loaded_from(Fixed()).source, MemorySource)  # nothing to compare its outputs on


def test_the_module_is_copied_and_left_as_it_is(tmp_path):
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    loaded = loaded_from(net, example=X)
    assert net.training and not loaded.module.training and loaded.example.shape == (1, 4)
    with torch.no_grad():
        net[0].weight.zero_()
    artifact.save(loaded, tmp_path / "out")
    again = artifact.load(tmp_path / "out", module=net)
    assert torch.equal(again.module[0].weight, loaded.module[0].weight) and not net[0].weight.any()
    record = json.loads((tmp_path / "out" / "manifest.json").read_text())["source"]
    assert record == {"kind": "memory", "name": "Sequential", "class": "torch.nn.modules.container.Sequential"}


def test_a_named_source_and_an_origin_go_before_all_else(tmp_path):
    module = load_model("builtin:digits_cnn_small").module
    assert loaded_from(module, source="builtin:digits_cnn_small").source["name"] == "digits_cnn_small"
    with pytest.raises(InputError, match="that its source does not build|lacks layer"):
        loaded_from(module, source="builtin:lenet5")
    with pytest.raises(InputError, match="model_args would be ignored: name source too"):
        loaded_from(module, model_args={"width": 3})
    loaded = load_model("builtin:digits_cnn_small")
    loaded.edits = [{"op": "resize", "target": "", "shapes": {}, "attributes": {}}]
    assert loaded_from(remember(loaded)).edits == loaded.edits


def test_weights_that_are_computed_become_plain_with_an_edit(tmp_path):
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.LazyLinear(2))
    loaded = loaded_from(net, example=X)
    assert [edit["op"] for edit in loaded.edits] == ["materialize", "plain_weights"]
    artifact.save(loaded, tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(artifact.load(tmp_path / "out", module=net).module(X), loaded.module(X))


@pytest.mark.integration
def test_models_of_libraries_describe_themselves(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    bert = transformers.BertModel(config)
    loaded = loaded_from(bert, example={"input_ids": torch.tensor([[1, 2, 3]])})
    assert loaded.source["kind"] == "hf" and loaded.source["class"] == "BertModel"
    artifact.save(loaded, tmp_path / "out")
    assert type(artifact.load(tmp_path / "out").module).__name__ == "BertModel"  # nobody gives it again


@pytest.mark.integration
def test_a_timm_model_is_named():
    timm = pytest.importorskip("timm")
    net = timm.create_model("resnet10t", num_classes=7)
    source = loaded_from(net, example=torch.randn(1, 3, 32, 32)).source
    assert source == {"kind": "timm", "name": "resnet10t", "args": {"num_classes": 7}}


def test_names_hold_while_they_are_open():
    with named_objects({"a_1": 1}), named_objects({"b_2": 2}):
        assert (find("in-memory:a_1"), find("in-memory:b_2")) == (1, 2)
    with pytest.raises(InputError, match="'in-memory:a_1' was an object of a Python session, which is over"):
        find("in-memory:a_1")
    with named_objects({"f_0": len}), pytest.raises(InputError, match="is a builtin_function_or_method, not a module"):
        load_model("in-memory:f_0")
    assert is_in_memory("in-memory:x") and not is_in_memory("memory:x") and label("in-memory:Net_a1") == "Net"
