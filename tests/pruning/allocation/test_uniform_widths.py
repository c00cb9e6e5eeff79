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


def allocation(groups, scores, classes, scope=local, **limits):
    found = {one.name: limits.get(one.name, Limits()) for one in groups}
    return UniformAllocation(groups, dict(zip([g.name for g in groups], scores, strict=True)), scope, found, classes)


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
