"""Keys and values in few bits: how they are rounded, that generation reads them so, and that it can be undone."""

import pytest
import torch

from compresskit.artifact import artifact
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded, call, main_output
from compresskit.export.lowering import carry_out
from compresskit.export.options import ExportOptions
from compresskit.quantization.kv_cache import (
    KEY_GROUP,
    cache_argument,
    float_cache,
    quantize_cache,
    round_along,
    round_keys,
)
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration


def logits(loaded: Loaded, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return main_output(call(loaded.module, {"input_ids": tokens}))


def test_ranges_by_hand():
    states = torch.tensor([[0.0, 1.5, 3.0], [-1.0, 0.4, 0.5]])
    assert round_along(states, 2, 1).tolist() == [[0, 2, 3], [-1, 0.5, 0.5]]
    keys = torch.randn(1, 2, 2 * KEY_GROUP + 5, 4)
    keys[:, :, :, 1] *= 1000
    rounded = round_keys(keys, 4)
    assert torch.equal(rounded[:, :, 2 * KEY_GROUP :], keys[:, :, 2 * KEY_GROUP :])  # a group that is not full
    for group in (slice(0, KEY_GROUP), slice(KEY_GROUP, 2 * KEY_GROUP)):
        step = (keys[:, :, group].amax(2) - keys[:, :, group].amin(2)) / 15
        error = (rounded[:, :, group] - keys[:, :, group]).abs().amax(2)
        assert (error <= step * 1.01).all() and (error > 0).all()
    assert torch.equal(round_keys(rounded, 4, 2 * KEY_GROUP), rounded)


def test_what_is_generated_token_by_token_is_what_one_forward_gives(tmp_path):
    loaded = tiny(tmp_path / "model", max_position_embeddings=128)
    with torch.no_grad():
        for parameter in loaded.module.parameters():
            parameter.mul_(4)
    tokens = torch.randint(1, 64, (1, 70), generator=torch.Generator().manual_seed(0))
    wanted = logits(loaded, tokens)
    quantize_cache(loaded.module, 8)
    whole = logits(loaded, tokens)
    assert 0 < (whole - wanted).abs().max() < 0.1 * wanted.abs().max()
    with torch.no_grad():
        past, parts, name = None, [], cache_argument(loaded.module)
        for token in tokens.split(1, 1):
            given = loaded.module(input_ids=token, **{name: past}, use_cache=True)
            past = getattr(given, name)
            parts.append(given.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-3, atol=1e-3 * float(whole.abs().max()))
    assert type(past).__name__ == "RoundedCache"
    quantize_cache(loaded.module, 3)  # instead of 8, not on top of it
    assert (logits(loaded, tokens) - wanted).abs().max() > 2 * (whole - wanted).abs().max()
    with float_cache(loaded.module) as rounded:
        assert rounded and torch.equal(logits(loaded, tokens), wanted)
    loaded.module.generate(tokens[:, :40], max_new_tokens=3, do_sample=False)


def test_an_artifact_keeps_it_and_folders_of_others_do_not(tmp_path):
    loaded = tiny(tmp_path / "model")
    facts = quantize(loaded, QuantizeOptions(kv_bits=4), Context(loaded.clone())).facts
    # 3 layers of 2 heads of 8: 96 numbers of 4 bytes; half a byte each, 4 / 32 a key channel, 4 a token and head
    assert facts["kv_bytes_a_token_before"] == 384
    assert facts["kv_bytes_a_token"] == 96 / 2 + 48 * 4 / 32 + 6 * 4
    artifact.save(loaded, tmp_path / "artifact")
    again = artifact.load(tmp_path / "artifact")
    tokens = torch.randint(1, 64, (2, 40), generator=torch.Generator().manual_seed(0))
    found = logits(again, tokens)
    torch.testing.assert_close(found, logits(loaded, tokens), rtol=0, atol=1e-6)
    with float_cache(again.module):
        assert not torch.equal(logits(again, tokens), found)
    result = carry_out(again, ExportOptions(format="hf"), Context(loaded), tmp_path / "folder")
    assert "keys and values are cached as the runtime does, not in kv_bits" in result.notes


def test_models_without_such_a_cache_are_refused():
    with pytest.raises(InputError, match="caches no keys and values"):
        quantize_cache(torch.nn.Linear(2, 2), 8)
