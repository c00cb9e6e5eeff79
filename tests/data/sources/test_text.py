"""Texts and classes as numbers of tokens."""

from __future__ import annotations

import json

import pytest

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data


def test_bytes_of_a_table(tmp_path):
    rows = "".join(json.dumps({"text": f"é{i}", "label": ("bad", "good")[i % 2]}) + "\n" for i in range(30))
    (tmp_path / "d.jsonl").write_text(rows)
    data = open_data(f"text:{tmp_path}/d.jsonl", args={"length": 5})
    inputs, targets = next(iter(data.batches("test", batch_size=6)))
    assert inputs.shape == (6, 5) and data.classes == ("bad", "good") and data.num_classes == 2
    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        content = bytes(token - 1 for token in row if token).decode()
        assert content[0] == "é" and int(content[1:]) % 2 == target


def test_texts_in_folders(tmp_path):
    for split in ("train", "test"):
        for name in ("no", "yes"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(12):
                (tmp_path / split / name / f"{number}.txt").write_text(f"{name} {number}")
    data = open_data(f"text:{tmp_path}")
    inputs, targets = next(iter(data.batches("test", batch_size=24)))
    assert inputs.shape == (24, 128) and targets.tolist() == [0] * 12 + [1] * 12
    assert bytes(token - 1 for token in inputs[-1].tolist() if token) == b"yes 9"


def test_a_tokenizer_gives_ids_and_mask(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[PAD]": 0, "[UNK]": 1, "a": 2, "b": 3}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(words)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(tmp_path / "t")
    (tmp_path / "d.csv").write_text("text,label\n" + "a b,0\nb c a,1\n" * 10)
    data = open_data(f"text:{tmp_path}/d.csv", args={"tokenizer": str(tmp_path / "t"), "length": 4})
    inputs, targets = next(iter(data.batches("train", batch_size=1)))
    expected = [[2, 3, 0, 0]] if targets[0] == 0 else [[3, 1, 2, 0]]
    assert inputs["input_ids"].tolist() == expected
    assert inputs["attention_mask"].tolist() == [[int(token > 0) for token in expected[0]]]


@pytest.mark.parametrize(
    ("string", "args", "message"),
    [
        ("text:nowhere", {}, "data directory 'nowhere' does not exist"),
        ("text:d.csv", {}, "has no column 'text'; it has a, b; name column=, target="),
        ("text:d.csv", {"length": 0}, "length must be a whole number from 1 on, got 0"),
        ("text:.", {}, "holds no texts"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, monkeypatch, string, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.csv").write_text("a,b\nx,1\ny,2\n")
    with pytest.raises(InputError, match=message):
        open_data(string, args=args)
