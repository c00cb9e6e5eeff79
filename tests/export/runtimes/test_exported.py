"""What a runtime is handed, and what it hands back."""

import torch

from compresskit.export.runtimes.exported import Runner, first_output, in_order


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


def test_the_first_tensor_of_any_structure():
    assert first_output({"loss": None, "logits": (torch.ones(1), torch.zeros(1))}).tolist() == [1.0]
