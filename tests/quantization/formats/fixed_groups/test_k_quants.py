"""K-quants: what codes stand for, errors against plain groups, columns that count more, rounding methods."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from compresskit.artifact.edits import replay
from compresskit.core.errors import InputError
from compresskit.quantization.formats.fixed_groups.k_quants import Q2_K, Q3_K, Q4_K, Q5_K, Q6_K
from compresskit.quantization.formats.integer import INTEGER
from compresskit.quantization.formats.number_format import Settings
from compresskit.quantization.formats.uniform import sqnr_db
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.options import QuantizeOptions

FORMATS = {"q2-k": Q2_K, "q3-k": Q3_K, "q4-k": Q4_K, "q5-k": Q5_K, "q6-k": Q6_K}
each = pytest.mark.parametrize("name", FORMATS)


def spec_of(name):
    form = FORMATS[name]
    return Spec(
        ("weight",), format=name, bits=form.bits, granularity="group", group_size=form.group_size, packed=True,
        scale_type="float16",
    )  # fmt: skip


def parts_of(name, matrix, second_moments=None, rounding="nearest"):
    options = QuantizeOptions(scheme=name, rounding=rounding)
    given = None if second_moments is None else second_moments.clone
    return FORMATS[name].quantize(matrix, spec_of(name), Settings(options, given))


def normal(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@each
def test_bytes_are_those_of_the_files(name):
    superblock_bytes = {"q2-k": 84, "q3-k": 110, "q4-k": 144, "q5-k": 176, "q6-k": 210}
    assert FORMATS[name].bytes(10, 512, spec_of(name)) == 10 * 2 * superblock_bytes[name]


def test_values_by_hand():
    # the first block spans [-6, 9], 15 steps of 1; the second [-3, 4.5], of 0.5: 63 and 32 of 1/63 in float16
    matrix = torch.zeros(1, 64)
    matrix[0, :16] = torch.arange(-6.0, 10)
    matrix[0, 32:48] = torch.arange(-6.0, 10) / 2
    parts = parts_of("q4-k", matrix)
    assert Q4_K.whole_numbers(parts, "scale")[0, 0].tolist()[:3] == [63, 32, 0]
    assert Q4_K.whole_numbers(parts, "offset")[0, 0].tolist()[:3] == [63, 32, 0]
    scale, offset = torch.tensor([1 / 63, 6 / 63]).half().float()
    found = Q4_K.dequantize(parts, spec_of("q4-k"))
    assert torch.equal(found[0, :16], scale * 63 * torch.arange(16.0) - offset * 63)
    assert torch.equal(found[0, 32:48], scale * 32 * torch.arange(16.0) - offset * 32)


@each
def test_errors_are_below_those_of_groups_with_as_many_bits(name):
    matrix = normal(16, 512)
    form, spec = FORMATS[name], spec_of(name)
    plain = replace(spec, format="int", group_size=32, symmetric=not form.offsets)
    options = QuantizeOptions(scheme="int8-weight", bits=form.bits, granularity="group", group_size=32)
    groups = INTEGER.dequantize(INTEGER.quantize(matrix, plain, Settings(options)), plain)
    found = form.dequantize(parts_of(name, matrix), spec)
    assert sqnr_db(matrix, found) > sqnr_db(matrix, groups) + 0.5


@each
def test_tiny_constant_and_ragged_rows(name):
    form, spec = FORMATS[name], spec_of(name)
    zeros = form.dequantize(parts_of(name, torch.zeros(2, 40)), spec)
    assert torch.equal(zeros, torch.zeros(2, 40))
    for value in (0.5, -0.5):
        found = form.dequantize(parts_of(name, torch.full((1, 300), value)), spec)
        torch.testing.assert_close(found, torch.full((1, 300), value), rtol=0.01, atol=0)
    parts = parts_of(name, normal(3, 300))
    assert form.dequantize(parts, spec).shape == (3, 300)
    stored = form.stored(torch.Size((3, 300)), spec)
    assert {part: tuple(parts[part].shape) for part in parts if part != "values"} == {
        part: one.shape for part, one in stored.items() if part != "values"
    }


@each
def test_columns_with_larger_inputs_lose_less(name):
    matrix, moments = normal(32, 256), torch.ones(256)
    moments[::4] = 100.0
    form, spec = FORMATS[name], spec_of(name)
    plain, weighted = (
        (form.dequantize(parts_of(name, matrix, second), spec) - matrix).square() @ moments
        for second in (None, moments.diag().double().unsqueeze(0))
    )
    assert weighted.sum() < 0.97 * plain.sum()


@each
def test_gptq_rounds_to_their_levels(name):
    matrix, inputs = normal(32, 256), normal(512, 8, 1) @ normal(8, 256, 2) + 0.3 * normal(512, 256, 3)
    second = (inputs.T @ inputs / len(inputs)).double().unsqueeze(0)
    form, spec = FORMATS[name], spec_of(name)
    nearest, gptq = (
        (inputs @ (form.dequantize(parts_of(name, matrix, second, rounding), spec) - matrix).T).square().mean()
        for rounding in ("nearest", "gptq")
    )
    assert gptq < 0.7 * nearest


def test_specs_that_no_layer_has_are_refused():
    with pytest.raises(InputError, match="format 'q4-k'"):
        replay(nn.Sequential(nn.Linear(256, 2)), [spec_of("q4-k").as_edit("0") | {"group_size": 64}])
