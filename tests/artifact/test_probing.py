"""Probes look at every tensor of the outputs, and compare only what repeats."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from compresskit.artifact.probing import PROBE_TOLERANCE, outputs_of, probe, probe_difference, same_outputs
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError
from compresskit.core.types import Loaded, main_output

from . import constructors


def model(kind):
    return load_model(f"{constructors.__file__}:{kind}")


def test_every_tensor_has_a_path_and_the_main_one_comes_first():
    loaded = model("SeveralOutputs")
    found = outputs_of(loaded)
    assert list(found) == ["", "1.pair.0", "1.pair.1.0", "2"]
    assert torch.equal(found[""], found["1.pair.0"])
    assert torch.equal(found["2"] * 2, found[""])
    record = probe(loaded)
    assert set(record["outputs"]) == {"1.pair.0", "2"}  # the integers of argmax may flip between machines
    assert probe_difference(loaded, record) == 0


def test_a_change_of_a_second_output_is_seen():
    class Two(nn.Module):
        def __init__(self, second):
            super().__init__()
            self.first, self.second = nn.Linear(3, 2), second

        def forward(self, x):
            return self.first(x), self.second(x)

    torch.manual_seed(0)
    one = Loaded(Two(nn.Tanh()), {}, torch.ones(1, 3))
    other = Loaded(Two(nn.ReLU()), {}, torch.ones(1, 3))
    other.module.first = one.module.first
    assert same_outputs(one, one.clone())
    assert not same_outputs(one, other)
    assert probe_difference(other, probe(one)) > PROBE_TOLERANCE
    old = {key: value for key, value in probe(one).items() if key != "outputs"}  # as earlier versions wrote it
    assert probe_difference(other, old) == 0


def test_random_outputs_have_no_values_and_are_compared_with_equal_draws():
    loaded = model("Noise")
    assert probe(loaded)["values"] == []
    assert probe_difference(loaded, probe(loaded)) == 0
    other = loaded.clone()
    assert same_outputs(loaded, other)
    with torch.no_grad():
        other.module.head.weight.mul_(2)
    assert not same_outputs(loaded, other)


def test_outputs_that_are_not_finite_are_recorded_in_json():
    loaded = model("NotFinite")
    record = json.loads(json.dumps(probe(loaded), allow_nan=False))
    assert record["values"][0] in ("inf", "-inf")
    assert record["values"][1] == "nan"
    assert probe_difference(loaded, record) == 0
    assert probe_difference(model("Base"), record) == float("inf")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bfloat16, torch.int64, torch.bool])
def test_outputs_of_every_dtype(dtype):
    class Cast(nn.Linear):
        def forward(self, x):
            return super().forward(x).to(dtype)

    loaded = Loaded(Cast(3, 4), {}, torch.ones(1, 3))
    record = json.loads(json.dumps(probe(loaded), allow_nan=False))
    assert probe_difference(loaded, record) == 0
    assert same_outputs(loaded, loaded.clone())


def test_a_model_that_does_not_take_its_example_is_refused_in_one_line():
    loaded = Loaded(nn.Linear(3, 4), {}, torch.ones(1, 5), name="net")
    with pytest.raises(InputError, match=r"'net' does not take its example inputs \(\[1, 5\] float32\).*--input"):
        probe(loaded)
    with pytest.raises(InputError, match="no tensor"):
        probe(Loaded(Returns(None), {}, torch.ones(1, 5)))


class Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


def test_the_main_output_of_nested_structures():
    one, two = torch.zeros(1), torch.ones(2)
    assert main_output({"loss": None, "pair": (None, two)}) is two
    assert main_output([[], {"boxes": one, "logits": two}]) is two
    assert main_output(({}, one)) is one
    with pytest.raises(TypeError, match="no tensor"):
        main_output([None, {"a": 3}])
