"""Data strings, splits, batches, preprocessing."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from compresskit.core.errors import InputError
from compresskit.core.types import Preprocessing
from compresskit.data.dataset import open_data
from compresskit.data.preprocessing import preprocess


def test_digits_splits_are_disjoint_and_fixed():
    data = open_data("digits")
    assert (data.size("train"), data.size("val"), data.size("test")) == (1294, 143, 360)
    images = {
        name: {tuple(x.flatten().tolist()) for x, _ in data.batches(name, batch_size=1)}
        for name in ("train", "val", "test")
    }
    assert not images["val"] & images["test"]
    assert not images["train"] & images["val"]
    again = open_data("digits")
    assert torch.equal(
        next(iter(again.batches("val", batch_size=8)))[0], next(iter(data.batches("val", batch_size=8)))[0]
    )


def test_order_depends_on_seed_and_epoch_only():
    data = open_data("digits")
    first = data.batches("train", batch_size=32, shuffle=True, seed=1)
    labels = torch.cat([y for _, y in first])
    assert torch.equal(labels, torch.cat([y for _, y in first]))
    assert not torch.equal(labels, torch.cat([y for _, y in first.at_epoch(1)]))
    assert not torch.equal(
        labels, torch.cat([y for _, y in data.batches("train", batch_size=32, shuffle=True, seed=2)])
    )
    resumed = torch.cat([y for _, y in first.starting_at(3)])
    assert torch.equal(resumed, labels[96:])


def test_limit_takes_the_same_examples_for_every_seed():
    data = open_data("digits")
    a, b = (data.batches("train", batch_size=200, limit=50, shuffle=True, seed=s) for s in (0, 1))
    assert a.samples == 50
    assert torch.equal(a.indices, b.indices)


def test_augmentation_comes_before_normalization():
    data = open_data("digits", Preprocessing(mean=(0.5,), std=(0.25,)))
    inputs, _ = next(iter(data.batches("train", batch_size=4, augment=lambda x, generator: torch.full_like(x, 0.75))))
    assert torch.equal(inputs, torch.ones_like(inputs))


def test_calibration_has_the_asked_number():
    batches = open_data("digits").calibration(100, batch_size=64)
    assert [len(batch) for batch in batches] == [64, 36]


def test_preprocess_fits_channels_size_and_range():
    image = torch.rand(2, 1, 8, 8)
    fitted = preprocess(image, Preprocessing((0.5,) * 3, (0.5,) * 3, (16, 16), 3))
    expected = (F.interpolate(image.expand(-1, 3, -1, -1), size=(16, 16), mode="bilinear", antialias=True) - 0.5) / 0.5
    torch.testing.assert_close(fitted, expected)
    rows = torch.rand(2, 5)
    assert preprocess(rows, Preprocessing((1.0,), (2.0,))) is rows
    with pytest.raises(InputError, match="2 channels, the model takes 3"):
        preprocess(torch.rand(1, 2, 4, 4), Preprocessing(channels=3))


def test_a_factory_gives_its_splits(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef make(n=30):\n    x = torch.arange(float(n)).reshape(n, 1)\n"
        "    return (x, x * 2), (x[:5], x[:5] * 2)\n"
    )
    data = open_data(f"{tmp_path}/mine.py:make", args={"n": 50})
    assert data.size("train") + data.size("val") == 50
    inputs, targets = next(iter(data.batches("test", batch_size=5)))
    assert torch.equal(targets, inputs * 2)


def test_cifar_opens(cifar_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = open_data(f"imagefolder:{cifar_dir}")
    assert data.num_classes == 10
    assert data.input_shape == (3, 32, 32)
    assert data.size("test") == 1000


def test_a_misspelt_reader_is_no_module_of_the_users():
    with pytest.raises(InputError, match="unknown data 'imagefoldr:ten'; did you mean 'imagefolder'"):
        open_data("imagefoldr:ten")
