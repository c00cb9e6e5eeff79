"""The script that loads folders with nothing of this package around."""

import ast
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compresskit.export.folders import fresh_process
from tests.tiny_transformers import tiny


def test_it_imports_nothing_of_this_package():
    tree = ast.parse(Path(fresh_process.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names == {"__future__", "json", "sys", "torch", "transformers", "typing", "safetensors.torch"}


@pytest.mark.integration
def test_the_class_that_loads_a_folder(tmp_path):
    config = tiny(tmp_path).module.config
    assert fresh_process.auto_class(config).__name__ == "AutoModelForCausalLM"
    config.architectures = ["LlamaModel"]
    assert fresh_process.auto_class(config).__name__ == "AutoModel"


def test_the_first_tensor_of_an_output():
    assert fresh_process.first_tensor((None, torch.ones(2))).shape == (2,)
    assert fresh_process.first_tensor(torch.ones(3)).shape == (3,)


@pytest.mark.integration
def test_a_folder_that_computes_and_does_not_generate(tmp_path, monkeypatch):
    module = tiny(tmp_path / "model").module
    inputs = {"input_ids": torch.arange(1, 7).unsqueeze(0)}
    save_file(inputs, tmp_path / "in.safetensors")
    places = {"folder": "model", "inputs": "in.safetensors", "outputs": "out.safetensors"}
    job = {name: str(tmp_path / place) for name, place in places.items()} | {"generate": 2}
    assert fresh_process.run(job)["generate_error"] == ""
    assert load_file(job["outputs"])["ids"].shape == (1, 8)

    def fail(*arguments, **named):
        raise KeyError(0)

    monkeypatch.setattr(type(module), "generate", fail)
    assert fresh_process.run(job)["generate_error"] == "KeyError: 0"
    found = load_file(job["outputs"])
    assert list(found) == ["output"]
    with torch.no_grad():
        torch.testing.assert_close(found["output"], module(**inputs).logits)
