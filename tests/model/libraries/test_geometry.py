"""What a configuration decides, found by building."""

import pytest

from compresskit.core.tensors.modules import get_module
from compresskit.model.libraries.geometry import Fact, Geometry, NotExpressed, facts_of, pattern_of, settings_of, unlike
from tests.tiny_transformers import tiny


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("bert"), "Bert")


def test_the_settings_that_decide_each_dimension(llama):
    geometry = Geometry(llama.module)

    def deciders(name, dim):
        return {place[0] for place in geometry.deciders[Fact("size", name, "", dim)]}

    assert deciders("model.layers.1.mlp.up_proj.weight", 0) == {"intermediate_size"}
    assert deciders("model.layers.1.mlp.up_proj.weight", 1) == {"hidden_size"}
    assert deciders("model.layers.0.self_attn.q_proj.weight", 0) == {"num_attention_heads", "head_dim"}
    assert deciders("model.layers.0.self_attn.k_proj.weight", 0) == {"num_key_value_heads", "head_dim"}
    assert geometry.counted_lists() == ["model.layers"]


def test_heads_follow_the_width_where_no_setting_has_their_own(bert):
    geometry = Geometry(bert.module)
    fact = Fact("size", "bert.encoder.layer.0.attention.self.query.weight", "", 0)
    assert geometry.deciders[fact] == {("hidden_size",)}
    assert geometry.fields[("hidden_size",)][fact] == 1


def test_a_setting_that_is_left_open_stands_as_its_number(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    assert config.n_inner is None
    assert Geometry(transformers.GPT2LMHeadModel(config)).settings["n_inner"] == 64


def test_lists_with_an_entry_a_layer_follow_the_number_of_layers(tmp_path):
    loaded = tiny(tmp_path, "Gemma3", head_dim=8)
    assert Geometry(loaded.module).counted_lists() == ["model.layers"]


def test_a_model_that_its_configuration_does_not_build_is_refused(llama):
    changed = llama.clone()
    get_module(changed.module, "model.layers.1.mlp.up_proj").weight.data = changed.module.lm_head.weight.data[:40]
    with pytest.raises(NotExpressed, match=r"model.layers.1.mlp.up_proj.weight is 40 in the model, and 48"):
        Geometry(changed.module)


def test_facts_of_a_module(llama):
    facts = facts_of(get_module(llama.module, "model.layers.0.mlp.up_proj"))
    assert facts[Fact("size", "weight", "", 0)] == 48 == facts[Fact("attribute", "", "out_features", 0)]
    assert unlike(facts, facts) == ""
    assert unlike({}, facts).endswith("and absent as the configuration builds it")
    assert pattern_of("a.12.b.0") == "a.*.b.*"


def test_a_backbone_s_last_stage_follows_its_layers():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "image_size": 16, "patch_size": 8, "num_hidden_layers": 3}
    last = settings_of(transformers.Dinov2Config(**sizes))
    assert not {"stage_names", "out_features", "out_indices"} & set(last)
    assert settings_of(transformers.Dinov2Config(**sizes, out_features=["stage1"]))["out_features"] == ["stage1"]
    module = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**sizes, num_labels=3))
    fewer = Geometry(module).build({**last, "num_hidden_layers": 2})
    assert fewer[Fact("length", "dinov2.encoder.layer")] == 2
