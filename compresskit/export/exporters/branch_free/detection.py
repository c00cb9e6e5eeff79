"""What torchvision's detectors do with boxes, whatever their number: as its functions of the same names compute it.

A number of boxes is a value of the image, not a size of the graph. torchvision's own functions ask whether there are
any or many, and loop over them in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ....core.errors import require
from .interpolation import cubic_weights, linear_weights


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression within each class: boxes of different classes are moved apart first.

    Args:
        boxes: (boxes, 4), corners.
        scores: (boxes,).
        idxs: (boxes,), the class of each.
        iou_threshold: what overlaps more with a better box of its class goes.
    Returns:
        int64, the boxes that stay, the best first.
    """
    ends = torch.cat([boxes.reshape(-1), boxes.new_zeros(1)])  # of no box, too
    apart = ends.max() - ends.min() + 1
    moved = boxes + (idxs.to(boxes) * apart)[:, None]
    return torch.ops.torchvision.nms(moved, scores, iou_threshold)


def topk_min(values: Tensor, most: int, axis: int) -> int:
    """How many of the best to take: at most as many as there are."""
    return cast(int, torch.sym_min(most, values.shape[axis]))


def multiscale_roi_align(
    x_filtered: list[Tensor],
    boxes: list[Tensor],
    output_size: list[int],
    sampling_ratio: int,
    scales: list[float],
    mapper: Callable[[list[Tensor]], Tensor],
) -> Tensor:
    """Features of boxes, of each box from the level of the pyramid that its size asks for.

    Args:
        x_filtered: maps of each level, (images, channels, height, width).
        boxes: of each image, (boxes, 4).
        output_size: height and width of the result.
        sampling_ratio: points a bin.
        scales: of each level to the image.
        mapper: boxes -> their levels.
    Returns:
        (boxes, channels, *output_size).
    """
    align = require("torchvision", "vision").ops.roi_align
    images = [torch.full_like(one[:, :1], number) for number, one in enumerate(boxes)]
    rois = torch.cat([torch.cat(images), torch.cat(boxes)], 1)
    if len(x_filtered) == 1:
        return align(x_filtered[0], rois, output_size, scales[0], sampling_ratio)
    levels = mapper(boxes)
    places, aligned = [], []
    for level, (maps, scale) in enumerate(zip(x_filtered, scales, strict=True)):
        of_level = torch.where(levels == level)[0]
        places.append(of_level)
        aligned.append(align(maps, rois[of_level], output_size, scale, sampling_ratio))
    return torch.cat(aligned)[torch.cat(places).argsort()]


def paste_masks_in_image(masks: Tensor, boxes: Tensor, img_shape: Sequence[int], padding: int = 1) -> Tensor:
    """Masks of boxes as masks of the image.

    Args:
        masks: (boxes, 1, size, size).
        boxes: (boxes, 4).
        img_shape: (height, width).
        padding: cells of zeros around each mask.
    Returns:
        (boxes, 1, height, width).
    """
    size = masks.shape[-1]
    padded = torch.nn.functional.pad(masks, (padding,) * 4)
    half = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((size + 2 * padding) / size)
    middle = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    first, last = ((middle + sign * half).long().to(masks.dtype) for sign in (-1, 1))
    across, down = (
        _inside(first[:, axis, None], last[:, axis, None], img_shape[1 - axis], padded.shape[-1]) for axis in (0, 1)
    )
    return (down @ padded[:, 0] @ across.transpose(1, 2))[:, None]


def _inside(first: Tensor, last: Tensor, pixels: int, cells: int) -> Tensor:
    """What each cell of a mask weighs at each pixel of the image, (boxes, pixels, cells); 0 outside of the box."""
    places = torch.arange(pixels, device=first.device, dtype=first.dtype) - first
    inside = (places >= 0) & (places <= last - first)
    return linear_weights(places, (last - first + 1).clamp(min=1), cells) * inside[..., None]


def heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    """Where the heatmaps of boxes are largest, once each is resized to the pixels of its box.

    Args:
        maps: (boxes, keypoints, size, size).
        rois: (boxes, 4).
    Returns:
        keypoints (boxes, keypoints, 3) as x, y and 1, and their scores (boxes, keypoints).
    """
    corner = rois[:, :2]
    extents = (rois[:, 2:] - corner).clamp(min=1)
    sizes = extents.ceil()
    columns, rows = _largest(sizes[:, 0]), _largest(sizes[:, 1])
    # one box more, since a loop of the graph takes at least one step
    given = (torch.cat([maps.new_zeros(1, *maps.shape[1:]), maps]), torch.cat([sizes.new_ones(1, 2), sizes]))
    _, found = _scan()(_best_places, (columns, rows), given)
    places, scores = found[1:, :2], found[1:, 2]
    at = (places + 0.5) * (extents / sizes)[:, :, None] + corner[:, :, None]
    return torch.cat([at, torch.ones_like(at[:, :1])], 1).transpose(1, 2), scores


def _best_places(state: tuple[Tensor, Tensor], box: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """One step of the loop: x, y and score of each keypoint of a box, (3, keypoints)."""
    (columns, rows), (maps, size) = state, box
    across, down = cubic_weights(columns, size[0], maps.shape[2]), cubic_weights(rows, size[1], maps.shape[1])
    resized = torch.matmul(torch.matmul(down, maps), across.T)
    outside = (columns >= size[0])[None] | (rows >= size[1])[:, None]
    resized = resized.masked_fill(outside, float("-inf"))
    y = resized.amax(2).argmax(1)
    row = resized.gather(1, y[:, None, None].expand(-1, 1, resized.shape[2]))[:, 0]
    x = row.argmax(1)
    score = row.gather(1, x[:, None])[:, 0]
    # the state is copied: what a loop takes in and gives out must be two tensors
    return (columns.clone(), rows.clone()), torch.stack([x.to(maps.dtype), y.to(maps.dtype), score])


def _largest(sizes: Tensor) -> Tensor:
    """0, 1, ... up to the largest of some sizes, at least one number."""
    count: Any = torch.cat([sizes, sizes.new_ones(1)]).max().long().item()
    torch._check(count >= 1)
    return torch.arange(count, device=sizes.device).to(sizes.dtype)


def _scan() -> Callable[..., Any]:
    from torch._higher_order_ops.scan import scan  # brings torch's compiler: late

    return scan
