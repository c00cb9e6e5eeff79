"""Whole layers of transformers families go, and what stays computes as a model built without them."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from compresskit.artifact import artifact
from compresskit.artifact.edits import replay
from compresskit.artifact.source import load_model
from compresskit.core.tensors.modules import get_module
from compresskit.core.types import call, main_output
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.block_pruning import prune_blocks, skippable_blocks
from compresskit.training.context import Context

TEXT = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "max_position_embeddings": 64, "num_labels": 3,
}  # fmt: skip
#: family -> (class prefix, head, configuration, lists that hold its layers)
FAMILIES = {
    "deberta": ("DebertaV2", "ForSequenceClassification", TEXT, ["deberta.encoder.layer"]),
    "modernbert": (
        "ModernBert", "ForSequenceClassification",
        TEXT | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        ["model.layers"],
    ),
    "swin": (
        "Swin", "ForImageClassification",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4,
         "num_labels": 3},
        ["swin.encoder.layers.0.blocks", "swin.encoder.layers.1.blocks"],
    ),
    "wav2vec2": (
        "Wav2Vec2", "ForCTC",
        {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
         "num_attention_heads": 2, "conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3],
         "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2},
        ["wav2vec2.encoder.layers"],
    ),
    "resnet": (
        "ResNet", "ForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [3, 2], "layer_type": "basic", "num_labels": 3},
        ["resnet.encoder.stages.1.layers.0.layer", "resnet.encoder.stages.0.layers", "resnet.encoder.stages.1.layers"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded_of(tmp_path_factory):
    """A function that makes a folder of a family and loads it: (family) -> Loaded."""
    transformers = pytest.importorskip("transformers")

    def make(family):
        prefix, head, config, _ = FAMILIES[family]
        folder = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        model = getattr(transformers, prefix + head)(getattr(transformers, f"{prefix}Config")(**config))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)  # as built, layers of one family change next to nothing
        model.save_pretrained(folder)
        return load_model(f"hf:{folder}")

    return make


@torch.no_grad()
def output_of(loaded):
    return main_output(call(loaded.module, loaded.example))


def without(module, lists, gone):
    """The model made by hand: the layers taken from the lists that hold them."""
    for path in lists:
        layers = get_module(module, path)
        kept = [layer for name, layer in layers.named_children() if f"{path}.{name}" not in gone]
        parent, _, name = path.rpartition(".")
        setattr(get_module(module, parent), name, type(layers)(kept) if isinstance(layers, nn.ModuleList)
                else nn.Sequential(*kept))  # fmt: skip
    return module


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.integration
def test_a_family_without_layers_computes_as_one_built_without_them(family, loaded_of, tmp_path):
    loaded = loaded_of(family)
    lists = FAMILIES[family][3]
    original = loaded.clone()
    assert {name.rpartition(".")[0] for name in skippable_blocks(loaded.module, loaded.example)} == set(lists)
    result = prune_blocks(loaded, PruneOptions(granularity="block", ratio=0.4), Context(original))
    gone = {edit["target"] for edit in loaded.edits if edit["op"] == "skip"}
    assert result.facts["blocks_removed"] == len(gone) == round(result.facts["blocks"] * 0.4)
    assert result.facts["macs_kept"] < 0.9
    before = output_of(original)
    without(original.module, lists, gone)
    by_hand = output_of(original)
    assert (before - by_hand).abs().max() > 1e-3
    torch.testing.assert_close(output_of(loaded), by_hand, rtol=0, atol=1e-6)
    artifact.save(loaded, tmp_path / "pruned")
    again = artifact.load(tmp_path / "pruned")
    assert all(torch.equal(value, again.module.state_dict()[key]) for key, value in loaded.module.state_dict().items())
    torch.testing.assert_close(output_of(again), by_hand, rtol=0, atol=1e-6)


def test_an_artifact_of_the_first_form_of_the_edit_loads(loaded_of, tmp_path):
    loaded = loaded_of("modernbert")
    edit = {"op": "skip", "target": "model.layers.1", "as_tuple": 0}
    replay(loaded.module, [edit])
    loaded.edits.append(edit)
    artifact.save(loaded, tmp_path / "pruned")
    assert json.loads((tmp_path / "pruned" / "manifest.json").read_text())["edits"] == [edit]  # as ever
    again = artifact.load(tmp_path / "pruned")
    torch.testing.assert_close(output_of(again), output_of(loaded), rtol=0, atol=1e-6)
