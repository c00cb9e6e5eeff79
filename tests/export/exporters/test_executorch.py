"""ExecuTorch's files: int8 layers go to XNNPACK with signed bytes and the same values."""

import pytest
import torch
from torch import nn

from compresskit.export.exporters import executorch as exporter
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.lowered_layers import decomposed
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.training.context import Context

pytestmark = pytest.mark.integration


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the library's own imports warn
@pytest.mark.parametrize("batch", [1, 3])
def test_an_int8_model_runs_in_its_own_runtime(run, tmp_path, batch):
    pytest.importorskip("executorch.exir")
    loaded = run(scheme="int8-static").loaded
    options = ExportOptions(format="executorch", rounds=1, samples=8, batch_size=batch)
    facts = export(loaded, options, Context(original=loaded), tmp_path / "net.pte")
    assert facts["runtime"] == "executorch" and facts["latency_label"] == "executed"
    assert facts["agreement"] == 1.0
    assert facts["largest_difference"] < 0.03 * facts["output_scale"]


def _program(module, example):
    return export_program(module, example, [{}])


class _Bytes(nn.Module):
    """A selection between two ranges, and a layer whose output is quantized with nothing."""

    def __init__(self):
        super().__init__()
        decomposed()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        first, second = (0.1, 10, 0, 255, torch.uint8), (0.2, 20, 0, 255, torch.uint8)
        x = _round_trip(x, first)
        x = _round_trip(x.reshape(2, 4), second)
        return self.linear(x)


def _round_trip(x, limits):
    return decomposed().dequantize_per_tensor(decomposed().quantize_per_tensor(x, *limits), *limits)


def test_passes_change_no_value_of_what_is_selected_and_move_ranges_to_signed_bytes():
    example = torch.randn(2, 2, 2)
    program = _program(_Bytes().eval(), example)
    wanted = program.module()(example)
    exporter._same_range_around_selections(program.graph)
    quantizers = [node.args[1] for node in program.graph.nodes if "quantize_per_tensor.default" in str(node.target)]
    assert quantizers.count(0.1) == 4 and quantizers.count(0.2) == 2
    exporter._signed_bytes(program.graph)
    program.graph_module.recompile()
    kinds = {node.args[5] for node in program.graph.nodes if "quantize_per_tensor.default" in str(node.target)}
    assert kinds == {torch.int8}
    torch.testing.assert_close(program.module()(example), wanted, rtol=0, atol=0)


def test_a_layer_with_float_output_finds_its_range_in_every_run():
    program = _program(_Bytes().eval(), torch.randn(2, 2, 2))
    notes = exporter._ranges_in_every_run(program.graph)
    assert notes == ["1 layers find the range of their input in every run: their output is not quantized"]
    program.graph_module.recompile()
    names = [str(node.target) for node in program.graph.nodes]
    assert sum("choose_qparams" in name for name in names) == 1
    assert program.module()(torch.randn(2, 2, 2)).shape == (2, 4)
