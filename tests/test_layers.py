"""Arrows between the layers point down only."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import compresskit

ROOT = Path(compresskit.__file__).parent


@cache
def files_below(root: Path) -> frozenset[Path]:
    """Python files, relative to their root."""
    return frozenset(path.relative_to(root) for path in root.rglob("*.py"))


FILES = sorted(files_below(ROOT))
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


@cache
def tree_of(file: Path) -> ast.Module:
    """The syntax tree of a file; nobody changes it."""
    return ast.parse(file.read_text())


def imported_files(path: Path) -> set[Path]:
    """Files of compresskit that a file imports, anywhere in it, also for type checkers alone."""
    return _imported_files(path, tree_of(ROOT / path))


def needed_files(path: Path) -> set[Path]:
    """The same, without the types of the rows that a registry's file names by strings."""
    tree = tree_of(ROOT / path)
    if path.name == "tables.py":
        body = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))]
        tree = ast.Module(body, [])
    return _imported_files(path, tree)


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements of a tree, nested ones too; expressions, which are most of it, hold no imports."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        for node in getattr(tree, name, ()):
            yield node
            yield from statements(node)


def _imported_files(path: Path, tree: ast.Module) -> set[Path]:
    package = list(path.parent.parts)
    found = set()
    for node in statements(tree):
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
            if file in files_below(ROOT):
                return file
    return None


def imported_rooms(path: Path) -> set[str]:
    """Rooms of compresskit that a file imports."""
    return {file.parts[0] for file in imported_files(path) if len(file.parts) > 1}


@pytest.mark.integration
def test_imports_point_down():
    upward = {str(path): imported_rooms(path) - MAY_IMPORT[path.parts[0]] for path in FILES if len(path.parts) > 1}
    assert len(upward) > 300
    assert {path: rooms for path, rooms in upward.items() if rooms} == {}


def test_an_upward_import_is_seen(tmp_path, monkeypatch):
    for room in ("core", "pipeline", "cli"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").touch()
    (tmp_path / "pipeline" / "runner.py").touch()
    (tmp_path / "core" / "bad.py").write_text("def f():\n    from ..pipeline import runner\n    from .. import cli\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert imported_rooms(Path("core/bad.py")) == {"pipeline", "cli"}


@pytest.mark.integration
def test_no_files_import_each_other_in_a_circle():
    order = graphlib.TopologicalSorter({path: needed_files(path) for path in FILES})
    assert len(list(order.static_order())) == len(FILES)  # a circle raises CycleError, which names it


def unsafe_calls(tree: ast.Module) -> list[str]:
    """Calls that run what a file or a text says."""
    found = []
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        if getattr(call.func, "attr", getattr(call.func, "id", "")) not in {"load", "loads", "eval", "exec"}:
            continue
        name = ast.unparse(call.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name in {"pickle.load", "pickle.loads", "yaml.load", "eval", "exec"}:
            found.append(name)
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append(name)
    return found


@pytest.mark.integration
def test_nothing_is_unpickled():
    named = re.compile("pickle|yaml|torch|eval|exec")  # what holds none of these words calls none of them
    texts = {path: (ROOT / path).read_text() for path in FILES}
    unsafe = {str(path): unsafe_calls(tree_of(ROOT / path)) for path, text in texts.items() if named.search(text)}
    assert len(unsafe) > 200
    assert {path: calls for path, calls in unsafe.items() if calls} == {}
    assert unsafe_calls(ast.parse("torch.load(x, weights_only=True), torch.load(x), eval(x)")) == ["torch.load", "eval"]
