"""ExecuTorch's files: int8 layers go to XNNPACK with signed bytes and the same values."""

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.phones import executorch as exporter
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.quantization.options import QuantizeOptions
from compresskit.quantization.quantize import quantize
from compresskit.training.context import Context
from tests.export.exporters.phones.test_signed_bytes import Bytes

pytestmark = pytest.mark.integration


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the library's own imports warn
@pytest.mark.parametrize("batch", [1, 3])
def test_an_int8_model_runs_in_its_own_runtime(run, tmp_path, batch):
    pytest.importorskip("executorch.exir")
    loaded = run(scheme="int8-static").loaded
    options = ExportOptions(format="executorch", rounds=0, cold_start="skip", samples=8, batch_size=batch)
    facts = export(loaded, options, Context(original=loaded), tmp_path / "net.pte")
    assert facts["runtime"] == "executorch" and facts["latency_label"] == "executed"
    assert facts["agreement"] == 1.0
    assert facts["largest_difference"] < 0.03 * facts["output_scale"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_layer_behind_a_quantized_layer_is_right_where_its_own_output_is_not_quantized(images, tmp_path):
    pytest.importorskip("executorch.exir")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    loaded = Loaded(net, {}, torch.randn(1, 3, 16, 16))
    options = QuantizeOptions(scheme="int8-static", first_last="same", reconstruct="none")
    quantize(loaded, options, Context(original=loaded.clone(), data=images((3, 16, 16))))
    options = ExportOptions(format="executorch", rounds=0, cold_start="skip", samples=4, batch_size=1)
    facts = export(loaded, options, Context(original=loaded), tmp_path / "net.pte")
    assert facts["largest_difference"] < 0.03 * facts["output_scale"]


def _program(module, example):
    return export_program(module, example, [{}])


def test_a_layer_with_float_output_finds_its_range_in_every_run():
    program = _program(Bytes().eval(), torch.randn(2, 2, 2))
    notes = exporter._ranges_in_every_run(program.graph)
    assert notes == ["1 layers find the range of their input in every run: their output is not quantized"]
    program.graph_module.recompile()
    names = [str(node.target) for node in program.graph.nodes]
    assert sum("choose_qparams" in name for name in names) == 1
    assert program.module()(torch.randn(2, 2, 2)).shape == (2, 4)
    # the range is that of the codes' values, so that what made them still has a quantized output
    chosen = next(node for node in program.graph.nodes if "choose_qparams" in str(node.target))
    assert "dequantize_per_tensor" in str(chosen.args[0].target)
