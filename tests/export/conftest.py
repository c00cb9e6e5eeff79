"""The small network, its quantization and its calibration data, as the tests of quantization have them."""

import pytest
import torch
from torch import nn

from compresskit.export.exporters.export_program import export_program
from compresskit.export.runtimes.exported import Exported
from tests.quantization.conftest import images, loaded_net, net_class, one_thread, run

__all__ = ["images", "loaded_net", "net_class", "one_thread", "run"]


@pytest.fixture
def linear_exported(tmp_path):
    """A linear model and its program, to be written to a file of some suffix: (suffix, batch) -> Exported."""

    def make(suffix: str, batch: int | None = None) -> Exported:
        module, example = nn.Linear(6, 4).eval(), torch.randn(3, 6)
        program = export_program(module, example if batch is None else example[:batch], [{}] if batch else None)
        return Exported(module, program, tmp_path / f"model{suffix}", example, 1)

    return make
