"""A corpus as splits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.data.dataset import open_data
from compresskit.data.text.blocks import IGNORED
from compresskit.model.text_inputs import TextInputs

CAUSAL = TextInputs("causal", None, 64, 45)


def rows(path, texts, column="text"):
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    return path


def everything(data, split):
    inputs, targets = next(iter(data.batches(split, batch_size=10_000)))
    return inputs, targets


def words_in(data, split):
    ids = everything(data, split)[0]
    return set((ids["input_ids"] if isinstance(ids, dict) else ids).flatten().tolist())


@pytest.mark.parametrize("form", ["text", "jsonl"])
def test_documents_are_in_one_split_each(tmp_path, tokenizer_dir, form):
    texts = [" ".join([f"w{number}"] * 20) for number in range(40)]
    file = rows(tmp_path / "d.jsonl", texts)
    model = replace(CAUSAL, tokenizer=tokenizer_dir)
    data = open_data(f"{form}:{file}", args={"length": 8}, text_inputs=model)
    words = [words_in(data, split) - {2, 3} for split in ("train", "val", "test")]
    assert all(words) and not words[0] & words[1] and not words[0] & words[2] and not words[1] & words[2]
    assert data.task == "language" and "of 40 documents" in data.note
    inputs, targets = everything(data, "train")
    assert (inputs["input_ids"][:, 0] == 2).all()  # the tokenizer's own first token heads each block
    assert torch.equal(targets[:, :-1], inputs["input_ids"][:, 1:]) and (targets[:, -1] == IGNORED).all()


def test_a_single_text_is_divided_by_place_and_samples_are_spread(tmp_path):
    (tmp_path / "d.txt").write_text("".join(chr(33 + number // 10) for number in range(900)))
    data = open_data(f"text:{tmp_path}/d.txt", args={"length": 10, "samples": 7})
    assert [data.size(split) for split in ("train", "val", "test")] == [7, 7, 7]
    inputs, _ = everything(data, "train")
    assert inputs[0, 0] == 34 and inputs[-1, 0] > 100 and isinstance(inputs, torch.Tensor)
    assert words_in(data, "test").isdisjoint(words_in(data, "train"))


def test_files_called_as_splits_are_these(tmp_path, tokenizer_dir):
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows(folder / "train.jsonl", [f"w1 w2 w3 w{number}" for number in range(40)])
    rows(folder / "test.jsonl", ["w5 w5 w5 w5 w5 w5"])
    data = open_data(f"text:{folder}", args={"length": 4}, text_inputs=replace(CAUSAL, tokenizer=tokenizer_dir))
    assert words_in(data, "test") <= {2, 3, 10} and data.size("val") and data.size("train")


def test_a_masked_model_gets_chunks_and_an_encoder_no_targets(tmp_path, tokenizer_dir):
    file = rows(tmp_path / "d.jsonl", [" ".join(f"w{number}" for number in range(12))] * 30)
    masked = TextInputs("masked", tokenizer_dir, 64, 45)
    data = open_data(f"text:{file}", args={"length": 10}, text_inputs=masked)
    inputs, targets = everything(data, "train")
    assert inputs["input_ids"].shape == targets.shape and inputs["input_ids"].shape[1] == 10
    assert set((targets != IGNORED).sum(1).tolist()) == {1}
    plain = open_data(f"text:{file}", args={"length": 10}, text_inputs=replace(masked, kind="encoder"))
    inputs, targets = everything(plain, "train")
    assert targets is None and inputs["input_ids"][0].tolist()[0] == 2 and plain.task is None
    assert sorted(set(inputs["attention_mask"].sum(1).tolist())) == [6, 10]


def test_pairs_of_columns_and_halves_of_texts(tmp_path, tokenizer_dir):
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"en": f"w{n}", "de": f"w{n} w{n + 1}"}) + "\n" for n in range(30)))
    model = TextInputs("seq2seq", tokenizer_dir, 64, 45, 0)
    data = open_data(f"text:{path}", args={"column": "en", "target": "de", "length": 4}, text_inputs=model)
    inputs, targets = everything(data, "train")
    first = inputs["input_ids"][0, 0]
    assert inputs["input_ids"][0].tolist() == [first, 3, 0, 0]
    assert targets[0].tolist() == [first, first + 1, 3, IGNORED]
    assert inputs["decoder_input_ids"][0].tolist() == [0, first, first + 1, 3]
    halves = open_data(f"text:{path}", args={"column": "de", "length": 4}, text_inputs=model)
    inputs, targets = everything(halves, "train")
    assert (targets[:, 0] == inputs["input_ids"][:, 0] + 1).all()


def test_conversations_go_through_the_template(tmp_path, tokenizer_dir):
    turns = [[{"role": "w1", "content": f"w{number}"}, {"role": "w2", "content": "w3"}] for number in range(40)]
    file = rows(tmp_path / "d.jsonl", turns, "messages")
    data = open_data(f"jsonl:{file}", args={"length": 6}, text_inputs=replace(CAUSAL, tokenizer=tokenizer_dir))
    ids = everything(data, "train")[0]["input_ids"]
    assert ids[0, :2].tolist() == [2, 6] and ids[0, 3:5].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        (CAUSAL, {}, "no tokenizer lies in the model's folder; name one with --data-arg tokenizer=DIR"),
        (CAUSAL, {"length": 65, "tokenizer": "OWN"}, "length 65 is more than the 64 tokens"),
        (replace(CAUSAL, vocabulary=20), {"tokenizer": "OWN"}, "gives a token 44, and the model embeds 20"),
        (CAUSAL, {"length": 2, "tokenizer": "OWN"}, "length 2 leaves no room for text"),
        (CAUSAL, {"samples": 0, "tokenizer": "OWN"}, "samples must be a whole number from 1 on, got 0"),
        (CAUSAL, {"tokenizer": "OWN"}, "split train holds less text than one example of 64 tokens"),
        (replace(CAUSAL, kind="masked"), {"column": "no", "tokenizer": "OWN"}, "no column 'no'; it has text"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, tokenizer_dir, model, args, message):
    file = rows(tmp_path / "d.jsonl", [" ".join(f"w{number}" for number in range(40))])
    args = {name: tokenizer_dir if value == "OWN" else value for name, value in args.items()}
    with pytest.raises(InputError, match=message):
        open_data(f"text:{file}", args=args, text_inputs=model)
