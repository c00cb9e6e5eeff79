"""What a runtime is handed, and what it hands back."""

import numpy as np
import pytest
import torch

from compresskit.export.exporters.export_program import export_program
from compresskit.export.runtimes.exported import Exported, InputSpec, Runner, as_outputs, in_order


def test_a_runner_hands_on_positional_or_keyword_inputs():
    runner = Runner(lambda inputs: inputs["b"] if isinstance(inputs, dict) else inputs[0])
    first, second = torch.ones(2), torch.zeros(2)
    assert runner(first, second) is first
    assert runner(a=first, b=second) is second


def test_inputs_are_ordered_as_the_graph_has_them():
    inputs = {"mask": torch.zeros(2, dtype=torch.int64), "values": torch.ones(2, 3, dtype=torch.float16).t()}
    values, mask = in_order(inputs, ["values", "mask"])
    assert values.dtype is torch.float32 and values.is_contiguous() and values.shape == (3, 2)
    assert mask.dtype is torch.int64
    (only,) = in_order({"values": torch.ones(1)}, ["values_1"])  # renamed by the writer
    assert only.tolist() == [1.0]


@pytest.mark.integration
def test_outputs_come_back_in_the_models_own_structure(tmp_path):
    class Heads(torch.nn.Module):
        def forward(self, x):
            return {"boxes": (x + 1, x + 2), "none": None, "logits": x * 2}

    module = Heads().eval()
    exported = Exported(module, export_program(module, torch.ones(1, 2)), tmp_path, torch.ones(1, 2), 1)
    found = as_outputs(exported, [np.full(2, number) for number in (1.0, 2.0, 3.0)])
    assert found["none"] is None and [float(part[0]) for part in found["boxes"]] == [1.0, 2.0]
    assert found["logits"].tolist() == [3.0, 3.0]


def test_without_a_program_one_output_is_a_tensor_and_several_are_a_tuple(tmp_path):
    exported = Exported(torch.nn.Identity(), None, tmp_path, torch.ones(1), 1)
    assert as_outputs(exported, [np.ones(1)]).tolist() == [1.0]
    assert len(as_outputs(exported, [np.ones(1), np.ones(1)])) == 2


def test_a_file_of_one_batch_size_takes_any_number_of_examples():
    sizes = []

    def run(inputs):
        sizes.append(len(inputs[0]))
        return {"doubled": inputs[0] * 2, "sums": inputs[0].sum(1)}

    spec = InputSpec("x", (2, 3), torch.float32)
    inputs = torch.arange(15.0).reshape(5, 3)
    found = Runner(run, None, (spec,)).in_batches()(inputs)
    assert sizes == [2, 2, 2]
    assert torch.equal(found["doubled"], inputs * 2) and torch.equal(found["sums"], inputs.sum(1))
    free = Runner(run, None, (InputSpec("x", (None, 3), torch.float32),))
    assert free.in_batches() is free


def test_a_file_of_lists_of_images_takes_any_number_of_them():
    seen = []

    def run(inputs):
        (images,) = inputs
        seen.append(len(images))
        return [{"boxes": image.flatten()[None]} for image in images]

    images = [torch.full((3, 2, 2), float(number)) for number in range(3)]
    runner = Runner(run, None, (InputSpec("images_0", (3, 2, 2), torch.float32),) * 2).in_batches((images[:2],))
    found = runner(images)
    assert seen == [2, 2] and [float(one["boxes"][0, 0]) for one in found] == [0.0, 1.0, 2.0]


def test_what_is_no_tensor_goes_through_batches_once():
    runner = Runner(lambda inputs: {"out": inputs[0] * 2, "loss": None}, specs=(InputSpec("x", (2, 1), torch.float32),))
    found = runner.in_batches()(torch.ones(3, 1))
    assert found["loss"] is None and found["out"].tolist() == [[2.0]] * 3
