"""Activations in memory and on the disk."""

from __future__ import annotations

import torch

from compresskit.analysis.calibration.block_walk.activation_cache import ActivationCache, activation_memory, storages_of


def test_what_is_over_the_limit_is_emptied_and_comes_back(tmp_path):
    first, second = torch.randn(100, 100), torch.randn(100, 100, dtype=torch.float64)
    values = first.clone(), second.clone()
    view = second[10:20]
    with ActivationCache(50_000, tmp_path) as cache:
        cache.park(storages_of([first, second, view]))
        assert first.untyped_storage().nbytes() == 40_000 and second.untyped_storage().nbytes() == 0
        assert cache.spilled_bytes == 80_000 and len(list(tmp_path.glob("*/*"))) == 1
        with cache.loaded({"a": (view, first)}):
            assert torch.equal(view, values[1][10:20])
        assert second.untyped_storage().nbytes() == 0
        cache.release(storages_of((first, second)))
        assert torch.equal(first, values[0]) and torch.equal(second, values[1])
        assert not list(tmp_path.glob("*/*"))
    assert not list(tmp_path.iterdir())


def test_small_tensors_stay_and_nothing_is_kept_alive(tmp_path):
    with ActivationCache(0, tmp_path) as cache:
        small, large = torch.randn(10), torch.randn(100, 100)
        cache.park(storages_of((small, large)))
        assert small.untyped_storage().nbytes() == 40 and large.untyped_storage().nbytes() == 0
        del large
        cache.park([])  # the file of what nobody holds any longer goes with it
        assert not list(tmp_path.glob("*/*"))


def test_a_limit_around_it_is_the_limit():
    with activation_memory(None):
        assert ActivationCache(7).limit_bytes == 7
    with activation_memory(3):
        assert ActivationCache(7).limit_bytes == 3 and ActivationCache().limit_bytes == 3
    assert ActivationCache(7).limit_bytes == 7
