"""inspect, diff, verify, doctor and init through the command line."""

from __future__ import annotations

import json
import shutil

import pytest

from compresskit.pipeline.inspection.doctor import EXTRAS


def test_inspect_rows_add_up(invoke):
    found = json.loads(invoke("inspect", "builtin:lenet5", "--json")[1])
    assert [row["layer"] for row in found["layers"]] == ["conv1", "conv2", "fc1", "fc2"]
    assert sum(row["parameters"] for row in found["layers"]) == found["parameters"]
    assert sum(row["macs"] for row in found["layers"]) == found["macs"]
    # by hand: 20 filters of 5x5 on 24x24 positions
    assert found["layers"][0]["macs"] == 20 * 25 * 24 * 24
    assert found["layers"][0]["applies"] == "prune, quantize"  # one input channel leaves no lower rank


def test_diff_shows_the_layers_that_changed(invoke, digits_model):
    code, out, _ = invoke("diff", "builtin:digits_cnn", str(digits_model), "--json", "--latency-rounds", "2")
    found = json.loads(out)
    assert code == 0
    assert [row["layer"] for row in found["layers"]] == ["0", "1", "3", "4", "7", "8", "12"]
    figures = {row["figure"]: row for row in found["figures"]}
    assert figures["parameters"]["a"] == 223690
    assert figures["latency_ms"]["a"] > 0
    assert figures["top1"]["b"] > 0.9


def test_diff_refuses_models_of_other_inputs(invoke, digits_model):
    code, _, err = invoke("diff", "builtin:lenet5", "builtin:lenet300", "--latency-rounds", "0")
    assert code == 0
    code, _, err = invoke("diff", "builtin:cifar_resnet20", str(digits_model))
    assert code == 2
    assert "does not take the input" in err


def test_verify_passes_then_fails_on_a_changed_file(invoke, digits_model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(digits_model, copy)
    assert invoke("verify", str(copy))[0] == 0
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(data))
    code, _, err = invoke("verify", str(copy))
    assert code == 3
    assert "weights match their sha256: failed" in err


@pytest.mark.integration
def test_doctor_names_an_install_line_for_each_missing_extra(invoke):
    code, out, _ = invoke("doctor", "--json")
    rows = json.loads(out)
    assert code == 0
    runtimes = {"eager", "inductor", "onnxruntime", "openvino", "executorch", "litert"}
    assert {row["name"] for row in rows} >= {*EXTRAS, *runtimes}
    for row in rows:
        assert bool(row["install"]) == (row["works"] == "no" and row["name"] not in ("cuda", "inductor", "eager"))


@pytest.mark.integration
@pytest.mark.parametrize("model", ["builtin:digits_cnn_small", "builtin:digits_mlp"])
def test_the_starter_recipe_runs_dry(invoke, model):
    assert invoke("init", model, "--data", "digits", "-o", "r.yaml")[:2] == (0, "r.yaml\n")
    code, out, _ = invoke("run", "r.yaml", "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert [row["step"] for row in plan["plan"]] == ["original", "prune", "quantize"]
    assert plan["plan"][1]["macs"] < plan["plan"][0]["macs"]
