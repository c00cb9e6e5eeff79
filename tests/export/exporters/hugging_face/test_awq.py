"""AWQ's layout, unpacked bit by bit, and its configuration as its readers read it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from compresskit.export.lowering import carry_out
from compresskit.export.options import ExportOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context
from tests.tiny_transformers import tiny

pytestmark = pytest.mark.integration
LAYER = "model.layers.1.mlp.up_proj"
#: shifts of a word's eight columns, as its kernels undo them
SHIFTS = [0, 16, 4, 20, 8, 24, 12, 28]


@pytest.mark.parametrize("ranges", ["symmetric", "affine"])
def test_every_code_stands_where_the_layout_has_it(ranges, tmp_path):
    loaded = tiny(tmp_path / "source", dtype=torch.bfloat16 if ranges == "affine" else torch.float32)
    options = QuantizeOptions(
        scheme="int4-weight", granularity="group", group_size=16, weight_range=ranges, reconstruct="none"
    )
    quantize(loaded, options, Context(loaded.clone()))
    result = carry_out(loaded, ExportOptions(format="awq", samples=2, rounds=0), Context(loaded), tmp_path / "out")
    said = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert said == {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 16, "zero_point": True,
                    "modules_to_not_convert": ["lm_head"]}  # fmt: skip
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    words, zeros, scales = (tensors[f"{LAYER}.{part}"] for part in ("qweight", "qzeros", "scales"))
    assert (words.shape, zeros.shape, scales.shape) == ((32, 6), (2, 6), (2, 48))
    weight = loaded.module.get_submodule(LAYER).weight.float()
    for column, row in [(0, 0), (1, 5), (17, 31), (31, 46)]:
        pair = words[column], zeros[column // 16]
        code, zero = ((int(one[row // 8]) & 0xFFFFFFFF) >> SHIFTS[row % 8] & 15 for one in pair)
        value = (code - zero) * float(scales[column // 16, row])
        assert value == pytest.approx(float(weight[row, column]), rel=1e-2 if ranges == "affine" else 1e-3, abs=1e-6)
    assert result.facts["unpacked_difference"] < (0.01 if ranges == "affine" else 1e-4)
