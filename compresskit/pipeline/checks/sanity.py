"""Doubts about a run that can be named before its work: one line each, with what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ...core.types import call, main_output
from ...training.context import Context
from ..recipe import Recipe
from .lint import lint_quantized

_FEW_EXAMPLES = 100  # of a test split: one example is more than a point
_EXAMPLES = 8  # of the batch that is looked at
#: normalized images lie within about 3 of zero; those normalized twice reach -11, bytes taken as floats 255
_LARGEST_NORMALIZED = 6.0


def sanity_warnings(recipe: Recipe, context: Context) -> list[str]:
    """What is doubtful about the model and its data as they are opened.

    Args:
        recipe: what is to be run.
        context: its model and data.
    """
    found = []
    if context.original.random_weights and not _learns_first(recipe):
        found.append(
            f"the weights of {context.original.name} are random, since no weights are named: figures of accuracy say "
            "nothing; give --weights"
        )
    if any(edit["op"] == "quantized" for edit in context.original.edits):
        found += lint_quantized(recipe)
    return found + list(_of_data(context))


def baseline_warnings(recipe: Recipe, context: Context, metric: dict[str, Any] | None) -> list[str]:
    """What is doubtful about how good the model is before any step.

    Args:
        recipe: what is to be run.
        context: its model and data.
        metric: of the model as it came, as a report has it; None without data.
    """
    judge, classes = context.metric, context.data.num_classes if context.data else None
    if metric is None or judge is None or metric["name"] != judge.name:
        return []
    if context.original.random_weights or _learns_first(recipe):
        return []
    if judge.beats_chance(metric["low"], metric["high"], classes):
        return []
    among = f" among {classes} classes" if classes else ""
    return [
        f"the model scores {metric['name']} {metric['value']:.4f}, no better than chance{among} "
        f"({judge.chance(classes):.4f}): look at its weights, the order of the classes, and what is applied to the "
        "inputs"
    ]


def _learns_first(recipe: Recipe) -> bool:
    """Whether a step trains the model's weights before anything else happens to them."""
    return bool(recipe.steps) and recipe.steps[0].technique in ("train", "distill")


def _of_data(context: Context) -> Iterator[str]:
    data = context.data
    if data is None:
        return
    size = data.known_size("test")
    shares = context.metric is None or context.metric.scale == "share"
    if shares and size is not None and size < _FEW_EXAMPLES:
        yield (
            f"the test split has {size} example{'s' * (size != 1)}, so that one of them is {100 / size:.1f} points of "
            "an accuracy: differences below that are noise"
        )
    inputs, targets = next(iter(data.batches("test", batch_size=_EXAMPLES)))
    if isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.is_floating_point():
        largest = float(inputs.abs().max())
        if largest > _LARGEST_NORMALIZED and "normalized" in data.applied:
            yield (
                f"inputs reach {largest:.1f} after {data.applied.removeprefix('images are ')}, where normalized images "
                f"stay below {_LARGEST_NORMALIZED:.0f}: are they normalized already? --data-arg preprocess=none"
            )
    if data.num_classes and isinstance(targets, Tensor) and targets.dim() == 1 and not targets.is_floating_point():
        module = context.original.module
        with torch.no_grad():
            outputs = main_output(call(module, inputs))
        if isinstance(outputs, Tensor) and outputs.dim() == 2 and outputs.shape[1] > data.num_classes:
            yield (
                f"the model has {outputs.shape[1]} outputs and the data {data.num_classes} classes: the numbers of the "
                f"classes must be the model's; else --model-arg num_classes={data.num_classes}, and train"
            )
