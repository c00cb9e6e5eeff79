"""Int8 or float for each layer: exact against brute force, damage measured, the runtime's own times."""

import itertools

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded
from compresskit.export import layer_timing
from compresskit.quantization.layers.layer_spec import Spec
from compresskit.quantization.mixed_precision.latency_budget import alone, choose_int8, measured_damages
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.plan import LayerPlan
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context, Profile

PLANS = [LayerPlan(name, Spec(("weight",)), fixed=name == "a") for name in "abcd"]
FLOAT = Profile({"a": 1.0, "b": 4.0, "c": 2.0, "d": 0.5}, 10.0)  # 2.5 ms are spent elsewhere
INT8 = Profile({"a": 2.0, "b": 1.5, "c": 0.5, "d": 0.75}, 8.0)
DAMAGES = {"a": 9.0, "b": 0.3, "c": 0.1, "d": 0.05}


@pytest.mark.parametrize("share", [0.71, 0.8, 0.9, 0.99])
def test_least_damage_within_the_budget(share):
    chosen, facts, table = choose_int8(PLANS, FLOAT, INT8, DAMAGES, share)
    options = []
    for int8 in itertools.product([False, True], repeat=3):
        names = {"a"} | {name for name, inside in zip("bcd", int8, strict=True) if inside}
        milliseconds = 2.5 + sum((INT8 if name in names else FLOAT).layers[name] for name in "abcd")
        if milliseconds <= share * 10:
            options.append((sum(DAMAGES[name] for name in names), milliseconds, names))
    damage, milliseconds, names = min(options)
    assert {plan.name for plan in chosen} == names
    assert facts["predicted_damage"] == pytest.approx(damage)
    assert facts["predicted_latency_share"] == pytest.approx(milliseconds / 10)
    assert facts["float_layers"] == 4 - len(names)
    assert {row["layer"] for row in table if row["chosen"] == "int8"} == names


def test_a_share_that_int8_does_not_reach_is_refused():
    # 2.5 + 2 + 1.5 + 0.5 + 0.5
    with pytest.raises(InputError, match=r"target_latency 0.5 is below what int8 .* 0.70 of the float model's 10 ms"):
        choose_int8(PLANS, FLOAT, INT8, DAMAGES, 0.5)


def test_damage_is_that_of_one_layer_and_the_model_is_restored():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)).eval()
    holder, plan = alone(model, LayerPlan("2", Spec(("weight",))))
    with torch.no_grad():
        holder[plan.name].weight.mul_(0.5)
    batches = [torch.randn(6, 3), torch.randn(2, 3)]
    found = measured_damages(model, {"2": holder[plan.name], "0": model[0]}, batches)
    inputs = torch.cat(batches)
    with torch.no_grad():
        wanted, moved = model(inputs).log_softmax(1), holder[plan.name](model[:2](inputs)).log_softmax(1)
    assert found["2"] == pytest.approx(float((wanted.exp() * (wanted - moved)).sum(1).mean()), rel=1e-4)
    assert found["0"] == 0.0


class Images:
    def size(self, split, at_most=None):
        return 4

    def calibration(self, samples, *, batch_size=64, seed=0):
        return [torch.randn(4, 32, 14, 14, generator=torch.Generator().manual_seed(seed))]


@pytest.mark.integration
def test_the_step_keeps_layers_in_float_and_measures_what_came_out():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    body = [nn.Conv2d(32, 96, 3), nn.ReLU(), nn.Conv2d(96, 96, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    loaded = Loaded(nn.Sequential(*body, nn.Linear(96, 5)).eval(), {}, torch.randn(1, 32, 14, 14))
    options = QuantizeOptions(scheme="int8-static", target_latency=0.999, first_last="same")
    result = quantize(loaded, options, Context(original=loaded.clone(), data=Images(), runtime=layer_timing))
    rows = {row["layer"]: row for row in result.tables["latency"]}
    assert list(rows) == ["0", "2", "6"]
    assert all(rows[name]["float_ms"] > 0 and rows[name]["int8_ms"] > 0 for name in ("0", "2"))
    int8 = [name for name, row in rows.items() if row["chosen"] == "int8"]
    assert [row["layer"] for row in result.tables["quantized layers"]] == int8
    assert result.facts["quantized_layers"] == len(int8) == 3 - result.facts["float_layers"]
    assert {"0", "2"} & set(int8)
    assert result.facts["onnxruntime_ms"] > 0
    missed = result.facts["measured_latency_share"] > 0.999
    assert missed == any("target_latency 0.999 is missed" in note for note in result.notes)


@pytest.mark.parametrize(
    "given, match",
    [
        ({"scheme": "int8-weight", "target_latency": 0.5}, "choose scheme int8-static"),
        ({"scheme": "int8-static", "target_latency": 0.5, "target_bits": 4.0}, "choose one"),
        ({"scheme": "int8-static", "target_latency": 1.5}, "less than 1"),
    ],
)
def test_what_a_latency_budget_does_not_go_with_is_refused(given, match):
    with pytest.raises(ValueError, match=match):
        QuantizeOptions(**given)
