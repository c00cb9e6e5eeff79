"""Sparsity solved over layers: curves by hand, the best of all choices on a small case, budgets kept."""

import itertools

import pytest
import torch

from compresskit.pruning.allocation.solved_sparsity import DENSITIES, error_curve, solve
from compresskit.pruning.importance.weight_importance import top_mask


def by_magnitude(rows, density):
    return torch.where(top_mask(rows.abs(), density), rows, 0.0)


def test_a_curve_is_half_the_weighted_error_of_the_outputs():
    torch.manual_seed(0)
    weight, inputs, sensitivity = torch.randn(6, 5), torch.randn(400, 5), torch.rand(6)
    second = (inputs.T @ inputs / 400).double()
    curve = error_curve(weight, second, sensitivity, by_magnitude)
    assert len(curve) == len(DENSITIES) and curve[-1] == 0 and curve == sorted(curve, reverse=True)
    half = DENSITIES.index(0.5)
    change = inputs @ (by_magnitude(weight, 0.5) - weight).T
    assert curve[half] == pytest.approx(float(0.5 * (change.square().mean(0) * sensitivity).sum()), rel=1e-4)


def test_many_rows_are_sampled_and_scaled():
    torch.manual_seed(0)
    weight, second = torch.randn(2000, 8), torch.eye(8, dtype=torch.float64)
    found = error_curve(weight, second, torch.ones(2000), by_magnitude)[DENSITIES.index(0.3)]
    whole = 0.5 * float((by_magnitude(weight, 0.3) - weight).square().sum())
    assert found == pytest.approx(whole, rel=0.1)


def test_the_choice_is_the_best_of_all_and_spends_the_budget():
    weights = {name: torch.zeros(count) for name, count in (("a", 1000), ("b", 500), ("c", 250))}
    errors = {
        name: [scale * (1 - density) ** power for density in DENSITIES]
        for name, scale, power in (("a", 1.0, 3), ("b", 9.0, 2), ("c", 2.0, 1))
    }
    keep = 0.3
    found = solve(weights, weights, keep, errors)
    total = sum(len(weight) for weight in weights.values())
    assert sum(found[name] * len(weights[name]) for name in weights) == pytest.approx(keep * total, rel=1e-6)
    best = min(
        sum(errors[name][index] for name, index in zip(weights, picks, strict=True))
        for picks in itertools.product(range(len(DENSITIES)), repeat=3)
        if sum(DENSITIES[i] * len(weights[n]) for n, i in zip(weights, picks, strict=True)) <= keep * total
    )
    below = [max(d for d in DENSITIES if d <= found[name] + 1e-9) for name in weights]
    reached = sum(errors[name][DENSITIES.index(d)] for name, d in zip(weights, below, strict=True))
    assert reached <= 1.02 * best


def test_layers_that_cannot_be_measured_keep_the_share():
    weights = {"a": torch.zeros(100), "b": torch.zeros(100), "grouped": torch.zeros(40)}
    errors = {"a": [1.0 - d for d in DENSITIES], "b": [5.0 * (1 - d) for d in DENSITIES]}
    found = solve(weights, weights, 0.4, errors)
    assert found["grouped"] == 0.4 and found["b"] > found["a"]
    assert solve(weights, weights, 0.01, errors) == dict.fromkeys(weights, 0.01)
