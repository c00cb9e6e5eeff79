"""Arrays of NumPy archives: floats as they are, bytes as images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.core.types import Preprocessing
from compresskit.data.dataset import open_data

MODEL = Preprocessing((0.5,), (0.25,), (16, 16), 1)


def test_floats_are_taken_as_they_are_and_bytes_are_preprocessed(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "bytes.npz", x=x, y=np.arange(30) % 3)
    np.savez(tmp_path / "floats.npz", x=x.astype(np.float32), y=np.arange(30) % 3)
    given = open_data(f"npz:{tmp_path}/floats.npz", MODEL)
    inputs = torch.cat(
        [inputs for split in ("train", "val", "test") for inputs, _ in given.batches(split, batch_size=9)]
    )
    assert torch.equal(inputs.sum((1, 2, 3)).sort().values, torch.from_numpy(x).float().sum((1, 2, 3)).sort().values)
    assert (given.input_shape, given.applied) == ((1, 8, 8), "images are taken as given")
    images = open_data(f"npz:{tmp_path}/bytes.npz", MODEL)
    assert images.input_shape == (1, 16, 16)
    assert images.applied == (
        "images are bytes scaled to [0, 1], resized to 16x16, given 1 channel, normalized with mean 0.5 and std 0.25"
    )
    asked = open_data(f"npz:{tmp_path}/floats.npz", MODEL, {"preprocess": "model"})
    assert asked.input_shape == (1, 16, 16)
    none = open_data(f"npz:{tmp_path}/bytes.npz", MODEL, {"preprocess": "none"})
    assert none.input_shape == (1, 8, 8)
    assert float(next(iter(none.batches("test", batch_size=6)))[0].max()) <= 1


def test_whole_number_floats_are_a_regression(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.zeros((30, 2), np.float32), y=np.arange(30, dtype=np.float64) % 3)
    assert open_data(f"npz:{tmp_path}/d.npz").num_classes is None


def test_a_missing_array_is_named(tmp_path):
    np.savez(tmp_path / "d.npz", x_train=np.zeros((3, 2)), y_train=np.zeros(3), x_tset=np.zeros((3, 2)))
    with pytest.raises(InputError, match="lacks array 'x_test'.*did you mean 'x_tset'"):
        open_data(f"npz:{tmp_path}/d.npz")
