"""Costs that are counts, and what prune's exact functions say of a cut."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compresskit.analysis.measure.costs.counted import macs, params, stored_bytes, tensor_bytes
from compresskit.analysis.measure.work import Work, exact_costs, work_of
from compresskit.core.types import Loaded
from compresskit.pruning.options import PruneOptions
from compresskit.pruning.structured.prune import prune
from compresskit.training.context import Context


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten()]
    return Loaded(nn.Sequential(*layers, nn.Linear(256, 4)).eval(), {}, torch.randn(1, 3, 8, 8))


def test_counts_of_work():
    work = Work({8: 3, 32: 4}, params=5, stored_bytes=6)
    assert (macs(work), params(work), tensor_bytes(work)) == (7, 5, 6)


def test_stored_bytes_are_those_of_the_file(tmp_path):
    loaded = net()
    save_file(loaded.module.state_dict(), tmp_path / "weights")
    assert stored_bytes(loaded) == (tmp_path / "weights").stat().st_size


def test_what_a_cut_is_said_to_keep_is_what_it_keeps():
    loaded = net()
    before = exact_costs(work_of(loaded))
    facts = prune(loaded, PruneOptions(target_bytes=0.5, round_to=1), Context(loaded.clone())).facts
    after = exact_costs(work_of(loaded))
    for name, whole in before.items():
        assert facts[f"{name}_kept"] == pytest.approx(after[name] / whole, rel=2e-3), name  # counters are never touched
    assert facts["bytes_kept"] <= 0.5


@pytest.mark.parametrize("target", [{"target_params": 0.5}, {"target_energy": 0.5}, {"target_bytes": 3000}])
def test_a_schedule_ends_at_its_budget(target):
    loaded = net()
    whole = exact_costs(work_of(loaded))
    options = PruneOptions(**target, round_to=1, schedule="cubic", steps=3)
    facts = prune(loaded, options, Context(loaded.clone())).facts
    ((name, amount),) = options.targets().items()
    assert 0.8 * amount.share_of(whole[name]) < facts[f"{name}_kept"] <= amount.share_of(whole[name]) * 1.001
