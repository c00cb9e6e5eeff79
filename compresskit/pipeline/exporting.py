"""Exports: a model written to a file for another runtime, checked before work, the file whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..artifact.disk import ownership
from ..core.errors import InputError
from .recipe import RecipeOptions
from .resume.fingerprints import named_paths

if TYPE_CHECKING:
    from ..export.options import ExportOptions


def export_file(
    recipe: RecipeOptions, options: ExportOptions, output: str, *, force: bool, log: Callable[[str], None]
) -> dict[str, Any]:
    """Write a model for another runtime, run it there, and compare.

    Args:
        recipe: names the model, the data and the metric.
        options: format, runtime, what is measured.
        output: the file or folder to write.
        force: replace a file, or a folder of ours, that is there.
        log: prints a line of progress.
    Returns:
        The model's string, the path as given, and the figures.
    Raises:
        InputError: a line for each thing that fails before anything is written; or if the runtime fails.
    """
    target = ownership.absolute(output)
    inputs = [*named_paths(recipe.model_dump()), *named_paths(options.model_dump())]
    if options.writes_folder() and os.path.lexists(target):
        if not force:
            raise InputError(f"output {output!r} exists; give --force to replace it")
        ownership.check_replaceable(target, inputs)
    options.check_name(target.name)
    for name in () if options.writes_folder() else (target.name, *options.files_beside(target.name)):
        ownership.check_file(target.with_name(name), force=force, inputs=inputs)
    from ..artifact.disk import files, locks
    from ..export.lowering import export
    from .checks.preflight import checked_export

    context = checked_export(recipe, options, target, log)
    replacing = partial(files.replacing, force=force) if options.writes_folder() else files.replacing_file
    with locks.in_folder(target), locks.locked(target), replacing(target) as path:
        if options.writes_folder():
            ownership.write_marker(path, target)
        facts = export(context.original, options, context, path)
    return {"model": recipe.model, "path": output, **facts, "file": target.name}
