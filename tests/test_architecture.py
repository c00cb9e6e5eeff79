"""ARCHITECTURE.md and CONTRIBUTING.md name only files that are there, and each room says in one line what it is for."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import compresskit

ROOT = Path(compresskit.__file__).parent
PAGE = ROOT.parent / "ARCHITECTURE.md"
ROOMS = sorted(path.parent for path in ROOT.rglob("*/__init__.py"))


def test_every_room_says_what_it_is_for():
    texts = {room.relative_to(ROOT): ast.get_docstring(ast.parse((room / "__init__.py").read_text())) for room in ROOMS}
    assert len(texts) > 50
    assert [str(room) for room, text in texts.items() if not text or len(text.splitlines()[0]) <= 20] == []


def test_the_page_names_every_room_at_the_top():
    page = PAGE.read_text()
    assert [room.name for room in ROOMS if room.parent == ROOT and not re.search(rf"\b{room.name}\b", page)] == []


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_a_page_names_only_files_and_folders_that_are_there(page):
    named = {place for place in re.findall(r"`([\w./]+)`", (ROOT.parent / page).read_text()) if "/" in place}
    assert len(named) > 15
    missing = [place for place in sorted(named) if not ((ROOT / place).exists() or (ROOT.parent / place).exists())]
    assert missing == []
