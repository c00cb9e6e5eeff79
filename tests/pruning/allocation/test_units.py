import numpy as np
import pytest

from compresskit.pruning.allocation.units import Allocation, Limits, multiple_for
from compresskit.pruning.dependency.graph import Group


def allocation(scores, pools=None, **limits):
    groups = [Group(name, np.arange(len(s)), ()) for name, s in scores.items()]
    pools = pools or [[n] for n in range(len(groups))]
    return Allocation(
        groups,
        {k: np.array(v, float) for k, v in scores.items()},
        pools,
        {g.name: limits.get(g.name, Limits()) for g in groups},
    )


@pytest.mark.parametrize(
    ("units", "width", "round_to", "expected"),
    [(64, 64, 8, 8), (16, 16, 8, 2), (32, 32, 8, 4), (8, 8, 8, 1), (3, 3, 8, 1), (12, 768, 8, 1), (64, 64, 1, 1), (256, 512, 8, 4)],  # noqa: E501
)  # fmt: skip
def test_narrow_layers_round_to_less(units, width, round_to, expected):
    assert multiple_for(units, width, round_to) == expected


def test_ratio_takes_the_lowest_scores():
    plan = allocation({"a": [3, 1, 2, 4]})
    assert plan.choose(plan.at_ratio(0.5))["a"].tolist() == [True, False, False, True]


def test_global_pool_compares_units_of_all_groups():
    plan = allocation({"a": [1, 2, 3, 4], "b": [5, 6, 7, 8]}, pools=[[0, 1]])
    assert plan.at_ratio(0.5).tolist() == [1, 4]  # at least one unit stays


def test_fixed_and_whole_groups_ignore_the_ratio():
    plan = allocation({"a": [1] * 8, "b": [1] * 8, "c": [1] * 8}, a=Limits(fixed=0.25), b=Limits(whole=True))
    assert plan.at_ratio(0.5).tolist() == [6, 8, 4]


@pytest.mark.parametrize("share", [0.9, 0.5, 0.13])
def test_budget_is_met_from_below_and_closely(share):
    plan = allocation({"a": range(64), "b": range(128)}, a=Limits(2), b=Limits(2))

    def cost(kept):
        return float(kept[0] * 3 + kept[0] * kept[1])

    whole = cost(np.array([64, 128]))
    kept = plan.for_budget(cost, share * whole)
    assert share * 0.95 * whole <= cost(kept) <= share * whole
    assert (kept % 2 == 0).all()


def test_a_budget_below_the_floors_gives_the_smallest_model():
    plan = allocation({"a": range(8)}, a=Limits(least=4))
    assert plan.for_budget(lambda kept: float(kept.sum()), 1.0).tolist() == [4]
