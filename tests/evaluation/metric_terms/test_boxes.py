"""Mean average precision against torchmetrics', boxes of dense heads, and boxes that two models share."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compresskit.core.errors import InputError
from compresskit.evaluation.metric_terms.boxes import box_overlaps, boxes_of, matched_share
from compresskit.evaluation.metrics import make_metric


class Replay(nn.Module):
    def __init__(self, given):
        super().__init__()
        self.given = given

    def forward(self, number):
        return self.given[int(number)]


def some_images(count=12, noise=2.0):
    generator = torch.Generator().manual_seed(0)
    found, targets = [], []
    for _ in range(count):
        corner = torch.rand(3, 2, generator=generator) * 40
        boxes = torch.cat([corner, corner + 8 + 20 * torch.rand(3, 2, generator=generator)], 1)
        labels = torch.randint(0, 2, (3,), generator=generator)
        targets.append({"boxes": boxes, "labels": labels})
        moved = boxes + noise * torch.randn(3, 4, generator=generator)
        found.append({"boxes": moved, "labels": labels, "scores": torch.rand(3, generator=generator)})
    return found, targets


def test_overlaps_by_hand():
    first, second = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [5.0, 5, 6, 6]])
    assert box_overlaps(first, second).tolist() == [[pytest.approx(2 / 6), 0]]


@pytest.mark.integration
def test_the_value_is_that_of_torchmetrics_and_the_interval_holds_it():
    detection = pytest.importorskip("torchmetrics.detection")
    pytest.importorskip("pycocotools")
    found, targets = some_images()
    score = make_metric("map")(
        Replay([found[:5], found[5:]]), [(torch.tensor(0), targets[:5]), (torch.tensor(1), targets[5:])]
    )
    reference = detection.MeanAveragePrecision(backend="pycocotools")
    reference.update(found, targets)
    assert 0.1 < score.value < 0.9 and score.value == pytest.approx(reference.compute()["map"].item(), abs=1e-6)
    assert score.low < score.value < score.high and score.samples == 12
    half = make_metric("map", arguments={"iou": 0.5})(Replay([found]), [(torch.tensor(0), targets)])
    assert half.value == pytest.approx(reference.compute()["map_50"].item(), abs=1e-6)


def test_masks():
    pytest.importorskip("pycocotools")
    mask = torch.zeros(1, 8, 8)
    mask[0, :4, :4] = 1
    truth = {"boxes": torch.tensor([[0.0, 0, 4, 4]]), "labels": torch.tensor([1]), "masks": mask.bool()}
    found = truth | {"masks": mask[:, None], "scores": torch.tensor([0.9])}
    metric = make_metric("map", arguments={"iou_type": "segm"})
    assert metric(Replay([[found]]), [(torch.tensor(0), [truth])]).value == pytest.approx(1)
    shifted = found | {"masks": mask[:, None].roll(4, -1)}
    assert metric(Replay([[shifted]]), [(torch.tensor(0), [truth])]).value == 0


@pytest.mark.integration
def test_perfect_boxes_nothing_found_and_nothing_there():
    pytest.importorskip("pycocotools")
    found, targets = some_images(4, noise=0.0)
    metric = make_metric("map")
    assert metric(Replay([found]), [(torch.tensor(0), targets)]).value == pytest.approx(1)
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long)}
    assert metric(Replay([[nothing] * 4]), [(torch.tensor(0), targets)]).value == 0
    empty = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}] * 4
    assert metric(Replay([[nothing] * 4]), [(torch.tensor(0), empty)]).value == 0


def test_outputs_that_are_no_boxes_are_refused():
    with pytest.raises(InputError, match="metric 'map' takes a list with one mapping of boxes"):
        make_metric("map")(Replay([torch.zeros(2, 3)]), [(torch.tensor(0), [{}, {}])])
    assert boxes_of(torch.zeros(2, 3)) is None and boxes_of((torch.zeros(2, 5, 4), (torch.zeros(1),))) is None


def test_boxes_of_a_dense_head():
    pytest.importorskip("torchvision")
    # (batch, 4 + classes, places): two boxes at one place, one elsewhere
    rows = torch.tensor([[5.0, 5, 10, 10, 0.9, 0.1], [5, 5, 10, 9, 0.8, 0.1], [50, 50, 4, 4, 0.0, 0.7]])
    (found,) = boxes_of((rows.T[None], [torch.zeros(1, 2, 3, 3)]))
    assert found["boxes"].tolist() == [[0, 0, 10, 10], [48, 48, 52, 52]]
    assert found["labels"].tolist() == [0, 1] and found["scores"].tolist() == pytest.approx([0.9, 0.7])


def test_matched_boxes_are_paired_once():
    one = {
        "boxes": torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4]]),
        "labels": torch.tensor([1, 1]),
        "scores": torch.ones(2),
    }
    single = {name: value[:1] for name, value in one.items()}
    assert matched_share(one, single) == pytest.approx(2 / 3)


def test_keypoints_by_their_distance_in_shares_of_the_size():
    """One point of three is off by d, in a box of area 256: similarity (2 + exp(-d^2 / (2 area (2 sigma)^2))) / 3."""
    pytest.importorskip("pycocotools")
    points = torch.tensor([[[2.0, 2, 2], [10, 2, 1], [4, 12, 2]]])
    truth = {"boxes": torch.tensor([[0.0, 0, 16, 16]]), "labels": torch.tensor([1]), "keypoints": points}
    for away, sigma in ((0.0, 0.05), (1.0, 0.05), (6.0, 0.05), (6.0, "0.5,0.5,0.5")):
        moved = points.clone()
        moved[0, 0, 0] += away
        found = truth | {"keypoints": moved, "scores": torch.tensor([0.9])}
        spread = 2 * float(str(sigma).partition(",")[0])
        similarity = (2 + math.exp(-(away**2) / (2 * 256 * spread**2))) / 3
        score = make_metric("map", arguments={"iou_type": "keypoints", "sigma": sigma})(
            Replay([[found]]), [(torch.tensor(0), [truth])]
        )
        assert score.value == pytest.approx(sum(similarity >= 0.5 + 0.05 * k - 1e-9 for k in range(10)) / 10)
    with pytest.raises(InputError, match="sigma has 2 numbers, and there are 3 keypoints"):
        make_metric("map", arguments={"iou_type": "keypoints", "sigma": "0.1,0.2"})(
            Replay([[found]]), [(torch.tensor(0), [truth])]
        )
    with pytest.raises(InputError, match="iou_type keypoints compares keypoints, and there are none"):
        boxes = {name: truth[name] for name in ("boxes", "labels")}
        make_metric("map", arguments={"iou_type": "keypoints"})(Replay([[found]]), [(torch.tensor(0), [boxes])])
