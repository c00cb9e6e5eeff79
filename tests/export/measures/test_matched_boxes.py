"""Boxes of two detectors, each with its partner."""

import pytest
import torch

from compresskit.core.errors import InputError
from compresskit.export.measures.matched_boxes import overlaps, partners


def entry(boxes, labels=None, scores=None):
    count = len(boxes)
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor([1] * count if labels is None else labels),
        "scores": torch.arange(float(count)) if scores is None else torch.tensor(scores),
    }


def test_overlaps_by_hand():
    boxes = torch.tensor([[0.0, 0, 2, 2], [5, 5, 5, 5]])
    found = overlaps(boxes, torch.tensor([[1.0, 0, 3, 2], [0, 0, 2, 2], [9, 9, 10, 10]]))
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 1, 0], [0, 0, 0]]))
    line = torch.tensor([[80.0, 8, 80, 96]])
    assert overlaps(line, line + 0.001).item() == 1.0 and overlaps(line, line + 1.0).item() == 0.0


def test_boxes_find_their_partners_in_another_order_and_number():
    wanted = [entry([[0.0, 0, 10, 10], [20, 20, 30, 30]], scores=[0.9, 0.8])]
    found = [entry([[20.0, 20, 30, 31], [50, 50, 60, 60], [0, 0, 10, 11]], scores=[0.95, 0.9, 0.7])]
    first, second, pairs, boxes = partners(wanted, found)
    assert (pairs, boxes) == (2, 3)
    assert first[0]["scores"].tolist() == pytest.approx([0.9, 0.8])
    assert second[0]["scores"].tolist() == pytest.approx([0.7, 0.95])


def test_a_partner_has_the_same_label_overlaps_by_half_and_is_given_once():
    box = [0.0, 0, 10, 10]
    assert partners([entry([box], [1])], [entry([box], [2])])[2:] == (0, 1)
    assert partners([entry([box])], [entry([[0.0, 6, 10, 16]])])[2:] == (0, 1)
    assert partners([entry([box, box])], [entry([box])])[2:] == (1, 2)


def test_no_boxes_are_no_partners():
    first, second, pairs, boxes = partners([entry([])], entry([[0.0, 0, 1, 1]]))
    assert (pairs, boxes) == (0, 1) and first[0]["boxes"].shape == second[0]["boxes"].shape == (0, 4)
    assert partners([entry([])], [entry([])])[2:] == (0, 0)


def test_another_number_of_images_is_refused():
    with pytest.raises(InputError, match="boxes of 1 images where the model returns 2"):
        partners([entry([]), entry([])], [entry([])])
