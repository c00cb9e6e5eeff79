"""`compresskit quantize` on a trained network, as a user calls it."""

import json

import pytest

COMMON = ("--data", "digits", "--latency-rounds", "0", "-q", "--json")


def run_command(invoke, model, *arguments, out="q"):
    code, output, error = invoke("quantize", str(model), *arguments, "-o", out, *COMMON)
    assert code == 0, error
    return json.loads(output)["steps"][-1]


@pytest.mark.parametrize(
    ("arguments", "least"),
    [
        ("--scheme int8-static --observer auto --calibration-samples 64", 0.9),
        ("--scheme int8-static --observer entropy --smooth 0.5 --first-last keep", 0.9),
        ("--scheme int4-weight --awq --rounding gptq --bias-correction", 0.85),
        ("--scheme int3-weight --rounding adaround --first-last same --calibration-samples 128", 0.8),
        ("--scheme float8-weight", 0.9),
        ("--scheme codebook --bits 3 --coding huffman", 0.85),
    ],
)
def test_accuracy_is_kept(invoke, digits_model, arguments, least):
    step = run_command(invoke, digits_model, *arguments.split())
    assert step["measurement"]["metric"]["value"] > least
    first_and_last = 2 if "keep" in arguments else 0
    assert step["facts"]["quantized_layers"] == 4 - first_and_last


def test_bits_follow_measured_sensitivity(invoke, digits_model, tmp_path):
    pytest.importorskip("matplotlib")
    step = run_command(invoke, digits_model, "--target-bits", "3.5", "--calibration-samples", "64")
    rows = step["tables"]["sensitivity"]
    assert step["facts"]["average_bits"] <= 3.5
    # the first and last layer keep 8 bits by policy, and the others pay for it
    assert [row["layer"] for row in rows] and all(row["damage_at_2"] > row["damage_at_8"] for row in rows)
    assert step["measurement"]["metric"]["value"] > 0.85
    assert list((tmp_path / "q").rglob("sensitivity.svg"))


@pytest.mark.parametrize("bits", [3, 4])
def test_plain_training_with_learned_steps_does_not_diverge(invoke, digits_model, bits):
    step = run_command(invoke, digits_model, "--scheme", f"int{bits}-weight", "--first-last", "same", "--qat", "kd")
    assert (step["facts"]["qat"]["lr"], step["facts"]["qat"]["grad_clip"]) == (1e-3, 1.0)
    assert step["measurement"]["metric"]["value"] > 0.8


def test_plain_training_at_two_bits_learns(invoke, digits_model):
    arguments = ("--scheme", "int2-weight", "--first-last", "same", "--qat", "kd", "--epochs", "3")
    losses = [row["loss"] for row in run_command(invoke, digits_model, *arguments)["facts"]["qat"]["history"]]
    assert losses[2] < losses[1] < losses[0]


def test_training_that_diverges_is_named_in_one_line(invoke, digits_model):
    arguments = ("--scheme", "int2-weight", "--qat", "finetune", "--lr", "1e30", "--grad-clip", "1e30")
    code, _, error = invoke("quantize", str(digits_model), *arguments, "-o", "q", *COMMON)
    assert code == 2
    assert "the training loss became" in error and "lower lr" in error
