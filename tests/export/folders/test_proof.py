"""Proofs of folders; a fresh process runs in tests/export/exporters/test_hf.py."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.export.folders.proof import Proof, named_inputs
from tests.tiny_transformers import tiny


def test_inputs_have_names(tmp_path):
    loaded = tiny(tmp_path)
    assert list(named_inputs(loaded)) == ["input_ids"]
    loaded.example = loaded.example["input_ids"]
    assert list(named_inputs(loaded)) == ["input_ids"]
    with pytest.raises(InputError, match="have no names"):
        named_inputs(Loaded(torch.nn.Linear(1, 1), {}, torch.zeros(1, 1)))


def test_reasons():
    assert Proof("A", 1e-6, 1.0).reason(torch.float32) == ""
    assert Proof("A", 0.01, 1.0).reason(torch.bfloat16) == ""
    assert Proof("A", 0.01, 1.0).reason(torch.float32) == "it is another model: its first output differs by 0.01, of 1"
    assert Proof(error="no").reason(torch.float32) == "transformers does not load it: no"
