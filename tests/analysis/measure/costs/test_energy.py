"""The model of energy, by hand, and what its budgets do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.costs.energy import mac_picojoules, microjoules
from compresskit.analysis.measure.work import Work, figure_of
from compresskit.core.errors import GuardMissed
from compresskit.core.types import Loaded
from compresskit.decomposition.decompose import decompose
from compresskit.decomposition.options import DecomposeOptions
from compresskit.pipeline.recipe import validate
from compresskit.pipeline.runner import Run, run
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


def test_fewer_bits_take_less_energy():
    assert [mac_picojoules(bits) for bits in (4, 8, 16, 32, 64)] == pytest.approx([0.3, 0.3, 1.5, 4.6, 4.6])
    # 1e6 MACs at 4.6 pJ, 8000 bytes from DRAM at 162.5 pJ, 1000 bytes twice at 12.5 pJ
    assert microjoules(Work({32: 1e6}, 2000, 8000, 8000, 1000)) == pytest.approx(4.6 + 1.3 + 0.025)
    assert microjoules(Work({8: 1e6, 32: 1e6})) == pytest.approx(4.9)


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()]
    return Loaded(nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 10)).eval(), {}, torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize("share", [0.6, 0.3])
def test_a_cut_keeps_the_modelled_energy_that_is_asked_for(share):
    loaded = net()
    whole = figure_of("energy", loaded)
    facts = prune(loaded, PruneOptions(target_energy=share, round_to=1), Context(loaded.clone())).facts
    assert facts["energy_kept"] == pytest.approx(figure_of("energy", loaded) / whole, rel=1e-3)
    assert 0.93 * share < facts["energy_kept"] <= share


def test_ranks_keep_the_modelled_energy_that_is_asked_for():
    loaded = net()
    whole = figure_of("energy", loaded)
    options = DecomposeOptions(target_energy=f"{0.6 * whole} uJ", kind="channel-svd", slower_layers="allow")
    facts = decompose(loaded, options, Context(loaded.clone())).facts
    assert facts["energy_share"] == pytest.approx(figure_of("energy", loaded) / whole)
    assert 0.5 < facts["energy_share"] <= 0.6


def test_a_search_and_a_guard_bound_energy_and_the_report_calls_it_a_model(tmp_path, digits_model):
    search = {"target_energy": 0.5, "policy": "uniform", "samples": 64, "probe_samples": 64, "score_samples": 64}

    def recipe(**guard):
        steps = [{"search": {**search, **guard}}]
        return validate({"model": str(digits_model), "data": "digits", "latency_rounds": 0, "steps": steps})

    report = run(Run(recipe(max_energy="60%"), tmp_path / "out"))
    kept = report["steps"][0]["measurement"]["energy_uj"] / report["original"]["energy_uj"]
    assert kept <= 0.5 and report["steps"][0]["facts"]["energy_kept"] == pytest.approx(kept, rel=0.02)
    assert report["labels"]["energy_uj"].startswith("modelled")
    assert "energy (model)" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(GuardMissed, match=r"one forward takes .* uJ by the model of energy, max_energy is 0.1"):
        run(Run(recipe(max_energy=0.1), tmp_path / "missed"))
