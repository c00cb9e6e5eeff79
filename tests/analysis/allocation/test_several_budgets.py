"""Exact allocation against brute force: additive loads, loads that multiply, two budgets at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from compresskit.analysis.allocation.several_budgets import Allocator, interactions, split, total, undominated


def brute_force(losses, loads, slack=1.0):
    choices = itertools.product(*(range(len(row)) for row in losses))
    return min((total(losses, c) for c in choices if max(loads(c)) <= slack), default=None)


def random_losses(generator, places, levels):
    return [np.sort(generator.random(levels))[::-1].tolist() for _ in range(places)]


def chain_cost(widths):
    """Cost of a chain of layers: neighbouring widths multiply."""

    def cost(choice):
        kept = [1, *(row[level] for row, level in zip(widths, choice, strict=True)), 1]
        return float(sum(a * b for a, b in itertools.pairwise(kept)))

    return cost


def random_widths(generator, places, levels):
    return [np.sort(generator.choice(np.arange(1, 12), levels, replace=False)).tolist() for _ in range(places)]


def test_blocks_share_nothing():
    cost = chain_cost([[1, 2, 3, 4, 5, 6, 7, 8, 9]] * 6)
    joined = interactions([9] * 6, lambda choice: np.array([cost(choice)]))
    assert joined == [{1}, {0, 2}, {1, 3}, {2, 4}, {3, 5}, {4}]
    hubs, blocks = split([9] * 6, joined)
    assert sorted([*hubs, *itertools.chain(*blocks)]) == list(range(6))
    assert all(len(block) == 1 for block in blocks)  # two places of nine levels have more than 64 combinations
    assert not any(joined[a].intersection(b) for (a,), b in itertools.permutations(blocks, 2))


def test_few_levels_stay_in_one_block():
    assert split([4] * 3, [{1}, {0, 2}, {1}]) == ([], [[0, 1, 2]])
    assert split([3, 3], [set(), set()]) == ([], [[0], [1]])


def test_undominated_options():
    assert undominated([3.0, 1.0, 2.0, 2.0], [0.0, 5.0, 6.0, 1.0]) == [1, 3, 0]


@pytest.mark.parametrize("seed", range(6))
def test_additive_costs_are_allocated_exactly(seed):
    generator = np.random.default_rng(seed)
    # from 0 on, and a budget of 20: whole costs are whole numbers of its thousandths, so nothing is rounded
    costs = [[0, *np.sort(generator.integers(0, 10, 3)).tolist()] for _ in range(4)]
    losses = random_losses(generator, 4, 4)

    def loads(choice):
        return [sum(row[level] for row, level in zip(costs, choice, strict=True)) / 20]

    found = Allocator([4] * 4, loads).solve(losses)
    assert total(losses, found) == pytest.approx(brute_force(losses, loads))


@pytest.mark.parametrize("seed", range(6))
def test_two_additive_budgets_are_allocated_exactly(seed):
    generator = np.random.default_rng(seed)
    costs = np.sort(generator.random((5, 4, 2)), axis=1)
    losses = random_losses(generator, 5, 4)

    def loads(choice):
        return (sum(row[level] for row, level in zip(costs, choice, strict=True)) / 2.5).tolist()

    found, expected = Allocator([4] * 5, loads).solve(losses), brute_force(losses, loads)
    assert (found is None) == (expected is None)
    assert found is None or total(losses, found) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(6))
def test_products_are_allocated_exactly(seed):
    generator = np.random.default_rng(seed)
    widths, losses = random_widths(generator, 5, 4), random_losses(generator, 5, 4)
    cost = chain_cost(widths)
    budget = 0.4 * cost((3,) * 5)

    def loads(choice):
        return [cost(choice) / budget]

    allocator = Allocator([4] * 5, loads)
    found, expected = allocator.solve(losses), brute_force(losses, loads)
    assert allocator.hubs
    if expected is None:
        assert found is None
    else:
        assert loads(found)[0] <= 1 + 1e-9
        # costs are rounded up to a thousandth of what may be spent, which may exclude the very last choice
        tighter = brute_force(losses, loads, 0.99)
        assert expected - 1e-12 <= total(losses, found) <= (tighter if tighter is not None else np.inf) + 1e-12


def two_budgets(seed, first, second):
    """A chain of channels and bits: MACs are products of widths, bytes those times the bits of each layer."""
    generator = np.random.default_rng(seed)
    widths, bits = random_widths(generator, 3, 3), [2, 4, 8]
    losses = random_losses(generator, 7, 3)

    def costs(choice):
        kept = [4, *(row[level] for row, level in zip(widths, choice, strict=False)), 4]
        layers = [a * b for a, b in itertools.pairwise(kept)]
        size = sum(layer * bits[level] for layer, level in zip(layers, choice[3:], strict=True))
        return np.array([sum(layers), size], dtype=float)

    limits = costs((2,) * 7) * [first, second]
    return losses, lambda choice: (costs(choice) / limits).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_two_budgets_are_met_and_near_the_best(seed):
    losses, loads = two_budgets(seed, 0.5, 0.3)
    found, expected = Allocator([3] * 7, loads).solve(losses), brute_force(losses, loads)
    if expected is None:
        assert found is None
    else:
        assert max(loads(found)) <= 1 + 1e-9
        assert expected - 1e-12 <= total(losses, found) <= 1.1 * expected + 1e-12


@pytest.mark.parametrize(("first", "second"), [(0.5, 2.0), (2.0, 0.3)])
def test_a_budget_that_does_not_bind_changes_nothing(first, second):
    for seed in range(4):
        losses, loads = two_budgets(seed, first, second)
        binding = 0 if first < 1 else 1
        alone = Allocator([3] * 7, lambda choice, loads=loads, at=binding: [loads(choice)[at]]).solve(losses)
        both = Allocator([3] * 7, loads).solve(losses)
        assert (both is None) == (alone is None)
        assert both is None or total(losses, both) == pytest.approx(total(losses, alone))


def test_out_of_reach_is_none():
    assert Allocator([2, 2], lambda choice: [1.5 + sum(choice)]).solve([[1, 0]] * 2) is None
    assert Allocator([2, 2], lambda choice: [0.1, 1.5 + sum(choice)]).solve([[1, 0]] * 2) is None


def test_many_hubs_are_improved_one_at_a_time():
    widths = [[1, 2, 3, 4, 5, 6, 7, 8, 9]] * 7
    losses = [[float((9 - w) ** 2) for w in row] for row in widths]
    cost = chain_cost(widths)
    budget = 0.5 * cost((8,) * 7)
    allocator = Allocator([9] * 7, lambda choice: [cost(choice) / budget])
    assert 9 ** len(allocator.hubs) > 256
    found = allocator.solve(losses)
    same_everywhere = max(level for level in range(9) if cost((level,) * 7) <= budget)
    assert cost(found) <= budget and total(losses, found) < total(losses, (same_everywhere,) * 7)
    again = allocator.solve(losses, start=found)
    assert total(losses, again) <= total(losses, found)
