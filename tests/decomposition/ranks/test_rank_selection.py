"""Rank rules on candidates written by hand."""

import pytest

from compresskit.analysis.measure.work import Work
from compresskit.core.errors import GuardMissed
from compresskit.decomposition.methods.geometry import Call, Geometry
from compresskit.decomposition.options import DecomposeOptions
from compresskit.decomposition.ranks.candidates import Candidate, Layer
from compresskit.decomposition.ranks.rank_selection import (
    Totals,
    by_budget,
    by_energy,
    by_error,
    by_fixed_rank,
    by_ratio,
    negligible,
)
from compresskit.decomposition.surgery.find_layers import Site

TOTALS = Totals(Work({32: 250}, params=220, stored_bytes=880), bytes_per_param=4.0, latency_ms=10.0)


def _layer(name, candidates, latency_ms=None):
    site = Site(name, Geometry("linear", 10, 10), [Call(1)])  # 100 MACs, 100 parameters
    rows = [
        Candidate(kind, (rank,), error, macs, macs, error**2, latency)
        for kind, rank, error, macs, latency in candidates
    ]
    return Layer(site, rows, latency_ms)


FIRST = _layer("a", [("svd", 1, 0.9, 20, 1.0), ("svd", 2, 0.5, 40, 2.0), ("cp", 3, 0.2, 60, 3.9)], 4.0)
SECOND = _layer("b", [("svd", 1, 0.3, 20, 3.0), ("svd", 2, 0.2, 40, 3.5)], 4.0)


def _ranks(choices):
    return [None if one is None else one.ranks[0] for one in choices]


def test_energy_and_error_take_the_cheapest_that_is_good_enough():
    assert _ranks(by_energy([FIRST, SECOND], DecomposeOptions(energy=0.75), TOTALS)) == [2, 1]
    assert _ranks(by_energy([FIRST, SECOND], DecomposeOptions(energy=0.96), TOTALS)) == [3, 2]
    assert _ranks(by_error([FIRST, SECOND], DecomposeOptions(max_error=0.1), TOTALS)) == [None, None]


def test_ratio_takes_the_most_accurate_within_its_share():
    assert _ranks(by_ratio([FIRST, SECOND], DecomposeOptions(keep_ratio=0.5), TOTALS)) == [2, 2]
    assert _ranks(by_ratio([FIRST, SECOND], DecomposeOptions(keep_ratio=0.1), TOTALS)) == [None, None]
    assert _ranks(by_fixed_rank([FIRST], DecomposeOptions(rank=3), TOTALS)) == [3]


@pytest.mark.parametrize(
    ("target", "ranks"),
    [
        # 50 MACs lie outside both layers: keep 150 of 200, 90, and 70
        ({"target_macs": 0.8}, [None, 2]),
        ({"target_macs": 0.68}, [3, 2]),
        ({"target_macs": 0.56}, [3, 1]),
        ({"target_params": 0.6}, [3, 2]),
        ({"target_bytes": 490}, [3, 2]),
        ({"target_latency": 0.9}, [None, 1]),
    ],
)
def test_budget_takes_the_least_loss_within_the_whole_models_budget(target, ranks):
    choices = by_budget([FIRST, SECOND], DecomposeOptions(**target), TOTALS)
    assert _ranks(choices) == ranks


def test_a_budget_out_of_reach_names_the_least_that_can_be_reached():
    with pytest.raises(GuardMissed, match=r"MACs cannot come down to 75 by .* leave 90 of 250; .* above 0\.360"):
        by_budget([FIRST, SECOND], DecomposeOptions(target_macs=0.3), TOTALS)


def _sites(**widths):
    return [Site(name, Geometry("linear", width, 10), [Call(1)]) for name, width in widths.items()]


def test_layers_that_together_hold_too_little_of_what_must_go_are_left_alone():
    totals = Totals(Work({32: 10_000}, params=10_000, stored_bytes=40_000), bytes_per_param=4.0)
    sites = _sites(large=600, tiny=4, small=16, other=380)  # 6000, 40, 160, 3800 MACs
    assert negligible(sites, DecomposeOptions(target_macs=0.5), totals) == ["tiny", "small"]
    assert negligible(sites, DecomposeOptions(target_macs=0.7), totals) == ["tiny"]  # 150 of the 3000 that go
    assert negligible(sites, DecomposeOptions(target_macs=0.2), totals) == []  # what is left must nearly all go
    assert negligible(sites, DecomposeOptions(target_macs=0.5, layers=["tiny"]), totals) == []
    assert negligible(sites, DecomposeOptions(target_latency=0.5), totals) == []
    assert negligible(sites, DecomposeOptions(energy=0.9), totals) == []
