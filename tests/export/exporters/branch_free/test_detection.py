"""What torchvision's detectors do with boxes, without branches: as torchvision computes it."""

import pytest
import torch

from compresskit.export.exporters.branch_free import detection

ops = pytest.importorskip("torchvision.ops")
from torchvision.models.detection import roi_heads  # noqa: E402


def boxes_of(count, seed=0, side=40.0):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator) * side
    return torch.cat([corners, corners + 1 + torch.rand(count, 2, generator=generator) * side], 1)


@pytest.mark.parametrize("count", [0, 1, 7, 60])
def test_boxes_are_suppressed_within_their_class(count):
    boxes, scores = boxes_of(count), torch.rand(count, generator=torch.Generator().manual_seed(1))
    classes = torch.arange(count) % 3
    for moved in (boxes, boxes - 200.0):  # corners below zero, too
        kept = detection.batched_nms(moved, scores, classes, 0.3)
        assert kept.tolist() == ops.batched_nms(moved + 300.0, scores, classes, 0.3).tolist()


def test_at_most_as_many_are_taken_as_there_are():
    assert [detection.topk_min(torch.zeros(3, 5), most, 1) for most in (2, 5, 9)] == [2, 5, 5]


@pytest.mark.parametrize("levels", [1, 3])
def test_features_come_from_the_level_of_each_box(levels):
    maps = {str(level): torch.randn(2, 4, 32 >> level, 32 >> level) for level in range(levels)}
    boxes, names = [boxes_of(9, side=60.0), boxes_of(0)], list(maps)
    pool = ops.MultiScaleRoIAlign(names, 3, 2, canonical_scale=60)
    wanted = pool(maps, boxes, [(128, 128), (128, 128)])
    found = detection.multiscale_roi_align(list(maps.values()), boxes, [3, 3], 2, pool.scales, pool.map_levels)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("count", [0, 1, 6])
def test_masks_lie_where_their_boxes_are(count):
    masks, boxes = torch.rand(count, 1, 28, 28), boxes_of(count) - 8.0  # some reach beyond the image
    found = detection.paste_masks_in_image(masks, boxes, (50, 37))
    torch.testing.assert_close(found, roi_heads.paste_masks_in_image(masks, boxes, (50, 37)), atol=2e-5, rtol=0)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_keypoints_are_where_the_resized_heatmaps_are_largest(count):
    maps, boxes = torch.randn(count, 3, 14, 14), boxes_of(count)
    wanted, found = roi_heads.heatmaps_to_keypoints(maps, boxes), detection.heatmaps_to_keypoints(maps, boxes)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
