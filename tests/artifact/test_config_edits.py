"""Edits of a transformers configuration, and of the numbers of layers."""

import pytest
import torch

from compresskit.artifact.config_edits import config_edit, lists_with_gaps, renumber_edits
from compresskit.artifact.edits import check, replay
from compresskit.core.errors import InputError
from compresskit.core.types import call, main_output
from compresskit.model.libraries.geometry import settings_of
from tests.tiny_transformers import tiny


@pytest.fixture
def llama(tmp_path):
    return tiny(tmp_path)


def test_an_edit_holds_what_changed(llama):
    settings = settings_of(llama.module.config)
    assert config_edit(llama.module, settings) == []
    (edit,) = config_edit(llama.module, settings | {"hidden_size": 16})
    assert edit == {"op": "config", "target": "", "values": {"hidden_size": 16}}
    replay(llama.module, [edit])
    assert llama.module.config.hidden_size == 16
    assert llama.module.model.layers[0].self_attn.config.hidden_size == 16


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model_type": 3}, "is no number"),
        ({"architectures": ["Other"]}, "cannot become"),
        ({"text_config.hidden_size": 3}, "has no 'text_config.hidden_size'"),
    ],
)
def test_values_of_another_kind_are_refused(llama, values, says):
    with pytest.raises(InputError, match=says):
        replay(llama.module, [{"op": "config", "target": "", "values": values}])


def test_manifests_are_checked():
    check([{"op": "config", "target": "", "values": {"hidden_size": 8, "layer_types": ["full_attention"]}}], "m")
    for values in ({"hidden_size": "8"}, {"hidden_size": None}, {"x": {"y": 1}}):
        with pytest.raises(InputError, match="config"):
            check([{"op": "config", "target": "", "values": values}], "m")
    with pytest.raises(InputError, match="no transformers configuration"):
        replay(torch.nn.Linear(2, 2), [{"op": "config", "target": "", "values": {"hidden_size": 8}}])


def test_skipped_layers_leave_their_list(llama):
    replay(llama.module, [{"op": "skip", "target": "model.layers.0", "as_tuple": 0}])
    before = main_output(call(llama.module, llama.example))
    assert lists_with_gaps(llama.module) == {"model.layers": [1, 2]}
    replay(llama.module, renumber_edits(["model.layers"]))
    assert lists_with_gaps(llama.module) == {} and len(llama.module.model.layers) == 2
    assert [layer.self_attn.layer_idx for layer in llama.module.model.layers] == [0, 1]
    llama.module.config.num_hidden_layers = 2
    torch.testing.assert_close(main_output(call(llama.module, llama.example)), before, rtol=0, atol=0)
    with pytest.raises(InputError, match="not a list of layers"):
        replay(llama.module, renumber_edits(["model.norm"]))


def test_a_tied_head_gets_a_weight_of_its_own(tmp_path):
    loaded = tiny(tmp_path / "tied", tie_word_embeddings=True)
    module = loaded.module
    assert module.lm_head.weight is module.model.embed_tokens.weight
    replay(module, [{"op": "untie", "target": "lm_head"}])
    assert module.lm_head.weight is not module.model.embed_tokens.weight
    assert not module.config.tie_word_embeddings
    with pytest.raises(InputError, match="no transformers configuration says that its weight is another layer's"):
        replay(module, [{"op": "untie", "target": "lm_head"}])
