"""Sources that do not build on the meta device, in every way that a constructor can compute with values."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from compresskit.artifact import artifact
from compresskit.artifact.probing import outputs_of
from compresskit.artifact.rebuilding import NotRepeatable, check_rebuild, held_tensors
from compresskit.artifact.source import load_model
from compresskit.core.errors import InputError

from . import constructors
from .constructors import ONLY_REAL, ZOO

FILE = constructors.__file__


def assert_same(first, second):
    wanted, found = outputs_of(first, generator_seed=0), outputs_of(second, generator_seed=0)
    assert wanted.keys() == found.keys()
    for path, value in wanted.items():
        assert torch.equal(value.nan_to_num(), found[path].nan_to_num()), path


@pytest.mark.filterwarnings("ignore:the constructor warns")
@pytest.mark.parametrize("kind", ZOO, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("form", ["file", "module"])
def test_every_constructor_saves_and_reloads(kind, form, tmp_path):
    string = f"{FILE if form == 'file' else 'tests.artifact.constructors'}:{kind.__name__}"
    loaded = load_model(string, seed=3)
    artifact.save(loaded, tmp_path / "a")
    manifest = artifact.read_manifest(tmp_path / "a")
    assert manifest["built_on"] == ("cpu" if kind in ONLY_REAL else "meta")
    again = artifact.load(tmp_path / "a", trust_source=True)
    assert_same(loaded, again)
    assert again.seed == 3
    assert not any(tensor.is_meta for tensor in held_tensors(again.module))
    assert check_rebuild(again) == manifest["built_on"]


def test_an_artifact_of_an_earlier_version_builds_for_real_where_meta_fails(tmp_path):
    loaded = load_model(f"{FILE}:Item")
    artifact.save(loaded, tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    manifest = json.loads(path.read_text())
    for key in ("built_on", "seed", "unset_buffers"):
        del manifest[key]
    path.write_text(json.dumps(manifest))
    assert_same(loaded, artifact.load(tmp_path / "a", trust_source=True))


def test_buffers_set_and_unset_after_building(tmp_path):
    loaded = load_model(f"{FILE}:Unset")
    loaded.module.late, loaded.module.gone = torch.full((3,), 2.0), None
    artifact.save(loaded, tmp_path / "a")
    again = artifact.load(tmp_path / "a", trust_source=True)
    assert again.module.gone is None
    assert torch.equal(again.module.late, torch.full((3,), 2.0))
    assert_same(loaded, again)


def test_caches_that_forward_made_are_kept(tmp_path):
    loaded = load_model(f"{FILE}:Cache")
    loaded.module(torch.zeros(1, 3, 8, 12))
    artifact.save(loaded, tmp_path / "a")
    assert_same(loaded, artifact.load(tmp_path / "a", trust_source=True))


def test_saving_leaves_the_model_as_it_is(tmp_path):
    loaded = load_model(f"{FILE}:Counter")
    loaded.module.calls.fill_(4)
    artifact.save(loaded, tmp_path / "a")
    assert loaded.module.calls == 4
    assert artifact.load(tmp_path / "a", trust_source=True).module.calls == 4


def test_loading_leaves_the_generators_alone(tmp_path):
    artifact.save(load_model(f"{FILE}:Seeds"), tmp_path / "a")

    def draws():
        return torch.rand(1).item(), random.random(), np.random.rand()

    def seed():
        torch.manual_seed(1), random.seed(1), np.random.seed(1)

    seed()
    wanted = draws()
    seed()
    artifact.load(tmp_path / "a", trust_source=True)
    load_model(f"{FILE}:Seeds")
    assert draws() == wanted


@pytest.mark.integration
def test_what_a_file_imports_while_building_on_meta_keeps_its_constants(tmp_path):
    (tmp_path / "lazily_imported.py").write_text("import torch\nCONSTANT = torch.arange(1.0, 4.0)\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self):\n"
        "        import lazily_imported\n"
        "        super().__init__(3, 3)\n"
        "        self.input_shape, self.constants = (3,), lazily_imported\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) * self.constants.CONSTANT\n"
    )
    code = (
        "import sys\nfrom compresskit.artifact import artifact\nfrom compresskit.artifact.source import load_model\n"
        "if sys.argv[1] == 'save': artifact.save(load_model('net.py:Net'), 'a')\n"
        "else: print(artifact.load('a', trust_source=True).module.constants.CONSTANT.tolist())\n"
    )
    for what in ("save", "load"):
        done = subprocess.run([sys.executable, "-c", code, what], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1.0, 2.0, 3.0]"
    assert artifact.read_manifest(tmp_path / "a")["built_on"] == "meta"


def test_a_constructor_runs_no_more_often_than_needed(tmp_path):
    (tmp_path / "net.py").write_text(
        "import pathlib, torch\nfrom torch import nn\n"
        "def note():\n"
        "    with open(pathlib.Path(__file__).parent / 'calls', 'a') as file: file.write('x')\n"
        "def good():\n    note()\n    return nn.Linear(3, 2)\n"
        "def values():\n    note()\n    return nn.Linear(int(torch.tensor(3)), 2)\n"
        "def bad():\n    note()\n    raise KeyError('no such thing')\n"
    )

    def calls():
        return len((tmp_path / "calls").read_text())

    for name, once_saved, once_loaded in (("good", 2, 3), ("values", 3, 4)):
        (tmp_path / "calls").write_text("")
        artifact.save(load_model(f"{tmp_path}/net.py:{name}", inputs=["3"]), tmp_path / name)
        assert calls() == once_saved
        artifact.load(tmp_path / name, source=f"{tmp_path}/net.py:{name}")
        assert calls() == once_loaded
    (tmp_path / "calls").write_text("")
    with pytest.raises(InputError, match=r"bad with no arguments raised KeyError: 'no such thing'$"):
        load_model(f"{tmp_path}/net.py:bad")
    assert calls() == 1


def test_a_constructor_that_fails_later_says_so_in_one_line(tmp_path):
    net = tmp_path / "net.py"
    net.write_text("from torch import nn\ndef make(): return nn.Linear(3, 2)\n")
    artifact.save(load_model(f"{net}:make", inputs=["3"]), tmp_path / "a")
    for body, message in (
        ("def make(): raise OSError('gone\\nsecond line')", "raised OSError: gone second line$"),
        ("def make(): raise SystemExit(3)", "raised SystemExit: 3$"),
        ("def make(): return 5", "the factory returned a int, not an nn.Module"),
        ("make = 5", "is a int, not a function or class"),
        ("def made(): pass", "has no 'make'; did you mean 'made'"),
        ("def make(): return nn.Linear(4, 2)", r"weight has shape \[2, 3\], the edits say \[2, 4\]"),
        ("raise SystemExit", "raised SystemExit while being read"),
    ):
        net.write_text(f"from torch import nn\n{body}\n")
        with pytest.raises(InputError, match=message) as caught:
            artifact.load(tmp_path / "a", source=f"{net}:make")
        assert "\n" not in str(caught.value)


def test_a_source_that_never_gives_the_same_model_is_refused(tmp_path):
    (tmp_path / "net.py").write_text(
        "import os\nfrom torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 2)\n"
        "        self.input_shape, self.factor = (3,), int.from_bytes(os.urandom(4)) / 2**32\n"
        "    def forward(self, x):\n"
        "        return super().forward(x) * self.factor\n"
    )
    loaded = load_model(f"{tmp_path}/net.py:Net")
    for check in (check_rebuild, lambda model: artifact.save(model, tmp_path / "a")):
        with pytest.raises(NotRepeatable, match="building it again gives another model") as caught:
            check(loaded)
        assert caught.value.exit_code == 2
    assert not (tmp_path / "a").exists()


def test_a_change_that_no_edit_records_is_a_defect(tmp_path):
    loaded = load_model("builtin:digits_cnn_small")
    loaded.edits.append({"op": "remove", "target": "2"})
    loaded.module[2] = torch.nn.Tanh()
    with pytest.raises(artifact.ProbeMismatch) as caught:
        artifact.save(loaded, tmp_path / "a")
    assert caught.value.exit_code == 1


def test_weights_in_another_memory_format_are_saved(tmp_path):
    loaded = load_model("builtin:cifar_resnet20")
    loaded.module.to(memory_format=torch.channels_last)
    artifact.save(loaded, tmp_path / "a")
    wanted, found = outputs_of(loaded)[""], outputs_of(artifact.load(tmp_path / "a"))[""]
    assert torch.allclose(wanted, found, rtol=1e-4, atol=1e-5)


def test_shared_cases(shared_dir, tmp_path):
    path = shared_dir / "cases" / "constructors.py"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    for factory, form in (("linspace", "3,32,32"), ("dry", "3,32,32"), ("sobel", "1,28,28"), ("gcn", "6,8")):
        loaded = load_model(f"{path}:{factory}", inputs=[form])
        artifact.save(loaded, tmp_path / factory)
        assert_same(loaded, artifact.load(tmp_path / factory, trust_source=True))
