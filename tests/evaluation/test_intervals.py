"""Intervals by formula and by resampling."""

from __future__ import annotations

import pytest
import torch

from compresskit.evaluation.intervals import bootstrap, interval, percentiles, resamples


def test_resamples_are_the_same_in_every_run_and_take_examples_of_the_set():
    first, second = list(resamples(5, 3)), list(resamples(5, 3))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(one.shape == (5,) and int(one.min()) >= 0 and int(one.max()) < 5 for one in first)


def test_a_bootstrap_of_a_mean_comes_near_the_formula():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_formula = interval(values)
    resampled = bootstrap(by_formula.value, 400, 400, lambda indices: float(values[indices].mean()))
    width = by_formula.high - by_formula.low
    assert resampled.high - resampled.low == pytest.approx(width, rel=0.25)
    assert resampled.low < by_formula.value < resampled.high


def test_edges():
    assert bootstrap(0.5, 1, 1, lambda indices: 0.0) == percentiles(0.5, [], 1)
    assert percentiles(1.0, [float("nan")], 3).low == 1.0
    assert interval(torch.tensor([2.0])).high == 2.0
