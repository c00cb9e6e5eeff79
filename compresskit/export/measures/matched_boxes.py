"""Boxes of one detector beside those of another: each with its partner, since their numbers and orders may differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.errors import InputError
from ...evaluation.metric_terms.boxes import box_overlaps

_LEAST_OVERLAP = 0.5
_SAME = 1e-4  # corners that differ less, as a share of the largest one, are equal


class Partners(NamedTuple):
    """What two detectors return for a batch, the boxes that have partners alone.

    Attributes:
        wanted: of the first, an entry an image.
        found: of the second, in the same order.
        pairs: how many have one.
        boxes: how many either returned, of each image the larger number.
    """

    wanted: list[dict[str, Any]]
    found: list[dict[str, Any]]
    pairs: int
    boxes: int


def partners(wanted: Any, found: Any) -> Partners:
    """Give boxes partners: of the same label, and the largest overlap (IoU) of at least a half, the best scores first.

    Args:
        wanted: what a detector of torchvision returns in eval mode: an entry an image, or that of one image.
        found: what another one returns.
    Raises:
        InputError: if they return entries for another number of images.
    """
    first, second = _entries(wanted), _entries(found)
    if len(first) != len(second):
        raise InputError(f"the runtime returned boxes of {len(second)} images where the model returns {len(first)}")
    chosen = [_pairs(one, other) for one, other in zip(first, second, strict=True)]
    return Partners(
        [_picked(one, rows) for one, (rows, _) in zip(first, chosen, strict=True)],
        [_picked(other, rows) for other, (_, rows) in zip(second, chosen, strict=True)],
        sum(len(rows) for rows, _ in chosen),
        sum(max(len(one["boxes"]), len(other["boxes"])) for one, other in zip(first, second, strict=True)),
    )


def are_lists_of_boxes(outputs: Any) -> bool:
    """Whether outputs are an entry an image with its boxes, (boxes, 4), as torchvision's detectors return them."""
    entries = _entries(outputs)
    boxes = [entry.get("boxes") if isinstance(entry, Mapping) else None for entry in entries]
    return bool(boxes) and all(isinstance(one, Tensor) and one.dim() == 2 and one.shape[1] == 4 for one in boxes)


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each box, (boxes, 4) as corners, with each other one, 1 of equal ones."""
    same = (boxes[:, None] - others[None]).abs().amax(-1) <= _SAME * boxes.abs().amax(-1)[:, None].clamp(min=1)
    return torch.where(same, 1.0, box_overlaps(boxes, others))


def _entries(outputs: Any) -> Sequence[Mapping[str, Any]]:
    return outputs if isinstance(outputs, list | tuple) else [outputs]


def _pairs(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Rows of the first and of the second that are partners."""
    overlap = overlaps(one["boxes"].float(), other["boxes"].float())
    if "labels" in one and "labels" in other:
        overlap = overlap * (one["labels"][:, None] == other["labels"][None])
    rows, columns = list[int](), list[int]()
    for row in range(len(overlap)) if overlap.numel() else ():
        value, column = overlap[row].max(0)
        if float(value) >= _LEAST_OVERLAP:
            rows.append(row)
            columns.append(int(column))
            overlap[:, column] = 0.0
    return rows, columns


def _picked(entry: Mapping[str, Any], rows: list[int]) -> dict[str, Any]:
    """An image's entry, of the boxes in some rows."""
    count = len(entry["boxes"])
    return {
        name: value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == count else value
        for name, value in entry.items()
    }
