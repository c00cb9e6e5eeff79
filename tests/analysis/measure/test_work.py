"""The counts that costs are made of, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compresskit.analysis.measure.work import Work, exact_costs, figure_of, figures_of, work_of
from compresskit.core.costs import cost_of, names
from compresskit.core.types import Loaded


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(100, 8), nn.Linear(8, 4)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, ids):
        return self.head(self.table(ids))


def test_a_table_is_stored_but_not_read_and_scratch_is_read_but_not_stored():
    work = work_of(Loaded(Words().eval(), {}, torch.zeros(1, 5, dtype=torch.int64)))
    assert work.macs == {32: 5 * 8 * 4} and work.params == 800 + 36
    assert work.stored_bytes == 4 * 836 and work.read_bytes == 4 * (36 + 3)
    assert work.activation_bytes == 4 * 5 * 4


def test_a_tied_table_is_read_once():
    model = Words()
    model.head = nn.Linear(8, 100, bias=False)
    model.head.weight = model.table.weight
    work = work_of(Loaded(model.eval(), {}, torch.zeros(1, 5, dtype=torch.int64)))
    assert work.stored_bytes == 4 * 800 and work.read_bytes == 4 * (800 + 3)


def test_half_precision_multiplies_in_16_bits():
    loaded = Loaded(nn.Linear(3, 2).bfloat16().eval(), {}, torch.zeros(4, 3, dtype=torch.bfloat16))
    assert work_of(loaded).macs == {16: 24} and work_of(loaded).stored_bytes == 16


def test_integer_layers_say_in_how_many_bits_they_multiply():
    layer = nn.Linear(3, 2).eval()
    layer.mac_bits = 8
    assert work_of(Loaded(nn.Sequential(layer, nn.Linear(2, 2)).eval(), {}, torch.zeros(1, 3))).macs == {8: 6, 32: 4}


def test_figures_have_the_keys_of_reports_and_whole_numbers_where_they_count():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    loaded = Loaded(net.eval(), {}, torch.zeros(1, 1, 8, 8))
    found = figures_of(loaded, size_bytes=77)
    assert set(found) == {cost.figure for cost in map(cost_of, names()) if cost.known != "timed"}
    assert found["macs"] == 4 * 36 * 9 + 2 * 16 * 36 and isinstance(found["macs"], int)
    assert found["size_bytes"] == 77 and found["parameters"] == figure_of("params", loaded) == 114
    assert exact_costs(Work({32: 2.0}, 3), ("macs", "params")) == {"macs": 2.0, "params": 3.0}
    assert found["energy_uj"] == pytest.approx(cost_of("energy").formula()(work_of(loaded)))
