"""The `distill` technique, and distillation as a way to recover a model that another technique changed."""

from __future__ import annotations

import torch

from ..core.options import TrainOptions
from ..core.train import curve_files, train
from ..core.types import Context, Loaded, StepResult
from .losses.term import Loss, Setup, Signals
from .matching import table
from .models import Teacher, choose_teachers, load
from .objective import Objective, WeightedTerm
from .options import DistillOptions
from .plan import make_plan
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
    teachers = choose_teachers(loaded, options, context)
    student = choose_student(loaded, options, context)
    teacher = Teacher(teachers, context.original.preprocessing, context.device)
    plan = make_plan(student, teacher, options, context)
    rows = table(plan.pairs)
    for row in rows:
        student_layer = f"{row['student layer']} ({row['student shape']})"
        context.log(f"{student_layer} learns from {row['teacher layer']} ({row['teacher shape']})")
    facts = train(student, options, context, objective=plan.objective, extra_modules=plan.objective.adapters)
    facts["teacher"] = teacher.names
    tables = {"matched layers": rows} if rows else {}
    return StepResult(student, facts, plan.notes, tables, curve_files(facts, context.folder))


def choose_student(current: Loaded, options: DistillOptions, context: Context) -> Loaded:
    """The current model, or the new one that the options name."""
    if not options.student:
        return current
    student = load(context, options.student, options.student_weights, options.student_args)
    # it learns from batches made for the original model, so it expects the same from now on
    student.preprocessing = context.original.preprocessing
    return student


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
