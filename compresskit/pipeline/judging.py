"""By what a run's models are trained and judged: loss, metric and task, as named or as one batch shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import CompresskitError, InputError, first_line
from ..core.types import Loaded, call, main_output
from ..data.dataset import Data
from ..evaluation.loss_terms.shapes import class_axis
from ..evaluation.losses import Loss, balanced_weights, make_loss
from ..evaluation.metrics import Metric, make_metric
from ..evaluation.tables import TASKS
from ..evaluation.tasks import Task, task_of
from ..model.forward_check import data_remedy
from .recipe import RecipeOptions

_EXAMPLES = 2  # of the batch that tells the task
_OF_CLASSES = ("ce", "bce", "ctc")  # losses whose targets are integers
_COUNTED = 256  # examples a batch where classes are counted


def named_loss(options: RecipeOptions, classes: Callable[[], list[float]] | None = None) -> Loss | None:
    """The loss that the options name; None where they leave it to the task, or to the data's classes.

    Args:
        options: of the run.
        classes: gives balanced weights of classes; None leaves a loss that needs them to a later call.
    Raises:
        InputError: naming the nearest loss, or the nearest argument.
    """
    arguments = dict(options.task_loss_arg)
    if arguments.get("class_weights") == "balanced":
        if classes is None:
            make_loss(options.task_loss, arguments)
            return None
        arguments["class_weights"] = classes()
    return make_loss(options.task_loss, arguments)


def named_metric(options: RecipeOptions, original: nn.Module | None) -> Metric | None:
    """The metric that the options name; None where they leave it to the task.

    Raises:
        InputError: naming the nearest metric, or the nearest argument.
    """
    if options.metric != "auto":
        return make_metric(options.metric, original, options.metric_arg)
    if options.metric_arg:
        raise InputError(f"metric_arg {', '.join(options.metric_arg)} needs a metric by name; set metric")
    return None


def judged(
    options: RecipeOptions, original: Loaded, data: Data, named: Mapping[str, Any], log: Callable[[str], None]
) -> dict[str, Any]:
    """Task, loss and metric of a run, after one batch of the data went through the model.

    Args:
        options: of the run.
        original: the model.
        data: the data.
        named: the loss and the metric that the options name.
        log: is told what was chosen, and why.
    Returns:
        "task", "loss" and "metric".
    Raises:
        InputError: if the batch does not fit the model, or no loss or metric is known for it.
    """
    if options.task != "auto" and TASKS[options.task].attributes["loss"] in _OF_CLASSES:
        data.read_classes(required=TASKS[options.task].attributes["loss"] != "bce")  # which takes shares, too
    outputs, targets = _one_batch(original, data)
    task = _task(options, data, outputs, targets)
    loss, metric = named.get("loss"), named.get("metric")
    if options.task_loss_arg.get("class_weights") == "balanced":
        logits = main_output(outputs)
        classes = logits.shape[class_axis(tuple(logits.shape), tuple(targets.shape))]
        batches = data.batches("train", batch_size=_COUNTED)
        loss = named_loss(options, lambda: balanced_weights(batches, classes))
    if task is not None:
        chosen = []
        if options.task_loss == "auto":
            loss = make_loss(task.loss)
            chosen.append(f"loss {task.loss}")
        if options.metric == "auto":
            metric = make_metric(task.metric, original.module)
            chosen.append(f"metric {task.metric}")
        if chosen:
            log(f"task {task.name} ({task.why}): {', '.join(chosen)}")
    return {"task": task, "loss": loss, "metric": metric}


def _task(options: RecipeOptions, data: Data, outputs: Any, targets: Any) -> Task | None:
    try:
        if options.task == "auto" and data.task is not None:
            return replace(task_of(outputs, targets, data.task), why="as the data is read")
        return task_of(outputs, targets, options.task)
    except InputError:
        if "auto" in (options.task_loss, options.metric):
            raise
        return None  # all that it decides is named


def _one_batch(loaded: Loaded, data: Data) -> tuple[Any, Any]:
    """Outputs and targets of one batch, so that a misfit is named before any work."""
    inputs, targets = next(iter(data.batches("test", batch_size=_EXAMPLES)))
    try:
        with torch.no_grad():
            outputs = call(loaded.module, inputs)
    except CompresskitError:
        raise
    except Exception as error:
        shape = list(inputs.shape) if hasattr(inputs, "shape") else type(inputs).__name__
        raise InputError(
            f"data {data.name!r} gives inputs {shape}, which model {loaded.name!r} does not take: {first_line(error)}"
            f"{data_remedy(loaded.module, inputs)}"
        ) from error
    if data.num_classes and isinstance(targets, Tensor) and targets.dim() == 1:
        logits = main_output(outputs)
        if logits.dim() == 2 and logits.shape[1] < data.num_classes:
            raise InputError(
                f"data {data.name!r} has {data.num_classes} classes, model {loaded.name!r} has {logits.shape[1]} "
                f"outputs; e.g. --model-arg num_classes={data.num_classes}"
            )
    return outputs, targets
