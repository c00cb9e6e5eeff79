"""Tests mirror sources: compresskit/ROOM/x.py is tested by tests/ROOM/test_x.py.

Sources without such a file stand in sources_without_tests.txt, one a line. The list only gets shorter: a new source
brings its test file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
SOURCES = TESTS.parent / "compresskit"
LIST = TESTS / "sources_without_tests.txt"
#: files of every room: rows of all tables are tested in test_tables.py, checks of users' rows in test_extensions.py
TESTED_TOGETHER = {"tables.py", "row_checks.py"}
OWN_ROOMS = {"fuzz"}  # of tests that are of no one source


def without_test(sources: Path, tests: Path) -> list[str]:
    """Source files, relative to their root, that have no test file of their name in the same room."""
    files = [path.relative_to(sources) for path in sorted(sources.rglob("*.py"))]
    files = [path for path in files if not path.name.startswith("__")]
    files = [path for path in files if path.name not in TESTED_TOGETHER]
    return [path.as_posix() for path in files if not (tests / path.with_name(f"test_{path.name}")).is_file()]


def test_new_sources_have_a_test_file():
    missing = set(without_test(SOURCES, TESTS)) - set(LIST.read_text().split())
    assert not missing, f"write tests/ROOM/test_NAME.py for {sorted(missing)}"


def test_the_list_names_nothing_else():
    stale = set(LIST.read_text().split()) - set(without_test(SOURCES, TESTS))
    assert not stale, f"remove from {LIST.name}, they have a test file or are gone: {sorted(stale)}"


def test_every_room_of_tests_is_a_room_of_sources():
    rooms = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert {room.as_posix() for room in rooms if not (SOURCES / room).is_dir()} == OWN_ROOMS


@pytest.mark.parametrize(("test", "expected"), [("room/test_a.py", []), ("test_a.py", ["room/a.py"])])
def test_a_source_without_a_test_file_is_seen(tmp_path, test, expected):
    for name in ("s/__init__.py", "s/room/a.py", f"t/{test}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert without_test(tmp_path / "s", tmp_path / "t") == expected
