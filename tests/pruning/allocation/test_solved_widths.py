"""Losses of widths against regressions, and widths against every choice that there is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.pruning.allocation.solved_widths import SolvedAllocation, losses_of_widths
from compresskit.pruning.allocation.units import Limits
from compresskit.pruning.dependency.graph import Group

DOUBLE = torch.float64


def _inputs(rows, columns):
    torch.manual_seed(0)
    x = torch.randn(rows, columns, dtype=DOUBLE) @ torch.randn(columns, columns, dtype=DOUBLE)
    return x - x.mean(0)


def test_losses_are_those_of_regressions_on_the_columns_that_stay():
    """Two channels of two taps a unit; a fourth channel that no unit holds always stays."""
    layer = nn.Conv1d(7, 3, 2).double()
    x, sensitivity = _inputs(5000, 14), torch.tensor([1.0, 0.5, 2.0], dtype=DOUBLE)
    units = np.array([[4, 0], [6, 1], [2, 3]])
    found = losses_of_widths(layer, x.T @ x / len(x), len(x), sensitivity, units)
    weight = layer.weight.detach().flatten(1).T
    assert found[3] == 0
    for count in range(3):
        channels = [5, *units[:count].flatten().tolist()]
        columns = [2 * channel + tap for channel in channels for tap in range(2)]
        y = x @ weight
        residual = y - x[:, columns] @ torch.linalg.lstsq(x[:, columns], y).solution
        factor = (5000 + len(columns)) / (5000 - len(columns))
        wanted = 0.5 * factor * float((residual.square().mean(0) * sensitivity).sum())
        assert found[count] == pytest.approx(wanted, rel=1e-3)


def test_what_few_rows_seem_to_explain_is_not_believed():
    """With fewer rows than columns a regression explains all; the weights as they are leave an error."""
    layer, x = nn.Linear(40, 2).double(), _inputs(30, 40)
    found = losses_of_widths(layer, x.T @ x / 30, 30, torch.ones(2), np.arange(40)[:, None])
    lost = x[:, 35:] @ layer.weight.detach()[:, 35:].T
    assert found[35] == pytest.approx(0.5 * float(lost.square().mean(0).sum()))
    assert (np.diff(found) <= 0).all()


GROUPS = [Group(str(number), np.arange(units), ()) for number, units in enumerate((6, 8, 4))]
LOSSES = {
    "0": [9.0, 5.0, 2.5, 1.0, 0.4, 0.1, 0.0],
    "1": [4.0, 3.0, 2.2, 1.6, 1.1, 0.7, 0.4, 0.15, 0.0],
    "2": [20.0, 12.0, 6.0, 2.0, 0.0],
}


def cost(kept):
    """Three layers in a row: widths multiply."""
    return float(3 * kept[0] + kept[0] * kept[1] + kept[1] * kept[2] + 5 * kept[2])


def allocation(losses=LOSSES, **limits):
    scores = {group.name: np.arange(len(group)) for group in GROUPS}
    return SolvedAllocation(GROUPS, scores, {g.name: limits.get(f"g{g.name}", Limits()) for g in GROUPS}, losses)


@pytest.mark.parametrize("budget", [35, 45, 55, 65, 75, 90])
def test_widths_are_within_the_budget_and_near_the_best_of_all(budget):
    kept = allocation().for_budget(cost, budget)
    every = [c for c in product(range(1, 7), range(1, 9), range(1, 5)) if cost(c) <= budget]

    def lost(widths):
        return sum(LOSSES[str(number)][width] for number, width in enumerate(widths))

    assert cost(kept) <= budget
    assert lost(kept) <= 1.15 * min(map(lost, every))


def test_limits_hold_and_a_budget_out_of_reach_leaves_the_least():
    limits = {"g0": Limits(whole=True), "g1": Limits(multiple=4), "g2": Limits(fixed=0.5)}
    assert allocation(**limits).for_budget(cost, 60).tolist() == [6, 4, 2]
    assert allocation(**limits).for_budget(cost, 1).tolist() == [6, 4, 2]
    assert allocation().for_budget(cost, 200).tolist() == [6, 8, 4]
    assert allocation(g0=Limits(least=3)).for_budget(cost, 1).tolist() == [3, 1, 1]


def test_widths_halfway_are_the_mean_of_two_choices_as_far_as_the_budget_goes():
    first, second = np.array([2, 8, 2]), np.array([6, 2, 4])
    assert allocation().halfway(first, second, cost, 62).tolist() == [4, 5, 3]
    assert allocation().halfway(first, second, cost, 60).tolist() == [4, 4, 3]  # loses 0.4 for 7, the others more
    assert allocation().halfway(first, second, cost, 71).tolist() == [4, 6, 3]  # what is left is given back
    assert allocation(g1=Limits(multiple=4)).halfway(first, second, cost, 55).tolist() == [4, 4, 3]


def test_groups_that_nothing_measured_reads_lose_as_the_others_do():
    known = {"0": LOSSES["0"], "2": LOSSES["2"]}
    found = allocation(known)._losses[1]
    assert found[0] == pytest.approx((9 + 20) / 2) and found[8] == 0
    assert found[4] == pytest.approx((1.0 + 6.0) / 2)  # at half of the units
    assert allocation({})._losses[2].tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
