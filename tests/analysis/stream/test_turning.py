"""A stream that is turned by any orthogonal matrix leaves the model what it computes; another matrix is seen."""

import pytest
import torch

from compresskit.analysis.stream.stream import find_stream
from compresskit.analysis.stream.turning import tied_readers, turn_stream
from compresskit.core.errors import InputError
from compresskit.core.types import call, main_output
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration


def output(loaded):
    with torch.no_grad():
        return main_output(call(loaded.module, loaded.example))


def test_the_stream_is_turned_and_the_outputs_stay(tmp_path):
    loaded = tiny(tmp_path / "model", tie_word_embeddings=True)
    with torch.no_grad():
        loaded.module.model.norm.weight.uniform_(0.5, 2)
    wanted, rows = output(loaded), loaded.module.model.embed_tokens.weight.detach().double().clone()
    turn = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64)).Q
    found = find_stream(loaded)
    assert found.width == 32 and tied_readers(loaded.module, found) == ["lm_head"]
    turn_stream(loaded, found, turn)
    assert tied_readers(loaded.module, found) == []
    torch.testing.assert_close(loaded.module.model.embed_tokens.weight.double(), rows @ turn, rtol=0, atol=1e-6)
    torch.testing.assert_close(output(loaded), wanted, rtol=1e-3, atol=1e-4)
    assert loaded.edits == [{"op": "untie", "target": "lm_head"}]
    assert torch.equal(loaded.module.model.norm.weight, torch.ones(32))


def test_a_matrix_that_is_no_rotation_changes_the_outputs(tmp_path):
    loaded = tiny(tmp_path / "model")
    with pytest.raises(InputError, match=r"rotate: the turned model gives other outputs \(by \d"):
        turn_stream(loaded, find_stream(loaded), 2 * torch.eye(32, dtype=torch.float64) + 1)
