"""Names of what a model returns."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch.utils import _pytree as pytree

from compresskit.export.exporters.export_program import export_program
from compresskit.export.exporters.output_names import named_tensors, output_names, register_dataclasses, restored

Pair = namedtuple("Pair", ["left", "right"])


@dataclass
class Detections:
    boxes: torch.Tensor
    scores: torch.Tensor | None = None


X = torch.ones(1)


@pytest.mark.parametrize(
    "outputs, names",
    [
        (X, ["output"]),
        ((X,), ["output"]),
        ([X, X, X], ["output", "output_1", "output_2"]),
        ((X, (X, X)), ["output", "output_1_0", "output_1_1"]),
        ({"logits": X, "boxes": [X, X], "loss": None}, ["logits", "boxes_0", "boxes_1"]),
        (Pair(X, X), ["left", "right"]),
        (Detections(X, X), ["boxes", "scores"]),
        (({"out": X}, 3), ["output_out"]),
        ({"a": (X,), "a_0": X}, ["a_0", "a_0_"]),
    ],
    ids=str,
)
def test_keys_and_fields_name_tensors(outputs, names):
    assert list(named_tensors(outputs)) == names


@pytest.mark.integration
def test_a_programs_outputs_come_back_as_the_model_returns_them():
    class Heads(torch.nn.Module):
        def forward(self, x):
            return {"logits": x + 1, "none": None, "more": (x * 2, Detections(x * 3))}

    program = export_program(Heads().eval(), torch.ones(1, 2))
    assert output_names(program) == ["logits", "more_0", "more_1_boxes"]
    found = restored(program, [torch.tensor(number) for number in (1, 2, 3)])
    assert found["none"] is None and int(found["more"][1].boxes) == 3 and found["more"][1].scores is None
    assert restored(program, [X]) is X  # the writer left others out


def test_dataclasses_become_known_to_export_once():
    @dataclass
    class Own:
        value: torch.Tensor

    for _ in range(2):
        register_dataclasses({"inner": [Own(X)]})
    assert Own in pytree.SUPPORTED_NODES
