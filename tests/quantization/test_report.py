"""The table of quantized layers."""

from __future__ import annotations

import json

import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context


def test_exact_copies_have_no_noise_figure():
    """With one column a row's scale is its only weight, so nothing is lost, and JSON has no infinity."""
    module = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 2)).eval()
    loaded = Loaded(module, {}, torch.randn(1, 1))
    result = quantize(loaded, QuantizeOptions(bits=8, first_last="same"), Context(loaded.clone()))
    first, second = result.tables["quantized layers"]
    assert first["weight_sqnr_db"] is None and second["weight_sqnr_db"] > 20
    json.dumps(result.tables, allow_nan=False)
