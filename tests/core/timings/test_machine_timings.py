"""Times that this machine keeps: found by later runs, by several at once, and never in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from compresskit.core.timings.decisions import Decisions
from compresskit.core.timings.machine_timings import MachineTimings, cache_folder

PLACE = {"processor": "p", "threads": 1}


def test_a_later_run_decides_by_what_was_measured(tmp_path):
    first = Decisions(machine=MachineTimings(tmp_path, PLACE))
    assert first("layer a", lambda: [0.1 + 0.2, 1e-300]) == [0.1 + 0.2, 1e-300]
    later = Decisions(machine=MachineTimings(tmp_path, PLACE))
    assert later("layer a", lambda: pytest.fail("measured again")) == [0.1 + 0.2, 1e-300]
    assert later.used == first.used


def test_another_place_measures_for_itself(tmp_path):
    Decisions(machine=MachineTimings(tmp_path, PLACE))("a", lambda: 1)
    assert Decisions(machine=MachineTimings(tmp_path, {**PLACE, "threads": 2}))("a", lambda: 2) == 2


def test_fresh_measures_again_and_is_what_later_runs_take(tmp_path):
    Decisions(machine=MachineTimings(tmp_path, PLACE))("a", lambda: 1)
    assert Decisions(machine=MachineTimings(tmp_path, PLACE, fresh=True))("a", lambda: 2) == 2
    assert Decisions(machine=MachineTimings(tmp_path, PLACE))("a", lambda: 3) == 2


def test_a_run_that_is_replayed_comes_first(tmp_path):
    Decisions(machine=MachineTimings(tmp_path, PLACE))("a", lambda: 1)
    assert Decisions(given={"a": 7}, machine=MachineTimings(tmp_path, PLACE))("a", lambda: 3) == 7


def test_runs_at_once_keep_all_their_values(tmp_path):
    one, other = MachineTimings(tmp_path, PLACE), MachineTimings(tmp_path, PLACE)
    one.keep("a", 1)
    other.keep("b", 2)
    both = MachineTimings(tmp_path, PLACE)
    assert (both["a"], both["b"]) == (1, 2)


def test_damaged_lines_are_passed_over(tmp_path):
    kept = MachineTimings(tmp_path, PLACE)
    kept.keep("a", 1)
    with open(kept.path, "ab") as file:
        file.write(b'["b", \n[1, 2]\n"c"\n\xff\n["d", 4]\n')
    later = MachineTimings(tmp_path, PLACE)
    assert [name for name in "abcd" if name in later] == ["a", "d"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").touch()
    kept = MachineTimings(tmp_path / "file", PLACE)
    kept.keep("a", 1)
    assert kept["a"] == 1


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.delenv("COMPRESSKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "compresskit"
    monkeypatch.setenv("COMPRESSKIT_CACHE", "here")
    assert cache_folder() == Path("here")
    monkeypatch.setenv("COMPRESSKIT_CACHE", "")
    assert cache_folder() is None
