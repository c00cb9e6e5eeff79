"""The `distill` technique, and distillation as a way to recover a model that another technique changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from ..core import distributed
from ..core.types import Loaded
from ..training.context import Context, StepResult
from ..training.logging import curve_files
from ..training.loop import train
from ..training.options import RecoverOptions, TrainOptions
from .losses.term import DistillationBatch, Loss, Setup
from .matching.matching import table
from .models import Teacher, choose_teachers, load
from .objective import Objective, WeightedTerm
from .options import DistillOptions
from .plan import Plan, chosen_losses, make_plan
from .students import make_student
from .tables import BETWEEN_EXAMPLES, LOSSES
from .unlabelled import UnlabelledData


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
    context = with_unlabelled(options, context)
    teachers = choose_teachers(loaded, options, context)
    student = choose_student(loaded, options, context)
    teacher = Teacher(teachers, context.original.preprocessing, context.device)
    doubts = teacher.doubts(context)
    for line in doubts:
        context.log(f"warning: {line}")
    facts: dict[str, Any] = {}
    rest = chosen_losses(options, context)
    if options.hint_epochs:
        facts["hint"] = _hint_stage(student, teacher, options, context)
        rest = [name for name in rest if name != "fitnet"] or ["kd"]
    _warn_of_shares(rest, context)
    plan = make_plan(student, teacher, options, context, rest, first=options.hint_anneal or 1.0)
    rows = _show(plan, context)
    facts |= train(student, options, context, objective=plan.objective, extra_modules=plan.objective.adapters)
    facts["teacher"] = teacher.names
    if plan.cache:
        facts |= {"teacher_logits_computed": plan.cache.computed, "teacher_logits_found": plan.cache.found}
    tables = {"matched layers": rows} if rows else {}
    return StepResult(student, facts, doubts, tables, curve_files(facts, context.folder))


def with_unlabelled(options: DistillOptions, context: Context) -> Context:
    """The context whose training inputs are the unlabelled ones that the options name, if they name some.

    Raises:
        InputError: if there is nothing to read.
    """
    if context.data is None or not options.unlabelled:
        return context
    return replace(context, data=UnlabelledData(context.data, options.unlabelled))


def _warn_of_shares(losses: list[str], context: Context) -> None:
    """Under torchrun, say that losses between examples see less of the batch than in one process."""
    between = [name for name in losses if name in BETWEEN_EXAMPLES]
    if between and distributed.world_size() > 1:
        context.log(
            f"{', '.join(between)}: each of {distributed.world_size()} processes compares the examples of its own part "
            "of the batch only; raise batch_size to give each as many as one process had"
        )


def _show(plan: Plan, context: Context) -> list[dict[str, str]]:
    """Say which layers were matched before training starts."""
    rows = table(plan.pairs)
    for row in rows:
        student_layer = f"{row['student layer']} ({row['student shape']})"
        context.log(f"{student_layer} learns from {row['teacher layer']} ({row['teacher shape']})")
    return rows


def _hint_stage(student: Loaded, teacher: Teacher, options: DistillOptions, context: Context) -> dict[str, Any]:
    """FitNets' first stage: only the hint, which reaches only the layers up to the hinted one."""
    stage = options.model_copy(
        update={"epochs": options.hint_epochs, "task_weight": 0.0, "keep": "last", "early_stop": None, "cache": None}
    )
    plan = make_plan(student, teacher, stage, context, ["fitnet"])
    _show(plan, context)
    return train(
        student, stage, replace(context, metric=None), objective=plan.objective, extra_modules=plan.objective.adapters
    )


def choose_student(current: Loaded, options: DistillOptions, context: Context) -> Loaded:
    """The current model, or the new one that the options name."""
    if not options.student:
        if options.makes_student():
            return make_student(current, width=options.student_width, depth=options.student_depth)
        return current
    student = load(context, options.student, options.student_weights, options.student_args)
    # it learns from batches made for the original model, so it expects the same from now on
    student.preprocessing = context.original.preprocessing
    return student


def recover_objective(context: Context, options: TrainOptions, student: Loaded | None = None) -> Objective:
    """The loss with which a changed model recovers from the original: what the task asks for.

    Of classes, Hinton's, weight 0.9, temperature 4; of numbers, the squared error of the outputs; of boxes, the
    features of matched stages.

    Args:
        context: its original model is the teacher; its task says what is compared.
        options: the recovering step's, for label smoothing and whether labels are looked at.
        student: what recovers; losses on features need it.
    Raises:
        InputError: if a loss on features finds no stages that match.
    """
    teacher = Teacher([context.original], context.original.preprocessing, context.device)
    name = context.task.distillation if context.task else "kd"
    loss: Loss = LOSSES.load(name)
    labels: Literal["use", "ignore"] = options.labels if isinstance(options, RecoverOptions) else "use"
    if loss.needs and student is not None:
        asked = DistillOptions(loss=[name], labels=labels, label_smoothing=options.label_smoothing)
        return make_plan(student, teacher, asked, context).objective
    term = loss.make(Setup(DistillationBatch(torch.zeros(1, 1), torch.zeros(1, 1))))
    return Objective(
        teacher,
        [WeightedTerm(name, loss.weight, term)],
        task_weight=0.0 if labels == "ignore" else loss.task_weight,
        label_smoothing=options.label_smoothing,
        task_loss=context.loss,
    )
