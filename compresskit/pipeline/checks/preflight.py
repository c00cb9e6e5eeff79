"""Checks before work: everything that can be found out in seconds is, and all that fails is said at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from ...analysis.measure.work import Work, work_of
from ...artifact import artifact
from ...artifact.probing import outputs_of
from ...artifact.rebuilding import ProbeMismatch, check_rebuild
from ...artifact.source import load_model
from ...core import distributed
from ...core.costs import MACS, PARAMS, cost_of, guard_of, met_already, names
from ...core.errors import InputError, described, problems_of, require
from ...core.options import Options
from ...core.tensors.randomness import unchanged_random_state
from ...core.types import Loaded
from ...export.exporters.traced import traced
from ...export.folders.folder import check_source
from ...export.options import ExportOptions, ExportStepOptions
from ...training.budgets import BudgetOptions
from ...training.context import Context
from ...training.train_check import check_training
from ..opening import open_what_opens
from ..recipe import Recipe, RecipeOptions, Step, place_of
from ..steps import follow, model_after, recovery_mode
from ..techniques import STEPS
from .names import changed, existing, located, options_of, output_of, same_files

_EXAMPLES = 2  # of the batch that goes through model and metric
#: copies of the weights in a checkpoint (weights, best, average, optimizer), twice while one replaces another
_CHECKPOINT_COPIES = {"sgd": 2 * 4, "adamw": 2 * 5}

Log = Callable[[str], None]


def checked_context(recipe: Recipe, log: Log, *, output: Path | None = None, finished: int = 0) -> Context:
    """Open a recipe's model and data, and check everything that its steps rely on; nothing is changed or written.

    Args:
        recipe: what would be run.
        log: gets one line with what was checked and how long that took.
        output: the artifact that would be written; None where nothing is (a dry run).
        finished: steps whose artifacts are there already, which need no further space.
    Returns:
        the context that the first step starts from.
    Raises:
        InputError: a line for each thing that fails.
    """
    started = time.perf_counter()
    unchangeable, rows = changed(recipe), _rows(recipe)
    asked = [] if rows else [*options_of(recipe), *same_files(recipe)]
    problems = [*unchangeable, *_packages(recipe), *rows, *asked, *output_of(output)]
    context, unopened = (None, []) if unchangeable else open_what_opens(recipe.options, log)
    problems += unopened
    if context is None:
        problems += [] if unchangeable else _further_models(recipe)
    else:
        with unchanged_random_state(context.device):
            found, runs = _model(context)
            problems += found + (_steps(recipe, context) if runs and not rows else [])
        problems += _bytes_that_stay(recipe, context.original)
        if output is not None and distributed.is_main():
            problems += _space(output, space_needed(recipe, context.original, finished))
    if problems or context is None:
        raise InputError("\n".join(dict.fromkeys(problems)))
    names = ", ".join(["model", "rebuilding", *(["data", "metric"] if context.data else []), *_named_steps(recipe)])
    log(f"checked: {names}; {time.perf_counter() - started:.1f} s")
    return context


def checked_export(recipe: RecipeOptions, options: ExportOptions, output: Path, log: Log) -> Context:
    """The same for an export, which traces the model first thing by itself.

    Raises:
        InputError: a line for each thing that fails.
    """
    rows = _load_rows(options)
    pair = [] if rows else problems_of(options.check_pair)
    problems = [*_missing(options.packages()), *_load_rows(recipe), *rows, *pair, *output_of(output)]
    context, unopened = open_what_opens(recipe, log)
    problems += unopened
    if context is not None:
        with unchanged_random_state(context.device):
            problems += _metric(context.original.clone(), context)
            if problems:  # otherwise it comes next
                problems += problems_of(lambda: _check_source(context.original, options))
        problems += _space(output, uncoded_bytes(context.original))
    if problems or context is None:
        raise InputError("\n".join(dict.fromkeys(problems)))
    return context


def _check_source(loaded: Loaded, options: ExportOptions) -> None:
    if options.takes_model():
        check_source(loaded)
    else:
        traced(loaded, options)


def _named_steps(recipe: Recipe) -> list[str]:
    return [place_of(recipe, number) for number in range(len(recipe.steps))]


# -- what options alone say ----------------------------------------------------------------------------------------


def _packages(recipe: Recipe) -> Iterator[str]:
    """Techniques and optional packages that do not import."""
    for number, step in enumerate(recipe.steps):
        try:
            STEPS[step.technique].function()
            yield from located(recipe, number, _missing(step.options.packages()))
        except ImportError as error:
            yield from located(recipe, number, [f"does not import: {described(error)}"])


def _missing(packages: dict[str, str]) -> list[str]:
    return problems_of(*(partial(require, module, extra) for module, extra in packages.items()))


def _rows(recipe: Recipe) -> list[str]:
    """Users' own rows of registries that are not there or are not what a row must be."""
    found = _load_rows(recipe.options)
    for number, step in enumerate(recipe.steps):
        found += located(recipe, number, _load_rows(step.options))
    return found


def _load_rows(options: Options) -> list[str]:
    own = [(registry, name) for _, registry, name in options.named_rows() if not registry.builtin(name)]
    return problems_of(*(partial(registry.load, name) for registry, name in own))


def _further_models(recipe: Recipe) -> Iterator[str]:
    """Teachers and students that do not load, where there is no model that they could be fitted to."""
    trust = recipe.options.trust_source
    for number, step in enumerate(recipe.steps):
        for string, given in step.options.models():
            yield from located(recipe, number, problems_of(partial(load_model, string, trust_source=trust, **given)))


def _bytes_that_stay(recipe: Recipe, original: Loaded) -> Iterator[str]:
    """Limits of bytes that a step cannot meet, since training leaves the size of weights as it is."""
    size_bytes = uncoded_bytes(original)
    for number, step in enumerate(recipe.steps):
        if step.technique != "train" or original.storage:
            return
        for name in names("exact", technique="quantize"):  # of the tensors alone: known without a run
            amount, row = step.options.limits().get(name), cost_of(name)
            figure = row.formula()(Work(stored_bytes=size_bytes))
            if amount is not None and figure > amount.of(figure):
                given = f"{guard_of(name)} is {getattr(step.options, guard_of(name))}"
                says = row.says.format(row.shown(figure))
                yield from located(recipe, number, [f"{given}, {says}, and training keeps that"])


# -- the model -----------------------------------------------------------------------------------------------------


def _model(context: Context) -> tuple[list[str], bool]:
    """What is wrong with the model, and whether its steps can be looked at, which need its forward."""
    original = context.original.clone()  # a forward may change what a module counts or averages
    problems = problems_of(partial(outputs_of, original))
    if problems:
        return problems, False
    return [*problems_of(partial(check_rebuilding, original)), *_metric(original, context)], True


def check_rebuilding(loaded: Loaded) -> None:
    """Build a model again from its source, edits and weights, as loading its artifact will, and compare the outputs.

    Raises:
        InputError: if it cannot be built again, or computes something else then.
    """
    artifact.check_source(loaded)
    try:
        check_rebuild(loaded)
    except InputError:
        raise
    except ProbeMismatch as error:
        raise InputError(
            f"model {loaded.name!r} cannot be saved: its source with its edits and weights computes something else; "
            "start from an artifact that verify passes"
        ) from error


def _metric(loaded: Loaded, context: Context) -> list[str]:
    """One batch of test data through model and metric."""
    metric = context.metric
    if context.data is None or metric is None or metric.takes_module:
        return []
    batch = next(iter(context.data.batches("test", batch_size=_EXAMPLES)))
    return problems_of(lambda: metric.value(loaded.module, [batch], context.device))


# -- the steps -----------------------------------------------------------------------------------------------------


def _steps(recipe: Recipe, context: Context) -> list[str]:
    """What each technique, and the training after it, would refuse; as far as the model's layers are known."""
    problems: list[str] = []
    known, alike = True, True  # alike: cut or factored, but the code that computes is the same

    def take(number: int, step: Step, current: Loaded, context: Context) -> Loaded:
        nonlocal known, alike
        row = STEPS[step.technique]
        alike = alike and row.preview != "unknown"
        if not known and not (alike and row.leaves_model):
            return current
        found = [*_budgets_met(step, current), *problems_of(partial(_check_step, step, current, context))]
        problems.extend(located(recipe, number, found))
        following = model_after(step, current, context) if not found else None
        left = following or (current if row.preview == "same" and not found else None)
        if left is not None and not row.leaves_model:
            problems.extend(located(recipe, number, list(_limits_missed(step, left, context.original))))
        if following is not None and following is not current:
            problems.extend(located(recipe, number, problems_of(partial(check_rebuilding, following))))
        known = known and following is not None
        left = following or current
        return replace(left, random_weights=False) if step.technique in ("train", "distill") else left

    follow(recipe, context, take)
    return problems


def _budgets_met(step: Step, current: Loaded) -> Iterator[str]:
    """Budgets in absolute amounts that the model meets as it is, where that is all that is asked for."""
    targets = step.options.targets() if isinstance(step.options, BudgetOptions) else {}
    if not targets or any(amount.is_share or cost_of(name).known != "exact" for name, amount in targets.items()):
        return
    work = work_of(current)
    figures = {name: cost_of(name)(work) for name in targets}
    if all(figures[name] <= amount.of(figures[name]) for name, amount in targets.items()):
        yield from (met_already(name, amount, figures[name]) for name, amount in targets.items())


def _limits_missed(step: Step, left: Loaded, original: Loaded) -> Iterator[str]:
    """Limits of MACs and parameters that a step misses whatever it does: it leaves a model of as many."""
    for name in (MACS, PARAMS):
        amount, row = step.options.limits().get(name), cost_of(name)
        if amount is None or step.technique in row.techniques:
            continue
        figure, before = (row(work_of(one)) for one in (left, original))
        if figure > amount.of(before):
            given = f"{guard_of(name)} is {getattr(step.options, guard_of(name))}"
            yield f"{given}, {row.says.format(row.shown(figure))}, and {step.technique} keeps that; prune before it"


def _check_step(step: Step, current: Loaded, context: Context) -> None:
    if context.data is None and step.options.data_readers():
        return  # said already
    check = STEPS[step.technique].checker()
    problems = problems_of(partial(check, current.clone(), step.options, context)) if check else []
    problems += problems_of(partial(_check_recovery, step, current, context))
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))


def _check_recovery(step: Step, current: Loaded, context: Context) -> None:
    mode = recovery_mode(step.options)
    if mode == "finetune":
        check_training(current, step.options.recover, context)
    elif mode == "kd":
        from ...distillation.distill import recover_objective

        objective = recover_objective(context, step.options.recover, current.clone())
        check_training(current, step.options.recover, context, objective=objective, extra_modules=objective.adapters)


# -- the disk ------------------------------------------------------------------------------------------------------


def _space(output: Path, needed: int) -> list[str]:
    parent = existing(output)
    free = shutil.disk_usage(parent).free
    if needed <= free:
        return []
    return [
        f"output {str(output)!r} needs about {needed:,} bytes, and {free:,} are free on the disk of {str(parent)!r}; "
        "make room, or name another output"
    ]


def space_needed(recipe: Recipe, original: Loaded, finished: int = 0) -> int:
    """Bytes that a run's output, finished steps and largest training checkpoint take at most, as far as is known."""
    size_bytes = uncoded_bytes(original)
    trained = [step.options for step in recipe.steps if step.technique in ("train", "distill")]
    trained += [step.options.recover for step in recipe.steps if _trains(step)]
    checkpoint = max((_CHECKPOINT_COPIES[options.optimizer] for options in trained), default=0)
    exported = 3 * sum(isinstance(step.options, ExportStepOptions) for step in recipe.steps)  # work, step and output
    return size_bytes * (max(len(recipe.steps) - finished, 0) + 1 + checkpoint + exported)


def _trains(step: Step) -> bool:
    return bool(getattr(step.options, "trains", lambda: False)())


def uncoded_bytes(loaded: Loaded) -> int:
    """Bytes of a model's tensors, each counted once, before any coding."""
    tensors: dict[int, torch.Tensor] = {
        id(tensor): tensor for tensor in [*loaded.module.parameters(), *loaded.module.buffers()]
    }
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
