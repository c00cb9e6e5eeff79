"""Phases: their times, without those inside of them, and what is left of them."""

from __future__ import annotations

from compresskit.core.reporting import phases
from compresskit.core.reporting.phases import Phase, advanced, counted, duration, phase, spent, timeline, under_way


def test_a_phase_is_counted_without_those_inside_of_it(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(phases.time, "monotonic", lambda: clock[0])
    with timeline() as times:
        with phase("choose"):
            clock[0] = 2.0
            with phase("calibrate"):
                clock[0] = 5.0
            clock[0] = 6.0
        clock[0] = 7.0  # no phase
        with phase("calibrate"):
            clock[0] = 8.0
    assert times.taken() == {"choose": 3.0, "calibrate": 4.0}


def test_nothing_is_counted_without_a_timeline():
    with phase("cut") as advance:
        advance("x")
        advanced()
    assert under_way() is None


def test_what_is_left_follows_from_the_pace_of_this_run(monkeypatch):
    monkeypatch.setattr(phases.time, "monotonic", lambda: 10.0)
    assert Phase("train", 100, 60, began=0.0, first=50).seconds_left() == 40.0
    assert Phase("train", 100, 50, began=0.0, first=50).seconds_left() is None
    assert Phase("cut", began=0.0).seconds_left() is None


def test_a_listener_hears_of_each_change():
    heard = []

    class Ear:
        def changed(self, phases):
            heard.append([(one.name, one.done) for one in phases])

    with timeline(Ear()), phase("recover", total=2) as advance:
        assert under_way() == "recover"
        advance("loss 1")
        advanced("loss 2")
    assert heard == [[("recover", 0)], [("recover", 1)], [("recover", 2)], []]


def test_units_are_counted_in_rounds_each_with_its_own_pace(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(phases.time, "monotonic", lambda: clock[0])
    heard = []

    class Ear:
        def changed(self, phases):
            heard.extend((one.done, one.total, one.text, one.seconds_left()) for one in phases)

    counted(1, 2, "nobody counts")
    with timeline(Ear()), phase("refit"):
        for layers in (1, 2, 1, 2):
            clock[0] += 3.0
            counted(layers, 4, f"layer {layers}")
    assert heard == [
        (0, 0, "", None), (1, 4, "layer 1", None), (2, 4, "layer 2", 6.0), (1, 4, "layer 1", None),
        (2, 4, "layer 2", 6.0),
    ]  # fmt: skip


def test_a_function_can_be_a_phase():
    @phase("cut")
    def cut():
        return under_way()

    with timeline():
        assert cut() == "cut" and under_way() is None


def test_times_are_said_the_longest_first():
    assert spent({"save": 0.2, "check": 3.0, "recover": 200.0}) == "took 3 min: recover 3 min, check 3 s"
    assert [duration(seconds) for seconds in (0.2, 8, 100, 7800)] == ["1 s", "8 s", "2 min", "2 h 10 min"]
