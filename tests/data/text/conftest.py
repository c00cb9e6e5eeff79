"""A word tokenizer, and token files in a folder of the test's own."""

from __future__ import annotations

import pytest

from tests.word_tokenizer import word_tokenizer


@pytest.fixture
def tokenizer_dir(tmp_path):
    """A folder with a tokenizer of 45 words, [CLS] before a text and [SEP] behind it, and a chat template."""
    return str(word_tokenizer(tmp_path / "tokenizer"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Token files of a test lie in its own folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
