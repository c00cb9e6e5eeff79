"""What a setting counts in a model."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.model.libraries.geometry import Geometry
from compresskit.pruning.structured.counted import counted_by, deciding, take
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration


def test_tied_tensors_are_taken_once_and_stay_tied(tmp_path):
    module = tiny(tmp_path, tie_word_embeddings=True).module
    geometry, rows = Geometry(module), module.lm_head.weight[[5, 2]].detach().clone()
    setting = deciding(geometry, [("lm_head.weight", 0)])
    counted = counted_by(geometry, setting)
    assert setting == ("vocab_size",) and counted.count == 64
    assert {"lm_head.weight", "model.embed_tokens.weight"} == {name for name, _ in counted.tensors}
    edits = take(module, counted, torch.tensor([5, 2]))
    assert module.lm_head.weight is module.model.embed_tokens.weight
    assert torch.equal(module.lm_head.weight, rows) and module.vocab_size == 2
    assert {edit["target"] for edit in edits} >= {"lm_head", "model.embed_tokens"}
    with pytest.raises(InputError, match="what num_key_value_heads counts has not one entry for each"):
        counted_by(geometry, ("num_key_value_heads",))
    assert deciding(geometry, [("lm_head.weight", 0), ("lm_head.weight", 1)]) is None
