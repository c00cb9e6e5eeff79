"""The notebooks of examples/ and the Python of docs/python.md run as they stand."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "examples").glob("*.ipynb"))
#: blocks of Python of a page that run, in one process; those of docs/extending.md are files (tests/test_extending.py)
RUN_BLOCKS = re.compile(r"(?<!-->\n)^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [
    page for page in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md")))
    if page.name != "extending.md" and RUN_BLOCKS.search(page.read_text())
]  # fmt: skip


#: timing takes longest for models as small as these, and how often it is done is no matter of the page
FEW_ROUNDS = """\
from compresskit.export.options import ExportOptions
from compresskit.pipeline.recipe import RecipeOptions
for options, name in ((RecipeOptions, "latency_rounds"), (ExportOptions, "rounds")):
    options.model_fields[name].default = 1
    options.model_rebuild(force=True)
"""


def executed(code: str, folder: Path) -> subprocess.CompletedProcess:
    (folder / "script.py").write_text(FEW_ROUNDS + code)
    return subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


def cells_of(path: Path) -> list[str]:
    notebook = json.loads(path.read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs_and_ends_smaller(path, tmp_path):
    code = "\n".join(cells_of(path))
    check = (
        "\nassert same and after['size_bytes'] < 0.2 * before.size_bytes and after['macs'] <= 0.5 * before.macs\n"
        "assert after['metric']['value'] > before.metric['value'] - 0.03 > 0.85, (before, after)\n"
        "assert pruned._repr_html_().startswith('<pre')\n"
    )
    done = executed(code + check, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == ""  # nothing but what a cell's last line shows


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(path):
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4 and len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_python_of_a_page_runs(path, tmp_path):
    blocks = RUN_BLOCKS.findall(path.read_text())
    assert len(blocks) >= (6 if path.name == "python.md" else 1)
    have = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript"))
    done = executed("\n".join(block for block in blocks if have or "# needs: onnx" not in block), tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
