"""The package's own costs: what each record says."""

from __future__ import annotations

from compresskit.core.costs import COSTS, cost_of, names


def test_rows_say_how_they_are_known():
    assert names("timed") == ("latency",) and names("predicted") == ("memory",)
    for cost in map(cost_of, names()):
        assert bool(cost.of_work) == (cost.known != "timed")
        assert cost.known != "predicted" or cost.measured_by
        assert cost.says.count("{}") == 1 and cost.techniques


def test_every_row_is_a_record_with_a_unit_that_examples_take():
    assert names() == tuple(COSTS) == ("macs", "params", "bytes", "latency", "memory", "energy")
    assert [cost_of(name).example() for name in names()] == ["2M", "2M", "2MB", "2ms", "2MB", "2mJ"]
