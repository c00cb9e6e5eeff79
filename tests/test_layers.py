"""Arrows between the layers point down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import compresskit

ROOT = Path(compresskit.__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
#: the rooms from the bottom up; a room imports itself and rooms on lower floors
FLOORS = [
    {"core"},
    {"model"},
    {"artifact"},
    {"data"},
    {"evaluation"},
    {"training"},
    {"analysis"},
    {"pruning", "quantization", "decomposition", "distillation"},
    {"export", "search"},
    {"pipeline"},
    {"api"},
    {"cli"},
]
MAY_IMPORT = {room: {room}.union(*FLOORS[:floor]) for floor, rooms in enumerate(FLOORS) for room in rooms}
#: imports that still point up, and are to go: file -> rooms
STILL_UPWARD = {
    "artifact/source.py": {"data"},
    "core/types.py": {"data", "evaluation"},
    "quantization/mixed_precision/layer_timing.py": {"export"},
}


def imported_packages(path: Path) -> set[str]:
    """Rooms of compresskit that a file imports, anywhere in it."""
    package = ["compresskit", *path.parent.parts]
    found = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, node.module] if node.module else base)
            names = [module] if module.count(".") else [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("compresskit.")}
    return found & set(MAY_IMPORT)


@pytest.mark.parametrize("path", [path for path in FILES if len(path.parts) > 1], ids=str)
def test_imports_point_down(path):
    assert imported_packages(path) - MAY_IMPORT[path.parts[0]] == STILL_UPWARD.get(path.as_posix(), set())


def test_an_upward_import_is_seen(tmp_path, monkeypatch):
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "bad.py").write_text("def f():\n    from ..pipeline import runner\n    from .. import cli\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert imported_packages(Path("core/bad.py")) == {"pipeline", "cli"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_is_unpickled(path):
    text = (ROOT / path).read_text()
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    for call in calls:
        name = ast.unparse(call.func)
        assert name not in {"pickle.load", "pickle.loads", "yaml.load", "eval", "exec"}
        if name == "torch.load":
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert keywords.get("weights_only") == "True"
