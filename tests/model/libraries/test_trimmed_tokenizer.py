"""Trimmed tokenizers make the same tokens of their corpus, whatever their kind."""

import json

import pytest

from compresskit.core.errors import InputError
from compresskit.model.libraries.trimmed_tokenizer import (
    kept_tokens,
    read_tokenizer,
    renumbered,
    tokens_named,
    trimmed,
    write_trimmed,
)

tokenizers = pytest.importorskip("tokenizers")
TEXTS = [
    "the lower the newer",
    "the widest newest lowest of them",
    "low tide, new moon",
    "a wide, wide river runs west",
]


def trained(kind: str):
    """A small tokenizer of a kind."""
    models, trainers = tokenizers.models, tokenizers.trainers
    made = {
        "BPE": (models.BPE(), trainers.BpeTrainer),
        "WordPiece": (models.WordPiece(unk_token="<unk>"), trainers.WordPieceTrainer),
        "Unigram": (models.Unigram(), trainers.UnigramTrainer),
        "WordLevel": (models.WordLevel(unk_token="<unk>"), trainers.WordLevelTrainer),
    }
    model, trainer = made[kind]
    found = tokenizers.Tokenizer(model)
    found.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    given = {"special_tokens": ["<pad>", "<unk>", "<s>"], "vocab_size": 70}
    given |= {"unk_token": "<unk>"} if kind == "Unigram" else {}
    found.train_from_iterator(TEXTS, trainer(**given))
    found.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", found.token_to_id("<s>"))]
    )
    found.add_special_tokens(["<late>"])
    return found


@pytest.mark.parametrize("kind", ["BPE", "WordPiece", "Unigram", "WordLevel"])
def test_the_corpus_has_the_same_tokens(kind):
    whole = trained(kind)
    content, corpus = json.loads(whole.to_str()), [TEXTS[0], TEXTS[2]]
    used = {number for text in corpus for number in whole.encode(text).ids}
    kept = kept_tokens(content, used)
    assert used <= set(kept) and whole.token_to_id("<late>") in kept and len(kept) < whole.get_vocab_size()
    small = tokenizers.Tokenizer.from_str(json.dumps(trimmed(content, kept)))
    assert small.get_vocab_size() == len(kept)
    for text in corpus:
        before, after = whole.encode(text), small.encode(text)
        assert after.tokens == before.tokens
        assert after.ids == [kept.index(number) for number in before.ids]
    assert small.encode("<late>").tokens == ["<s>", "<late>"]
    if kind != "WordLevel":  # letters of other words are there
        assert "<unk>" not in small.encode(TEXTS[1]).tokens
    assert kept_tokens(content, whole.get_vocab().values()) == sorted(whole.get_vocab().values())
    assert trimmed(content, sorted(whole.get_vocab().values()))["model"] == content["model"]


def test_configurations_name_tokens():
    config = {"eos_token_id": [1, 5], "pad_token_id": 3, "inner": {"bos_token_id": 9}, "suppress_tokens": [1, 2],
              "x": 7, "decoder_start_token_id": None}  # fmt: skip
    assert tokens_named(config) == {1, 3, 5, 9}
    assert renumbered(config, {1: 0, 3: 1, 9: 2}) == {
        "eos_token_id": [0], "pad_token_id": 1, "inner": {"bos_token_id": 2}, "suppress_tokens": [0], "x": 7,
        "decoder_start_token_id": None,
    }  # fmt: skip


def test_files_that_hold_the_vocabulary_otherwise_go(tmp_path):
    whole = trained("BPE")
    whole.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({
        "added_tokens_decoder": {"0": {"content": "<pad>"}, "40": {"content": "gone"}}, "model_max_length": 10**30,
    }))  # fmt: skip
    (tmp_path / "merges.txt").write_text("")
    files = {path.name: path for path in tmp_path.iterdir()}
    found = write_trimmed(files, [0, 1, 2, 5], tmp_path / "new")
    assert set(found) == {"tokenizer.json", "tokenizer_config.json"}
    said = json.loads(found["tokenizer_config.json"].read_text())
    assert said == {"added_tokens_decoder": {"0": {"content": "<pad>"}}, "model_max_length": 10**30}
    (tmp_path / "bad.json").write_text('{"model": {"type": "Other"}}')
    with pytest.raises(InputError, match="no tokenizer of the kinds"):
        read_tokenizer(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        read_tokenizer(tmp_path / "bad.json")
