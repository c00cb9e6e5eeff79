"""What `search` takes, and what it makes of what is left open."""

from __future__ import annotations

import pytest

from compresskit.search.options import SearchOptions


@pytest.mark.parametrize(
    ("given", "places", "levels"),
    [
        ({}, 3, 32),
        ({}, 6, 16),
        ({}, 12, 8),
        ({}, 60, 8),
        ({}, 0, 32),
        ({"levels": 5}, 3, 5),
        ({"technique": "mixed"}, 3, 8),
    ],
)
def test_few_places_take_finer_steps(given, places, levels):
    assert SearchOptions(target_macs=0.5, **given).levels_for(places) == levels


def test_what_has_to_be_timed_takes_few_steps():
    assert SearchOptions(target_latency=0.5).levels_for(3) == 8
