"""Which layers are quantized, and which stay in float."""

from __future__ import annotations

import torch
from torch import nn

from compresskit.analysis.dataflow import trace
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.plan import make_plan


def test_constants_that_decode_answers_stay_in_float_unless_they_are_named():
    decoder = nn.Linear(4, 1, bias=False).requires_grad_(False)  # as YOLO's expectation over places
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), nn.Softmax(-1), decoder)
    record = trace(model, torch.randn(2, 4))

    def plan(**options):
        plans, notes = make_plan(model, record, QuantizeOptions(scheme="int4-weight", **options))
        return {one.name: one.spec.bits for one in plans}, notes

    assert plan() == ({"0": 8, "2": 8}, ["4 stays in float: its weights are constants that decode answers"])
    assert plan(layers=["4"])[0].keys() == {"4"}
    model.requires_grad_(False)  # a whole model that is frozen has no layer that decodes
    assert plan()[0] == {"0": 8, "2": 4, "4": 8}
