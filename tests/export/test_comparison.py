"""Outputs of a runtime beside those of eager PyTorch."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.export.comparison import compare, difference, differences, wrong_outputs


class Heads(torch.nn.Module):
    def __init__(self, offset):
        super().__init__()
        self.offset = offset

    def forward(self, x):
        return {"boxes": (x + self.offset, x), "logits": x * 2}


def test_every_output_has_its_own_largest_difference():
    found = compare(Heads(0.0), Heads(0.5), [torch.ones(2, 3), torch.zeros(2, 3)])
    assert found["output_differences"] == {"boxes_0": 0.5, "boxes_1": 0.0, "logits": 0.0}
    assert found["largest_difference"] == 0.0 and found["output_scale"] == 2.0  # of the logits


def test_what_only_one_side_returns_is_not_compared():
    assert differences({"logits": torch.ones(2), "hidden": torch.ones(1)}, {"logits": torch.zeros(2)}) == {
        "logits": 1.0
    }


def test_an_output_of_another_shape_is_named():
    with pytest.raises(InputError, match=r"returned \[1, 2\] as 'b' where the model returns \[2\]"):
        differences({"a": torch.ones(1), "b": torch.ones(2)}, {"a": torch.ones(1), "b": torch.ones(1, 2)})


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_in_both_is_equal(value):
    assert difference(torch.tensor([value, 1.0]), torch.tensor([value, 1.25])) == 0.25


def test_other_number_types_and_no_elements():
    assert difference(torch.tensor([True, False]), torch.tensor([True, True])) == 1.0
    assert difference(torch.tensor([1 + 1j]), torch.tensor([1 + 3j])) == 2.0
    assert difference(torch.ones(0, 4), torch.ones(0, 4)) == 0.0


class Boxes(torch.nn.Module):
    """A box a row of its input, the first rows alone; score and label go along."""

    def __init__(self, count, moved=0.0):
        super().__init__()
        self.count, self.moved = count, moved

    def forward(self, x):
        boxes = x[: self.count] + self.moved
        return [{"boxes": boxes, "scores": boxes[:, 0] / 100, "labels": torch.ones(len(boxes)).long()}]


def test_boxes_are_compared_with_their_partners_however_many_there_are():
    boxes = torch.tensor([[0.0, 0, 10, 10], [30, 30, 50, 50]])
    found = compare(Boxes(2), Boxes(1, moved=0.25), [boxes])
    assert (found["agreement"], found["compared_samples"]) == (0.5, 2)
    assert found["largest_difference"] == 0.25 and found["output_scale"] == 10.0
    assert found["output_differences"]["output_scores"] == pytest.approx(0.0025)
    none = compare(Boxes(0), Boxes(0), [boxes])
    assert (none["agreement"], none["compared_samples"], none["largest_difference"]) == (1.0, 0, 0.0)


@pytest.mark.parametrize(
    ("offset", "rounds", "warns"), [(0.01, False, False), (0.5, False, True), (0.05, True, False), (0.5, True, True)]
)
def test_an_output_that_is_another_one_is_named(offset, rounds, warns):
    facts = compare(Heads(0.0), Heads(offset), [torch.ones(2, 3)]) | {"runtime": "openvino"}
    assert facts["output_scales"] == {"boxes_0": 1.0, "boxes_1": 1.0, "logits": 2.0}
    found = wrong_outputs(facts, rounds=rounds)
    assert len(found) == warns and all("in openvino 'boxes_0' differs" in line for line in found)


def test_one_output_alone_is_compared_with_its_own_largest():
    facts = {"largest_difference": 3.0, "output_scale": 2.0, "runtime": "openvino"}
    assert "'output' differs from the model's in PyTorch by 1.5" in wrong_outputs(facts, rounds=True)[0]
    assert not wrong_outputs(facts | {"largest_difference": 0.0, "output_scale": 0.0}, rounds=False)
