"""torch.export's archives."""

import torch

from compresskit.export.exporters.pt2 import pt2
from compresskit.export.options import ExportOptions


def test_a_program_comes_back(linear_exported):
    exported = linear_exported(".pt2")
    assert pt2(exported.program, exported.path, ExportOptions(format="pt2")) == []
    program = torch.export.load(exported.path).module()
    torch.testing.assert_close(program(exported.example), exported.module(exported.example))
