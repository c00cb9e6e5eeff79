"""The table of quantized layers."""

from __future__ import annotations

import json

import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.quantization.report import layer_table
from compresskit.training.context import Context


def test_exact_copies_have_no_noise_figure():
    """With one column a row's scale is its only weight, so nothing is lost, and JSON has no infinity."""
    module = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 2)).eval()
    loaded = Loaded(module, {}, torch.randn(1, 1))
    result = quantize(loaded, QuantizeOptions(bits=8, first_last="same"), Context(loaded.clone()))
    first, second = result.tables["quantized layers"]
    assert first["weight_sqnr_db"] is None and second["weight_sqnr_db"] > 20
    json.dumps(result.tables, allow_nan=False)


class Counted(nn.Identity):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x


def test_nothing_behind_the_last_quantized_layer_is_run_and_no_layer_keeps_its_weights():
    """Logits of a large vocabulary would take more memory than all that is looked at."""
    module = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4), Counted()).eval()
    original = Loaded(module, {}, torch.randn(1, 6))
    quantized = original.clone()
    quantize(quantized, QuantizeOptions(bits=8, first_last="same"), Context(original))
    before = module[2].calls
    table = layer_table(module, quantized.module, ["0", "1"], torch.randn(5, 6), {})
    assert module[2].calls == before and all(row["output_sqnr_db"] > 20 for row in table)
    assert not any("_kept" in vars(layer) for layer in quantized.module)
