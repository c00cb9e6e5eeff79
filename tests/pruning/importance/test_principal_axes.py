"""Streams of language models turned to their principal axes before they get narrower."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded, call, main_output
from compresskit.data.dataset import open_data
from compresskit.export.exporters.hugging_face.hf import hf
from compresskit.export.folders.proof import named_inputs, own_output, prove
from compresskit.export.options import ExportOptions
from compresskit.model.text_inputs import text_inputs_of
from compresskit.pruning.check import check
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration
STREAM = "model.layers.0.self_attn.o_proj"  # of the layers that write into it, the first


def flat(folder, *, rank: int = 12, **given) -> Loaded:
    """A Llama whose stream lies in few directions, none of them a channel."""
    loaded = tiny(folder, vocab_size=256, pad_token_id=None, intermediate_size=96, **given)
    basis = torch.linalg.qr(torch.randn(32, rank, generator=torch.Generator().manual_seed(1))).Q
    into = basis @ basis.T
    with torch.no_grad():
        for name, one in loaded.module.named_parameters():
            if name == "model.embed_tokens.weight":
                one.copy_(20 * one @ into)  # a square that the normalizations' eps does not show in
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                one.copy_(into @ one)
            elif name.endswith("norm.weight"):
                one.uniform_(0.5, 2)
    return loaded


def context_of(loaded: Loaded, folder) -> Context:
    (folder / "corpus.txt").write_text("A stream is what layers add to, one after the other. " * 80)
    args = {"length": 16, "tokenizer": "bytes"}
    data = open_data(f"text:{folder / 'corpus.txt'}", args=args, text_inputs=text_inputs_of(loaded.module))
    return Context(loaded.clone(), data=data)


def logits(loaded: Loaded) -> torch.Tensor:
    with torch.no_grad():
        return main_output(call(loaded.module, loaded.example))


def options(**given) -> PruneOptions:
    return PruneOptions(ratios={STREAM: 0.5}, round_to=4, widths="free", reconstruct="none", **given)


@pytest.mark.parametrize("tied", [False, True])
def test_a_stream_in_few_directions_is_narrowed_without_loss(tmp_path, tied):
    original = flat(tmp_path / "model", tie_word_embeddings=tied)
    context, changes = context_of(original, tmp_path), {}
    for rotate in ("none", "pca"):
        loaded = original.clone()
        result = prune(loaded, options(rotate=rotate), context)
        assert loaded.module.model.embed_tokens.weight.shape == (256, 16)
        assert result.facts.get("rotated_to") == ("principal axes" if rotate == "pca" else None)
        changes[rotate] = float((logits(loaded) - logits(original)).abs().max() / logits(original).abs().max())
    assert changes["pca"] < 1e-4 < 0.1 < changes["none"]


def test_causal_models_turn_by_default_and_become_folders(tmp_path):
    original = flat(tmp_path / "model", tie_word_embeddings=True)
    context = context_of(original, tmp_path)
    jobs = []
    for reconstruct in ("none", "inputs", "sequential"):
        loaded = original.clone()
        given = PruneOptions(ratio=0.5, round_to=4, reconstruct=reconstruct)
        assert prune(loaded, given, context).facts["rotated_to"] == "principal axes"
        folder = tmp_path / reconstruct
        folder.mkdir()
        hf(loaded, folder, ExportOptions(format="hf"))
        jobs.append((folder, named_inputs(loaded), own_output(loaded)))
    found = prove(jobs, new_tokens=1)
    assert [one.error for one in found] == ["", "", ""] and max(one.difference for one in found) < 1e-4
    # without data, and where a head of its own is a large part of the model, nothing turns
    assert "rotated_to" not in prune(original.clone(), PruneOptions(ratio=0.5, round_to=4), Context(original)).facts
    wide = tiny(tmp_path / "wide", vocab_size=2048, tie_word_embeddings=True, num_hidden_layers=1)
    result = prune(wide, PruneOptions(ratio=0.5, round_to=4, reconstruct="none"), context_of(wide, tmp_path))
    assert "rotated_to" not in result.facts
    assert any("a head of its own would take" in note for note in result.notes)


def test_budgets_are_shares_of_the_model_that_shared_its_head(tmp_path):
    original = flat(tmp_path / "model", tie_word_embeddings=True)
    before = sum(one.numel() for one in original.module.parameters())
    given = PruneOptions(target_params=0.6, round_to=2, reconstruct="none", rotate="pca")
    loaded = original.clone()
    result = prune(loaded, given, context_of(original, tmp_path))
    kept = sum(one.numel() for one in loaded.module.parameters()) / before
    assert result.facts["params_kept"] == pytest.approx(kept, abs=0.01)
    assert 0.5 < kept <= 0.6


def test_what_cannot_turn_is_refused_before_work(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=256)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    from compresskit.artifact.source import load_model

    loaded = load_model(f"hf:{tmp_path / 'gpt2'}", inputs=["input_ids=6:int64:64"])
    with pytest.raises(InputError, match="rotate: normalizations take out the mean of all channels"):
        check(loaded.clone(), PruneOptions(ratio=0.5, rotate="pca"), Context(loaded))
    result = prune(loaded, PruneOptions(ratio=0.5, reconstruct="none"), context_of(loaded, tmp_path))
    assert any("take out the mean" in note for note in result.notes)
    llama = flat(tmp_path / "llama")
    check(llama.clone(), PruneOptions(ratio=0.5, rotate="pca"), Context(llama))
    protected = PruneOptions(ratio=0.5, rotate="pca", protect=[STREAM], reconstruct="none")
    with pytest.raises(InputError, match="the channels between the layers stay"):
        check(llama.clone(), protected, Context(llama))
    with pytest.raises(InputError, match="the channels between the layers stay"):
        prune(llama.clone(), protected, context_of(llama, tmp_path))
    left = prune(llama.clone(), protected.model_copy(update={"rotate": "auto"}), context_of(llama, tmp_path))
    assert "rotated_to" not in left.facts and any("the channels between the layers stay" in one for one in left.notes)
    with pytest.raises(ValueError, match="rotate would be ignored with granularity 'block'"):
        PruneOptions(granularity="block", ratio=0.5, rotate="pca")
    assert "rotate pca needs data" in PruneOptions(ratio=0.5, rotate="pca").data_readers()
