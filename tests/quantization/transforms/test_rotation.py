"""Rotations folded into weights: what is computed stays, outliers spread, and the result reloads and exports."""

import pytest
import torch

from compresskit.artifact import artifact
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded, call, main_output
from compresskit.export.exporters.hugging_face.hf import hf
from compresskit.export.folders.proof import named_inputs, own_output, prove
from compresskit.export.options import ExportOptions
from compresskit.quantization.check import check
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.quantization.transforms.rotation import keeping_the_mean, orthogonal, rotate
from compresskit.training.context import Context
from tests.tiny_mixtures import mixture_folder
from tests.tiny_transformers import LLAMA, tiny

pytestmark = pytest.mark.integration


def output(loaded: Loaded) -> torch.Tensor:
    with torch.no_grad():
        return main_output(call(loaded.module, loaded.example))


@pytest.mark.parametrize("size", [1, 6, 8, 96])
def test_rotations_are_orthogonal_and_even(size):
    found = orthogonal(size, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found @ found.T, torch.eye(size, dtype=torch.float64))
    if size == 8:
        assert torch.allclose(found.abs(), torch.full_like(found, 8**-0.5))
    kept = keeping_the_mean(size + 1, torch.Generator().manual_seed(0))
    ones = torch.ones(size + 1, dtype=torch.float64)
    torch.testing.assert_close(kept @ kept.T, torch.eye(size + 1, dtype=torch.float64))
    torch.testing.assert_close(kept @ ones, ones)


def folder_of(name: str, folder, **given) -> Loaded:
    """A model of a family with gains and biases that are not those of the start."""
    transformers = pytest.importorskip("transformers")
    from compresskit.artifact.source import load_model

    torch.manual_seed(0)
    settings = {
        "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 64},
        "OPT": {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64,
                "max_position_embeddings": 64, "word_embed_proj_dim": 32, "pad_token_id": 0},
        "Llama": LLAMA, "Qwen3": LLAMA | {"head_dim": 8}, "Gemma": LLAMA | {"head_dim": 8},
        "Phi": LLAMA, "GPTNeoX": LLAMA,
    }[name]  # fmt: skip
    kind = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    special = {"bos_token_id": 0, "eos_token_id": 0}
    model = getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**settings, **special, **given))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) * (1 if parameter.dim() == 1 else 0.3))
            if key.endswith("embed_tokens.weight"):
                parameter[:, 3] *= 20  # a channel of outliers
    model.save_pretrained(folder)
    return load_model(f"hf:{folder}", inputs=["input_ids=6:int64:64"])


CASES = [("Llama", {}), ("Llama", {"tie_word_embeddings": True}), ("Qwen3", {}), ("Gemma", {}), ("GPT2", {}),
         ("OPT", {}), ("Phi", {}), ("GPTNeoX", {})]  # fmt: skip


def test_turned_models_compute_what_they_did_and_folders_load_in_a_fresh_process(tmp_path):
    jobs = []
    for number, (name, given) in enumerate(CASES):
        loaded = folder_of(name, tmp_path / f"source-{number}", **given)
        wanted, before = output(loaded), loaded.clone()
        assert rotate(loaded, seed=0) > 8
        torch.testing.assert_close(output(loaded), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
        weights = dict(before.module.named_parameters())
        moved = [key for key, one in loaded.module.named_parameters() if key not in weights or one is not weights[key]]
        assert moved
        assert [edit["op"] for edit in loaded.edits].count("untie") == int(before.module.config.tie_word_embeddings)
        artifact.save(loaded, tmp_path / f"artifact-{number}")
        again = artifact.load(tmp_path / f"artifact-{number}")
        torch.testing.assert_close(output(again), output(loaded), rtol=0, atol=1e-6)
        folder = tmp_path / f"folder-{number}"
        folder.mkdir()
        hf(loaded, folder, ExportOptions(format="hf"))
        jobs.append((folder, named_inputs(loaded), own_output(loaded)))
    found = prove(jobs, new_tokens=1)
    assert [one.error for one in found] == [""] * len(CASES)
    assert max(one.difference for one in found) <= 1e-4


def test_experts_turn_with_the_stream(tmp_path):
    loaded = mixture_folder(tmp_path / "model", "Mixtral")
    wanted = output(loaded)
    rotate(loaded, seed=0)
    torch.testing.assert_close(output(loaded), wanted, rtol=1e-3, atol=1e-3)


def test_outliers_cost_less_after_turning(tmp_path):
    original = folder_of("Llama", tmp_path / "model")
    changes = {}
    for turned in (False, True):
        loaded = original.clone()
        options = QuantizeOptions(
            scheme="int8-dynamic", bits=4, activation_bits=4, rotate=turned, reconstruct="none", first_last="same"
        )
        check(loaded.clone(), options, Context(original))
        result = quantize(loaded, options, Context(original))
        assert ("rotated_layers" in result.facts) == turned
        changes[turned] = float((output(loaded) - output(original)).square().mean())
    assert changes[True] < 0.7 * changes[False]


def test_models_without_such_a_stream_are_refused(tmp_path):
    with pytest.raises(InputError, match="rotate: the model has no stream to turn: it embeds no tokens"):
        rotate(Loaded(torch.nn.Sequential(torch.nn.Linear(3, 3)), {}, torch.zeros(1, 3)), seed=0)
    loaded = tiny(tmp_path / "gemma", kind="Gemma3", head_dim=8)
    with pytest.raises(InputError, match="^rotate: "):  # its layers normalize what they add
        check(loaded, QuantizeOptions(rotate=True), Context(loaded))
