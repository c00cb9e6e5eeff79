import pytest
import torch

from compresskit.pruning.dependency.channel_ids import Ids, along, compact, core, drop, freeze, varying, vector


def test_unite_joins_classes_transitively():
    ids = Ids()
    a, b, c = ids.new(4), ids.new(4), ids.new(4)
    ids.unite(a, b)
    ids.unite(b, c.flip(0))
    labels = ids.classes()
    assert labels[a[0]] == labels[b[0]] == labels[c[3]]
    assert len(set(labels[a.numpy()].tolist())) == 4


def test_unite_broadcasts():
    ids = Ids()
    rows, column = ids.new(6).view(2, 3), ids.new(2).view(2, 1)
    ids.unite(rows, column)
    labels = ids.classes()[rows.numpy()]
    assert (labels[0] == labels[0, 0]).all() and (labels[1] == labels[1, 0]).all()
    assert labels[0, 0] != labels[1, 0]


def test_varying_and_core_see_stride_zero():
    plane = along(1, torch.arange(5), (2, 5, 7))
    assert varying(plane) == (1,)
    assert core(plane).shape == (1, 5, 1)


def test_compact_finds_constant_dimensions():
    plane = along(1, torch.arange(5), (2, 5, 7)).contiguous()
    assert varying(plane) == (0, 1, 2)
    again = compact(plane)
    assert varying(again) == (1,)
    assert torch.equal(again, plane)


def test_freeze_ties_along_the_dimension():
    ids = Ids()
    plane = ids.new(6).view(2, 3)
    result = freeze(ids, plane, [1], "why")
    labels = ids.classes()[plane.numpy()]
    assert (labels == labels[:, :1]).all() and labels[0, 0] != labels[1, 0]
    assert varying(result) == (0,)
    assert ids.frozen[0].rows.tolist() == plane[:, 0].tolist()


@pytest.mark.parametrize(("dims", "left"), [([1], None), ([0], (1, 5))])
def test_drop_removes_a_plane_that_is_summed_away(dims, left):
    ids = Ids()
    plane = along(1, ids.new(5), (4, 5))
    result = drop(ids, plane, dims, "sum")
    assert (result if result is None else tuple(result.shape)) == left


def test_vector_ties_other_dimensions():
    ids = Ids()
    plane = ids.new(6).view(2, 3)
    assert vector(ids, plane, 1, "why").tolist() == plane[0].tolist()
    labels = ids.classes()[plane.numpy()]
    assert (labels[0] == labels[1]).all()
