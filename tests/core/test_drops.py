"""How much a metric may lose."""

from __future__ import annotations

import pytest

from compresskit.core.drops import Drop, parse_drop, read_drop


def test_a_number_is_in_the_metrics_unit_and_percent_depend_on_its_scale():
    assert parse_drop("1%") == Drop(1.0, True) and parse_drop("0.02") == Drop(0.02, False) == parse_drop(0.02)
    assert parse_drop(0.3).of(20.0, "own") == parse_drop(0.3).of(0.9, "share") == 0.3
    assert parse_drop("1%").of(0.9, "share") == pytest.approx(0.01)
    assert parse_drop("5%").of(-20.0, "own") == pytest.approx(1.0)


def test_options_keep_percent_as_text():
    def read(given):
        return read_drop("target_drop", given, zero="refused")

    assert read("1%") == "1%" and read("0.02") == 0.02 and read(0.5) == 0.5 and read(None) is None
    with pytest.raises(ValueError, match="target_drop must be a share, got '2ms'"):
        read("2ms")
    with pytest.raises(ValueError, match="target_drop must be above 0, got 0%"):
        read("0%")
    with pytest.raises(ValueError, match="max_drop must be 0 or more, got -1"):
        read_drop("max_drop", -1, zero="allowed")
    assert read_drop("max_drop", 0, zero="allowed") == 0
