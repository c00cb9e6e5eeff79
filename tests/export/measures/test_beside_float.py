"""Float and compressed in the same runtime, and in eager PyTorch beside it."""

import pytest
import torch

from compresskit.export.exporters.export_program import export_program
from compresskit.export.integers.same_runtime import in_runtime
from compresskit.export.lowering import export
from compresskit.export.measures.beside_float import contest, in_turn, timed
from compresskit.export.options import ExportOptions
from compresskit.training.context import Context

pytestmark = pytest.mark.integration


def test_a_quantized_model_is_timed_against_float_in_its_runtime(run, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    loaded = run(scheme="int8-static").loaded
    options = ExportOptions(rounds=3, batch_size=4)
    runner = in_runtime(loaded, loaded.example, options, tmp_path / "int8.onnx")
    with contest(loaded, runner, options) as taking_part:
        assert type(taking_part.float_runner.session).__name__ == "InferenceSession"
        assert not any("zero_point" in name for name, _ in taking_part.eager.named_buffers())
        with torch.no_grad():
            inputs = torch.randn(4, *loaded.example.shape[1:])
            wanted = taking_part.eager(inputs)
            torch.testing.assert_close(taking_part.float_runner(inputs), wanted, atol=1e-4, rtol=1e-3)
        found = timed(taking_part, loaded.example, options)
    assert found["speedup_low"] <= found["speedup"] <= found["speedup_high"]
    for one in (found, found["batch_1"]):
        assert min(one["latency_ms"], one["float_latency_ms"], one["eager_float_latency_ms"]) > 0


def test_a_float_model_is_its_own_reference(loaded_net, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    loaded = loaded_net()
    options = ExportOptions(rounds=1, cold_start="skip")
    facts = export(loaded, options, Context(original=loaded), tmp_path / "net.onnx")
    assert facts["speedup"] == 1.0 and facts["latency_ms"] == facts["float_latency_ms"]
    assert "cold_start_ms" not in facts
    with contest(loaded, torch.nn.Identity(), options, original=loaded) as taking_part:  # as a step of a recipe asks
        assert taking_part.eager is loaded.module and taking_part.float_runner is not taking_part.runner


def test_each_takes_its_own_inputs_in_turn():
    seen = []

    class Noting(torch.nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x

    times = in_turn([Noting(), Noting()], [torch.zeros(1, 2), torch.zeros(5, 2)], rounds=2, threads=1)
    assert [len(one.rounds_ms) for one in times] == [2, 2] and set(seen) == {1, 5}


def test_the_program_of_a_quantized_model_holds_its_weights_once(run):
    loaded = run(scheme="int8-weight").loaded
    program = export_program(loaded.module, loaded.example)
    names = [name for name in program.state_dict if "weight" in name]
    read = {spec.target for spec in program.graph_signature.input_specs}
    assert names and set(names) <= read
    assert not any(name.endswith("weight_values") for name in names)
