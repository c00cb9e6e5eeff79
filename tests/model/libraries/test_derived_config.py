"""Configurations solved from the shapes that they have to build."""

import pytest

from compresskit.model.libraries.derived_config import settings_for, without_layers
from compresskit.model.libraries.geometry import Fact, Geometry, NotExpressed, built, facts_of
from tests.tiny_transformers import tiny


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return Geometry(tiny(tmp_path_factory.mktemp("llama")).module)


@pytest.mark.parametrize(
    "changed",
    [
        {"intermediate_size": 40},
        {"hidden_size": 24},
        {"num_attention_heads": 2, "num_key_value_heads": 1},
        {"head_dim": 6},
        {"vocab_size": 48},
        {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 8, "head_dim": 4},
    ],
)
def test_widths_are_solved(llama, changed):
    wanted = facts_of(built(llama.class_name, llama.settings | changed))
    settings = settings_for(llama, wanted)
    assert {key: settings[key] for key in changed} == changed
    assert {key for key in settings if settings[key] != llama.settings[key]} == set(changed)


@pytest.mark.integration
def test_heads_are_solved_from_an_attribute_that_the_forward_reads(tmp_path):
    geometry = Geometry(tiny(tmp_path, "Bert").module)
    wanted = facts_of(built(geometry.class_name, geometry.settings | {"hidden_size": 24, "num_attention_heads": 3}))
    read = {fact: n for fact, n in wanted.items() if fact.kind == "size" or fact.name == "attention_head_size"}
    settings = settings_for(geometry, read)
    assert (settings["hidden_size"], settings["num_attention_heads"]) == (24, 3)


def test_layers_of_different_widths_are_refused_with_their_names(llama):
    wanted = dict(llama.facts)
    for name, dim in (("gate_proj", 0), ("up_proj", 0), ("down_proj", 1)):
        wanted[Fact("size", f"model.layers.1.mlp.{name}.weight", "", dim)] = 40
    with pytest.raises(NotExpressed, match=r"different widths .*model\.layers\.\d.* one intermediate_size"):
        settings_for(llama, wanted)


@pytest.mark.integration
def test_fewer_layers_take_their_entries_of_lists_along(tmp_path):
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    geometry = Geometry(tiny(tmp_path, "Gemma3", head_dim=8, layer_types=kinds).module)
    kept = {"model.layers": [0, 1]}
    settings = settings_for(geometry, without_layers(geometry.facts, kept), kept)
    assert settings["num_hidden_layers"] == 2 and settings["layer_types"] == kinds[:2]


def test_layers_are_renumbered():
    facts = {Fact("length", "a"): 3, Fact("size", "a.0.w"): 1, Fact("size", "a.2.w"): 2, Fact("size", "ab.2.w"): 3}
    found = without_layers(facts, {"a": [2]})
    assert found == {Fact("length", "a"): 1, Fact("size", "a.0.w"): 2, Fact("size", "ab.2.w"): 3}
