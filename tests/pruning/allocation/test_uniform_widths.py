"""One width for all layers of a kind."""

from types import SimpleNamespace

import numpy as np
import pytest

from compresskit.core.errors import InputError
from compresskit.pruning.allocation.ranking_scope import everything, local
from compresskit.pruning.allocation.uniform_widths import UniformAllocation, classes_of
from compresskit.pruning.allocation.units import Limits
from compresskit.pruning.dependency.graph import Group, Member


def group(name, units):
    stored = SimpleNamespace(names=[f"{name}.weight"], tensor=np.zeros((units, 2)))
    return Group(name, np.arange(units), (Member(stored, 0, np.arange(units)[:, None], False),))


def allocation(groups, scores, classes, scope=local, losses=None, **limits):
    found = {one.name: limits.get(one.name, Limits()) for one in groups}
    named = dict(zip([g.name for g in groups], scores, strict=True))
    return UniformAllocation(groups, named, scope, found, classes, losses or {})


def test_without_a_configuration_names_that_differ_by_numbers_are_of_one_class():
    groups = [group("layers.0.up", 4), group("head", 4), group("layers.1.up", 4)]
    assert classes_of(groups, None) == [[0, 2], [1]]


def test_each_layer_loses_its_own_worst_units_but_the_same_count():
    groups = [group("layers.0.up", 4), group("layers.1.up", 4)]
    found = allocation(groups, [np.array([4, 1, 2, 3]), np.array([9, 8, 1, 2])], [[0, 1]])
    kept = found.at_ratio(0.5)
    assert kept.tolist() == [2, 2]
    chosen = found.choose(kept)
    assert chosen["layers.0.up"].tolist() == [True, False, False, True]
    assert chosen["layers.1.up"].tolist() == [True, True, False, False]


def test_groups_of_several_sizes_keep_one_share():
    groups = [group("hidden", 64), group("layers.0.heads", 4)]
    found = allocation(groups, [np.arange(64.0), np.arange(4.0)], [[0, 1]], hidden=Limits(multiple=8))
    assert found.at_ratio(0.3).tolist() == [48, 3]
    assert found.for_budget(lambda kept: float(kept[0] * kept[1]), 130).tolist() == [32, 2]


def test_classes_compete_where_the_scope_says_so():
    groups = [group("layers.0.up", 4), group("layers.1.up", 4), group("other", 4)]
    scores = [np.full(4, 1.0), np.full(4, 3.0), np.full(4, 5.0)]
    assert allocation(groups, scores, [[0, 1], [2]], everything).at_ratio(0.5).tolist() == [1, 1, 4]


def test_a_protected_layer_keeps_its_class_and_different_shares_are_refused():
    groups = [group("layers.0.up", 4), group("layers.1.up", 4)]
    scores = [np.arange(4.0), np.arange(4.0)]
    assert allocation(groups, scores, [[0, 1]], **{"layers.1.up": Limits(whole=True)}).at_ratio(0.5).tolist() == [4, 4]
    with pytest.raises(InputError, match="one width in the model's configuration.*widths free"):
        allocation(groups, scores, [[0, 1]], **{"layers.1.up": Limits(fixed=0.5)})


def solved(**limits):
    """A wide class that loses little, and two layers of another that lose much."""
    groups = [group("hidden", 8), group("layers.0.up", 4), group("layers.1.up", 4)]
    falling = {"hidden": 0.1 * np.arange(8, -1, -1.0), "layers.0.up": 3.0 * np.arange(4, -1, -1.0)}
    scores = [np.arange(8.0), np.arange(4.0), np.arange(4.0)]
    return allocation(groups, scores, [[0], [1, 2]], losses=falling, **limits)


def cost(kept):
    return float(kept[0] * (kept[1] + kept[2]))


def test_with_losses_a_budget_is_met_where_it_loses_least():
    least = min(
        (0.1 * (8 - hidden) + 2 * 3.0 * (4 - up), hidden, up)  # the second layer is taken to lose as the first
        for hidden in range(1, 9) for up in range(1, 5) if hidden * 2 * up <= 32
    )  # fmt: skip
    found = solved().for_budget(cost, 32)
    assert found.tolist() == [least[1], least[2], least[2]] == [4, 4, 4]
    assert solved().lost(found) == pytest.approx(least[0])
    assert solved().for_budget(cost, 64).tolist() == [8, 4, 4]
    shares = allocation([group("hidden", 8), group("up", 4)], [np.arange(8.0), np.arange(4.0)], [[0], [1]])
    assert shares.lost(np.array([4, 2])) == 0 and shares.halfway(np.array([4, 4]), np.array([6, 2]), sum, 9) is None


def test_a_choice_is_made_again_among_widths_that_fit():
    kept = solved().for_budget(cost, 32)
    found = dict(solved().restricted(kept, lambda trial: trial[0] in (3, 6, 8)))
    assert list(found) == ["hidden"]  # at the other class's widths the first one does not fit
    assert found["hidden"].for_budget(cost, 32).tolist() == [3, 4, 4]
    assert found["hidden"].for_budget(cost, 40).tolist() == [3, 4, 4]
    wider = dict(solved().restricted(kept, lambda trial: trial.sum() > kept.sum()))
    assert wider["hidden"].for_budget(cost, 32).tolist() == [5, 3, 3]
    # halfway from (2, 4, 4) to (8, 2, 2) is (5, 3, 3)
    assert solved().halfway(np.array([2, 4, 4]), np.array([8, 2, 2]), cost, 32).tolist() == [5, 3, 3]
