"""Tokenizers."""

from __future__ import annotations

import pytest

from compresskit.core.errors import InputError
from compresskit.data.text.tokenizers import ByteTokenizer, make_tokenizer


def test_special_tokens_stand_apart(tokenizer_dir):
    found = make_tokenizer(tokenizer_dir)
    assert (found.prefix, found.suffix, found.separator, found.pad, found.mask) == ((2,), (3,), 3, 0, 4)
    assert found.encode(["w0 w1", ""]) == [[5, 6], []] and found.size == 45
    assert found.chat([{"role": "w1", "content": "w2"}]) == "w1 w2 "
    assert found.fingerprint == make_tokenizer(tokenizer_dir).fingerprint != ByteTokenizer().fingerprint


@pytest.mark.integration
def test_long_documents_are_tokenized_in_pieces(tokenizer_dir):
    text = "w0 w1\n" * 100_000
    assert make_tokenizer(tokenizer_dir).encode([text, "w2"]) == [[5, 6] * 100_000, [7]]


def test_bytes():
    assert make_tokenizer(None).encode(["é"]) == [[0xC3 + 1, 0xA9 + 1]]


def test_a_tokenizer_that_does_not_load_is_named(tmp_path):
    with pytest.raises(InputError, match="while it was loaded"):
        make_tokenizer(str(tmp_path))
