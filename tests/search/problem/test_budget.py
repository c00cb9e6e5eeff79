"""How budgets are written, and the limits that they mean."""

from __future__ import annotations

import pytest

from compresskit.search.problem.budget import check_budget, limits_of, read_budget

WHOLE = {"macs": 1000.0, "params": 100.0, "bytes": 4_000_000.0, "latency_ms": 10.0}


@pytest.mark.parametrize(
    ("given", "budget", "limits"),
    [
        ({"macs": 0.5}, {"macs": 0.5}, {"macs": 500.0}),  # half the MACs
        ({"macs": "50%"}, {"macs": 0.5}, {"macs": 500.0}),
        ({"latency": "2 ms"}, {"latency_ms": 2.0}, {"latency_ms": 2.0}),
        ({"latency_ms": 2}, {"latency_ms": 2}, {"latency_ms": 2}),
        ({"latency_ms": 0.5}, {"latency_ms": 0.5}, {"latency_ms": 0.5}),  # a share would be 5 ms
        ({"latency": 0.6}, {"latency": 0.6}, {"latency_ms": 6.0}),
        ({"bytes": "1 MB"}, {"bytes": 1e6}, {"bytes": 1e6}),
        ({"bytes": "1e3kB"}, {"bytes": 1e6}, {"bytes": 1e6}),
        ({"bytes": 0.25}, {"bytes": 0.25}, {"bytes": 1e6}),
        ({"drop": "1%"}, {"drop": 0.01}, {}),  # lose at most one point
        ({"macs": "0.5,bytes=0.25"}, {"macs": 0.5, "bytes": 0.25}, {"macs": 500.0, "bytes": 1e6}),
    ],
)
def test_amounts(given, budget, limits):
    read = read_budget(given)
    assert read == pytest.approx(budget)
    check_budget(read)
    assert limits_of(read, WHOLE) == pytest.approx(limits)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bytes": "1 XB"}, "bytes=1 XB: unit 'XB' does not fit; %, b, kb, mb, gb would"),
        ({"macs": "2ms"}, "macs=2ms: unit 'ms' does not fit; % would"),
        ({"macs": "half"}, "macs must be a number, got 'half'"),
    ],
)
def test_amounts_that_cannot_be_read(given, message):
    with pytest.raises(ValueError, match=message):
        read_budget(given)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "nothing says how small"),
        ({"mac": 0.5}, "unknown cost 'mac'; did you mean 'macs'"),
        ({"macs": 1.5}, "macs is the share that is kept"),
        ({"latency": 2.0}, "latency is the share that is kept, so below 1, got 2; milliseconds are latency_ms"),
        ({"macs": -1.0}, "must be above 0"),
        ({"latency": 0.5, "latency_ms": 2.0}, "exclude each other; give one of them"),
        ({"latency": 0.5, "drop": 0.01}, "drop and latency exclude each other"),
    ],
)
def test_refusals(budget, message):
    with pytest.raises(ValueError, match=message):
        check_budget(budget)
