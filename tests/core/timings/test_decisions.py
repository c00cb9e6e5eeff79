"""What was measured once is remembered: across calls, across a kill, and from a run's report."""

from __future__ import annotations

from compresskit.core.timings.decisions import Decisions, label
from compresskit.core.timings.machine_timings import MachineTimings


def test_a_value_is_measured_once_and_kept_in_the_file(tmp_path):
    asked = []

    def measure():
        asked.append(1)
        return (0.1 + 0.2, {"a": 1e-300})

    path = tmp_path / "work" / "timings.jsonl"
    first = Decisions(path)
    value = first("layer a", measure)
    assert value == first("layer a", measure) == [0.1 + 0.2, {"a": 1e-300}]  # bit for bit, as JSON
    assert Decisions(path)("layer a", measure) == value
    assert len(asked) == 1
    assert first.used == {"layer a": value}


def test_a_line_that_a_kill_cut_short_is_measured_again(tmp_path):
    path = tmp_path / "timings.jsonl"
    Decisions(path)("a", lambda: 1)
    with open(path, "a") as file:
        file.write('["b", 2')
    second = Decisions(path)
    assert (second("a", lambda: 7), second("b", lambda: 8), second("c", lambda: 9)) == (1, 8, 9)
    third = Decisions(path)
    assert [third(name, lambda: 0) for name in "abc"] == [1, 8, 9]


def test_given_values_are_taken_and_what_is_missing_is_measured():
    decisions = Decisions(given={"a": 1.5})
    assert (decisions("a", lambda: 2.5), decisions("b", lambda: 3.5)) == (1.5, 3.5)
    assert decisions.used == {"a": 1.5, "b": 3.5}


def test_a_time_of_a_busy_machine_is_taken_again_where_it_is_doubted(tmp_path):
    def asked(value, **more):
        return Decisions(machine=MachineTimings(tmp_path, {}))("pass", lambda: value, **more)

    assert asked(4.0) == 4.0 and asked(0.1) == 4.0
    assert asked(0.1, doubted=lambda seconds: seconds > 5) == 4.0
    assert asked(9.0, doubted=lambda seconds: seconds > 1) == 4.0
    assert asked(0.1, doubted=lambda seconds: seconds > 1) == 0.1 and asked(7.0) == 0.1
    replayed = Decisions(given={"pass": 3.0}, machine=MachineTimings(tmp_path, {}))
    assert replayed("pass", lambda: 0.0, doubted=lambda seconds: True) == 3.0


def test_labels_change_with_every_part():
    same_parts = ["a", 1]
    assert label("a", 1) == label(*same_parts)
    assert len({label("a", 1), label("a", 2), label("b", 1), label("a1"), label(["a", 1])}) == 5
