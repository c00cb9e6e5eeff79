"""Going through a recipe's steps: what each one starts from. The runner, the dry run and the checks share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..core.options import Options
from ..core.types import Loaded
from ..training.context import Context
from ..training.options import StepOptions
from .recipe import Recipe, Step
from .techniques import STEPS

#: (number, step, current model, context) -> the model after the step
Take = Callable[[int, Step, Loaded, Context], Loaded]


def follow(recipe: Recipe, context: Context, take: Take) -> Loaded:
    """Take a recipe's steps in order, each on what the one before left.

    Args:
        recipe: the steps.
        context: its original model is where the first step starts.
        take: does (or previews, or checks) one step.
    Returns:
        the model after the last step.
    """
    current = context.original
    for number, step in enumerate(recipe.steps):
        current = take(number, step, current, context)
        if becomes_original(recipe, number):
            context = replace(context, original=current.clone())
            metric = context.metric.against(context.original.module) if context.metric else None
            context = replace(context, metric=metric)
    return current


def becomes_original(recipe: Recipe, number: int) -> bool:
    """Whether later steps are compared with, and taught by, what a step leaves: so it is with what is trained first."""
    followed = number + 1 < len(recipe.steps)
    changing = [step.technique for step in recipe.steps[: number + 1] if not STEPS[step.technique].leaves_model]
    trained_here = recipe.steps[number].technique == "train"
    return followed and trained_here and all(technique == "train" for technique in changing)


def recovery_mode(options: Options) -> str:
    """How a step's model is trained afterwards; "none" where it is not."""
    return options.recover.mode if isinstance(options, StepOptions) else "none"


def model_after(step: Step, current: Loaded, context: Context) -> Loaded | None:
    """A model with the layers that a step leaves: the same, or a new student; None where that is not known yet."""
    if step.options.keeps_layers():
        return current
    if step.technique == "distill":
        from ..distillation.distill import choose_student

        return choose_student(current, step.options, context)
    return None
