"""Bad inputs: exit code 2, one line, no traceback, nothing overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from compresskit.model.zoo import digits_cnn_small

SMALL = "builtin:digits_cnn_small"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, digits_model: Path) -> Path:
    """A folder with every kind of broken file, and one existing output named `kept`."""
    root = tmp_path_factory.mktemp("bad")
    state = digits_cnn_small().state_dict()
    save_file(state, root / "good.safetensors")
    save_file({**state, "0.weight": torch.full_like(state["0.weight"], float("nan"))}, root / "nan.safetensors")
    save_file({**state, "0.weight": torch.zeros(2, 2)}, root / "shape.safetensors")
    save_file(
        {name.replace("0.weight", "0.wieght"): value for name, value in state.items()}, root / "names.safetensors"
    )
    (root / "truncated.safetensors").write_bytes((root / "good.safetensors").read_bytes()[:500])
    torch.save({"model": digits_cnn_small()}, root / "whole.pt")
    torch.save({"epoch": 3}, root / "empty.pt")
    (root / "cut.pt").write_bytes((root / "whole.pt").read_bytes()[:300])
    (root / "weights.txt").write_text("no")
    np.savez(root / "short.npz", x_train=np.zeros((4, 1, 8, 8), np.float32), y_train=np.zeros(3))
    np.savez(root / "nan.npz", x=np.full((20, 1, 8, 8), np.nan, np.float32), y=np.zeros(20, np.int64))
    np.savez(root / "wide.npz", x=np.zeros((20, 5), np.float32), y=np.zeros(20, np.int64))
    np.savez(root / "objects.npz", x=np.array([{}], dtype=object), y=np.zeros(1))
    np.savez(root / "many.npz", x=np.zeros((60, 1, 8, 8), np.float32), y=np.arange(60) % 20)
    (root / "text.csv").write_text("a,label\n1,0\n2,one\n3,1\n")
    (root / "empty_dir").mkdir()
    (root / "train" / "cat").mkdir(parents=True)
    (root / "net.py").write_text(
        "import torch\nfrom torch import nn\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "def broken():\n    raise RuntimeError('no such layer')\ndef number():\n    return 3\n"
    )
    (root / "syntax.py").write_text("def make(:\n")
    artifact = root / "artifact"
    for name, change in {
        "hash": lambda folder: (folder / "model.safetensors").write_bytes(
            b"x" + (folder / "model.safetensors").read_bytes()[1:]
        ),
        "weightless": lambda folder: (folder / "model.safetensors").unlink(),
        "version": lambda folder: edit(folder, format_version=99),
        "op": lambda folder: edit(folder, edits=[{"op": "import", "target": "0"}]),
        "layer": lambda folder: edit(folder, edits=[{"op": "resize", "target": "nowhere", "shapes": {}}]),
        "garbled": lambda folder: (folder / "manifest.json").write_text("{"),
        "code": lambda folder: edit(folder, source={"kind": "module", "module": "os", "factory": "getcwd", "args": {}}),
        "escape": lambda folder: edit(
            folder, source={"kind": "file", "path": "../../x.py", "factory": "f", "args": {}}
        ),
    }.items():
        shutil.copytree(digits_model, artifact / name)
        change(artifact / name)
    recipes = {
        "typo": "model: builtin:lenet5\nsteps:\n  - prune:\n      raito: 0.5\n",
        "technique": "model: builtin:lenet5\nsteps:\n  - prun: {ratio: 0.5}\n",
        "twice": "model: builtin:lenet5\nmodel: builtin:lenet300\nsteps: []\n",
        "nosteps": "model: builtin:lenet5\n",
        "syntax": "model: [builtin:lenet5\n",
        "list": "- model\n",
        "tag": "model: !!python/object/apply:os.getcwd []\nsteps: []\n",
        "value": "model: builtin:lenet5\nsteps:\n  - train: {epochs: many}\n",
        "good": f"model: {SMALL}\ndata: digits\noutput: kept\nsteps:\n  - train: {{epochs: 1}}\n",
        "nooutput": f"model: {SMALL}\ndata: digits\nsteps:\n  - train: {{epochs: 1}}\n",
    }
    for name, text in recipes.items():
        (root / f"{name}.yaml").write_text(text)
    (root / "kept").mkdir()
    (root / "kept" / "precious.txt").write_text("mine")
    return root


def edit(folder: Path, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


TRAIN = ("train", SMALL, "--data", "digits", "-o", "out")

#: (name, arguments, what the line must say)
CASES = [
    ("no such command", ("prum", SMALL), "did you mean 'prune'"),
    ("no such flag", (*TRAIN, "--epoch", "3"), "--epochs"),
    ("flag of a wrong type", (*TRAIN, "--epochs", "many"), "--epochs"),
    ("flag out of range", (*TRAIN, "--lr", "-1"), "--lr: lr should be greater than 0, got -1.0"),
    ("no such choice", (*TRAIN, "--optimizer", "adm"), "adamw"),
    ("no such form", ("inspect", "resnet18"), "torchvision:NAME"),
    ("builtin without its prefix", ("inspect", "lenet5"), "did you mean 'builtin:lenet5'"),
    ("no such builtin", ("inspect", "builtin:lenet6"), "did you mean 'lenet5'"),
    ("no such path", ("inspect", "./nowhere"), "does not exist"),
    ("no such torchvision model", ("inspect", "torchvision:resnet19"), "did you mean 'resnet1"),
    ("no such module", ("inspect", "no_such_module:make"), "cannot import 'no_such_module'"),
    ("no such model argument", ("inspect", SMALL, "--model-arg", "num_clases=3"), "did you mean 'num_classes'"),
    ("model argument without a value", ("inspect", SMALL, "--model-arg", "num_classes"), "KEY=VALUE"),
    ("no such factory", ("inspect", "net.py:mak"), "did you mean 'make'"),
    ("a factory that raises", ("inspect", "net.py:broken"), "no such layer"),
    ("a factory that makes no model", ("inspect", "net.py:number"), "not an nn.Module"),
    ("a file that is not Python", ("inspect", "syntax.py:make"), "SyntaxError"),
    ("a model file that is missing", ("inspect", "nett.py:make"), "'nett.py' does not exist"),
    ("unknown input shape", ("inspect", "net.py:make"), "--input"),
    ("malformed input shape", ("inspect", "net.py:make", "--input", "3x8"), "3x8"),
    ("weights file missing", (*TRAIN, "--weights", "god.safetensors"), "did you mean 'good.safetensors'"),
    ("weights truncated", (*TRAIN, "--weights", "truncated.safetensors"), "damaged or truncated"),
    ("weights with NaN", (*TRAIN, "--weights", "nan.safetensors"), "0.weight holds NaN"),
    ("weights of another shape", (*TRAIN, "--weights", "shape.safetensors"), "0.weight has shape [2, 2]"),
    ("weights of another model", (*TRAIN, "--weights", "names.safetensors"), "did you mean '0.weight'"),
    ("weights that need pickle", (*TRAIN, "--weights", "whole.pt"), "more than tensors"),
    ("weights without tensors", (*TRAIN, "--weights", "empty.pt"), "no tensors"),
    ("torch file cut off", (*TRAIN, "--weights", "cut.pt"), "cut.pt"),
    ("weights of an unknown kind", (*TRAIN, "--weights", "weights.txt"), ".safetensors"),
    ("no such data", ("train", SMALL, "--data", "digit", "-o", "out"), "did you mean 'digits'"),
    ("data folder missing", ("train", SMALL, "--data", "imagefolder:nowhere", "-o", "out"), "'nowhere' does not exist"),
    ("data folder empty", ("train", SMALL, "--data", "imagefolder:empty_dir", "-o", "out"), "no class folders"),
    ("data folder without test", ("train", SMALL, "--data", "imagefolder:.", "-o", "out"), "'"),
    ("data arrays of two lengths", ("train", SMALL, "--data", "npz:short.npz", "-o", "out"), "lacks array 'x_test'"),
    ("data with NaN", ("train", SMALL, "--data", "npz:nan.npz", "-o", "out"), "NaN"),
    ("data that needs pickle", ("train", SMALL, "--data", "npz:objects.npz", "-o", "out"), "npz"),
    ("data of another shape", ("train", SMALL, "--data", "npz:wide.npz", "-o", "out"), "does not take"),
    ("data with more classes", ("train", SMALL, "--data", "npz:many.npz", "-o", "out"), "num_classes=20"),
    ("text in numeric data", ("train", SMALL, "--data", "csv:text.csv", "-o", "out"), "line 3"),
    ("no such data argument", (*TRAIN, "--data-arg", "sise=8"), "did you mean 'size'"),
    ("training without data", ("train", SMALL, "-o", "out"), "--data"),
    ("no such metric", (*TRAIN, "--metric", "top2"), "did you mean 'top"),
    ("no such device", (*TRAIN, "--device", "gpu9"), "device 'gpu9'"),
    ("existing output", ("train", SMALL, "--data", "digits", "-o", "kept"), "--force"),
    (
        "output below a file",
        ("train", SMALL, "--data", "digits", "--epochs", "1", "-o", "weights.txt/out"),
        "weights.txt",
    ),
    ("artifact with changed weights", ("inspect", "artifact/hash"), "sha256"),
    ("artifact without weights", ("inspect", "artifact/weightless"), "lacks model.safetensors"),
    ("artifact of another version", ("inspect", "artifact/version"), "format version 99"),
    ("artifact with a foreign edit", ("inspect", "artifact/op"), "op 'import' is not one of"),
    ("artifact with a foreign layer", ("inspect", "artifact/layer"), "no layer named 'nowhere'"),
    ("artifact with a garbled manifest", ("inspect", "artifact/garbled"), "manifest.json"),
    ("artifact that would run code", ("inspect", "artifact/code"), "--trust-source"),
    (
        "artifact whose path leaves its folder",
        ("inspect", "artifact/escape", "--trust-source"),
        "leaves the artifact's folder",
    ),
    ("arguments for an artifact", ("inspect", "artifact/version", "--model-arg", "width=3"), "leave model_args out"),
    ("a folder that is no artifact", ("verify", "empty_dir"), "holds no manifest.json; name the output"),
    ("recovery options without recovery", ("prune", SMALL, "--ratio", "0.5", "--epochs", "3", "-o", "out"), "recover"),
    ("typo in a recipe", ("run", "typo.yaml"), "typo.yaml:4: steps.0.prune: unknown key 'raito'; did you mean 'ratio'"),
    (
        "no such technique",
        ("run", "technique.yaml"),
        "technique.yaml:3: steps.0: unknown technique 'prun'; did you mean 'prune'",
    ),
    ("key twice", ("run", "twice.yaml"), "line 2: duplicate key 'model'; remove one of them"),
    ("recipe without steps", ("run", "nosteps.yaml"), "steps must be a list"),
    ("recipe that is not YAML", ("run", "syntax.yaml"), "syntax.yaml', line"),
    ("recipe that is a list", ("run", "list.yaml"), "must be a mapping"),
    ("recipe that would run code", ("run", "tag.yaml"), "tag.yaml', line 1"),
    (
        "value of a wrong type in a recipe",
        ("run", "value.yaml"),
        "value.yaml:3: steps.0.train: epochs should be a number, got",
    ),
    ("recipe missing", ("run", "god.yaml"), "'god.yaml' does not exist"),
    ("recipe whose output exists", ("run", "good.yaml"), "--force"),
    ("recipe without an output", ("run", "nooutput.yaml"), "output"),
    ("malformed assignment", ("run", "good.yaml", "--set", "steps"), "KEY=VALUE"),
    ("assignment to nowhere", ("run", "good.yaml", "--set", "steps.7.train.epochs=1"), "not a position in a list of 1"),
    ("existing recipe", ("init", SMALL, "-o", "typo.yaml"), "--force"),
]


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(("arguments", "says"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_bad_input(arguments, says, files, invoke, monkeypatch):
    monkeypatch.chdir(files)
    before = contents(files)
    code, out, err = invoke(*arguments)
    lines = [line for line in err.splitlines() if line.startswith("compresskit: ")]
    assert (code, out) == (2, "")
    assert len(lines) == 1
    assert says in lines[0]
    assert "Traceback" not in err
    assert contents(files) == before


def test_there_are_forty():
    assert len(CASES) >= 40


def test_all_errors_of_a_recipe_at_once(invoke, tmp_path):
    (tmp_path / "r.yaml").write_text("modle: x\nsteps:\n  - train: {epoch: 1}\n  - distil: {}\n")
    code, _, err = invoke("run", "r.yaml")
    assert code == 2
    assert [line.split(":")[2] for line in err.splitlines()] == ["1", "1", "3", "4"] or len(err.splitlines()) == 4


@pytest.mark.integration
def test_a_full_disk_is_one_line_and_leaves_nothing(invoke, tmp_path, monkeypatch):
    from compresskit.artifact import artifact

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact, "save_file", full)
    code, _, err = invoke(*TRAIN, "--epochs", "1", "--latency-rounds", "0", "-q")
    assert code == 2
    assert "No space left on device" in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.rglob("*.safetensors.tmp"))


@pytest.mark.parametrize("command", [["diff", SMALL, SMALL], ["prune", SMALL, "--ratio", "0.5", "-o", "out"]])
def test_more_latency_rounds_than_anybody_waits_for_are_refused(command, invoke):
    code, _, err = invoke(*command, "--latency-rounds", str(2**63 - 1))
    assert code == 2 and "100000" in err.replace(",", "") and "Traceback" not in err


def test_all_errors_of_a_command_line_at_once(invoke):
    code, out, err = invoke(
        "prune", "builtin:digits_cn", "--criterion", "talor", "--recover", "kdd", "--lr", "50%", "--batch-size", "x",
        "--data", "digts",
    )  # fmt: skip
    assert (code, out) == (2, "")
    lines = [line.removeprefix("compresskit: ") for line in err.splitlines()]
    assert lines == [
        "--lr: lr should be a number, got '50%'",
        "--batch-size: batch_size should be an integer, got 'x'",
        "--recover: mode should be 'none', 'finetune' or 'kd', got 'kdd'",
        "--criterion: unknown criterion 'talor'; did you mean 'taylor', or name your own as file.py:function?",
        "unknown builtin model 'digits_cn'; did you mean 'digits_cnn'?",
        "unknown data 'digts'; did you mean 'digits'?",
    ]


def test_a_file_name_of_no_format_is_refused(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = invoke("export", SMALL, "-o", "net.tflte")
    assert code == 2 and "'net.tflte' ends as the files of no format; did you mean '.tflite'?" in err
    assert not list(tmp_path.iterdir())
