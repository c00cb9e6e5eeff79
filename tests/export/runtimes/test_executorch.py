"""ExecuTorch as a runtime."""

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.export.exporters.export_program import export_program
from compresskit.export.options import ExportOptions
from compresskit.export.runtimes.exported import Exported
from compresskit.export.tables import EXPORTERS, RUNTIMES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the library's own imports warn


def test_it_computes_what_the_model_does_in_batches_of_the_files_size(linear_exported):
    pytest.importorskip("executorch.exir")
    exported = linear_exported(".pte", batch=2)
    EXPORTERS.load("executorch")(exported.program, exported.path, ExportOptions(format="executorch"))
    runner = RUNTIMES.load("executorch")(exported)
    for rows in (1, 2, 5):
        inputs = torch.randn(rows, 6)
        torch.testing.assert_close(runner(inputs), exported.module(inputs).detach(), atol=1e-5, rtol=1e-4)
    assert runner.specs[0].shape == (2, 6) and runner.specs[0].dtype is torch.float32
    exported.path.write_bytes(b"no program")
    with pytest.raises(InputError, match="cannot load"):
        RUNTIMES.load("executorch")(exported)


def test_what_its_kernels_refuse_is_said(tmp_path):
    pytest.importorskip("executorch.exir")
    model, inputs = nn.Conv3d(1, 2, 3).eval(), torch.randn(1, 1, 4, 4, 4)
    program = export_program(model, inputs, [{}])
    exported = Exported(model, program, tmp_path / "net.pte", inputs, 1)
    EXPORTERS.load("executorch")(program, exported.path, ExportOptions(format="executorch"))
    with pytest.raises(InputError, match="cannot run 'net.pte'.* convolutions of 3 dimensions"):
        RUNTIMES.load("executorch")(exported)(inputs)
