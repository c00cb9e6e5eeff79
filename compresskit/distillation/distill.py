"""The `distill` technique, and distillation as a way to recover a model that another technique changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..core.errors import InputError
from ..core.options import TrainOptions
from ..core.train import curve_files, train
from ..core.types import Context, Loaded, StepResult, call, main_output, to_device
from .losses.term import Loss, Setup, Signals
from .models import Teacher, choose_models
from .objective import Objective, WeightedTerm
from .options import DistillOptions
from .tables import LOSSES


def distill(loaded: Loaded, options: DistillOptions, context: Context) -> StepResult:
    """Train a student to answer as its teacher does.

    Args:
        loaded: the current model: the student, or the teacher of the new student that the options name.
        options: models, losses and training.
        context: data, seed and the original model, which teaches by default.
    Returns:
        the student; adapters of the losses are left behind.
    Raises:
        InputError: without data, or when teacher and student do not fit together.
    """
    student, teachers = choose_models(loaded, options, context)
    if student is not loaded:
        # it learns from batches made for the original model, so it expects the same from now on
        student.preprocessing = context.original.preprocessing
    objective = make_objective(student, teachers, options, context)
    facts = train(student, options, context, objective=objective, extra_modules=objective.adapters)
    facts["teacher"] = [teacher.name for teacher in teachers]
    return StepResult(student, facts, files=curve_files(facts, context.folder))


def recover_objective(context: Context, options: TrainOptions) -> Objective:
    """The loss with which a changed model recovers from the original: Hinton's, weight 0.9, temperature 4.

    Args:
        context: its original model is the teacher.
        options: the recovering step's, for label smoothing.
    """
    teacher = Teacher([context.original], context.original.preprocessing, context.device)
    loss: Loss = LOSSES.load("kd")
    term = loss.make(Setup(Signals(torch.zeros(1, 1), torch.zeros(1, 1))))
    return Objective(
        teacher,
        [WeightedTerm("kd", loss.weight, term)],
        task_weight=loss.task_weight,
        label_smoothing=options.label_smoothing,
    )


def make_objective(student: Loaded, teachers: list[Loaded], options: DistillOptions, context: Context) -> Objective:
    """The weighted losses that the options name, made for these models.

    Raises:
        InputError: if the models' outputs do not fit together.
    """
    teacher = Teacher(teachers, context.original.preprocessing, context.device)
    signals = example_signals(student, teacher, context)
    setup = Setup(signals, options.temperature, {}, context.data.size("train") if context.data else 0, context.seed)
    rows = {name: LOSSES.load(name) for name in options.loss}
    terms = [
        WeightedTerm(name, options.loss_weight.get(name, loss.weight), loss.make(setup)) for name, loss in rows.items()
    ]
    return Objective(teacher, terms, task_weight=task_weight(options, rows), label_smoothing=options.label_smoothing)


def task_weight(options: DistillOptions, losses: Mapping[str, Any]) -> float:
    """Weight of the data's own targets: the options', or the smallest that the losses' papers give."""
    if options.task_weight is not None:
        return options.task_weight
    return min(loss.task_weight for loss in losses.values())


@torch.no_grad()
def example_signals(student: Loaded, teacher: Teacher, context: Context) -> Signals:
    """What both models answer to the student's example input.

    Raises:
        InputError: if their outputs have different shapes.
    """
    inputs = to_device(student.example, context.device)
    answer = main_output(call(student.module.to(context.device).eval(), inputs))
    taught = teacher(inputs)
    if answer.shape != taught.shape:
        raise InputError(
            f"the student's output has shape {list(answer.shape)} and the teacher's {list(taught.shape)}; "
            "give both the same number of classes, e.g. --model-arg num_classes=10"
        )
    return Signals(answer, taught)
