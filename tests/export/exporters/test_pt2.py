"""torch.export's archives."""

import torch

from compresskit.core.types import Preprocessing
from compresskit.export.exporters.export_program import DESCRIPTION
from compresskit.export.exporters.pt2 import pt2
from compresskit.export.opening import open_file
from compresskit.export.options import ExportOptions
from compresskit.model.exported import load_exported


def test_a_program_comes_back(linear_exported):
    exported = linear_exported(".pt2")
    assert pt2(exported.program, exported.path, ExportOptions(format="pt2")) == []
    assert load_exported(exported.path, trust_source=True).module.about == {}
    program = torch.export.load(exported.path).module()
    torch.testing.assert_close(program(exported.example), exported.module(exported.example))


def test_what_is_done_to_images_travels_with_the_program(tmp_path):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.Flatten()).eval()
    program = torch.export.export(module, (torch.randn(1, 3, 8, 8),))
    wanted = {"size": [8, 8], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "order": "rgb", "where": "outside"}
    about = {"preprocessing": wanted, "labels": ["a", "b"]}
    program.graph_module.meta[DESCRIPTION] = about
    pt2(program, tmp_path / "m.pt2", ExportOptions(format="pt2"))
    loaded = load_exported(tmp_path / "m.pt2", trust_source=True)
    assert loaded.module.about == about
    assert loaded.preprocessing == Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.2), (8, 8), 3)
    run = open_file(str(tmp_path / "m.pt2"), runtime="eager", trust_source=True)
    assert run.preprocessing == loaded.preprocessing
