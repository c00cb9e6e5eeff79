"""ExecuTorch's files: int8 layers go to XNNPACK with signed bytes and the same values."""

import pytest
import torch

from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.phones import executorch as exporter
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.training.context import Context
from tests.export.exporters.phones.test_signed_bytes import Bytes

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


def test_a_layer_with_float_output_finds_its_range_in_every_run():
    program = _program(Bytes().eval(), torch.randn(2, 2, 2))
    notes = exporter._ranges_in_every_run(program.graph)
    assert notes == ["1 layers find the range of their input in every run: their output is not quantized"]
    program.graph_module.recompile()
    names = [str(node.target) for node in program.graph.nodes]
    assert sum("choose_qparams" in name for name in names) == 1
    assert program.module()(torch.randn(2, 2, 2)).shape == (2, 4)
