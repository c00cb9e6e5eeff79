"""What a model is for, told from one batch: the task decides loss, metric and distillation where they are `auto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.errors import InputError
from ..core.registry import Row
from ..core.types import children, main_output
from .loss_terms.shapes import class_axis
from .tables import TASKS


@dataclass(frozen=True)
class Task:
    """What a task means where a run leaves it to us.

    Attributes:
        name: of the row of TASKS.
        loss: of LOSSES.
        metric: of METRICS.
        distillation: what a model is taught by the original, of the registry of distillation losses.
        why: what showed it, for reports.
    """

    name: str
    loss: str
    metric: str
    distillation: str
    why: str = ""


def task_of(outputs: Any, targets: Any, name: str = "auto") -> Task:
    """The task of a batch.

    Args:
        outputs: what the model returned.
        targets: what the data gives; None where there are no labels.
        name: a row of TASKS, or `auto`, which takes the first that fits.
    Raises:
        InputError: if none fits.
    """
    if name != "auto":
        return _task(name, TASKS[name], "as asked")
    shown = f"{shape_text(targets)} as targets, {shape_text(outputs)} as outputs"
    try:
        found = next((key for key in TASKS if key != "auto" and TASKS.load(key)(outputs, targets)), None)
    except TypeError as error:  # outputs without a tensor
        raise InputError(f"{error}; name a loss with --task-loss and a metric with --metric") from error
    if found is not None:
        return _task(found, TASKS[found], shown)
    raise InputError(
        f"no loss is known for {shown}; name one with --task-loss, "
        "e.g. file.py:fn(outputs, targets), and a metric with --metric"
    )


def _task(name: str, row: Row, why: str) -> Task:
    attributes = row.attributes
    return Task(name, attributes["loss"], attributes["metric"], attributes["distillation"], why)


def shape_text(batch: Any) -> str:
    """A structure in a few words: `floats [8, 3]`, `a list of 4 mappings`."""
    if batch is None:
        return "nothing"
    if isinstance(batch, Tensor):
        kind = "floats" if batch.is_floating_point() else "truth values" if batch.dtype == torch.bool else "integers"
        return f"{kind} {list(batch.shape)}"
    if isinstance(batch, list):
        return f"a list of {len(batch)} {'mappings' if batch and isinstance(batch[0], Mapping) else 'entries'}"
    names = [name for name, value in children(batch) if value is not None]
    return f"{type(batch).__name__} of {', '.join(names)}" if names else type(batch).__name__


# -- what fits ------------------------------------------------------------------------------------------------------


def is_unlabelled(outputs: Any, targets: Any) -> bool:
    """No targets at all."""
    return targets is None


def is_detection(outputs: Any, targets: Any) -> bool:
    """One mapping with boxes for each image."""
    return (
        isinstance(targets, list | tuple)
        and bool(targets)
        and all(isinstance(target, Mapping) and "boxes" in target for target in targets)
    )


def has_own_loss(outputs: Any, targets: Any) -> bool:
    """Targets of a structure that no loss of ours takes: the model must compute its own."""
    return not isinstance(targets, Tensor)


def is_transcription(outputs: Any, targets: Any) -> bool:
    """Padded labels (batch, longest) against frames (batch, frames, classes) of another length."""
    logits = main_output(outputs)
    return (
        isinstance(targets, Tensor)
        and not targets.is_floating_point()
        and targets.dim() == 2
        and logits.dim() == 3
        and len(targets) in logits.shape[:2]
        and targets.shape[1] not in logits.shape[1:]
    )


def is_multilabel(outputs: Any, targets: Any) -> bool:
    """Zeros and ones, one for each logit; in floats (batch, labels) with both, and not a single 1 a row: a class."""
    logits = main_output(outputs)
    if not isinstance(targets, Tensor) or targets.shape != logits.shape or targets.dim() < 2:
        return False
    if not bool(((targets == 0) | (targets == 1)).all()):
        return False
    return not targets.is_floating_point() or (
        targets.dim() == 2 and bool(targets.any()) and not bool(targets.all()) and not bool((targets.sum(1) == 1).all())
    )


def is_segmentation(outputs: Any, targets: Any) -> bool:
    """A class for each place of maps (batch, classes, height, width), or of volumes."""
    logits = main_output(outputs)
    return _are_classes(targets) and logits.dim() > 3 and (logits.shape[0], *logits.shape[2:]) == tuple(targets.shape)


def is_language(outputs: Any, targets: Any) -> bool:
    """Never told from a batch, which looks as any classes of positions do: data that is text says it."""
    return False


def is_tokens(outputs: Any, targets: Any) -> bool:
    """A class for each position of a sequence."""
    logits = main_output(outputs)
    return _are_classes(targets) and targets.dim() > 1 and class_axis(logits.shape, targets.shape) == logits.dim() - 1


def is_classification(outputs: Any, targets: Any) -> bool:
    """A class for each example, in integers."""
    return _are_classes(targets)


def is_regression(outputs: Any, targets: Any) -> bool:
    """Floats, whole-numbered or not."""
    return isinstance(targets, Tensor) and targets.is_floating_point()


def _are_classes(targets: Any) -> bool:
    return isinstance(targets, Tensor) and not targets.is_floating_point() and not targets.is_complex()
