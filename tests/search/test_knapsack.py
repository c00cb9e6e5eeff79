"""Exact allocation against brute force, with additive costs and with costs that multiply."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from compresskit.search.knapsack import Allocator, knapsack, split, total


def brute_force(losses, cost, budget):
    choices = itertools.product(*(range(len(row)) for row in losses))
    return min((total(losses, c) for c in choices if cost(c) <= budget), default=None)


@pytest.mark.parametrize("seed", range(6))
def test_knapsack_equals_brute_force_on_whole_costs(seed):
    generator = np.random.default_rng(seed)
    costs = [np.sort(generator.integers(0, 10, 4)).tolist() for _ in range(4)]
    losses = [np.sort(generator.random(4))[::-1].tolist() for _ in range(4)]
    budget = 20  # a whole number of bins for every whole cost
    picked = knapsack(costs, losses, budget, bins=200)
    expected = brute_force(losses, lambda c: sum(row[level] for row, level in zip(costs, c, strict=True)), budget)
    assert total(losses, picked) == pytest.approx(expected)


def test_knapsack_says_when_nothing_fits():
    assert knapsack([[3, 4]], [[1, 0]], budget=2) is None
    assert knapsack([[0, 4]], [[1, 0]], budget=0) == [0]


def chain_cost(widths):
    """Cost of a chain of layers: neighbouring widths multiply."""

    def cost(choice):
        kept = [1, *(row[level] for row, level in zip(widths, choice, strict=True)), 1]
        return float(sum(a * b for a, b in itertools.pairwise(kept)))

    return cost


def test_split_leaves_no_two_neighbours_together():
    hubs, rest = split([2] * 5, chain_cost([[1, 2]] * 5))
    assert sorted(hubs + rest) == list(range(5))
    assert all(abs(a - b) > 1 for a, b in itertools.combinations(rest, 2))


def test_additive_costs_have_no_hubs():
    assert split([3, 3], lambda choice: float(sum(choice))) == ([], [0, 1])


@pytest.mark.parametrize("seed", range(6))
def test_products_are_allocated_exactly(seed):
    generator = np.random.default_rng(seed)
    widths = [np.sort(generator.choice(np.arange(1, 12), 4, replace=False)).tolist() for _ in range(4)]
    losses = [np.sort(generator.random(4))[::-1].tolist() for _ in range(4)]
    cost = chain_cost(widths)
    budget = 0.4 * cost((3,) * 4)
    found = Allocator([4] * 4, cost).solve(losses, budget)
    expected = brute_force(losses, cost, budget)
    if expected is None:
        assert found is None
    else:
        assert cost(found) <= budget * (1 + 1e-9)
        # costs are rounded up to a thousandth of what may be spent, which may exclude the very last choice
        tighter = brute_force(losses, cost, budget * 0.99)
        assert expected - 1e-12 <= total(losses, found) <= (tighter if tighter is not None else np.inf) + 1e-12


def test_many_hubs_are_improved_one_at_a_time():
    widths = [[1, 2, 3, 4, 5, 6, 7, 8]] * 7
    losses = [[float((8 - w) ** 2) for w in row] for row in widths]
    cost = chain_cost(widths)
    budget = 0.5 * cost((7,) * 7)
    allocator = Allocator([8] * 7, cost)
    assert 8 ** len(allocator.hubs) > 256
    found = allocator.solve(losses, budget)
    same_everywhere = max(level for level in range(8) if cost((level,) * 7) <= budget)
    assert cost(found) <= budget and total(losses, found) < total(losses, (same_everywhere,) * 7)
