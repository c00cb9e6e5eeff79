"""Rewards of the agents, and the scores that they are made of."""

from __future__ import annotations

import math

import pytest

from compresskit.search.nas.policies.rewards import accuracy_reward, compression_reward, score_of


@pytest.mark.parametrize(
    ("value", "original", "scale", "score"),
    [
        (0.8, 0.9, "share", 0.8),
        (-2.0, -2.0, "own", 0.5),  # an error as large as the original's
        (-6.0, -2.0, "own", 0.25),
        (-1.0, -3.0, "own", 0.75),
        (0.0, -3.0, "own", 1.0),
        (0.0, 0.0, "own", 0.5),
        (-0.3, -0.1, "share", 0.25),  # an error rate
        (30.0, 30.0, "own", 0.5),  # decibels
        (10.0, 30.0, "own", 0.25),
        (-0.5, 0.9, "own", 0.0),  # a coefficient of determination below zero
    ],
)
def test_every_metric_is_a_score_of_which_more_is_better(value, original, scale, score):
    assert score_of(value, original, scale) == pytest.approx(score)


def test_rewards_of_accuracies():
    assert compression_reward(0.9, 0.9, 0.5) == pytest.approx(0.75)
    assert accuracy_reward(0.5, 100) == pytest.approx(1.0)
    assert accuracy_reward(1.0, 100) == pytest.approx(math.tan(0.995 * math.pi / 2))
