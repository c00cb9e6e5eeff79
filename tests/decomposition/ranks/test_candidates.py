import math

import pytest
import torch
from torch import nn

from compresskit.core.types import Loaded
from compresskit.decomposition.methods.kinds import chain_of
from compresskit.decomposition.options import DecomposeOptions
from compresskit.decomposition.ranks import candidates as module
from compresskit.decomposition.ranks.candidates import candidates_of
from compresskit.decomposition.ranks.rank_selection import by_error, by_ratio
from compresskit.decomposition.ranks.timing import cheap_ranks
from compresskit.decomposition.surgery.find_layers import survey
from compresskit.decomposition.surgery.surgery import weight_evidence
from compresskit.decomposition.tables import KINDS


@pytest.fixture(scope="module")
def layer():
    torch.manual_seed(0)
    root = nn.Sequential(nn.Conv2d(24, 32, 3, padding=1)).eval()
    (site,), _ = survey(Loaded(root, {}, torch.zeros(1, 24, 8, 8)))
    return root, site


def _candidates(layer, **options):
    root, site = layer
    return candidates_of(site, weight_evidence(root, site), DecomposeOptions(**options))


def test_errors_between_fitted_ranks_are_near_the_fitted_ones(layer, monkeypatch):
    fitted = _candidates(layer, kind="cp")
    monkeypatch.setattr(module, "_LARGE", 0)
    between = _candidates(layer, kind="cp")
    assert [(one.ranks, one.macs) for one in between] == [(one.ranks, one.macs) for one in fitted]
    for one, other in zip(between, fitted, strict=True):
        assert one.error == pytest.approx(other.error, rel=0.03 if one.ranks[0] < 60 else 0.12)
    assert [one.error for one in between] == sorted((one.error for one in between), reverse=True)


def test_errors_beyond_the_fitted_ranks_go_on_as_they_fell():
    parabola = [(cost, math.exp(-0.1 - 0.01 * cost - 0.0005 * cost**2)) for cost in (10, 20, 40)]
    assert module._foretold(parabola, 60) == pytest.approx(math.exp(-0.1 - 0.6 - 1.8))
    assert module._foretold(parabola, 15) == pytest.approx((parabola[0][1] * parabola[1][1]) ** 0.5)
    flat = [(10, 0.5), (20, 0.4), (40, 0.39)]  # a parabola through these would rise again
    assert module._foretold(flat, 80) == pytest.approx(0.39)
    steep = [(10, 0.5), (11, 0.5), (40, 0.1)]
    slope = math.log(0.1 / 0.5) / 29
    assert module._foretold(steep, 80) == pytest.approx(0.1 * math.exp(2 * slope * 40))


@pytest.mark.parametrize("rule", [by_ratio, by_error])
@pytest.mark.integration
def test_few_fitted_ranks_lead_to_the_choice_that_all_of_them_do(layer, monkeypatch, rule):
    options = DecomposeOptions(keep_ratio=0.5) if rule is by_ratio else DecomposeOptions(max_error=0.6)
    chosen = []
    for large in (10**9, 0):
        monkeypatch.setattr(module, "_LARGE", large)
        (one,) = rule([module.Layer(layer[1], _candidates(layer))], options, None)
        chosen.append((one.kind, one.ranks))
    assert chosen[0] == chosen[1]


def test_cheap_ranks_save_a_quarter_of_the_cost(layer):
    site = layer[1]
    ranks = [(rank,) for rank in range(1, 25)]
    cheap = cheap_ranks(site, "input-svd", ranks)
    assert cheap == ranks[: len(cheap)] and 0 < len(cheap) < len(ranks)
    shares = [site.macs_of(chain_of(KINDS.load("input-svd"), site.geometry, one)) / site.macs for one in cheap]
    assert max(shares) <= 0.75
