"""Every test can fail: it asserts something, and no assertion compares an expression with itself."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
TEST_FILES = [path for path in FILES if path.name.startswith("test_")]
COMPARISONS = {"equal", "allclose", "array_equal", "assert_close", "assert_allclose", "assert_equal", "array_equiv"}
EXPECTATIONS = {"raises", "warns", "fail"}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


def called_name(call: ast.Call) -> str:
    """The last part of what a call names: `assert_close` of `torch.testing.assert_close(a, b)`."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def compared_with_themselves(tree: ast.AST) -> list[str]:
    """Comparisons of an expression with itself: `a == a`, `torch.equal(f(x), f(x))`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
        elif isinstance(node, ast.Call) and called_name(node) in COMPARISONS:
            operands = node.args[:2]
        else:
            continue
        # trees of equal expressions are equal, and most comparisons differ at their root already
        pairs = zip(operands, operands[1:], strict=False)
        if any(type(left) is type(right) and ast.dump(left) == ast.dump(right) for left, right in pairs):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def expects(function: ast.AST, helpers: set[str]) -> bool:
    """Whether a function asserts by itself, or uses one of the helpers, which do."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Name) and node.id in helpers):
            return True
        name = called_name(node) if isinstance(node, ast.Call) else ""
        if name in EXPECTATIONS or name.startswith("assert_"):
            return True
    return False


def functions(tree: ast.Module) -> dict[str, ast.AST]:
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def asserting(tree: ast.Module) -> set[str]:
    """Names of a file's functions that assert, by themselves or through others of the file."""
    names = functions(tree)
    found: set[str] = set()
    while more := {name for name, function in names.items() if expects(function, found)} - found:
        found |= more
    return found


@pytest.mark.integration
def test_nothing_is_compared_with_itself():
    assert [f"{path}, {one}" for path in FILES for one in compared_with_themselves(parse(path))] == []


@pytest.mark.integration
def test_every_test_asserts():
    without = [
        f"{path}: {name}"
        for path in TEST_FILES
        for name in functions(parse(path)).keys() - asserting(parse(path))
        if name.startswith("test_")
    ]
    assert len(TEST_FILES) > 200 and without == []


@pytest.mark.parametrize("code", ["assert f(1) == f(1)", "assert 0 < a <= a", "t.assert_close(x[0], x[0], rtol=0)"])
def test_a_comparison_with_itself_is_seen(code):
    assert compared_with_themselves(ast.parse(code)) == [f"line 1: {code.removeprefix('assert ')}"]


@pytest.mark.parametrize("code", ["assert f(1) == f(2)", "assert 0 < a <= b", "f(x, x)"])
def test_other_comparisons_are_not(code):
    assert compared_with_themselves(ast.parse(code)) == []


def test_a_test_that_asserts_nothing_is_seen():
    tree = ast.parse(
        "def check(x):\n    assert x\n"
        "def test_helper():\n    check(1)\n"
        "def test_raises():\n    with pytest.raises(ValueError):\n        f()\n"
        "def test_nothing():\n    f()\n"
    )
    assert asserting(tree) == {"check", "test_helper", "test_raises"}
