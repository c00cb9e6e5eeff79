"""The script beside an exported file runs it without torch and without us."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.core.types import Loaded, Preprocessing
from compresskit.export.handover.runner_script import beside, requirements, write_runner
from compresskit.export.lowering import export
from compresskit.export.options import ExportOptions
from compresskit.training.context import Context

META = {"compresskit": "1", "model": "net", "weights_sha256": "0", "edits": ["3 x resize"], "command": "compresskit x"}


def run(script: Path, *arguments: str) -> str:
    """What a script prints where neither this package nor torch can be imported."""
    blocked = "import sys, runpy; sys.modules['torch'] = sys.modules['compresskit'] = None; "
    code = f"{blocked}sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    given = [sys.executable, "-c", code, str(script), *arguments]
    return subprocess.run(given, check=True, capture_output=True, text=True, env={**os.environ}).stdout


def exported(loaded, path, **options):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    return export(loaded, ExportOptions(rounds=0, with_script=True, **options), Context(original=loaded), path)


@pytest.mark.integration
def test_an_image_gets_its_class(tmp_path):
    images = pytest.importorskip("PIL.Image")

    class Brightness(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0, -1.0]))

        def forward(self, image):
            return image.mean((1, 2, 3))[:, None] * self.scale

    wanted = Preprocessing((0.5,) * 3, (0.25,) * 3, (4, 6), 3)
    exported(Loaded(Brightness().eval(), {}, torch.rand(1, 3, 4, 6), preprocessing=wanted), tmp_path / "net.onnx")
    images.new("RGB", (9, 7), (255, 255, 255)).save(tmp_path / "white.png")
    images.new("L", (9, 7), 0).save(tmp_path / "black.png")
    white, black = run(
        tmp_path / "net.py", *(str(tmp_path / f"{name}.png") for name in ("white", "black"))
    ).splitlines()
    # scores 2 and -2, as (1 - 0.5) / 0.25 is 2: shares e^4 to 1
    assert white.endswith("white.png: 0 (98.2%)")
    assert black.endswith("black.png: 1 (98.2%)")
    text = (tmp_path / "net.md").read_text()
    assert "pip install onnxruntime numpy pillow" in text and "4 x 6 pixels" in text and "| agreement | 1 |" in text


@pytest.mark.integration
def test_arrays_come_from_a_file_of_arrays(tmp_path):
    exported(Loaded(nn.Flatten().eval(), {}, {"input": torch.rand(1, 2, 3)}), tmp_path / "net.onnx")
    np.savez(tmp_path / "inputs.npz", input=np.full((2, 2, 3), 7, np.float32))
    assert run(tmp_path / "net.py", str(tmp_path / "inputs.npz")).startswith("output (2, 6) [7. 7.")
    assert run(tmp_path / "net.py").startswith("output (1, 6) [0. 0.")
    text = (tmp_path / "net.md").read_text()
    assert "- Input `input`: float (batch, 2, 3)" in text and "- Output `output`: float (batch, 6)" in text


@pytest.mark.integration
def test_classes_of_arrays_have_names(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("calm\nstorm\n")
    exported(Loaded(nn.Identity().eval(), {}, {"input": torch.rand(1, 2)}), tmp_path / "net.onnx", labels=str(names))
    np.savez(tmp_path / "inputs.npz", input=np.array([[0, 1], [1, 0]], np.float32))
    assert run(tmp_path / "net.py", str(tmp_path / "inputs.npz")).splitlines()[-1] == "storm, calm"


@pytest.mark.integration
def test_a_sentence_goes_on(tmp_path):
    transformers, tokenizers = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    words = {word: number for number, word in enumerate(("once", "upon", "a", "time", "there", "was"))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="a"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = transformers.GPT2Config(vocab_size=6, n_positions=8, n_embd=8, n_layer=1, n_head=1, use_cache=False)
    loaded = Loaded(transformers.GPT2LMHeadModel(config).eval(), {}, {"input_ids": torch.tensor([[0, 1, 2, 3, 4, 5]])})
    loaded.companions["tokenizer.json"] = tmp_path / "tokenizer.json"
    exported(loaded, tmp_path / "lm.onnx")
    assert sorted(path.name for path in tmp_path.glob("lm.*")) == ["lm.md", "lm.onnx", "lm.py", "lm.tokenizer.json"]
    line = run(tmp_path / "lm.py", "once upon a").split()
    assert line[:3] == ["once", "upon", "a"] and len(line) == 6  # as long as the graph takes
    ids = torch.tensor([[words[word] for word in line]])
    with torch.no_grad():
        assert loaded.module(ids).logits[0].argmax(-1)[2:5].tolist() == ids[0, 3:].tolist()


def test_what_is_written_is_told_before(tmp_path):
    files = write_runner(tmp_path, "net.onnx", META)
    assert [path.name for path in files] == beside("net.onnx") == ["net.py", "net.md"]
    assert "3 x resize" in files[1].read_text() and "`compresskit x`" in files[1].read_text()
    text = {**META, "text": {"kind": "causal", "max_length": None}}
    (tmp_path / "tokenizer.json").write_text("{}")
    files = write_runner(tmp_path, "net.onnx", text, tokenizer=tmp_path / "tokenizer.json")
    assert [path.name for path in files] == beside("net.onnx", tokenizer=True)
    files = write_runner(tmp_path, "net.onnx", {**META, "labels": ["cat", "dog"]})
    assert [path.name for path in files] == beside("net.onnx", labels=True)
    assert files[-1].read_text() == "cat\ndog\n" and "all in net.labels.txt" in files[1].read_text()
    assert requirements(text, tokenizer=True) == ("onnxruntime", "numpy", "tokenizers")
    assert requirements(text) == requirements(META) == ("onnxruntime", "numpy")


@pytest.mark.parametrize("name", ["net.py", "net.md"])
def test_a_file_is_not_overwritten_by_its_script(name, tmp_path):
    with pytest.raises(InputError, match="its script takes that name"):
        write_runner(tmp_path, name, META)


def test_formats_without_a_script_refuse_the_option():
    with pytest.raises(ValueError, match="with_script would be ignored"):
        ExportOptions(format="pt2", with_script=True)
