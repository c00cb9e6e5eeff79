"""Example inputs from strings and from their own description."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st

from compresskit.core.errors import InputError
from compresskit.core.inputs import describe, make, parse, with_batch


def test_parse_forms():
    assert parse(["3,8,8"]).shape == (1, 3, 8, 8)
    ids = parse(["16:int64:50"])
    assert (ids.dtype, int(ids.min()) >= 0, int(ids.max()) < 50) == (torch.int64, True, True)
    assert [x.shape for x in parse(["4", "5,6"])] == [(1, 4), (1, 5, 6)]
    assert set(parse(["a=4", "b=2:bool"])) == {"a", "b"}


@pytest.mark.parametrize("forms", [["x"], ["3x8"], ["3,8:float31"], ["a=3", "4"], [""], ["-3"]])
def test_malformed_forms(forms):
    with pytest.raises(InputError, match="input"):
        parse(forms)


def test_floats_have_unit_variance_and_repeat():
    values = parse(["1000"])
    assert abs(float(values.mean())) < 0.05
    assert abs(float(values.std()) - 1) < 0.05
    assert torch.equal(values, parse(["1000"]))


@given(
    st.recursive(
        st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.sampled_from(["float32", "int64", "bool"])),
        lambda inner: st.lists(inner, min_size=1, max_size=3),
        max_leaves=5,
    )
)
def test_description_round_trips(structure):
    def build(node):
        return tuple(map(build, node)) if isinstance(node, list) else torch.zeros(node[0]).to(getattr(torch, node[1]))

    description = describe(build(structure))
    made = make(description)
    assert describe(make(description)) == describe(made)


def test_with_batch():
    assert with_batch((torch.zeros(1, 3), {"a": torch.zeros(1, 2)}), 5)[1]["a"].shape == (5, 2)
    assert len(with_batch(([torch.zeros(3, 8, 8)],), 2)[0]) == 2
