"""LiteRT's files: int8 layers stay in integers, and compute what the model does."""

import pytest
import torch
from torch import nn

from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.lowered_layers import decomposed
from compresskit.export.exporters.phones import litert as exporter
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.training.context import Context

pytestmark = pytest.mark.integration


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the library's own imports warn
def test_an_int8_model_runs_in_its_own_runtime(run, tmp_path):
    pytest.importorskip("litert_torch")
    loaded = run(scheme="int8-static").loaded
    options = ExportOptions(format="litert", rounds=0, samples=8)
    facts = export(loaded, options, Context(original=loaded), tmp_path / "net.tflite")
    assert facts["runtime"] == "litert" and facts["agreement"] == 1.0
    assert facts["largest_difference"] < 0.03 * facts["output_scale"]


GROUPS = {"granularity": "group", "group_size": 4}


@pytest.mark.parametrize("scheme, options, quantized", [("int8-dynamic", {}, 3), ("int4-weight", GROUPS, 0)])
def test_a_graph_is_rewritten_as_the_converter_reads_it_without_a_change_of_weights(run, scheme, options, quantized):
    loaded = run(scheme=scheme, **options).loaded
    program = export_program(loaded.module, loaded.example, [{}])
    notes = exporter._without_dynamic_ranges(program.graph)
    assert len(notes) == (scheme == "int8-dynamic")
    program.graph_module.recompile()
    module = program.module()
    wanted = module(loaded.example)
    done, left = exporter._weights_as_quantized_floats(module)
    assert done >= quantized and bool(done) == bool(quantized) and bool(left) == (not quantized)
    torch.testing.assert_close(module(loaded.example), wanted, atol=1e-6, rtol=1e-5)
    quantize = decomposed().quantize_per_channel.default
    makers = [node.args[0].op for node in module.graph.nodes if node.target is quantize]
    assert len(makers) == done and set(makers) <= {"get_attr"}


def test_zero_points_of_weights_stay_out_of_the_file():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            decomposed()
            self.register_buffer("codes", torch.randint(-128, 127, (4, 6), dtype=torch.int8))
            self.register_buffer("scale", torch.rand(4) + 0.1)
            self.register_buffer("zero_point", torch.tensor([0, 1, 2, 3]))

        def forward(self, x):
            given = (self.codes, self.scale, self.zero_point, 0, -128, 127, torch.int8)
            return nn.functional.linear(x, decomposed().dequantize_per_channel(*given))

    module = export_program(Shifted(), torch.randn(2, 6), [{}]).module()
    assert exporter._weights_as_quantized_floats(module) == (0, 1)
