"""Example inputs from strings and from their own description."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings, strategies as st

from compresskit.core.errors import InputError
from compresskit.core.tensors.batches import tensors_of
from compresskit.model.example_inputs import (
    LARGEST_BY_VALUE,
    describe,
    example_of,
    make,
    one_of_batch,
    parse,
    settle,
    with_batch,
)

INTEGERS = ("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32")
FLOATS = ("float16", "bfloat16", "float32", "float64")
SHAPES = st.lists(st.integers(0, 25), max_size=3)  # up to beyond LARGEST_BY_VALUE


def equal(first, second):
    """Bit for bit, dtypes and shapes included."""
    assert (first.dtype, first.shape) == (second.dtype, second.shape)
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (first, second)]
    return torch.equal(*flat)


def test_parse_forms():
    assert parse(["3,8,8"]).shape == (1, 3, 8, 8)
    ids = parse(["16:int64:50"])
    assert (ids.dtype, int(ids.min()) >= 0, int(ids.max()) < 50) == (torch.int64, True, True)
    assert [x.shape for x in parse(["4", "5,6"])] == [(1, 4), (1, 5, 6)]
    assert set(parse(["a=4", "b=2:bool"])) == {"a", "b"}
    assert [x.shape for x in parse(["user=:int64:500", "x=0,3"]).values()] == [(1,), (1, 0, 3)]
    assert parse(["3"], torch.bfloat16).dtype == torch.bfloat16
    pixels = parse(["3,9,9:float32:255"])
    assert (float(pixels.min()), float(pixels.max())) == (0, 255)
    ids = parse(["12:int64:30000"])
    assert (int(ids.min()), int(ids.max())) == (0, 29999)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("4:uint8:257", "HIGH of uint8 is from 1 to 256, got 257"),
        ("4:int64:0", "from 1 to"),
        ("4:float16:100000", "HIGH of float16"),
        ("4:bool:2", "bool takes no HIGH"),
        ("4:qint8", "unknown dtype 'qint8'"),
        ("4:save", "unknown dtype"),
        ("99999,99999", "elements an example are more than"),
    ],
)
def test_forms_that_no_tensor_fits(form, message):
    with pytest.raises(InputError, match=message):
        parse([form])


@pytest.mark.parametrize("forms", [["x"], ["3x8"], ["3,8:float31"], ["a=3", "4"], [""], ["-3"], ["a="], ["a=2", "a=3"]])
def test_malformed_forms(forms):
    with pytest.raises(InputError, match="input"):
        parse(forms)


def test_floats_have_unit_variance_and_repeat():
    values = parse(["1000"])
    assert abs(float(values.mean())) < 0.05
    assert abs(float(values.std()) - 1) < 0.05
    assert torch.equal(values, parse(["1000"]))


@settings(deadline=None)
@given(
    st.recursive(
        st.tuples(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.sampled_from(["float32", "int64", "bool"])),
        lambda inner: st.lists(inner, min_size=1, max_size=3),
        max_leaves=5,
    )
)
@pytest.mark.integration
def test_description_round_trips(structure):
    def build(node):
        return tuple(map(build, node)) if isinstance(node, list) else torch.zeros(node[0]).to(getattr(torch, node[1]))

    description = describe(build(structure))
    made = make(description)
    assert describe(make(description)) == describe(made)


@settings(deadline=None)
@given(SHAPES, st.sampled_from(INTEGERS), st.integers(1, 2**64))
def test_what_a_user_writes_round_trips_in_integers(shape, dtype, high):
    high = (high - 1) % (torch.iinfo(getattr(torch, dtype)).max + 1) + 1
    example = parse([f"x={','.join(map(str, shape))}:{dtype}:{high}"])["x"]
    assert list(example.shape) == [1, *shape]
    assert equal(make(describe(example)), example)
    if example.numel():
        assert int(example.long().max()) == high - 1


@settings(deadline=None)
@given(SHAPES, st.sampled_from([*FLOATS, "bool", "complex64", "complex128"]), st.integers(1, 65504))
@pytest.mark.integration
def test_what_a_user_writes_round_trips_in_other_dtypes(shape, dtype, high):
    sizes = ",".join(map(str, shape))
    forms = [f"{sizes}:{dtype}", f"{sizes}:{dtype}:{high}"][: 1 + (dtype in FLOATS)]
    for example in (parse([form]) for form in forms):
        assert equal(make(describe(example)), example)


@settings(deadline=None)
@given(st.data(), st.sampled_from(INTEGERS), SHAPES.filter(lambda shape: torch.Size(shape).numel() <= LARGEST_BY_VALUE))
@pytest.mark.integration
def test_any_integers_round_trip(data, dtype, shape):
    bounds = torch.iinfo(getattr(torch, dtype))
    count = torch.Size(shape).numel()
    seed = data.draw(st.lists(st.integers(bounds.min, bounds.max), min_size=1, max_size=5))
    tensor = torch.tensor((seed * count)[:count], dtype=getattr(torch, dtype)).reshape(shape)
    assert equal(make(describe(tensor)), tensor)
    json.dumps(describe(tensor), allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.floats(width=16), max_size=20), st.sampled_from(FLOATS))
@pytest.mark.integration
def test_any_floats_round_trip_infinite_ones_and_nan_too(values, dtype):
    tensor = torch.tensor(values, dtype=torch.float64).to(getattr(torch, dtype))
    again = make(json.loads(json.dumps(describe(tensor), allow_nan=False)))
    assert torch.equal(again.isnan(), tensor.isnan())
    assert equal(again.nan_to_num(nan=0.0), tensor.nan_to_num(nan=0.0))


@pytest.mark.parametrize("dtype", [*INTEGERS, *FLOATS, "bool", "complex64"])
def test_what_is_too_large_to_be_held_settles_once(dtype):
    tensor = (torch.randn(3, 50, 50) * 20).abs().to(getattr(torch, dtype))
    settled = settle(tensor)
    assert (settled.shape, settled.dtype) == (tensor.shape, tensor.dtype)
    assert equal(settle(settled), settled)
    if dtype in FLOATS:
        assert (settled.min(), settled.max()) == (tensor.min(), tensor.max())
    elif dtype in INTEGERS:
        assert (settled.long().min(), settled.long().max()) == (tensor.long().min(), tensor.long().max())
    assert len(json.dumps(describe(settled))) < 200


def test_values_that_earlier_manifests_describe():
    assert make({"shape": [1, 4], "dtype": "int64", "high": 10}).tolist() == [[0, 9, 8, 7]]
    assert make({"shape": [2], "dtype": "float32"}).tolist() == pytest.approx([0.408882, -0.914287], abs=1e-4)
    assert describe(make({"shape": [1, 40], "dtype": "int64", "high": 10})) == {
        "shape": [1, 40],
        "dtype": "int64",
        "high": 10,
    }


def test_rows_held_by_value_repeat_in_larger_batches():
    ids = torch.tensor([[3, 1, 4], [1, 5, 9]])
    assert with_batch(ids, 5).tolist() == [[3, 1, 4], [1, 5, 9], [3, 1, 4], [1, 5, 9], [3, 1, 4]]
    assert with_batch(ids, 1).tolist() == [[3, 1, 4]]
    assert with_batch(torch.tensor([7]), 3).tolist() == [7, 7, 7]
    assert with_batch(torch.tensor(7), 3) == 7


def test_one_of_a_batch():
    batch = {"ids": torch.arange(6).reshape(2, 3), "user": torch.tensor([4, 5])}
    assert {name: value.tolist() for name, value in one_of_batch(batch).items()} == {"ids": [[0, 1, 2]], "user": [4]}
    unlike = (torch.zeros(2, 3), torch.zeros(4))
    assert one_of_batch(unlike) is unlike
    example = example_of((torch.full((2, 3), 9.0, dtype=torch.float64), torch.tensor([4, 5])))
    assert (example[0].dtype, example[1].tolist()) == (torch.float64, [4])
    assert equal(example[0], parse(["3:float64"]))
    assert len(tensors_of({"a": [batch, 3]})) == 2


@pytest.mark.parametrize(
    "description",
    [
        {},
        {"shape": [2]},
        {"shape": [2], "dtype": "save"},
        {"shape": [-1, 2], "dtype": "int64"},
        {"shape": [10**12], "dtype": "int64"},
        {"shape": [2], "dtype": "int64", "values": [1]},
        {"shape": [1], "dtype": "uint8", "values": [700]},
        {"shape": ["x"], "dtype": "int64"},
        {"tuple": 3},
        3,
        "tuple",
    ],
)
def test_malformed_descriptions(description):
    with pytest.raises(InputError, match="malformed input description"):
        make(description)


@pytest.mark.parametrize("example", [torch.zeros(2).to_sparse(), 3, {"a": None}])
def test_what_cannot_be_described(example):
    with pytest.raises(InputError, match="example input"):
        describe(example)


def test_with_batch():
    assert with_batch((torch.zeros(1, 3), {"a": torch.zeros(1, 2)}), 5)[1]["a"].shape == (5, 2)
    assert len(with_batch(([torch.zeros(3, 8, 8)],), 2)[0]) == 2
