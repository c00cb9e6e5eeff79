"""When blocks are reconstructed: as asked, or by `auto` with data, time and a reason."""

import torch
from torch import nn

from compresskit.analysis.reconstruction import plan
from compresskit.analysis.reconstruction.options import JointReconstructionOptions, ReconstructionOptions
from compresskit.core.timings.decisions import Decisions
from compresskit.core.timings.machine_timings import MachineTimings
from compresskit.core.types import Loaded
from compresskit.training.context import Context


class Data:
    def __init__(self, examples):
        self.examples, self.asked = examples, []

    def size(self, split, at_most):
        return min(self.examples, at_most)

    def calibration(self, samples, *, batch_size, seed):
        self.asked.append(samples)
        return list(torch.randn(min(samples, self.examples), 6).split(batch_size))


def planned(examples=2048, worthwhile=True, options=ReconstructionOptions, notes=(), **given):
    loaded = Loaded(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), {}, torch.randn(1, 6))
    context = Context(loaded, data=Data(examples) if examples else None)
    notes = notes if isinstance(notes, list) else []
    return plan.plan_reconstruction(loaded, options(**given), context, notes, worthwhile=worthwhile)


def test_auto_wants_data_enough_of_it_and_a_reason():
    found = planned(iterations=70)
    assert found.settings.iterations == 70 and sum(map(len, found.batches)) == 2048
    assert planned(examples=0) is None
    assert planned(examples=1900) is None
    assert planned(worthwhile=False) is None
    assert planned(reconstruct="none") is None


def test_all_blocks_at_once_take_more_examples_of_which_the_first_are_the_blocks():
    found = planned(examples=5000, options=JointReconstructionOptions, reconstruct="block", joint_samples=4000)
    assert sum(map(len, found.joint_batches)) == 4000 and sum(map(len, found.batches)) == 2048
    assert found.joint_batches[0] is found.batches[0] and found.settings.joint_iterations == 1500
    without = planned(options=JointReconstructionOptions, reconstruct="block", joint_iterations=0)
    assert without.joint_batches == () and planned(reconstruct="block").joint_batches == ()


def test_inputs_of_all_blocks_at_once_fit_into_memory(monkeypatch):
    monkeypatch.setattr(plan, "_JOINT_BYTES", 3000 * 6 * 4)
    found = planned(examples=5000, options=JointReconstructionOptions, reconstruct="block")
    assert sum(map(len, found.joint_batches)) == 3000


def test_auto_takes_the_steps_that_fit_into_its_time(monkeypatch):
    notes = []
    assert planned(reconstruction_seconds=1e-9, notes=notes) is None
    assert notes[0].startswith("blocks are not tuned: 300 steps would take some ")
    monkeypatch.setattr(plan, "_seconds_a_pass", lambda *given: 0.1)
    # 192 passes to see the blocks' inputs, six a step: (90 s / 0.1 s - 192) / 6
    fewer = planned(reconstruction_seconds=90, notes=notes)
    assert fewer.settings.iterations == 118
    assert notes[1].startswith("blocks are tuned in 118 steps: 300 steps would take some 3 min, and")
    assert planned(reconstruction_seconds=900, notes=notes).settings.iterations == 300 and len(notes) == 2
    # what is asked for is done, however long it takes
    asked = planned(examples=100, reconstruct="block", worthwhile=False)
    assert asked.settings.iterations == ReconstructionOptions().iterations


def test_a_time_that_a_busy_machine_took_does_not_keep_blocks_from_being_tuned(tmp_path):
    def found():
        loaded = Loaded(nn.Linear(6, 2).eval(), {}, torch.randn(1, 6))
        context = Context(loaded, data=Data(2048), decisions=Decisions(machine=machine))
        return plan.plan_reconstruction(loaded, ReconstructionOptions(iterations=60), context, [], worthwhile=True)

    machine = MachineTimings(tmp_path, {})
    assert found().settings.iterations == 60
    (name,) = machine._known
    machine.keep(name, 1000.0)
    assert found().settings.iterations == 60 and machine[name] < 1
