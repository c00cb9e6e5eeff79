"""The allocator against trying every combination, and against a solver of mixed integer programs."""

from itertools import product

import numpy as np
import pytest

from compresskit.analysis.allocation.allocate import allocate, allocate_rounded


def least_loss(costs, losses, limits):
    """The optimum that scipy's solver finds; None if nothing fits."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag

    sizes = [len(row) for row in losses]
    objective = np.concatenate(losses)
    spent = np.concatenate([np.reshape(row, (len(row), -1)) for row in costs]).T
    one_each = block_diag([np.ones((1, size)) for size in sizes])
    found = milp(
        objective, integrality=np.ones(len(objective)), bounds=Bounds(0, 1), options={"mip_rel_gap": 0},
        constraints=[LinearConstraint(spent, ub=limits), LinearConstraint(one_each, 1, 1)],
    )  # fmt: skip
    return found.fun if found.success else None


def sums(costs, losses, chosen):
    spent = sum(np.reshape(row[index], -1) for row, index in zip(costs, chosen, strict=True))
    return spent, sum(row[index] for row, index in zip(losses, chosen, strict=True))


def random_problem(seed, *, limits, layers=8, choices=6, tightness=0.5):
    random = np.random.default_rng(seed)
    costs = [random.random((choices, limits)) ** 2 for _ in range(layers)]
    losses = [random.random(choices) ** 3 / (0.1 + row.sum(1)) for row in costs]
    least, most = (sum(pick(row, axis=0) for row in costs) for pick in (np.min, np.max))
    return costs, losses, least + tightness * random.random() * (most - least)


@pytest.mark.parametrize("limits", [1, 2, 3])
@pytest.mark.parametrize("seed", range(10))
def test_equals_a_mixed_integer_solver(seed, limits):
    costs, losses, limit = random_problem(seed, limits=limits)
    chosen, expected = allocate(costs, losses, limit), least_loss(costs, losses, limit)
    assert (chosen is None) == (expected is None)
    if chosen is not None:
        spent, loss = sums(costs, losses, chosen)
        assert (spent <= limit * (1 + 1e-9)).all()
        assert loss == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_forty_layers_of_twenty_choices_are_allocated_exactly():
    costs, losses, limit = random_problem(3, limits=1, layers=40, choices=20, tightness=0.2)
    spent, loss = sums(costs, losses, allocate(costs, losses, limit))
    assert spent[0] <= limit[0] * (1 + 1e-9)
    assert loss == pytest.approx(least_loss(costs, losses, limit), rel=1e-6)


def rounded(costs, losses, budget):
    """4,096 bins divide the spare units of these tests exactly, so nothing is rounded."""
    return allocate_rounded(costs, losses, budget, 4096)


@pytest.mark.parametrize("solve", [allocate, rounded])
@pytest.mark.parametrize("seed", range(8))
def test_equals_brute_force_on_integer_costs(seed, solve):
    random = np.random.default_rng(seed)
    costs = [random.integers(1, 30, 4).tolist() for _ in range(5)]
    losses = [random.random(4).tolist() for _ in range(5)]
    budget = sum(map(min, costs)) + 32
    chosen = solve(costs, losses, budget)
    assert sum(row[i] for row, i in zip(costs, chosen, strict=True)) <= budget
    best = min(
        sum(losses[n][i] for n, i in enumerate(pick))
        for pick in product(range(4), repeat=5)
        if sum(costs[n][i] for n, i in enumerate(pick)) <= budget
    )
    assert sum(losses[n][i] for n, i in enumerate(chosen)) == pytest.approx(best)


@pytest.mark.parametrize("solve", [allocate, rounded])
def test_never_exceeds_the_budget_with_large_costs(solve):
    random = np.random.default_rng(0)
    costs = [(random.random(6) * 1e7).tolist() for _ in range(10)]
    losses = [[1 / cost for cost in row] for row in costs]
    budget = 0.4 * sum(map(max, costs))
    chosen = solve(costs, losses, budget)
    assert 0.99 * budget < sum(row[i] for row, i in zip(costs, chosen, strict=True)) <= budget


def test_edges():
    assert allocate([], [], 5) == []
    assert allocate([], [], -1) is None
    assert allocate([[3.0, 1.0]], [[0.0, 1.0]], 0.5) is None
    assert allocate([[3.0, 1.0]], [[0.0, 1.0]], 1.0) == [1]
    assert allocate([[3.0, 1.0]], [[0.0, 1.0]], 3.0) == [0]
    assert allocate([[0.0, 0.0]], [[1.0, 0.5]], 0.0) == [1]
    assert allocate([[-2.0, 1.0], [3.0, 4.0]], [[1.0, 0.0], [1.0, 0.0]], 2.0) == [0, 1]


def test_two_limits_that_only_a_dear_choice_meets():
    costs = [[[0.0, 5.0], [5.0, 0.0], [2.0, 2.0]]] * 2
    losses = [[0.0, 0.0, 1.0]] * 2
    assert allocate(costs, losses, [5.0, 5.0]) in ([0, 1], [1, 0])
    assert allocate(costs, losses, [4.0, 4.0]) == [2, 2]
    assert allocate(costs, losses, [3.9, 3.9]) is None


def test_edges_of_rounded_costs():
    assert allocate_rounded([], [], 5, 4096) == []
    assert allocate_rounded([[3.0, 1.0]], [[0.0, 1.0]], 0.5, 4096) is None
    assert allocate_rounded([[3.0, 1.0]], [[0.0, 1.0]], 1.0, 4096) == [1]
    assert allocate_rounded([[3.0, 1.0]], [[0.0, 1.0]], 3.0, 4096) == [0]
