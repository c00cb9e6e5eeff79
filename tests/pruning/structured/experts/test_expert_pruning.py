"""Whole experts go: which, what is left, and that transformers loads it."""

import json

import pytest
import torch
from torch.nn import functional as F

from compresskit.analysis.calibration.hooks import watch
from compresskit.analysis.measure.macs import count_macs
from compresskit.artifact import artifact
from compresskit.core.errors import InputError
from compresskit.core.types import call, main_output
from compresskit.export.exporters.hugging_face.hf import hf
from compresskit.export.folders.proof import named_inputs, own_output, prove
from compresskit.export.options import ExportOptions
from compresskit.pruning.check import check
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.experts.expert_pruning import find_mixtures
from compresskit.pruning.structured.prune import prune
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context
from tests.tiny_mixtures import FAMILIES, mixture_folder
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration
HALF = PruneOptions(granularity="expert", ratio=0.5)


def without(gone):
    """A watcher of Mixtral's router that never chooses some experts."""

    def look(router, inputs, _output):
        logits = F.linear(inputs[0].reshape(-1, 32), router.weight)
        logits[:, gone] = float("-inf")
        scores, numbers = torch.topk(logits.softmax(-1), 2, dim=-1)
        return logits, scores / scores.sum(-1, keepdim=True), numbers

    return look


def test_what_is_left_computes_as_if_the_router_never_chose_the_others(tmp_path):
    loaded = mixture_folder(tmp_path / "model", "Mixtral")
    original = loaded.clone()
    rows = prune(loaded, HALF, Context(original)).tables["experts"]
    gone = {f"{row['layer'].removesuffix('experts')}gate": [int(one) for one in row["removed"].split(", ")]
            for row in rows}  # fmt: skip
    with torch.no_grad(), watch(original.module, {name: without(numbers) for name, numbers in gone.items()}):
        wanted = main_output(call(original.module, original.example))
    with torch.no_grad():
        torch.testing.assert_close(main_output(call(loaded.module, loaded.example)), wanted, rtol=1e-5, atol=1e-5)
    assert [(row["experts"], row["kept"]) for row in rows] == [(4, 2), (4, 2)]
    assert count_macs(loaded.module, loaded.example).total < count_macs(original.module, loaded.example).total


def test_folders_with_fewer_and_narrower_experts_load_in_a_fresh_process(tmp_path):
    jobs = []
    for family in FAMILIES:
        loaded = mixture_folder(tmp_path / f"{family}-source", family)
        prune(loaded, PruneOptions(granularity="expert", ratio=0.25), Context(loaded.clone()))
        prune(loaded, PruneOptions(ratio=0.25), Context(loaded.clone()))
        (tmp_path / family).mkdir()
        hf(loaded, tmp_path / family, ExportOptions(format="hf"))
        config = json.loads((tmp_path / family / "config.json").read_text())
        assert config.get("num_local_experts", config.get("num_experts")) == 3
        key, width = ("moe_intermediate_size", 24) if family == "Qwen3Moe" else ("intermediate_size", 48)
        assert config[key] < width or family == "GptOss"  # whose gates and values stand in turn
        artifact.save(loaded, tmp_path / f"{family}-artifact")
        again = artifact.load(tmp_path / f"{family}-artifact")
        with torch.no_grad():
            torch.testing.assert_close(
                main_output(call(again.module, again.example)), main_output(call(loaded.module, loaded.example)),
                rtol=0, atol=1e-6,
            )  # fmt: skip
        jobs.append((tmp_path / family, named_inputs(loaded), own_output(loaded)))
    found = prove(jobs, new_tokens=2)
    assert [one.error for one in found] == [""] * len(FAMILIES)
    assert max(one.difference for one in found) <= 1e-5


def test_the_experts_that_matter_least_by_the_measure_asked_for_go(tmp_path):
    loaded = mixture_folder(tmp_path / "model", "Mixtral")
    with torch.no_grad():  # what experts 1 and 2 give is nothing, as often as they are chosen
        for layer in (0, 1):
            loaded.module.get_submodule(f"model.layers.{layer}.mlp.experts").down_proj[1:3] = 0
    rows = prune(loaded, HALF, Context(loaded.clone())).tables["experts"]
    assert [row["removed"] for row in rows] == ["1, 2", "1, 2"]


def test_what_cannot_lose_experts_is_refused(tmp_path):
    loaded = mixture_folder(tmp_path / "model", "Mixtral")
    with pytest.raises(InputError, match="less than one; nothing would go"):
        check(loaded.clone(), PruneOptions(granularity="expert", ratio=0.1), Context(loaded))
    with pytest.raises(InputError, match="does not run with 1 experts a layer .*; remove fewer"):
        prune(loaded.clone(), PruneOptions(granularity="expert", ratio=0.75), Context(loaded))
    quantize(loaded, QuantizeOptions(scheme="int8-weight"), Context(loaded.clone()))
    with pytest.raises(InputError, match="experts are quantized; prune first"):
        find_mixtures(loaded)
    with pytest.raises(InputError, match="no experts as stacks"):
        find_mixtures(tiny(tmp_path / "llama"))
    with pytest.raises(ValueError, match="expert_importance would be ignored"):
        PruneOptions(ratio=0.5, expert_importance="reap")
