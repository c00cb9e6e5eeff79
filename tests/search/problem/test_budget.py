"""The absolute limits that a budget means."""

from __future__ import annotations

import pytest

from compresskit.core.costs import Amount
from compresskit.search.problem.budget import limits_of

WHOLE = {"macs": 1000.0, "params": 100.0, "bytes": 4_000_000.0, "latency": 10.0}


def test_shares_are_of_the_whole_and_amounts_are_what_they_say():
    targets = {"macs": Amount(0.5, True), "bytes": Amount(1e6, False), "latency": Amount(0.5, False)}
    assert limits_of(targets, WHOLE) == pytest.approx({"macs": 500.0, "bytes": 1e6, "latency": 0.5})
