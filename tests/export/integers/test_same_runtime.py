"""Integers beside floats in one runtime."""

from dataclasses import replace

import pytest
import torch

from compresskit.analysis.measure.latency import Quartiles
from compresskit.core.types import main_output
from compresskit.export.integers.same_runtime import Comparison, fastest, in_runtime, runs_apart, warnings_of
from compresskit.export.options import ExportOptions
from compresskit.quantization.layers.quantized_layer import quantized_layers

pytestmark = pytest.mark.integration


def test_a_line_says_that_integers_are_slower_and_what_to_do():
    assert warnings_of(Comparison(1.0, 2.0, Quartiles(1.9, 2.0, 2.1)), "openvino") == []
    (line,) = warnings_of(Comparison(2.0, 1.0, Quartiles(0.4, 0.5, 0.6)), "openvino")
    assert "0.50x the speed of the same layers in float in openvino" in line and "keep fastest" in line
    (other,) = warnings_of(Comparison(2.0, 1.0, Quartiles(0.4, 0.5, 0.6)), "litert")
    assert "keep fastest" in line and "keep fastest" not in other


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_fastest_of_what_was_timed_is_kept_and_computes_the_same(run, tmp_path, runtime):
    pytest.importorskip("onnxscript")
    pytest.importorskip(runtime)
    loaded = run(scheme="int8-static").loaded
    options = ExportOptions(runtime=runtime, rounds=1)
    kept = fastest(loaded, loaded.example, options)
    assert {row["layer"] for row in kept.table} <= set(quantized_layers(loaded.module))
    left = [name for name, layer in quantized_layers(kept.module).items() if layer.spec.parameters]
    assert sorted([*left, *kept.in_float]) == sorted(
        name for name, layer in quantized_layers(loaded.module).items() if layer.spec.parameters
    )
    runner = in_runtime(replace(loaded, module=kept.module), loaded.example, options, tmp_path / "kept.onnx")
    with torch.no_grad():
        wanted = main_output(loaded.module(loaded.example))
    assert float((main_output(runner(loaded.example)) - wanted).abs().max()) < 0.05 * float(wanted.abs().max())
    assert kept.note.startswith("keep fastest: ")


def test_only_integers_that_a_runtime_computes_with_are_compared(run):
    static = run(scheme="int8-static").loaded.module
    assert runs_apart(static, ExportOptions())
    assert not runs_apart(static, ExportOptions(runtime="eager"))
    assert not runs_apart(torch.nn.Linear(2, 2), ExportOptions())
