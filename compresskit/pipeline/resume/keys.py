"""Keys of steps: a hash of everything that decides a step's result, so that an unchanged prefix is not run again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ... import __version__
from ...artifact.artifact import REPORT, versions
from ...core.errors import InputError
from ...core.options import Options
from ...core.timings.machine import machine
from ...core.timings.machine_timings import MachineTimings, cache_folder
from ..recipe import Recipe, RecipeOptions
from .fingerprints import WRITTEN, fingerprint, named_paths

#: the word of the option `timings` that measures again
FRESH = "fresh"


def step_keys(recipe: Recipe, leave_out: Collection[Path] = (), known: dict[Path, str] | None = None) -> list[str]:
    """The key of the recipe's start, and of each step: a change anywhere changes all keys behind it.

    A key covers the options, this package's version and the content of every file and folder that the options name:
    model, weights, data, user code with what it imports beside it, teachers.

    Args:
        recipe: what to do.
        leave_out: absolute paths that do not count, because the run writes them.
        known: fingerprints that were taken already; those taken here are added, so that no file is read twice.
    Raises:
        InputError: if a named file cannot be read.
    """
    known = {} if known is None else known
    given = recipe.options.model_dump(exclude={"output", "threads", "workers"}) | _rows(recipe.options)
    keys = [_key("", given, leave_out, known)]
    for step in recipe.steps:
        keys.append(_key(keys[-1] + step.technique, step.options.model_dump() | _rows(step.options), leave_out, known))
    return keys


def _rows(options: Options) -> dict[str, Any]:
    """Where the code of rows lies that did not come with the package."""
    code = {f"{name} {row}": registry.code(row) for name, registry, row in options.named_rows()}
    own = {name: place for name, place in code.items() if place is not None}
    return {"rows": own} if own else {}


def data_key(options: RecipeOptions, known: dict[Path, str] | None = None) -> str:
    """A key of the recipe's data alone: its string, its arguments and the files that they name.

    Args:
        options: name the data.
        known: fingerprints that `step_keys` took.
    """
    return _key("data", {"data": options.data, "data_arg": options.data_arg}, (), {} if known is None else known)


def input_paths(recipe: Recipe) -> tuple[Path, ...]:
    """Absolute paths of the files and folders that a recipe reads, which no output may replace."""
    options = [recipe.options.model_dump(), *(step.options.model_dump() for step in recipe.steps)]
    return tuple(dict.fromkeys(_absolute(path) for one in options for path in named_paths(one)))


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 (links are not followed)


def _key(previous: str, options: dict[str, Any], leave_out: Collection[Path], known: dict[Path, str]) -> str:
    paths = named_paths(options)
    try:
        known |= {path: fingerprint(path, leave_out) for path in paths if path not in known}
    except OSError as error:
        raise InputError(f"cannot read {str(error.filename)!r}: {error.strerror}") from error
    contents = {str(path): known[path] for path in paths}
    kept = {name: value for name, value in options.items() if name not in WRITTEN}
    record = [__version__, previous, kept, contents]
    return hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()


def machine_timings(options: RecipeOptions) -> MachineTimings | None:
    """What this machine timed for earlier runs under the same threads, device and versions; None if it keeps none."""
    folder = cache_folder()
    if folder is None:
        return None
    place = {**machine(), "device": options.device, "threads": options.threads, **versions()}
    return MachineTimings(folder, place, fresh=options.timings == FRESH)


def recorded_timings(path: str | None) -> dict[str, dict[str, Any]]:
    """The times that decided in an earlier run, by step (`0-decompose`), from its artifact or report.

    Raises:
        InputError: if there is no such report, or none was recorded in it.
    """
    if path is None or path == FRESH:
        return {}
    file = Path(path) / REPORT if Path(path).is_dir() else Path(path)
    try:
        steps = json.loads(file.read_text())["steps"]
        found = {f"{number}-{step['technique']}": step.get("timings") or {} for number, step in enumerate(steps)}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"timings {path!r} is no artifact or report.json of a run: {error}") from error
    if not any(isinstance(one, dict) and one for one in found.values()):
        raise InputError(f"timings {path!r}: no step of that run was decided by measured times; leave timings out")
    return found
