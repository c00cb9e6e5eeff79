"""Whole sets of several arrays."""

from __future__ import annotations

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.core.user_code.in_memory import named_objects
from compresskit.data.dataset import open_data

X = {"ids": torch.arange(20), "image": torch.rand(20, 1, 4, 4)}
Y = torch.arange(20) % 4


def test_mappings_and_tuples_of_arrays_are_columns():
    with named_objects(
        {"f": lambda: ((X, Y), (X, {"class": Y, "size": Y.float()})), "g": lambda: ((X, Y), (X, Y[:3]))}
    ):
        data = open_data("in-memory:f")
        inputs, targets = next(iter(data.batches("train", batch_size=3)))
        assert torch.equal(inputs["image"], X["image"][inputs["ids"]]) and torch.equal(targets, Y[inputs["ids"]])
        assert next(iter(data.batches("test", batch_size=3)))[1].keys() == {"class", "size"}
        assert data.example.keys() == {"ids", "image"} and data.size("train") == 18
        with pytest.raises(InputError, match="20 inputs but 3 targets"):
            open_data("in-memory:g")
