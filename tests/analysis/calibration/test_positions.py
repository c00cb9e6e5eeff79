"""Samplers: what they draw, and when they draw nothing."""

from __future__ import annotations

import torch

from compresskit.analysis.calibration.positions import (
    distinct,
    drawn_per_batch,
    of_every_example,
    per_batch,
    per_example,
)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_few_positions_are_all_taken_and_nothing_is_drawn():
    generator = _generator()
    for sampler in (per_example(6, generator), per_batch(12, generator), drawn_per_batch(12, generator)):
        assert sampler(2, 6) is None
    assert torch.equal(torch.rand(3, generator=generator), torch.rand(3, generator=_generator()))


def test_every_example_gives_the_same_positions():
    taken = per_example(4, _generator())(3, 10)
    chosen = torch.randperm(10, generator=_generator())[:4]
    assert torch.equal(taken.view(3, 4), torch.stack([chosen, chosen + 10, chosen + 20]))
    assert of_every_example(None, 3, 10) is None


def test_a_batch_gives_distinct_positions_or_drawn_ones():
    taken = per_batch(29, _generator())(3, 10)
    assert len(set(taken.tolist())) == 29 and int(taken.max()) < 30
    assert torch.equal(taken, distinct(30, 29, _generator()))
    drawn = drawn_per_batch(29, _generator())(3, 10)
    assert torch.equal(drawn, torch.randint(30, (29,), generator=_generator()))


def test_draws_follow_one_another():
    sample = per_batch(5, _generator())
    first, second = sample(1, 100), sample(1, 100)
    assert not torch.equal(first, second)
