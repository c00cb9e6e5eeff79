"""Batches are brought where a module computes, and a module can be lent to the CPU."""

from __future__ import annotations

from collections import namedtuple

import torch
from torch import nn

from compresskit.core.tensors.devices import device_of, on_cpu, to_device
from compresskit.core.tensors.dtypes import fit_inputs

META = torch.device("meta")
Pair = namedtuple("Pair", "left right")


def test_every_tensor_of_a_structure_moves_and_the_structure_stays():
    batch = {"a": [torch.zeros(2), "text"], "b": Pair(torch.ones(1), (torch.ones(1, dtype=torch.int64),))}
    moved = to_device(batch, META, torch.float64)
    assert isinstance(moved["b"], Pair) and moved["a"][1] == "text"
    tensors = [moved["a"][0], moved["b"].left, moved["b"].right[0]]
    assert {tensor.device for tensor in tensors} == {META}
    assert [tensor.dtype for tensor in tensors] == [torch.float64, torch.float64, torch.int64]


def test_a_module_without_tensors_is_on_the_cpu():
    assert device_of(nn.ReLU()) == torch.device("cpu")
    assert device_of(nn.BatchNorm1d(2, affine=False, device="meta")) == META


def test_inputs_stay_where_they_are_for_a_module_without_weights_yet():
    inputs = torch.zeros(1, 2)
    assert fit_inputs(nn.Linear(2, 2, device="meta"), inputs).device == torch.device("cpu")


def test_a_module_on_meta_is_not_lent_to_the_cpu():
    module = nn.Linear(2, 2, device="meta")
    with on_cpu(module):
        assert device_of(module) == META
