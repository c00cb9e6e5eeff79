"""When blocks are reconstructed: as asked, or by `auto` with data, time and a reason."""

import torch
from torch import nn

from compresskit.analysis.reconstruction import plan
from compresskit.analysis.reconstruction.options import ReconstructionOptions
from compresskit.core.types import Loaded
from compresskit.training.context import Context


class Data:
    def __init__(self, examples):
        self.examples = examples

    def calibration(self, samples, *, batch_size, seed):
        return list(torch.randn(min(samples, self.examples), 6).split(batch_size))


def planned(examples=2048, worthwhile=True, **options):
    loaded = Loaded(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), {}, torch.randn(1, 6))
    context = Context(loaded, data=Data(examples) if examples else None)
    return plan.plan_reconstruction(loaded, ReconstructionOptions(**options), context, worthwhile=worthwhile)


def test_auto_wants_data_enough_of_it_and_a_reason():
    found = planned(iterations=70)
    assert found.settings.iterations == 70 and sum(map(len, found.batches)) == 2048
    assert planned(examples=0) is None
    assert planned(examples=1900) is None
    assert planned(worthwhile=False) is None
    assert planned(reconstruct="none") is None


def test_auto_takes_the_steps_that_fit_into_its_time(monkeypatch):
    monkeypatch.setattr(plan, "_MOST_SECONDS", 0.0)
    assert planned() is None
    # what is asked for is done, however long it takes
    asked = planned(examples=100, reconstruct="block", worthwhile=False)
    assert asked.settings.iterations == ReconstructionOptions().iterations
