"""Metrics of boxes and masks in images: mean average precision, and how many boxes two models share."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...core.errors import InputError, require

#: boxes (n, 4) in corners of pixels, labels (n,), scores (n,), perhaps masks (n, height, width), of one image
Boxes = Mapping[str, Tensor]

_SURE = 0.5  # score from which a box is a decision
_SAME_PLACE = 0.5  # intersection over union from which two boxes are one
_FAINTEST = 0.001  # score below which a dense head's boxes are not looked at, as in its own validation
_SUPPRESSED = 0.7  # intersection over union above which the less likely of two boxes goes
_MOST_BOXES = 300  # an image
_SIGMA = 0.05  # of keypoints, about the mean of COCO's 17
#: what is compared beside boxes, by iou_type
_COMPARED: dict[str, tuple[str, ...]] = {"bbox": (), "segm": ("masks",), "keypoints": ("keypoints",)}


def boxes_of(outputs: Any) -> list[Boxes] | None:
    """The boxes of each image, or None where outputs are no boxes.

    Args:
        outputs: a list of mappings with boxes, scores and labels (torchvision), or a dense head's predictions
            (batch, 4 + classes, places), centres and sizes in pixels before class scores (ultralytics, in eval mode).
    """
    if isinstance(outputs, list) and all(isinstance(one, Mapping) and "boxes" in one for one in outputs):
        return outputs
    return _dense_boxes(outputs)


def _dense_boxes(outputs: Any) -> list[Boxes] | None:
    parts = list(outputs) if isinstance(outputs, tuple | list) else []
    dense = len(parts) == 2 and isinstance(parts[0], Tensor) and parts[0].dim() == 3
    if not dense or not isinstance(parts[1], Mapping | list) or parts[0].shape[2] < parts[0].shape[1] - 4:
        return None
    return [_suppressed(image.T) for image in parts[0]]


def _suppressed(rows: Tensor) -> Boxes:
    """Boxes of (places, 4 + classes) that are likely, and not covered by a likelier one of their class."""
    require("torchvision", "vision")
    from torchvision.ops import batched_nms, box_convert

    scores, labels = rows[:, 4:].max(1)
    likely = scores > _FAINTEST
    boxes, scores, labels = box_convert(rows[likely, :4], "cxcywh", "xyxy"), scores[likely], labels[likely]
    kept = batched_nms(boxes, scores, labels, _SUPPRESSED)[:_MOST_BOXES]
    return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


def matched_share(first: Boxes, second: Boxes) -> float:
    """Boxes of one class at one place in both, by the mean number of boxes; 1 where there is none in either.

    Only boxes with a score of at least 0.5 count; they are paired greedily by overlap, from an intersection over union
    of 0.5.
    """
    mine, theirs = (_sure(boxes) for boxes in (first, second))
    count = len(mine["labels"]) + len(theirs["labels"])
    if not count:
        return 1.0
    overlaps = box_overlaps(mine["boxes"], theirs["boxes"])
    overlaps[mine["labels"][:, None] != theirs["labels"]] = 0
    pairs = 0
    while overlaps.numel() and float(overlaps.max()) >= _SAME_PLACE:
        row, column = divmod(int(overlaps.argmax()), overlaps.shape[1])
        overlaps[row], overlaps[:, column] = 0, 0
        pairs += 1
    return 2 * pairs / count


def _sure(boxes: Boxes) -> Boxes:
    kept = boxes["scores"] >= _SURE
    return {name: boxes[name][kept] for name in ("boxes", "labels")}


def box_overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes in corners, (n, 4) and (m, 4) -> (n, m)."""
    low = torch.maximum(first[:, None, :2], second[:, :2])
    high = torch.minimum(first[:, None, 2:], second[:, 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1] - shared).clamp(min=1e-12)


class MeanAveragePrecision:
    """Average precision over IoU from 0.5 to 0.95 in steps of 0.05, the mean over classes, as COCO has it.

    Args:
        iou_type: what overlaps are taken of: "bbox", "segm" for masks, or "keypoints" for the distances of points in
            shares of the object's size (object keypoint similarity).
        sigma: of keypoints other than the 17 of COCO's persons, how far a point may be off in shares of the object's
            size; one for all points, or one each as 0.05,0.1.
        iou: one intersection over union, e.g. 0.5, in the place of the ten.
    Source: Lin et al., "Microsoft COCO", ECCV 2014; computed by pycocotools.
    """

    higher_is_better = True
    scale = "share"
    whole_outputs = True
    chance = 0.0

    def __init__(self, iou_type: str = "bbox", iou: float | None = None, sigma: float | str | list[float] = _SIGMA):
        if iou_type not in ("bbox", "segm", "keypoints"):
            raise InputError(f"metric_arg iou_type must be bbox, segm or keypoints, got {iou_type!r}")
        self._kind, self._iou, self._sigmas = iou_type, iou, _numbers(sigma)
        self._images: list[tuple[Boxes, Boxes]] = []
        self._evaluated: Any = None

    def update(self, outputs: Any, targets: Any) -> None:
        """Keep the boxes of a batch.

        Raises:
            InputError: if outputs or targets are no boxes.
        """
        boxes = boxes_of(outputs)
        if boxes is None:
            raise InputError(
                "metric 'map' takes a list with one mapping of boxes, scores and labels an image, as torchvision's "
                f"detectors return in eval mode, got {type(outputs).__name__}"
            )
        if not isinstance(targets, list | tuple) or not all(isinstance(target, Mapping) for target in targets):
            raise InputError("metric 'map' takes one mapping of boxes and labels an image as targets")
        names = ("boxes", "labels", "scores", *_COMPARED[self._kind])
        for name in _COMPARED[self._kind]:
            if any(name not in one for one in (*boxes, *targets)):
                raise InputError(f"metric_arg iou_type {self._kind} compares {name}, and there are none")
        for found, target in zip(boxes, targets, strict=True):
            self._images.append(
                tuple({name: one[name].cpu() for name in names if name in one} for one in (found, target))  # type: ignore[arg-type]
            )
        self._evaluated = None

    def compute(self) -> float:
        """The mean average precision of all images; 0 where no image has a box."""
        evaluation = self._evaluation()
        return _precision(evaluation) if evaluation is not None else 0.0

    def bootstrap(self) -> tuple[int, Callable[[Tensor], float]]:
        """(images, indices of images -> the metric of these): matches of an image do not depend on the others."""
        evaluation, count = self._evaluation(), len(self._images)
        if evaluation is None:
            return count, lambda indices: 0.0
        # pycocotools holds the matches of (class, area, image), flat
        matches = [evaluation.evalImgs[start : start + count] for start in range(0, len(evaluation.evalImgs), count)]

        def again(indices: Tensor) -> float:
            chosen = indices.tolist()
            evaluation.evalImgs = [row[index] for row in matches for index in chosen]
            return _precision(evaluation)

        return count, again

    def _evaluation(self) -> Any:
        if self._evaluated is None and any(len(target["labels"]) for _, target in self._images):
            self._evaluated = _evaluated(self._images, self._kind, self._iou, self._sigmas)
        return self._evaluated


def _evaluated(images: list[tuple[Boxes, Boxes]], kind: str, iou: float | None, sigmas: Sequence[float]) -> Any:
    coco = require("pycocotools.coco", "metrics")
    cocoeval = require("pycocotools.cocoeval", "metrics")
    truth, found = coco.COCO(), coco.COCO()
    labels = {int(label) for pair in images for boxes in pair for label in boxes["labels"]}
    for part, side in ((truth, 1), (found, 0)):
        entries = [entry for number, pair in enumerate(images) for entry in _entries(number, pair[side], kind)]
        part.dataset = {
            "images": [{"id": number, **_size(target)} for number, (_, target) in enumerate(images)],
            "categories": [{"id": label} for label in sorted(labels)],
            "annotations": [{"id": number + 1, **entry} for number, entry in enumerate(entries)],
        }
    with contextlib.redirect_stdout(io.StringIO()):
        for part in (truth, found):
            part.createIndex()
        evaluation = cocoeval.COCOeval(truth, found, kind)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ["all"]
        evaluation.params.maxDets = [100]
        points = max(
            (boxes["keypoints"].shape[1] for pair in images for boxes in pair if "keypoints" in boxes), default=0
        )
        if kind == "keypoints" and points != len(evaluation.params.kpt_oks_sigmas):
            evaluation.params.kpt_oks_sigmas = _one_each(sigmas, points)
        if iou is not None:
            import numpy as np

            evaluation.params.iouThrs = np.array([iou])
        evaluation.evaluate()
    return evaluation


def _size(target: Boxes) -> dict[str, int]:
    """Height and width of an image, which masks are compared in."""
    return dict(zip(("height", "width"), target["masks"].shape[-2:], strict=True)) if "masks" in target else {}


def _entries(image: int, boxes: Boxes, kind: str) -> list[dict[str, Any]]:
    """Annotations as COCO has them: corner and size in pixels."""
    entries = []
    for number, label in enumerate(boxes["labels"].tolist()):
        left, top, right, bottom = boxes["boxes"][number].tolist()
        width, height = right - left, bottom - top
        entry: dict[str, Any] = {"image_id": image, "category_id": int(label), "iscrowd": 0}
        entry |= {"bbox": [left, top, width, height], "area": width * height}
        if "scores" in boxes:
            entry["score"] = float(boxes["scores"][number])
        if kind == "segm":
            entry["segmentation"] = _run_lengths(boxes["masks"][number])
        if kind == "keypoints":
            points = boxes["keypoints"][number].clone()
            points[:, 2] = points[:, 2].clamp(min=0)
            entry["keypoints"] = points.flatten().tolist()
            entry["num_keypoints"] = int((points[:, 2] > 0).sum())
        entries.append(entry)
    return entries


def _numbers(sigma: float | str | list[float]) -> list[float]:
    """One number or several, as 0.05,0.1.

    Raises:
        InputError: if one is no number above 0.
    """
    try:
        parts = sigma.split(",") if isinstance(sigma, str) else sigma if isinstance(sigma, list) else [sigma]
        numbers = [float(part) for part in parts]
    except (TypeError, ValueError):
        numbers = []
    if not numbers or min(numbers) <= 0:
        raise InputError(f"metric_arg sigma must be a number above 0, or one a keypoint as 0.05,0.1, got {sigma!r:.60}")
    return numbers


def _one_each(sigmas: Sequence[float], points: int) -> Any:
    import numpy as np

    if len(sigmas) not in (1, points):
        raise InputError(f"metric_arg sigma has {len(sigmas)} numbers, and there are {points} keypoints")
    return np.array(sigmas if len(sigmas) == points else [*sigmas] * points)


def _run_lengths(mask: Tensor) -> Any:
    import numpy as np

    encode = require("pycocotools.mask", "metrics").encode
    pixels = mask.reshape(mask.shape[-2:])
    return encode(np.asfortranarray((pixels > _SURE if pixels.is_floating_point() else pixels > 0).numpy(), np.uint8))


def _precision(evaluation: Any) -> float:
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = torch.from_numpy(evaluation.eval["precision"])
    counted = precision > -1
    return float(precision[counted].mean()) if bool(counted.any()) else 0.0
