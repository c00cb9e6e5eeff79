"""torch.export's archives."""

import importlib.util
import subprocess
import sys
import zipfile

import torch

from compresskit.core.types import Preprocessing
from compresskit.export.exporters.export_program import DESCRIPTION, export_program
from compresskit.export.exporters.pt2 import pt2
from compresskit.export.opening import open_file
from compresskit.export.options import ExportOptions
from compresskit.model.exported import load_exported

OWNERS = """
from dataclasses import dataclass
import torch

@dataclass
class Found:
    logits: torch.Tensor
    pooled: torch.Tensor
    loss: object = None

class Net(torch.nn.Module):
    def forward(self, x):
        return Found(x * 2, x.sum(-1))
"""


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


def test_outputs_in_a_class_of_ones_own_are_read_without_it(tmp_path):
    path = tmp_path / "net.pt2"
    (tmp_path / "owners.py").write_text(OWNERS)
    spec = importlib.util.spec_from_file_location("owners_of_net", tmp_path / "owners.py")
    owners = importlib.util.module_from_spec(spec)
    sys.modules["owners_of_net"] = owners
    spec.loader.exec_module(owners)
    program = export_program(owners.Net().eval(), torch.ones(1, 3))
    assert "mapping" in pt2(program, path, ExportOptions(format="pt2"))[0]
    with zipfile.ZipFile(path) as archive:
        assert not any(str(tmp_path).encode() in archive.read(name) for name in archive.namelist())
    assert type(program.module()(torch.ones(2, 3))) is owners.Found  # the program itself stays as it was
    code = (
        f"import torch; found = torch.export.load({str(path)!r}).module()(torch.ones(2, 3)); "
        "print({name: list(one.shape) for name, one in found.items()})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'logits': [2, 3], 'pooled': [2]}"
