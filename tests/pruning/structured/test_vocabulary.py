"""Tokens that a corpus does not use go, and the folder that is left loads with its tokenizer."""

import json

import pytest
import torch

import compresskit
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.vocabulary import find_vocabulary
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration
WORDS = [f"word{number}" for number in range(60)]


def with_tokenizer(folder, **given):
    tokenizers = pytest.importorskip("tokenizers")
    tiny(folder, bos_token_id=0, eos_token_id=1, **given)
    numbers = {"<pad>": 0, "<eos>": 1, "<unk>": 2, **{word: place + 3 for place, word in enumerate(WORDS)}}
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="<unk>"))
    found.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    found.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>",
              "unk_token": "<unk>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("tied", [False, True])
def test_a_trimmed_model_predicts_what_it_did_among_the_tokens_that_stay(tied, tmp_path):
    transformers = pytest.importorskip("transformers")
    with_tokenizer(tmp_path / "model", tie_word_embeddings=tied)
    texts = [" ".join(WORDS[(7 * place * step + step) % 40] for place in range(40)) for step in range(1, 31)]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    given = {"data": f"text:{tmp_path / 'texts.jsonl'}", "data_arg": {"length": 16}, "latency_rounds": 0}
    result = compresskit.prune(f"hf:{tmp_path / 'model'}", granularity="vocabulary", output=tmp_path / "out", **given)
    facts = result.report["steps"][0]["facts"]
    used = {WORDS.index(word) + 3 for text in texts for word in text.split()}
    kept = sorted({0, 1, 2, *used})
    assert (facts["tokens_before"], facts["tokens_after"]) == (64, len(kept))
    measurements = result.report["original"], result.report["steps"][0]["measurement"]
    before, after = (one["metric"]["value"] for one in measurements)
    assert 0.5 * before < after <= before
    compresskit.export(tmp_path / "out", format="hf", output=tmp_path / "folder", rounds=0)
    old = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    new = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "folder").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert new.config.vocab_size == len(tokenizer) == len(kept)
    assert (new.config.pad_token_id, new.config.eos_token_id, new.model.embed_tokens.padding_idx) == (0, 1, 0)
    assert (new.lm_head.weight is new.model.embed_tokens.weight) == tied
    ids = tokenizer(texts[4], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = old(torch.tensor(kept)[ids]).logits[:, :, kept]
        torch.testing.assert_close(new(ids).logits, wanted, rtol=1e-5, atol=1e-5)
    measured = compresskit.measure(tmp_path / "out", **given)
    assert measured.metric["value"] == pytest.approx(after, rel=1e-5)


def test_models_whose_vocabulary_cannot_be_cut_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no tokenizer.json beside it"):
        find_vocabulary(tiny(tmp_path / "llama"))
    with pytest.raises(InputError, match="takes no text"):
        find_vocabulary(load_model("torchvision:resnet18"))
    with pytest.raises(ValueError, match="ratio would be ignored: the data says which tokens go"):
        PruneOptions(granularity="vocabulary", ratio=0.5)
