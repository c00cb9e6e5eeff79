"""LiteRT as a runtime."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.export.options import ExportOptions
from compresskit.export.tables import EXPORTERS, RUNTIMES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the library's own imports warn


def test_it_computes_what_the_model_does_in_batches_of_the_files_size(linear_exported):
    pytest.importorskip("litert_torch")
    exported = linear_exported(".tflite", batch=2)
    EXPORTERS.load("litert")(exported.program, exported.path, ExportOptions(format="litert"))
    runner = RUNTIMES.load("litert")(exported)
    for rows in (1, 2, 5):
        inputs = torch.randn(rows, 6)
        torch.testing.assert_close(runner(inputs), exported.module(inputs).detach(), atol=1e-5, rtol=1e-4)
    assert runner.specs[0].shape == (2, 6) and runner.specs[0].dtype is torch.float32
    exported.path.write_bytes(b"no program")
    with pytest.raises(InputError, match="cannot load"):
        RUNTIMES.load("litert")(exported)
