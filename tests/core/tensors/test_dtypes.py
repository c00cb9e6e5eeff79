"""Number types: what a model computes in, inputs fitted to it, and wider weights while training."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compresskit.artifact import artifact
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.tensors.dtypes import as_real, cast, copy_in, fit_inputs, float32_weights, model_dtype
from compresskit.core.types import call
from compresskit.model.checkpoints.weights import load_into, read_weights

BF16 = torch.bfloat16


def test_the_first_weight_with_two_dimensions_decides_what_a_model_computes_in():
    mixed = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4, dtype=BF16), nn.Linear(4, 4, dtype=torch.float64))
    assert model_dtype(mixed) is BF16
    assert model_dtype(nn.LayerNorm(4, dtype=torch.float16)) is torch.float16
    assert model_dtype(nn.BatchNorm1d(4, affine=False).double()) is torch.float64
    assert model_dtype(nn.ReLU()) is None
    assert model_dtype(nn.Linear(2, 2, dtype=torch.complex128)) is torch.float64


Pair = namedtuple("Pair", "x y")


def test_floats_are_fitted_and_nothing_else():
    model = nn.Linear(3, 2, dtype=BF16)
    ids, mask = torch.arange(3), torch.ones(3, dtype=torch.bool)
    inputs = {"x": torch.ones(3), "rest": (ids, mask), "pair": Pair(torch.ones(2, dtype=torch.float64), ids)}
    found = fit_inputs(model, inputs)
    assert found["x"].dtype is BF16
    assert found["rest"][0] is ids and found["rest"][1] is mask
    assert isinstance(found["pair"], Pair) and found["pair"].x.dtype is BF16
    assert cast(torch.ones(2, dtype=torch.complex128), torch.float32).dtype is torch.complex64
    assert call(model, torch.ones(1, 3)).dtype is BF16
    kept = torch.ones(3)
    assert fit_inputs(nn.Linear(3, 2), kept) is kept


def test_real_inputs_of_a_complex_model_stay_real():
    assert fit_inputs(nn.Linear(2, 2, dtype=torch.complex64), torch.ones(2)).dtype is torch.float32


def test_complex_numbers_as_pairs():
    assert torch.equal(as_real(torch.tensor([1 + 2j]).conj()), torch.tensor([[1.0, -2.0]]))


def test_16_bit_weights_are_float32_for_a_while_and_stay_the_same_objects():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).to(BF16)
    model[2].weight = model[0].weight
    model[1].float()
    parameter = model[0].weight
    before = parameter.detach().clone()
    with float32_weights(model) as widened:
        assert widened
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert model[0].weight is parameter is model[2].weight
        parameter.data[0, 0] += 2**-20  # less than a step of bfloat16
        parameter.data[1] = 3
    assert parameter.dtype is BF16 and model[1].weight.dtype is torch.float32
    assert torch.equal(parameter[0], before[0])
    assert torch.equal(parameter[1], torch.full((3,), 3, dtype=BF16))


def test_weights_are_narrowed_again_after_an_error():
    model = nn.Linear(3, 3, dtype=torch.float16)
    with pytest.raises(ValueError, match="stop"), float32_weights(model):
        raise ValueError("stop")
    assert model.weight.dtype is torch.float16


def test_a_module_takes_the_types_of_its_weights_file(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    parameter = model[0].weight
    model.register_buffer("shift", torch.zeros(3), persistent=False)
    held = {name: value.to(BF16) if value.is_floating_point() else value for name, value in model.state_dict().items()}
    held["1.running_var"] = torch.full((3,), 1 + 2**-20)
    path = tmp_path / "weights.pt"
    torch.save(held, path)
    lines = load_into(model, read_weights(path), "weights 'x'")
    assert "weights 'x' are bfloat16, and so is the model now; it was built in float32" in lines
    assert model[0].weight is parameter is model[2].weight
    assert model.shift.dtype is BF16
    for name, value in model.state_dict().items():
        assert value.dtype is held[name].dtype and torch.equal(value, held[name]), name
    assert load_into(model, read_weights(path), "weights 'x'") == []


def test_a_half_file_in_a_float32_model_is_stored_as_it_came(tmp_path):
    start = load_model("builtin:digits_cnn_small")
    assert start.example.dtype is torch.float32
    torch.save(start.module.half().state_dict(), tmp_path / "half.pt")
    loaded = load_model("builtin:digits_cnn_small", weights=str(tmp_path / "half.pt"))
    assert loaded.example.dtype is torch.float16
    artifact.save(loaded, tmp_path / "out")
    stored = load_file(tmp_path / "out" / artifact.WEIGHTS)
    assert {v.dtype for v in stored.values() if v.is_floating_point()} == {torch.float16}
    again = artifact.load(tmp_path / "out")
    assert torch.equal(call(again.module, loaded.example), call(loaded.module, loaded.example))


class Stubborn(nn.Module):
    """Computes in bfloat16, whatever its weights are."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 3, dtype=BF16)

    def forward(self, x):
        return self.inner(x.to(BF16))


def test_a_model_that_runs_in_16_bits_only_is_refused_where_float32_is_needed():
    model = Stubborn()
    assert call(model, torch.ones(1, 3)).dtype is BF16
    with float32_weights(model), pytest.raises(InputError, match="does not run in float32.*cast to the weights' dtype"):
        call(model, torch.ones(1, 3))


def test_a_copy_in_another_type():
    model = nn.ModuleDict({"real": nn.Linear(2, 2, dtype=BF16), "complex": nn.Linear(2, 2, dtype=torch.complex64)})
    found = copy_in(model, torch.float64)
    assert {p.dtype for p in found.parameters()} == {torch.float64, torch.complex128}
    assert model["real"].weight.dtype is BF16


def test_a_buffer_of_two_layers_stays_one_in_another_type():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model[1].running_mean = model[0].running_mean
    found = copy_in(model, torch.float64)
    assert found[1].running_mean is found[0].running_mean
    assert found[1].running_mean.dtype is torch.float64 and found[1].running_var is not found[0].running_var


def test_a_model_of_a_16_bit_type_runs_in_it_where_others_are_cast():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval().half()
    inputs = torch.randn(2, 3, 8, 8)
    expected = call(module, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(call(module, inputs), expected) and expected.dtype == torch.float16
        assert call(nn.Linear(3, 4), inputs[:, 0, :3, :3]).dtype == torch.bfloat16
