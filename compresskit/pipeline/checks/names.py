"""What is refused before torch is imported: strings that name nothing, options at odds, outputs. Imports no torch."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from ...artifact.disk import ownership
from ...core.costs import cost_of, guard_of
from ...core.errors import InputError, beside, problems_of, unwritable
from ...data import strings as data_strings
from ...export.options import ExportStepOptions
from ...model import strings as model_strings
from ...model.checkpoints.locations import check_weights
from ..recipe import Recipe, RecipeOptions, place_of


def refuse_early(recipe: Recipe, output: Path | None, *, replaces: bool = False) -> None:
    """Refuse a run for what its recipe and the disk say, before anything heavy is imported.

    Args:
        recipe: what is to be run.
        output: where the result is to go; None where nothing is written.
        replaces: whether an output that exists may be replaced, or gone on with.
    Raises:
        InputError: a line for each thing that fails.
    """
    problems = [*names_of(recipe.options), *changed(recipe), *further_models(recipe), *options_of(recipe)]
    problems += [*same_files(recipe), *output_of(output)]
    if output is not None and not replaces:
        problems += problems_of(partial(ownership.refuse_existing, output))
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))


def check_names(options: RecipeOptions, *, files: bool = False) -> RecipeOptions:
    """The options, where the model, weights and data that they name are there, as far as the disk and tables tell.

    Args:
        options: name them.
        files: whether the command takes files for runtimes (.onnx ...) as models, too.
    Raises:
        InputError: a line for each thing that is not there.
    """
    path = Path(options.model)
    if files and path.suffix and ":" not in path.name and not path.is_dir():
        if not path.exists():
            raise InputError(f"model {options.model!r} does not exist{beside(path)}")
        return options
    problems = names_of(options)
    if problems:
        raise InputError("\n".join(problems))
    return options


def names_of(options: RecipeOptions) -> list[str]:
    """What is wrong with the model, weights and data that a recipe names."""
    checks = _model_checks(options.model, options.weights)
    if options.data:
        checks.append(partial(data_strings.check_named, options.data))
    return problems_of(*checks)


def _model_checks(string: str, weights: str | None) -> list[Callable[[], object]]:
    checks: list[Callable[[], object]] = [partial(model_strings.check_named, string)]
    if weights and weights != "pretrained":
        checks.append(partial(check_weights, weights))
    return checks


def changed(recipe: Recipe) -> list[str]:
    """Models that would be changed and can only be read."""
    students = [getattr(step.options, "student", None) for step in recipe.steps]
    checks = [partial(model_strings.refuse_change, student, "student") for student in students]
    return problems_of(partial(model_strings.refuse_change, recipe.options.model), *checks)


def further_models(recipe: Recipe) -> Iterator[str]:
    """What is wrong with the names of teachers and students, and of their weights."""
    for number, step in enumerate(recipe.steps):
        for string, given in step.options.models():
            yield from located(recipe, number, problems_of(*_model_checks(string, given.get("weights"))))


def options_of(recipe: Recipe) -> Iterator[str]:
    """What the steps' options ask for and the recipe's rule out."""
    for number, step in enumerate(recipe.steps):
        readers = [] if recipe.options.data else step.options.data_readers()
        if readers:
            mend = "name some with data, e.g. --data digits"
            yield from located(recipe, number, [f"{' and '.join(readers)}; {mend}"])
        timing = [guard_of(name) for name in step.options.limits() if cost_of(name).known == "timed"]
        timing += ["min_speedup"] if step.options.min_speedup is not None else []
        own = step.options.own_rounds()
        by, rounds = ("latency_rounds", recipe.options.latency_rounds) if own is None else ("rounds", own)
        if timing and not rounds:
            needs = f"{timing[0]} needs measured latency, and {by} is 0; set it to e.g. 12"
            yield from located(recipe, number, [needs])


def same_files(recipe: Recipe) -> Iterator[str]:
    """Steps that would write the same file beside the artifact."""
    writers: dict[str, int] = {}
    for number, step in enumerate(recipe.steps):
        if isinstance(step.options, ExportStepOptions):
            name = step.options.file_name()
            if name in writers:
                other = place_of(recipe, writers[name])
                yield from located(recipe, number, [f"{other} writes {name!r}, too; give one of them another file"])
            writers[name] = number


def output_of(output: Path | None) -> list[str]:
    """Whether the output can be made where it is to stand."""
    if output is None:
        return []
    parent = existing(output)
    if not parent.is_dir():
        return [f"cannot write below {str(output.parent)!r}: {str(parent)!r} is a file; name another output"]
    if not os.access(parent, os.W_OK | os.X_OK):
        read_only = bool(os.statvfs(parent).f_flag & os.ST_RDONLY)
        number = errno.EROFS if read_only else errno.EACCES
        return [str(unwritable(parent, OSError(number, os.strerror(number))))]
    return []


def existing(path: Path) -> Path:
    """The nearest folder above a path that is there."""
    for parent in path.absolute().parents:
        if parent.exists():
            return parent
    return Path(path.absolute().anchor)


def located(recipe: Recipe, number: int, lines: Iterable[str]) -> list[str]:
    """Lines with the step that they are about."""
    return [f"{place_of(recipe, number)}: {line}" for line in lines]
