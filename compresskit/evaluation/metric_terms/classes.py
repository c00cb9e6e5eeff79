"""Metrics of classes: accuracy, F1, area under the ROC curve, intersection over union."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..loss_terms.classification import check_classes
from ..loss_terms.shapes import IGNORED, classes_last
from .library import LibraryMetric, torchmetrics


def top1(outputs: Tensor, targets: Tensor, ignore_index: int = IGNORED) -> Tensor:
    """Share of an example's positions whose highest logit is the label.

    Args:
        outputs: (batch, classes), (batch, length, classes), or maps (batch, classes, ...).
        targets: (batch, ...).
        ignore_index: a class that is not counted.
    Returns:
        (batch,), 0 or 1 where an example has one label.
    """
    check_classes(targets, "metric 'top1'", "mse")
    return counted_mean(classes_last(outputs, targets).argmax(-1) == targets, targets != ignore_index)


def top5(outputs: Tensor, targets: Tensor, ignore_index: int = IGNORED) -> Tensor:
    """Share of an example's positions whose label is among the five highest logits; arguments as of `top1`."""
    check_classes(targets, "metric 'top5'", "mse")
    logits = classes_last(outputs, targets)
    best = logits.topk(min(5, logits.shape[-1]), dim=-1).indices
    return counted_mean((best == targets.unsqueeze(-1)).any(-1), targets != ignore_index)


vars(top1).update(scale="share", chance=lambda classes: 1 / classes)
vars(top5).update(scale="share", chance=lambda classes: 5 / classes if classes > 5 else None)


def counted_mean(hits: Tensor, counted: Tensor) -> Tensor:
    """The mean of each example over what counts, (batch, ...) -> (batch,); 1 where nothing counts."""
    hits, counted = hits.reshape(len(hits), -1), counted.reshape(len(hits), -1)
    total = counted.sum(1)
    return torch.where(total > 0, (hits & counted).sum(1) / total.clamp(min=1), 1.0).float()


class ClassMetric(LibraryMetric):
    """Of one class an example or position, of several labels, or of one logit for two classes.

    Args:
        ignore_index: a class that is not counted.
    """

    #: names in torchmetrics.classification for (several classes, several labels, two classes)
    classes: tuple[str, str, str] = ("", "", "")

    def __init__(self, ignore_index: int = IGNORED):
        super().__init__()
        self._ignored = ignore_index

    def make(self, outputs: Tensor, targets: Tensor) -> Any:
        """The form of the metric for these shapes."""
        check_classes(targets, f"metric {type(self).__name__}", "r2")
        several, labels, two = (f"classification.{name}" for name in self.classes)
        if targets.shape == outputs.shape and outputs.dim() == 2 and outputs.shape[1] > 1:
            return torchmetrics(labels)(outputs.shape[-1], ignore_index=self._ignored)
        if targets.numel() == outputs.numel():
            return torchmetrics(two)(ignore_index=self._ignored)
        count = classes_last(outputs, targets).shape[-1]
        return torchmetrics(several)(count, average="macro", ignore_index=self._ignored)

    def prepare(self, outputs: Tensor, targets: Tensor) -> tuple[Any, ...]:
        """(scores, targets), classes on axis 1."""
        if targets.numel() == outputs.numel():
            return outputs.reshape(targets.shape).sigmoid(), targets.long()
        return classes_last(outputs, targets).flatten(0, -2).softmax(-1), targets.flatten().long()


class F1(ClassMetric):
    """F1 score: of classes and labels the mean, of two classes with one logit that of the second."""

    classes = ("MulticlassF1Score", "MultilabelF1Score", "BinaryF1Score")


class AUROC(ClassMetric):
    """Area under the ROC curve: of classes (one against the others) and labels the mean."""

    classes = ("MulticlassAUROC", "MultilabelAUROC", "BinaryAUROC")


class MeanIoU(ClassMetric):
    """Intersection over union: the mean over the classes that occur; of one logit that of the mask."""

    classes = ("MulticlassJaccardIndex", "MultilabelJaccardIndex", "BinaryJaccardIndex")

    def prepare(self, outputs: Tensor, targets: Tensor) -> tuple[Any, ...]:
        """(classes, targets): no scores are needed."""
        if targets.numel() == outputs.numel():
            return super().prepare(outputs, targets)
        return classes_last(outputs, targets).argmax(-1), targets.long()
