"""Tokens of documents on disk."""

from __future__ import annotations

import json

import pytest

from compresskit.core.errors import InputError
from compresskit.data.text.documents import Documents
from compresskit.data.text.token_files import token_file
from compresskit.data.text.tokenizers import ByteTokenizer


class Counting(ByteTokenizer):
    """Counts the texts that it was given."""

    seen = 0

    def encode(self, texts):
        type(self).seen += len(texts)
        return super().encode(texts)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_documents_are_tokenized_once_and_anew_when_one_changes(tmp_path):
    (tmp_path / "a.txt").write_text("ab")
    (tmp_path / "b.jsonl").write_text('{"text": "c"}\n\n{"text": ""}\n{"text": "de"}\n')
    documents = Documents((tmp_path / "a.txt", tmp_path / "b.jsonl"), "text:x")
    made, again = token_file(documents, Counting()), token_file(documents, Counting())
    assert Counting.seen == 4
    for file in (made, again):  # each document ends with 0, an empty one is none
        assert file.ids.tolist() == [98, 99, 0, 100, 0, 101, 102, 0] and file.bounds.tolist() == [0, 3, 5, 8]
        assert file.largest == 102 and len(file) == 3
    (tmp_path / "a.txt").write_text("ba")
    assert token_file(documents, Counting()).ids.tolist()[:2] == [99, 98] and Counting.seen == 8


def test_marks_depend_on_the_text_alone(tmp_path):
    texts = [f"document {number}" for number in range(200)]
    for name, order in (("a", texts), ("b", texts[::-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in order))
    one, other = (token_file(Documents((tmp_path / f"{name}.jsonl",), "x"), ByteTokenizer()) for name in "ab")
    assert one.marks.tolist() == other.marks.tolist()[::-1]
    assert 5 < (one.marks < 10).sum() < 40


def test_pairs_keep_where_the_second_text_begins(tmp_path):
    (tmp_path / "p.csv").write_text("en,de\nab,c\n")
    file = token_file(Documents((tmp_path / "p.csv",), "x", "en", "de"), ByteTokenizer())
    assert file.ids.tolist() == [98, 99, 100, 0] and file.middles.tolist() == [2]


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("ab")

    def refuse(*args, **kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert token_file(Documents((tmp_path / "a.txt",), "x"), ByteTokenizer()).ids.tolist() == [98, 99, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n[1]\n', "line 2: expected an object, got list"),
        ('{"text": "a"}\n{"text": 3}\n', "line 2: column 'text' needs a text, or a list of messages"),
        ('{"other": "a"}\n', "line 1: no column 'text'; it has other"),
        ('{"text": \n', "line 1: cannot be read"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n', "conversations need a tokenizer with a chat template"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        token_file(Documents((tmp_path / "a.jsonl",), "x"), ByteTokenizer())
