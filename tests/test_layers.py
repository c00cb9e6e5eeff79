"""Arrows between the layers point down only."""

from __future__ import annotations

import ast
import graphlib
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


def imported_files(path: Path) -> set[Path]:
    """Files of compresskit that a file imports, anywhere in it, also for type checkers alone."""
    return _imported_files(path, ast.parse((ROOT / path).read_text()))


def needed_files(path: Path) -> set[Path]:
    """The same, without the types of the rows that a registry's file names by strings."""
    tree = ast.parse((ROOT / path).read_text())
    if path.name == "tables.py":
        tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node))]
    return _imported_files(path, tree)


def _imported_files(path: Path, tree: ast.Module) -> set[Path]:
    package = list(path.parent.parts)
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name.split(".")[1:] for alias in node.names if alias.name.startswith("compresskit.")]
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            if node.level:
                base = [*package[: len(package) - node.level + 1], *module]
            elif module[0] == "compresskit":
                base = module[1:]
            else:
                continue
            targets = [[*base, alias.name] for alias in node.names]
        else:
            continue
        found |= {file for target in targets if (file := _file_of(target)) is not None}
    return found - {path}


def _file_of(target: list[str]) -> Path | None:
    """The file that a dotted target names: itself, or the one that its last name is defined in."""
    for parts in (target, target[:-1]):
        for file in (Path(*parts).with_suffix(".py"), Path(*parts, "__init__.py")) if parts else ():
            if (ROOT / file).is_file():
                return file
    return None


def imported_rooms(path: Path) -> set[str]:
    """Rooms of compresskit that a file imports."""
    return {file.parts[0] for file in imported_files(path) if len(file.parts) > 1}


@pytest.mark.parametrize("path", [path for path in FILES if len(path.parts) > 1], ids=str)
def test_imports_point_down(path):
    assert imported_rooms(path) <= MAY_IMPORT[path.parts[0]]


def test_an_upward_import_is_seen(tmp_path, monkeypatch):
    for room in ("core", "pipeline", "cli"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
    (tmp_path / "pipeline" / "runner.py").touch()
    (tmp_path / "core" / "bad.py").write_text("def f():\n    from ..pipeline import runner\n    from .. import cli\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert imported_rooms(Path("core/bad.py")) == {"pipeline", "cli"}


def test_no_files_import_each_other_in_a_circle():
    order = graphlib.TopologicalSorter({path: needed_files(path) for path in FILES})
    assert len(list(order.static_order())) == len(FILES)  # a circle raises CycleError, which names it


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
