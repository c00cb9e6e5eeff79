"""The script that loads folders with nothing of this package around."""

import ast
from pathlib import Path

import pytest
import torch

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
