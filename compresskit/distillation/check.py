"""What `distill` would refuse only later, found out before any work."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..core.errors import InputError, problems_of
from ..core.types import Loaded
from ..training.context import Context
from ..training.train_check import check_training
from .distill import choose_student, with_unlabelled
from .models import Teacher, choose_teachers
from .options import DistillOptions
from .plan import make_plan


def check(loaded: Loaded, options: DistillOptions, context: Context) -> None:
    """Load teachers and student, match their layers, and run one step of the losses.

    Args:
        loaded: a copy of the model, which this may change.
        options: of the step.
        context: data, device and the original model.
    Raises:
        InputError: a line for each thing that `distill` would refuse.
    """
    made: dict = {"context": context}
    problems = problems_of(
        lambda: made.update(context=with_unlabelled(options, context)),
        lambda: made.update(teachers=choose_teachers(loaded, options, context)),
        lambda: made.update(student=choose_student(loaded, options, context)),
    )
    problems += problems_of(partial(_refuse_untaught, made.get("teachers", ()), options))
    if not problems:
        teacher = Teacher(made["teachers"], context.original.preprocessing, context.device)
        problems = problems_of(partial(_check_step, made["student"], teacher, options, made["context"]))
    if problems:
        raise InputError("\n".join(problems))


def _refuse_untaught(teachers: Sequence[Loaded], options: DistillOptions) -> None:
    """Teachers whose weights are known to be random would teach noise."""
    for teacher in teachers:
        if teacher.random_weights:
            mend = "--teacher-weights" if options.teacher else "a --teacher, --weights of the model"
            raise InputError(
                f"teacher {teacher.name!r} has random weights and would teach noise; give {mend}, or the artifact of a "
                "trained one"
            )


def _check_step(student: Loaded, teacher: Teacher, options: DistillOptions, context: Context) -> None:
    plan = make_plan(student, teacher, options, context, keep_logits=False)
    check_training(student, options, context, objective=plan.objective, extra_modules=plan.objective.adapters)
