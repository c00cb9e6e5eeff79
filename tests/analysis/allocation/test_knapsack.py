"""The budget solver against trying every combination."""

from itertools import product

import numpy as np
import pytest

from compresskit.analysis.allocation.knapsack import choose


@pytest.mark.parametrize("seed", range(8))
def test_equals_brute_force_on_integer_costs(seed):
    random = np.random.default_rng(seed)
    costs = [random.integers(1, 30, 4).tolist() for _ in range(5)]
    losses = [random.random(4).tolist() for _ in range(5)]
    floor = sum(map(min, costs))
    budget = floor + 32  # 4096 bins divide 32 units exactly, so nothing is rounded
    chosen = choose(costs, losses, budget)
    assert sum(row[i] for row, i in zip(costs, chosen, strict=True)) <= budget
    best = min(
        sum(losses[n][i] for n, i in enumerate(pick))
        for pick in product(range(4), repeat=5)
        if sum(costs[n][i] for n, i in enumerate(pick)) <= budget
    )
    assert sum(losses[n][i] for n, i in enumerate(chosen)) == pytest.approx(best)


def test_never_exceeds_the_budget_with_rounded_costs():
    random = np.random.default_rng(0)
    costs = [(random.random(6) * 1e7).tolist() for _ in range(10)]
    losses = [[1 / cost for cost in row] for row in costs]
    budget = 0.4 * sum(map(max, costs))
    chosen = choose(costs, losses, budget)
    assert 0.99 * budget < sum(row[i] for row, i in zip(costs, chosen, strict=True)) <= budget


def test_edges():
    assert choose([], [], 5) == []
    assert choose([[3.0, 1.0]], [[0.0, 1.0]], 0.5) is None
    assert choose([[3.0, 1.0]], [[0.0, 1.0]], 1.0) == [1]
    assert choose([[3.0, 1.0]], [[0.0, 1.0]], 3.0) == [0]
