"""What is learned of the places' coefficients: recovered where the model holds, the prior's where nothing was seen."""

from __future__ import annotations

import numpy as np
import pytest

from compresskit.search.coefficients import Coefficients

LOSSES = [[1.0, 0.3, 0.0], [2.0, 0.5, 0.0], [0.5, 0.1, 0.0]]
TRUE = np.array([0.8, -0.5, 0.3])


def divergence(choice):
    return float(sum(np.exp(c) * row[level] for c, row, level in zip(TRUE, LOSSES, choice, strict=True)))


def learned():
    found = Coefficients(LOSSES)
    for choice in np.ndindex(3, 3, 3):
        found.observe(choice, divergence(choice))
    return found


def test_the_predictions_become_right():
    mode = learned().fit()
    for choice in [(0, 0, 0), (1, 0, 2), (0, 2, 1)]:
        predicted = sum(np.exp(c) * row[level] for c, row, level in zip(mode, LOSSES, choice, strict=False))
        assert np.exp(mode[-1]) * predicted == pytest.approx(divergence(choice), rel=0.1)
    # only ratios between places can be told from the common factor
    assert mode[:-1] - mode[:-1].mean() == pytest.approx(TRUE - TRUE.mean(), abs=0.15)


def test_without_candidates_coefficients_are_drawn_from_the_prior():
    found = Coefficients(LOSSES)
    assert found.drawn(np.random.default_rng(0), 0.0).tolist() == [0, 0, 0]
    draws = np.stack([found.drawn(np.random.default_rng(seed), 1.0) for seed in range(400)])
    assert draws.std(0) == pytest.approx([0.7] * 3, rel=0.15)


def test_candidates_narrow_what_is_drawn():
    found = learned()
    draws = np.stack([found.drawn(np.random.default_rng(seed), 1.0) for seed in range(100)])
    assert (draws.std(0) < 0.5).all()


def test_a_whole_candidate_says_nothing():
    found = Coefficients(LOSSES)
    found.observe((2, 2, 2), 0.1)
    found.observe((0, 1, 2), 0.0)
    assert found.fit().tolist() == [0, 0, 0, 0]
