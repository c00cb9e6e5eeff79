"""The stranger's test: a packed folder runs in a fresh environment that has its requirements and nothing else."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.export.exporters import onnx as exporter
from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.onnx import export_onnx
from compresskit.export.options import ExportOptions
from compresskit.pipeline.packing import pack
from compresskit.pipeline.recipe import RecipeOptions
from tests.tiny_transformers import tiny
from tests.word_tokenizer import word_tokenizer

OPTIONS = ExportOptions(with_script=True, rounds=0, cold_start="skip")


@pytest.fixture(scope="module")
def fresh_python(tmp_path_factory):
    """Python of an environment with onnxruntime, NumPy, Pillow and tokenizers from the registry."""
    folder = tmp_path_factory.mktemp("stranger") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    wanted = ["onnxruntime", "numpy", "pillow", "tokenizers"]
    done = subprocess.run([python, "-m", "pip", "install", "-q", *wanted], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no registry to install {', '.join(wanted)} from: {done.stderr.strip().splitlines()[-1][:100]}")
    return python


def run(python, folder, *arguments):
    done = subprocess.run(
        [python, "-I", folder / "run.py", *arguments], capture_output=True, text=True, cwd=folder.parent, env={}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_an_image_is_named_where_nothing_else_is_installed(fresh_python, tmp_path, digits_model):
    images = pytest.importorskip("PIL.Image")
    pytest.importorskip("onnxscript")
    from sklearn.datasets import load_digits

    recipe = RecipeOptions(model=str(digits_model), data="digits", device="cpu")
    found = pack(recipe, OPTIONS, str(tmp_path / "packed"), force=False)
    assert found["figures"]["agreement"] == 1.0
    assert run(fresh_python, tmp_path / "packed", "--check").startswith("OK")
    digits = load_digits()
    images.fromarray((digits.images[0] * 255 / 16).round().astype(np.uint8)).save(tmp_path / "zero.png")
    assert f"zero.png: {digits.target[0]} (" in run(fresh_python, tmp_path / "packed", tmp_path / "zero.png")


@pytest.mark.slow
def test_a_sentence_is_named_there(fresh_python, tmp_path):
    pytest.importorskip("onnxscript")
    source = tmp_path / "model"
    loaded = tiny(source, "Bert", id2label={0: "bad", 1: "fair", 2: "good"}, label2id={"bad": 0, "fair": 1, "good": 2})
    word_tokenizer(source)
    recipe = RecipeOptions(model=f"hf:{source}", device="cpu", input=["input_ids=6:int64:40"])
    pack(recipe, OPTIONS, str(tmp_path / "packed"), force=False)
    assert run(fresh_python, tmp_path / "packed", "--check").startswith("OK")
    ids = torch.tensor([[2, 6, 7, 8, 9, 3]])
    with torch.no_grad():
        best = int(loaded.module(ids).logits.argmax())
    assert f": {('bad', 'fair', 'good')[best]}" in run(fresh_python, tmp_path / "packed", "w1 w2 w3 w4")


@pytest.mark.integration
def test_a_file_with_its_weights_beside_it_is_packed_with_them(tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(exporter, "LARGEST_FILE_BYTES", 1000)
    program = export_program(nn.Linear(64, 8), torch.randn(2, 64))
    export_onnx(program, tmp_path / "net.onnx")
    recipe = RecipeOptions(model=str(tmp_path / "net.onnx"), device="cpu")
    found = pack(recipe, OPTIONS, str(tmp_path / "packed"), force=False)
    assert "net.onnx.data" in found["files"]
    run(sys.executable, tmp_path / "packed", "--check")


@pytest.mark.integration
def test_what_is_there_stays_and_what_is_no_onnx_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    recipe = RecipeOptions(model="builtin:lenet5", device="cpu")
    with pytest.raises(InputError, match="exists"):
        pack(recipe, OPTIONS, str(tmp_path / "mine"), force=False)
    with pytest.raises(InputError, match="was not written by compresskit"):
        pack(recipe, OPTIONS, str(tmp_path / "mine"), force=True)
    with pytest.raises(InputError, match="pack takes .onnx files"):
        pack(RecipeOptions(model="net.xml", device="cpu"), OPTIONS, str(tmp_path / "out"), force=False)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"
